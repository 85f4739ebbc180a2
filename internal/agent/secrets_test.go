package agent_test

import (
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
	"github.com/sluicehq/sluice/internal/release"
)

// A release that names any file of the host as a secret gets those of the folders
// that the operator named and of the agent's own folder secrets. It sees the folders
// themselves by no way.
func TestAReleaseNamesOnlyWhatTheOperatorNamed(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	named, err := os.MkdirTemp("", "named-") // not below the test's folder, which no service may pass
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(named) })
	if err := os.Chmod(named, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(named, "db"), "hunter2")
	write(filepath.Join(dir, "secrets", "mail"), "hunter3")
	write(filepath.Join(elsewhere, "shadow"), "somebody else's")
	if err := os.Symlink(filepath.Join(elsewhere, "shadow"), filepath.Join(named, "link")); err != nil {
		t.Fatal(err)
	}
	w := worldWith(t, dir, agenttest.Options{Secrets: []string{named}})
	ref := func(path ...string) release.SecretRef {
		return release.SecretRef{Ref: "file:" + filepath.Join(path...)}
	}
	ok := w.WithSecrets(t, shop, w.release("v1"), map[string]release.SecretRef{"DB": ref(named, "db"), "MAIL": ref(w.dir, "secrets", "mail")})
	w.desire(with(ok, 10000, false))
	w.waitPhase(ok, wire.Ready)
	w.wantBody("/env?k=DB", "hunter2")
	w.wantBody("/env?k=MAIL", "hunter3")
	if w.Observed(host).Isolation == agent.Namespaces {
		for _, path := range []string{filepath.Join(named, "db"), filepath.Join(w.dir, "secrets", "mail")} {
			if code, body := w.get("/read?p=" + url.QueryEscape(path)); code != http.StatusOK || !strings.Contains(body, "no such file") {
				t.Errorf("%s: %d %.100q", path, code, body)
			}
		}
	} else if confine.Probe(t.TempDir()) == nil {
		t.Errorf("services are not isolated: %s", w.Observed(host).Isolation)
	}
	for version, c := range map[string]struct {
		ref  release.SecretRef
		says string
	}{
		"another file": {ref(elsewhere, "shadow"), "name its folder with --secrets"},
		"by a link":    {ref(named, "link"), "no link may lead out"},
		"by dots":      {release.SecretRef{Ref: "file:" + named + "/.." + strings.TrimPrefix(elsewhere, filepath.Dir(named)) + "/shadow"}, "name its folder with --secrets"},
	} {
		thief := w.WithSecrets(t, shop, w.release(version), map[string]release.SecretRef{"KEY": c.ref})
		w.ask(with(ok, 10000, false), with(thief, 0, true))
		w.waitRevision(thief.Release, "the refusal of "+version, func(r wire.RevisionObserved) bool {
			return len(r.Instances) > 0 && strings.Contains(r.Instances[0].LastExit, c.says)
		})
	}
	// What an agent without these folders takes up serves on, and it is told before it ends.
	w.desire(with(ok, 10000, false))
	w.agent.Kill()
	w.agent = w.StartAgentWith(t, host, w.dir, agenttest.Options{})
	w.Wait(t, host, "what its release lacks", func(o wire.Observed) bool {
		return len(o.Services) == 1 && o.Services[0].Listening && strings.Contains(o.Services[0].Reason, "can't start again when an instance ends") && strings.Contains(o.Services[0].Reason, "name its folder with --secrets")
	})
	w.wantBody("/env?k=DB", "hunter2")
	// Neither does / hold secrets.
	err = agent.Run(t.Context(), agent.Config{Server: w.URL, Host: "x", DataDir: t.TempDir(), TrustKeys: w.Keys.Public(), Secrets: []string{"/"}})
	if err == nil || !strings.Contains(err.Error(), "couldn't take / as a folder of secrets") {
		t.Errorf("%v", err)
	}
}
