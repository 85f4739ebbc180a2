package agent_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
)

// upgrade has another agent take over, and returns the one before.
func (w *world) upgrade() *agenttest.Agent {
	w.Helper()
	old := w.agent
	w.agent = w.StartAgentWith(w.T, host, w.dir, agenttest.Options{TakeOver: true})
	machinetest.Until(w.T, "the next agent", func() bool {
		pid, held := agent.Holder(w.dir)
		return held && pid == w.agent.PID()
	})
	return old
}

// strict asks over one connection for as long as it lives, and over a new one for
// each request, without ever trying again: whatever is dropped is an error.
func (w *world) strict() (stop func() (answered map[string]int)) {
	done := make(chan struct{})
	var mu sync.Mutex
	got := make(map[string]int)
	var wait sync.WaitGroup
	ask := func(nc net.Conn, br *bufio.Reader, path string) bool {
		_ = nc.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(nc, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			w.Errorf("dropped: %v", err)
			return false
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			w.Errorf("dropped: %v", err)
			return false
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 || res.Close {
			w.Errorf("dropped: %d %q %v, closed: %v", res.StatusCode, b, err, res.Close)
			return false
		}
		mu.Lock()
		got[string(b)]++
		mu.Unlock()
		return true
	}
	for i := range 6 {
		wait.Go(func() {
			var nc net.Conn
			var br *bufio.Reader
			for n := 0; ; n++ {
				select {
				case <-done:
					if nc != nil {
						_ = nc.Close()
					}
					return
				default:
				}
				if nc == nil {
					var err error
					if nc, err = net.Dial("tcp", w.listen); err != nil {
						w.Errorf("dropped: %v", err)
						return
					}
					br = bufio.NewReader(nc)
				}
				path := "/"
				if i == 0 && n%5 == 0 {
					path = "/slow" // open when the agents change
				}
				if !ask(nc, br, path) {
					return
				}
				if i >= 3 {
					_ = nc.Close()
					nc = nil
				}
			}
		})
	}
	return func() map[string]int {
		close(done)
		wait.Wait()
		return got
	}
}

// Two upgrades in the middle of a rollout, under load over connections that stay
// and connections that come: nothing is dropped, no instance is restarted, every
// request is counted once, and no generation is applied twice.
func TestUpgradeDropsNothing(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	v1.Instances = 2
	w.desire(with(v1, 10000, false))
	before := w.pids(v1)
	boot := w.Observed(host).Boot
	stop := w.strict()
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v2, wire.Ready)
	w.desire(with(v1, 9000, false), with(v2, 1000, true))

	first := w.upgrade()
	w.desire(with(v1, 5000, false), with(v2, 5000, true))
	second := w.upgrade()
	w.desire(with(v1, 0, false), with(v2, 10000, true))
	<-first.Done()
	<-second.Done()

	w.waitRevision(v2.Release, "traffic", func(r wire.RevisionObserved) bool { n, _ := requests(r); return n > 200 })
	got := stop()
	for v, r := range map[string]wire.Revision{"v1": v1, "v2": v2} {
		w.waitRevision(r.Release, "all counts of "+v, func(r wire.RevisionObserved) bool {
			n, bad := requests(r)
			return n == got[v] && bad == 0
		})
	}
	o := w.Wait(t, host, "all counts in the sum", func(o wire.Observed) bool {
		return agenttest.ServiceOf(o, shop).Total.Requests == uint64(got["v1"]+got["v2"])
	})
	if o.Boot != boot {
		t.Errorf("boot %s became %s", boot, o.Boot)
	}
	if now := w.pids(v1); now[0] != before[0] || now[1] != before[1] {
		t.Errorf("processes %v became %v", before, now)
	}
	entries, err := journal.Read(agent.JournalPath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	applied := make(map[int64]int)
	for _, e := range entries {
		if e.Outcome == journal.Applied {
			applied[e.Generation]++
		}
	}
	for g, n := range applied {
		if n != 1 {
			t.Errorf("generation %d was applied %d times", g, n)
		}
	}
	if len(applied) != 5 {
		t.Errorf("applied %v, want 5 generations", applied)
	}
	// The agent of today supervises what it took up.
	_ = syscall.Kill(before[0], syscall.SIGKILL)
	w.waitRevision(v1.Release, "a new process", func(r wire.RevisionObserved) bool {
		return r.Phase == wire.Ready && r.Instances[0].PID != before[0] && r.Instances[0].PID != 0
	})
}

// A request that is open at the old agent keeps its instance alive, though the new
// one is told to end it.
func TestUpgradeWaitsForOpenRequests(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v1, wire.Ready)
	w.waitPhase(v2, wire.Ready)
	answered := w.slow(10, "v1")
	old := w.upgrade()
	w.desire(with(v2, 10000, false))
	answered()
	<-old.Done()
	w.waitRevision(v2.Release, "the end of v1", func(wire.RevisionObserved) bool {
		return agenttest.RevisionOf(agenttest.ServiceOf(w.Observed(host), shop), v1.Release).Release == ""
	})
	w.wantBody("/", "v2")
}

// A successor that dies before it is ready, or says something else, changes nothing.
func TestUpgradeThatFails(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	pids := w.pids(v1)
	stop := w.strict()
	dial := func(say ...string) {
		t.Helper()
		var nc *net.UnixConn
		machinetest.Until(t, "the socket", func() bool {
			var err error
			nc, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(w.dir, "agent.sock")})
			return err == nil
		})
		defer nc.Close()
		for _, s := range say {
			_, _ = io.WriteString(nc, s)
		}
		_ = nc.SetReadDeadline(time.Now().Add(time.Minute)) // it ends what it can't use
		_, _ = nc.Read(make([]byte, 1<<16))
	}
	dial(`{"type":"hello","protocol":1}`)
	dial(`{"type":"hello","protocol":99}`)
	dial(`not a note`)
	dial(`{"type":"hello","protocol":1}`, `{"type":"what"}`)
	dial()
	v2 := w.release("v2")
	w.desire(with(v1, 5000, false), with(v2, 5000, true))
	w.waitPhase(v2, wire.Ready)
	w.upgrade()
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	stop()
	if now := w.pids(v1); now[0] != pids[0] {
		t.Errorf("process %d became %d", pids[0], now[0])
	}
}

// Without anybody to take over from, it is a start as any other.
func TestTakeOverNobody(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	w.agent.Kill()
	w.upgrade()
	machinetest.Until(t, "traffic", func() bool {
		res, err := http.Get("http://" + w.listen)
		if err == nil {
			_ = res.Body.Close()
		}
		return err == nil && res.StatusCode == 200
	})
	w.wantBody("/", "v1")
	// And an agent that does not hand over is named.
	w.agent.Kill()
	_ = syscall.Unlink(filepath.Join(w.dir, "agent.sock"))
	w.agent = w.StartAgent(t, host, w.dir)
	machinetest.Until(t, "the socket", func() bool { return syscall.Access(filepath.Join(w.dir, "agent.sock"), 0) == nil })
	_ = syscall.Unlink(filepath.Join(w.dir, "agent.sock"))
	err := agent.Run(t.Context(), agent.Config{Server: w.URL, Host: "x", DataDir: w.dir, TrustKeys: w.Keys.Public(), TakeOver: true, Isolation: agent.None})
	if !errors.Is(err, agent.ErrLocked) || !strings.Contains(err.Error(), "does not hand over") {
		t.Errorf("%v", err)
	}
}
