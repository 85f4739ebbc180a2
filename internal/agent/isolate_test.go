package agent_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/confine"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
)

// A data folder as that of `sluice up`, with the local agent's inside: a released
// service reads none of it, nor what belongs to another service.
func TestServiceReadsNoKeys(t *testing.T) {
	if err := confine.Probe(t.TempDir()); err != nil {
		machinetest.Lacks(t, machinetest.Namespaces, "services can't be confined on this host, so what they may read was not tried: %v", err)
	}
	data := t.TempDir()
	for _, name := range []string{"token", "promotion.key", "sluice.db"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte("the secret "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := worldWith(t, filepath.Join(data, "agent"), agenttest.Options{Hide: []string{data}})
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	pids := w.pids(v1)
	if said := w.Observed(host).Isolation; said != agent.Namespaces {
		t.Errorf("the agent says of its isolation: %q", said)
	}
	read := func(path string) string {
		t.Helper()
		code, body := w.get("/read?p=" + url.QueryEscape(path))
		if code != http.StatusOK {
			t.Fatalf("%d %s", code, body)
		}
		return body
	}
	for _, name := range []string{"token", "promotion.key", "sluice.db", "agent/journal.jsonl", "agent/agent.lock", "agent/instances/instances.json"} {
		if got := read(filepath.Join(data, name)); !strings.Contains(got, "no such file") {
			t.Errorf("%s: %.100q", name, got)
		}
	}
	agentPID, _ := agent.Holder(w.dir)
	for _, way := range []string{"root" + data + "/token", "environ", "cwd/x"} {
		if got := read(fmt.Sprintf("/proc/%d/%s", agentPID, way)); !strings.Contains(got, "permission denied") {
			t.Errorf("/proc/AGENT/%s: %.100q", way, got)
		}
	}
	if got := read("version.txt"); got != "contents of v1" {
		t.Errorf("its own release: %q", got)
	}
	if got := read("/etc/hosts"); !strings.Contains(got, "localhost") {
		t.Errorf("the host's files: %q", got)
	}

	// It is taken up by the next agent, and stopped by it, as any other.
	w.agent.Kill()
	w.agent = w.StartAgentWith(t, host, w.dir, agenttest.Options{Hide: []string{data}})
	w.Wait(t, host, "the next agent", func(o wire.Observed) bool { return len(o.Services) == 1 })
	if now := w.pids(v1); now[0] != pids[0] {
		t.Errorf("process %d became %d", pids[0], now[0])
	}
	v2 := w.release("v2")
	w.desire(with(v2, 10000, false))
	machinetest.Until(t, "the end of v1", func() bool { return dead(pids[0]) })
}

// What a service can't see it isn't handed either, also where the operator named the
// whole data folder as one of secrets.
func TestServiceIsHandedNoKeys(t *testing.T) {
	data := t.TempDir()
	if err := os.Mkdir(filepath.Join(data, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"token", "secrets/db"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte("the secret "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(data, "token"), link); err != nil {
		t.Fatal(err)
	}
	w := worldWith(t, filepath.Join(data, "agent"), agenttest.Options{Hide: []string{data}, Secrets: []string{data}})
	ok := w.WithSecrets(t, shop, w.release("v1"), map[string]release.SecretRef{"DB": {Ref: "file:" + filepath.Join(data, "secrets/db")}})
	w.desire(with(ok, 10000, false))
	for i, path := range []string{filepath.Join(data, "token"), link, filepath.Join(data, "agent", "journal.jsonl"), filepath.Join(data, "secrets/../token")} {
		thief := w.WithSecrets(t, shop, w.release(fmt.Sprint("thief ", i)), map[string]release.SecretRef{"KEY": {Ref: "file:" + path}})
		w.ask(with(ok, 10000, false), with(thief, 0, true))
		w.waitRevision(thief.Release, "the refusal of "+path, func(r wire.RevisionObserved) bool {
			return len(r.Instances) > 0 && strings.Contains(r.Instances[0].LastExit, "a service gets ")
		})
	}
}

// Where it is not wanted services are the agent's own, and every report says so.
func TestIsolationNone(t *testing.T) {
	w := worldWith(t, t.TempDir(), agenttest.Options{Isolation: agent.None})
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	if said := w.Observed(host).Isolation; said != "none: it was started with --isolation none" {
		t.Errorf("the agent says of its isolation: %q", said)
	}
	if err := agent.Run(t.Context(), agent.Config{Server: w.URL, Host: "x", DataDir: t.TempDir(), TrustKeys: w.Keys.Public(), Isolation: "some"}); err == nil || !strings.Contains(err.Error(), "neither namespaces nor none") {
		t.Errorf("%v", err)
	}
}
