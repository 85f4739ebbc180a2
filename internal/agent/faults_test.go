package agent_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
)

func TestServicesThatDoNotStart(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	stop := w.load(2)

	exits := w.release("v2", "MODE", "exit")
	w.desire(with(v1, 10000, false), with(exits, 0, true))
	r := w.waitPhase(exits, wire.Failed)
	if !strings.Contains(r.Reason, "crash loop") || !strings.Contains(r.Reason, "exit status 3") || !strings.Contains(r.Reason, "the configuration is missing") {
		t.Errorf("reason %q", r.Reason)
	}
	if i := r.Instances[0]; i.Restarts < 5 || i.LastExit == "" || !strings.Contains(i.LogTail, "cannot start") {
		t.Errorf("instance %+v", i)
	}

	never := w.release("v3", "MODE", "never")
	never.Health.StartIn = 4 * time.Second
	w.desire(with(v1, 10000, false), with(never, 0, true))
	r = w.waitPhase(never, wire.Failed)
	if !strings.Contains(r.Reason, "was not ready within 4s: ") {
		t.Errorf("reason %q", r.Reason)
	}

	noFile := w.WithRun(t, shop, w.release("v4"), "./is-not-there")
	w.desire(with(v1, 10000, false), with(noFile, 0, true))
	if r = w.waitPhase(noFile, wire.Failed); !strings.Contains(r.Reason, "exit status 127") {
		t.Errorf("reason %q", r.Reason)
	}

	// Even if it is asked for: a candidate that can't serve gets nothing.
	g := w.ask(with(v1, 5000, false), with(noFile, 5000, true))
	w.Wait(t, host, "the generation", func(o wire.Observed) bool { return agenttest.ServiceOf(o, shop).Generation == g })
	o := w.Observed(host)
	if got := agenttest.RevisionOf(agenttest.ServiceOf(o, shop), noFile.Release).Weight; got != 0 {
		t.Errorf("a candidate that never was ready has weight %d", got)
	}
	stop()
}

// well has a held instance become healthy.
func (w *world) well(r wire.Revision) {
	w.Helper()
	i := w.waitRevision(r.Release, "a process", func(r wire.RevisionObserved) bool { return len(r.Instances) == 1 && r.Instances[0].PID > 0 }).Instances[0]
	machinetest.Until(w, "it listens", func() bool {
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/well", i.Port))
		if err == nil {
			_ = res.Body.Close()
		}
		return err == nil
	})
}

func TestLateServiceIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	stop, answered := w.counted(2)
	// All at once, without a word about readiness: the old one serves until then.
	late := w.release("v2", "MODE", "held")
	g := w.ask(with(late, 10000, false))
	w.waitPhase(late, wire.Starting)
	already := answered()
	machinetest.Until(t, "traffic while v2 is starting", func() bool { return answered() > already+100 })
	w.wantBody("/", "v1")
	w.well(late)
	w.WaitWeights(t, host, shop, g, map[release.ID]int{late.Release: 10000})
	stop()
	w.wantBody("/", "v2")
}

func TestServiceThatDiesUnderTraffic(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	v1.Instances = 2
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	res, err := http.Post("http://"+w.listen+"/exit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 502 {
		t.Errorf("the request that killed it: %d", res.StatusCode)
	}
	w.waitRevision(v1.Release, "the exit", func(r wire.RevisionObserved) bool {
		for _, i := range r.Instances {
			if strings.Contains(i.LastExit, "exit status 4") {
				return true
			}
		}
		return false
	})
	for range 20 {
		w.wantBody("/", "v1") // by the other one, or the new one
	}
	r := w.waitRevision(v1.Release, "restart", func(r wire.RevisionObserved) bool { return r.Phase == wire.Ready && r.Ready == 2 })
	if _, bad := requests(r); bad != 1 {
		t.Errorf("%d bad, want 1", bad)
	}
}

func (w *world) pids(r wire.Revision) (pids []int) {
	for _, i := range w.waitPhase(r, wire.Ready).Instances {
		pids = append(pids, i.PID)
	}
	return pids
}

