package faults

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// host is an agent in a process of its own, as on another machine.
type host struct {
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
	done chan struct{}
}

// newHost starts an agent that dials server. Its instances end with the test.
func newHost(t *testing.T, p *plane, server, name, address string) *host {
	t.Helper()
	h := &host{t: t, dir: filepath.Join(t.TempDir(), "agent-"+name)}
	h.args = []string{
		"agent", "--data", h.dir, "--server", server, "--host", name, "--address", address,
		"--token-file", filepath.Join(p.dir, "token"), "--trust", filepath.Join(p.dir, "promotion.pub"), "--stop-on-exit",
	}
	h.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of agent %s:\n%s", name, tail(h.dir+".log"))
		}
		_ = h.cmd.Process.Signal(syscall.SIGCONT)
		_ = h.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-h.done:
		case <-time.After(machinetest.Patience):
			t.Errorf("agent %s did not end", name)
			h.kill()
		}
		if left := left(h.dir); len(left) > 0 {
			t.Errorf("agent %s left %v", name, left)
			for pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return h
}

func (h *host) start() {
	h.t.Helper()
	log, err := os.OpenFile(h.dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, h.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	h.cmd, h.done = cmd, done
	go func() { _ = cmd.Wait(); close(done) }()
}

func (h *host) kill() {
	_ = h.cmd.Process.Kill()
	<-h.done
}

func (h *host) signal(sig syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(sig); err != nil {
		h.t.Fatal(err)
	}
}

// weightsAsked are the weights that a host was asked to give a release, in order.
func (h *host) weightsAsked(id release.ID) []int {
	h.t.Helper()
	entries, err := journal.Read(agent.JournalPath(h.dir))
	if err != nil {
		h.t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		if w, ok := e.Weights[id]; ok && e.Outcome == journal.Applied {
			out = append(out, w)
		}
	}
	return out
}

// readyWith tells a service whose instances of a release are ready.
func readyWith(id release.ID) func(control.HostService) bool {
	return func(s control.HostService) bool {
		return slices.ContainsFunc(s.Revisions, func(r control.HostRevision) bool { return r.Release == id && r.Phase == wire.Ready })
	}
}

// Two hosts: a step is done when both are read to be there. One that falls silent
// holds the rollout, and when it is back the rollout goes on.
func TestTwoHosts(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t, "--no-agent"), newShop(t)
	_, port, _ := net.SplitHostPort(s.addr)
	a, b := newHost(t, p, p.URL, "a", "127.0.0.1"), newHost(t, p, p.URL, "b", "127.0.0.2")
	s.replace("listen: 'ADDR'", "hosts: [a, b], listen: ':"+port+"'")
	s.first(p)
	for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
		if _, body, err := get("http://" + ip + ":" + port + "/"); err != nil || strings.TrimSpace(body) != "hello v0" {
			t.Errorf("%s answers %q, %v", ip, body, err)
		}
	}
	loads := []*servertest.Load{servertest.StartLoad("127.0.0.1:"+port, 2), servertest.StartLoad("127.0.0.2:"+port, 2)}
	for _, l := range loads {
		defer l.Stop()
	}
	s.rollout = "{canary: {steps: [{weight: 10, bake: 12s}]}}" + judged
	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	canary := p.Wait(run, "baking", bakingAt(10))
	for _, h := range []*host{a, b} {
		if w := h.weightsAsked(canary.Release); len(w) != 2 || w[0] != 0 || w[1] != 1000 {
			t.Errorf("a host was asked for the weights %v", w)
		}
	}
	b.kill()
	held := p.Wait(run, "held", heldBy("unreachable"))
	if e := production(held); e.Weight != 10 {
		t.Errorf("held at %g %%", e.Weight)
	}
	before := production(held).Bake
	b.start()
	p.Wait(run, "going on", func(s control.Status) bool {
		e := production(s)
		return e.Held == "" && e.Bake != nil && e.Bake.ElapsedSeconds > before.ElapsedSeconds
	})
	p.WaitState(run, "succeeded")
	if got := loads[0].Stop(); got.Dropped+got.Bad > 0 {
		t.Errorf("host a dropped %d and failed %d of %d: %v", got.Dropped, got.Bad, got.All, got.Errors)
	}

	// A host that does not follow keeps a step open.
	s.rollout = atOnce
	s.ship(behaviour{Version: "v2", StartMillis: 8000})
	run = p.Run(s.Dir)
	p.Wait(run, "preparing", inPhase("preparing"))
	b.signal(syscall.SIGSTOP)
	var reports []time.Time // of host a, from when it is ready on
	machinetest.Until(t, "host a says again and again that it is ready", func() bool {
		var hosts []control.Host
		if err := p.Try("GET", "hosts", nil, &hosts); err != nil {
			t.Fatal(err)
		}
		for _, h := range hosts {
			if h.Host == "a" && slices.ContainsFunc(h.Services, readyWith(production(p.Status(run)).Release)) && !slices.Contains(reports, h.At) {
				reports = append(reports, h.At)
			}
		}
		return len(reports) > 3
	})
	if e := production(p.Status(run)); e.Phase != "preparing" {
		t.Errorf("with a host silent the rollout is %s", e.Phase)
	}
	b.signal(syscall.SIGCONT)
	p.WaitState(run, "succeeded")
	for _, h := range []*host{a, b} {
		appliedOnce(t, h.dir)
	}
}