func TestKilledAgentComesBack(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	v1.Instances = 2
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v2, wire.Ready)
	w.desire(with(v1, 5000, false), with(v2, 5000, true))
	before, boot := w.pids(v1), w.Observed(host).Boot
	w.agent.Kill()
	machinetest.Until(t, "nobody listens", func() bool {
		c, err := net.Dial("tcp", w.listen)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	for _, pid := range before {
		if syscall.Kill(pid, 0) != nil {
			t.Fatalf("process %d went with the agent", pid)
		}
	}
	start := time.Now()
	w.agent = w.StartAgent(t, host, w.dir)
	machinetest.Until(t, "traffic", func() bool {
		res, err := http.Get("http://" + w.listen)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == 200
	})
	t.Logf("traffic was back %s after the start", time.Since(start))
	o := w.Wait(t, host, "a report", func(o wire.Observed) bool { return o.Boot != boot })
	// The first already: another weight would read as if somebody had changed it.
	if s := agenttest.ServiceOf(w.First(o.Boot), shop); s.Generation != 2 || agenttest.RevisionOf(s, v2.Release).Weight != 5000 {
		t.Errorf("came back with generation %d, weight %d", s.Generation, agenttest.RevisionOf(s, v2.Release).Weight)
	}
	after := w.pids(v1)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("processes %v became %v", before, after)
	}
	// An adopted process that dies is noticed and replaced.
	_ = syscall.Kill(after[0], syscall.SIGKILL)
	w.waitRevision(v1.Release, "a new process", func(r wire.RevisionObserved) bool {
		return r.Phase == wire.Ready && r.Instances[0].PID != after[0] && r.Instances[0].PID != 0
	})
}

func TestWhatNobodyAsksForIsEnded(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	old := w.pids(v2)
	w.agent.Kill()
	// While no agent runs the desired state changes: the next agent adopts v2 first
	// and ends it when it hears of it.
	w.ask(with(v1, 10000, false))
	w.agent = w.StartAgent(t, host, w.dir)
	machinetest.Until(t, "the end of v2", func() bool { return dead(old[0]) })
	// And what is in no state at all.
	pids := w.pids(v1)
	w.agent.Kill()
	if err := os.RemoveAll(filepath.Join(w.dir, "desired")); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	w.agent = w.StartAgent(t, host, w.dir)
	machinetest.Until(t, "the end of v1", func() bool { return dead(pids[0]) })
}

// A new generation that meets an agent which has just come back does not take the
// traffic from what still serves.
func TestNewOrdersWaitForWhatIsThere(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	w.agent.Kill()
	late := w.release("v2", "MODE", "held")
	w.ask(with(late, 10000, false))
	w.agent = w.StartAgent(t, host, w.dir)
	machinetest.Until(t, "traffic", func() bool {
		res, err := http.Get("http://" + w.listen)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == 200
	})
	stop, answered := w.counted(2)
	w.waitPhase(late, wire.Starting)
	already := answered()
	machinetest.Until(t, "traffic before v2 is there", func() bool { return answered() > already+100 })
	w.wantBody("/", "v1")
	w.well(late)
	w.waitPhase(late, wire.Ready)
	w.WaitWeights(t, host, shop, 2, map[release.ID]int{late.Release: 10000})
	stop()
}

// An agent that comes back in the middle of a batch takes up all that run, goes on
// with what was asked of it last, and lets nothing go that still serves.
func TestKilledAgentInABatch(t *testing.T) {
	w := newWorld(t)
	sized := func(r wire.Revision, n int) wire.Revision { r.Instances = n; return r }
	v1, v2, never := w.release("v1"), w.release("v2"), w.release("never", "MODE", "never")
	w.desire(with(sized(v1, 2), 10000, false), with(sized(v2, 1), 0, true))
	w.waitPhase(v2, wire.Ready)
	w.desire(with(sized(v1, 2), 5000, false), with(sized(v2, 1), 5000, true))
	// The next batch starts beside the others: weights are as before.
	w.desire(with(sized(v1, 2), 5000, false), with(sized(v2, 3), 5000, true))
	three := func(r wire.RevisionObserved) bool { return r.Ready == 3 }
	w.waitRevision(v2.Release, "three", three)
	again := func() {
		t.Helper()
		boot := w.Observed(host).Boot
		w.agent.Kill()
		w.agent = w.StartAgent(t, host, w.dir)
		w.Wait(t, host, "a report", func(o wire.Observed) bool { return o.Boot != boot })
	}
	before := w.pids(v2)
	again()
	w.waitRevision(v2.Release, "three", three)
	if after := w.pids(v2); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("processes %v became %v", before, after)
	}
	// Two of three shall go once others have taken over, who are not there yet.
	w.ask(with(sized(v2, 1), 0, false), with(sized(never, 2), 10000, true))
	started := func(r wire.RevisionObserved) bool {
		return len(r.Instances) == 2 && r.Instances[0].PID > 0 && r.Instances[1].PID > 0
	}
	w.waitRevision(never.Release, "two started", started)
	again()
	w.waitRevision(never.Release, "two started", started)
	if after := w.pids(v2); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("processes %v became %v before others had taken over", before, after)
	}
}

// dead says whether a process has ended; it may not have been reaped.
func dead(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

func TestControlPlaneDies(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v1, wire.Ready) // they start at the same time
	w.waitPhase(v2, wire.Ready)
	w.desire(with(v1, 9000, false), with(v2, 1000, true))
	stop, answered := w.counted(4)
	w.Stop()
	already := answered()
	machinetest.Until(t, "traffic without a control plane", func() bool { return answered() > already+300 })
	if got := stop(); got["v1"] == 0 || got["v2"] == 0 {
		t.Errorf("served %v", got)
	}
	// The agent too: the new one has only what is on its disk.
	w.agent.Terminate()
	w.agent = w.StartAgent(t, host, w.dir)
	machinetest.Until(t, "traffic to both", func() bool { // each of which it has to verify first
		seen := map[string]bool{}
		for range 100 {
			res, err := http.Get("http://" + w.listen + "/")
			if err != nil {
				return false
			}
			b, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				return false
			}
			seen[string(b)] = true
		}
		return seen["v1"] && seen["v2"]
	})
	got := map[string]int{}
	for range 400 {
		res, err := http.Get("http://" + w.listen + "/")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err == nil && res.StatusCode == http.StatusOK {
			got[string(b)]++
		}
	}
	if n := got["v1"] + got["v2"]; got["v2"] == 0 || got["v2"] > n/4 {
		t.Errorf("served %v for a share of 10 %%", got)
	}
	// Picked up again.
	w.Start()
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.wantBody("/", "v1")
}

func TestNothingUnverifiedRuns(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)

	altered := w.release("v2")
	w.Alter("contents of v2")
	elsewhere := w.release("v3")
	elsewhere.Promotion = w.Promote(t, release.Key{Project: "default", Service: "shop", Environment: "dev"}, elsewhere.Release)
	foreign := w.release("v4")
	foreign.Promotion = agenttest.NewPlane(t).Promote(t, shop, foreign.Release)
	config := w.release("v5")
	config.Env = map[string]string{"VERSION": "evil"}
	manifest := w.release("v6")
	manifest.Manifest = append([]byte(" "), manifest.Manifest...)
	swapped := w.release("v7")
	swapped.Artifact = v1.Artifact
	command := w.release("v8")
	command.Run = "echo evil; " + command.Run
	for want, r := range map[string]wire.Revision{
		"altered":               altered,
		"the promotion is into": elsewhere,
		"unknown key":           foreign,
		"the configuration for": config,
		"it was altered":        manifest,
		"is not one of release": swapped,
		"the command for":       command,
	} {
		w.desire(with(v1, 10000, false), with(r, 0, true))
		if got := w.waitPhase(r, wire.Failed); !strings.Contains(got.Reason, want) || len(got.Instances) != 0 {
			t.Errorf("want %q: reason %q, %d instances", want, got.Reason, len(got.Instances))
		}
		w.wantBody("/", "v1")
	}
}

func TestRollbackNeedsNoRegistry(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	w.desire(with(v2, 10000, false))
	w.Wait(t, host, "v1 gone", func(o wire.Observed) bool { return len(agenttest.ServiceOf(o, shop).Revisions) == 1 })
	w.BreakRegistry(true)
	v3 := w.release("v3")
	w.desire(with(v2, 10000, false), with(v3, 0, true))
	w.waitRevision(v3.Release, "the reason", func(r wire.RevisionObserved) bool {
		return r.Phase == wire.Pulling && strings.Contains(r.Reason, "503")
	})
	if w.Pulls(v1) == 0 || w.Pulls(v3) == 0 {
		t.Fatal("what is asked of the registry is not counted")
	}
	pulls := w.Pulls(v1)
	w.desire(with(v1, 10000, false))
	w.wantBody("/", "v1")
	if n := w.Pulls(v1) - pulls; n != 0 {
		t.Errorf("the rollback asked the registry %d times", n)
	}
	w.BreakRegistry(false)
	w.desire(with(v1, 10000, false), with(v3, 0, true))
	w.waitPhase(v3, wire.Ready)
}

func TestAlteredFilesAreFetchedAgain(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	w.agent.Kill()
	file := filepath.Join(w.dir, "releases", v1.Release.Hex(), "files", "version.txt")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("Contents of v1"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.agent = w.StartAgent(t, host, w.dir)
	w.Wait(t, host, "v1", func(o wire.Observed) bool { return len(o.Services) == 1 })
	w.waitPhase(v1, wire.Ready)
	machinetest.Until(t, "the files of v1", func() bool {
		b, _ := os.ReadFile(file)
		return string(b) == "contents of v1"
	})
}
