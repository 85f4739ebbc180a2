package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

func TestMain(m *testing.M) {
	agenttest.Main()
	os.Exit(m.Run())
}

const host = "local"

var shop = release.Key{Project: "default", Service: "shop", Environment: "production"}

// world is one control plane and one agent on one host.
type world struct {
	*testing.T
	*agenttest.Plane
	dir    string
	listen string
	agent  *agenttest.Agent
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, Plane: agenttest.NewPlane(t), dir: t.TempDir(), listen: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	w.agent = w.StartAgent(t, host, w.dir)
	return w
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (w *world) release(version string, env ...string) wire.Revision {
	w.Helper()
	e := map[string]string{"VERSION": version}
	for i := 0; i < len(env); i += 2 {
		e[env[i]] = env[i+1]
	}
	return w.Revision(w.T, shop, agenttest.Release{Files: map[string]string{"version.txt": "contents of " + version}, Env: e})
}

func with(r wire.Revision, weight int, candidate bool) wire.Revision {
	r.Weight, r.Candidate = weight, candidate
	return r
}

// desire sets the revisions and waits until their weights are in effect.
func (w *world) desire(revs ...wire.Revision) int64 {
	w.Helper()
	g := w.ask(revs...)
	weights := make(map[release.ID]int)
	for _, r := range revs {
		weights[r.Release] = r.Weight
	}
	w.WaitWeights(w.T, host, shop, g, weights)
	return g
}

// ask sets the revisions and waits for nothing.
func (w *world) ask(revs ...wire.Revision) int64 {
	return w.Desire(wire.Desired{Key: shop, Hosts: []string{host}, Listen: w.listen, Revisions: revs})
}

func (w *world) waitRevision(id release.ID, what string, ok func(wire.RevisionObserved) bool) wire.RevisionObserved {
	w.Helper()
	var r wire.RevisionObserved
	w.Wait(w.T, host, what, func(o wire.Observed) bool {
		r = agenttest.RevisionOf(agenttest.ServiceOf(o, shop), id)
		return ok(r)
	})
	return r
}

func (w *world) waitPhase(r wire.Revision, p wire.Phase) wire.RevisionObserved {
	w.Helper()
	return w.waitRevision(r.Release, "phase "+string(p), func(r wire.RevisionObserved) bool { return r.Phase == p })
}

func (w *world) get(path string) (int, string) {
	w.Helper()
	res, err := http.Get("http://" + w.listen + path)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func (w *world) wantBody(path, want string) {
	w.Helper()
	if code, body := w.get(path); code != 200 || body != want {
		w.Fatalf("GET %s: %d %q, want %q", path, code, body, want)
	}
}

// load asks in the background until the returned function is called, which
// returns how many answers of each version there were, and fails the test when a
// request was not answered by 200.
func (w *world) load(clients int) (stop func() map[string]int) {
	var mu sync.Mutex
	got := make(map[string]int)
	done := make(chan struct{})
	var wait sync.WaitGroup
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	for range clients {
		wait.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				res, err := c.Get("http://" + w.listen + "/")
				if err != nil {
					w.Errorf("dropped: %v", err)
					return
				}
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != 200 {
					w.Errorf("dropped: %d %q %v", res.StatusCode, b, err)
				}
				mu.Lock()
				got[string(b)]++
				mu.Unlock()
			}
		})
	}
	return func() map[string]int {
		close(done)
		wait.Wait()
		c.CloseIdleConnections()
		return got
	}
}

func requests(r wire.RevisionObserved) (n, bad int) {
	for _, c := range r.Counters {
		n += int(c.Requests)
		bad += int(c.Bad)
	}
	return n, bad
}

// The story of a release: it comes, takes a share, takes all, and the old one
// goes; nothing is dropped, and what clients and proxy counted is the same.
func TestCanary(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	v1.Instances = 2
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	stop := w.load(8)
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v2, wire.Ready)
	for _, weight := range []int{500, 5000, 10000} {
		w.desire(with(v1, 10000-weight, false), with(v2, weight, true))
		w.waitRevision(v2.Release, "traffic", func(r wire.RevisionObserved) bool { n, _ := requests(r); return n > 200*weight/10000 })
	}
	w.desire(with(v1, 0, false), with(v2, 10000, false))
	before := w.waitRevision(v1.Release, "counters of v1", func(r wire.RevisionObserved) bool { return r.Weight == 0 })
	w.desire(with(v2, 10000, false))
	w.Wait(t, host, "v1 gone", func(o wire.Observed) bool { return len(agenttest.ServiceOf(o, shop).Revisions) == 1 })
	got := stop()
	if n, bad := requests(before); bad != 0 || got["v1"] != n {
		t.Errorf("the clients had %d of v1, the proxy counted %d, %d of them bad", got["v1"], n, bad)
	}
	w.waitRevision(v2.Release, "counters of v2", func(r wire.RevisionObserved) bool {
		n, bad := requests(r)
		return n == got["v2"] && bad == 0
	})
}

// From the rollback's arrival at the wire to weight 0 read back at the wire.
func TestRollbackIsFast(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v2, wire.Ready)
	var worst time.Duration
	for range 5 {
		w.desire(with(v1, 5000, false), with(v2, 5000, true))
		start := time.Now()
		w.desire(with(v1, 10000, false), with(v2, 0, true))
		worst = max(worst, time.Since(start))
		for range 50 {
			w.wantBody("/", "v1")
		}
	}
	t.Logf("slowest of 5: %s", worst)
}

func TestGenerations(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v2, wire.Ready)
	high := w.desire(with(v1, 9000, false), with(v2, 1000, true))
	// A worker that was paused over its lease wakes up and raises the weight.
	d := wire.Desired{Key: shop, Hosts: []string{host}, Listen: w.listen, Generation: high - 1, Revisions: []wire.Revision{with(v1, 0, false), with(v2, 10000, true)}}
	w.Desire(d)
	refused := func(o wire.Observed) bool {
		return strings.Contains(agenttest.ServiceOf(o, shop).Reason, "refused")
	}
	o := w.Wait(t, host, "refusal of a lower generation", refused)
	if s := agenttest.ServiceOf(o, shop); s.Generation != high || agenttest.RevisionOf(s, v2.Release).Weight != 1000 {
		t.Errorf("generation %d, weight %d", s.Generation, agenttest.RevisionOf(s, v2.Release).Weight)
	}
	// The same number with other content is refused; with the same it is nothing.
	d.Generation = high
	w.Desire(d)
	w.Wait(t, host, "refusal of other content", func(o wire.Observed) bool {
		return strings.Contains(agenttest.ServiceOf(o, shop).Reason, "other content")
	})
	d.Revisions = []wire.Revision{with(v1, 9000, false), with(v2, 1000, true)}
	w.Stop() // so that the same generation comes again, on a new stream
	w.Start()
	w.Desire(d)
	w.agent.Kill()
	w.agent = w.StartAgent(t, host, w.dir)
	next := w.desire(with(v1, 10000, false), with(v2, 0, true))
	entries, err := journal.Read(agent.JournalPath(w.dir))
	if err != nil {
		t.Fatal(err)
	}
	applied := make(map[int64]int)
	var refusals int
	for _, e := range entries {
		switch e.Outcome {
		case journal.Applied:
			applied[e.Generation]++
		case journal.Refused:
			refusals++
		}
	}
	if len(applied) != 3 || applied[high] != 1 || applied[next] != 1 || refusals != 2 {
		t.Errorf("applied %v, %d refusals", applied, refusals)
	}
}

func TestWhatIsNotUnderstoodIsRefusedByName(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	for want, change := range map[string]func(*wire.Desired){
		"teleport":             func(d *wire.Desired) { d.Requires = []string{"teleport"} },
		"protocol 2":           func(d *wire.Desired) { d.Protocol = 2 },
		"weights sum to 9999":  func(d *wire.Desired) { d.Revisions[0].Weight = 9999 },
		"stands twice":         func(d *wire.Desired) { d.Revisions = append(d.Revisions, with(v1, 0, true)) },
		"not host:port":        func(d *wire.Desired) { d.Listen = "nowhere" },
		"does not begin with":  func(d *wire.Desired) { d.Revisions[0].Health.HTTP = "healthz" },
		"not a cookie's name":  func(d *wire.Desired) { d.Sticky.Cookie = "a;b" },
		"not within 0 and 256": func(d *wire.Desired) { d.Revisions[0].Instances = 1000 },
	} {
		d := wire.Desired{Key: shop, Listen: w.listen, Revisions: []wire.Revision{with(v1, 10000, false)}}
		change(&d)
		w.Desire(d)
		w.Wait(t, host, want, func(o wire.Observed) bool {
			s := agenttest.ServiceOf(o, shop)
			return strings.Contains(s.Reason, want) && s.Generation == 1
		})
		w.wantBody("/", "v1")
	}
}

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
	never.Health.StartIn = time.Second
	w.desire(with(v1, 10000, false), with(never, 0, true))
	r = w.waitPhase(never, wire.Failed)
	if !strings.Contains(r.Reason, "was not ready within 1s: GET /healthz answered 503") {
		t.Errorf("reason %q", r.Reason)
	}

	noFile := w.release("v4")
	noFile.Run = "./is-not-there"
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

func TestLateServiceIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	stop := w.load(2)
	// All at once, without a word about readiness: the old one serves until then.
	late := w.release("v2", "MODE", "late")
	w.desire(with(late, 10000, false))
	if got := stop(); got["v1"] == 0 {
		t.Error("v1 served nothing while v2 was starting")
	}
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
	r := w.waitRevision(v1.Release, "the exit", func(r wire.RevisionObserved) bool {
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
	r = w.waitRevision(v1.Release, "restart", func(r wire.RevisionObserved) bool { return r.Phase == wire.Ready && r.Ready == 2 })
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
	if _, err := net.Dial("tcp", w.listen); err == nil {
		t.Fatal("somebody still listens")
	}
	for _, pid := range before {
		if syscall.Kill(pid, 0) != nil {
			t.Fatalf("process %d went with the agent", pid)
		}
	}
	start := time.Now()
	w.agent = w.StartAgent(t, host, w.dir)
	agenttest.Eventually(t, "traffic", func() bool {
		res, err := http.Get("http://" + w.listen)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == 200
	})
	t.Logf("traffic was back %s after the start", time.Since(start))
	w.Wait(t, host, "a report", func(o wire.Observed) bool { return o.Boot != boot })
	after := w.pids(v1)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("processes %v became %v", before, after)
	}
	s := agenttest.ServiceOf(w.Observed(host), shop)
	if s.Generation != 2 || agenttest.RevisionOf(s, v2.Release).Weight != 5000 {
		t.Errorf("came back with generation %d, weight %d", s.Generation, agenttest.RevisionOf(s, v2.Release).Weight)
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
	agenttest.Eventually(t, "the end of v2", func() bool { return dead(old[0]) })
	// And what is in no state at all.
	pids := w.pids(v1)
	w.agent.Kill()
	if err := os.RemoveAll(filepath.Join(w.dir, "desired")); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	w.agent = w.StartAgent(t, host, w.dir)
	agenttest.Eventually(t, "the end of v1", func() bool { return dead(pids[0]) })
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
	w.waitPhase(v2, wire.Ready)
	w.desire(with(v1, 9000, false), with(v2, 1000, true))
	stop := w.load(4)
	w.Stop()
	time.Sleep(300 * time.Millisecond) // traffic without a control plane
	if got := stop(); got["v1"] == 0 || got["v2"] == 0 {
		t.Errorf("served %v", got)
	}
	// The agent too: the new one has only what is on its disk.
	w.agent.Terminate()
	w.agent = w.StartAgent(t, host, w.dir)
	agenttest.Eventually(t, "traffic", func() bool {
		nc, err := net.Dial("tcp", w.listen)
		if err == nil {
			_ = nc.Close()
		}
		return err == nil
	})
	stop = w.load(4)
	time.Sleep(300 * time.Millisecond)
	got := stop()
	if n := got["v1"] + got["v2"]; got["v2"] == 0 || got["v2"] > n/5 {
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
	for want, r := range map[string]wire.Revision{
		"altered":               altered,
		"the promotion is into": elsewhere,
		"unknown key":           foreign,
		"the configuration for": config,
		"it was altered":        manifest,
		"is not one of release": swapped,
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
	pulls := w.Pulls()
	w.desire(with(v1, 10000, false))
	w.wantBody("/", "v1")
	if w.Pulls() != pulls && w.Pulls() > pulls+3 { // v3 may have been tried again meanwhile
		t.Errorf("the rollback asked the registry %d times", w.Pulls()-pulls)
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
	agenttest.Eventually(t, "the files of v1", func() bool {
		b, _ := os.ReadFile(file)
		return string(b) == "contents of v1"
	})
}

func TestTwoHosts(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.StartAgent(t, "second", dir)
	v1, v2 := w.release("v1"), w.release("v2")
	d := wire.Desired{Key: shop, Hosts: []string{host, "second"}, Listen: "127.0.0.1:0", Sticky: wire.Sticky{Header: "X-User"},
		Revisions: []wire.Revision{with(v1, 5000, false), with(v2, 5000, true)}}
	g := w.Desire(d)
	weights := map[release.ID]int{v1.Release: 5000, v2.Release: 5000}
	one := w.WaitWeights(t, host, shop, g, weights).Address
	two := w.WaitWeights(t, "second", shop, g, weights).Address
	for _, h := range []string{host, "second"} {
		w.Wait(t, h, "both ready", func(o wire.Observed) bool {
			s := agenttest.ServiceOf(o, shop)
			return agenttest.RevisionOf(s, v1.Release).Ready+agenttest.RevisionOf(s, v2.Release).Ready == 2
		})
	}
	ask := func(addr, user string) string {
		req, _ := http.NewRequest("GET", "http://"+addr, nil)
		req.Header.Set("X-User", user)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return string(b)
	}
	seen := make(map[string]int)
	for i := range 60 {
		u := fmt.Sprint("user", i)
		x, y := ask(one, u), ask(two, u)
		if x != y {
			t.Errorf("%s: %s on one host, %s on the other", u, x, y)
		}
		seen[x]++
	}
	if len(seen) != 2 {
		t.Errorf("served %v", seen)
	}
	// A host that is not named any more lets go.
	d.Hosts = []string{host}
	d.Generation = 0
	w.Desire(d)
	w.Wait(t, "second", "the end", func(o wire.Observed) bool {
		s := agenttest.ServiceOf(o, shop)
		return !s.Listening && len(s.Revisions) == 0
	})
	ask(one, "x")
}

func TestSecretsStaySecret(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("hunter2-hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v1 := w.WithSecrets(t, shop, w.release("v1", "MODE", "never"), map[string]release.SecretRef{"TOKEN": {Ref: "file:" + file}})
	w.ask(with(v1, 10000, false))
	r := w.waitRevision(v1.Release, "a log", func(r wire.RevisionObserved) bool {
		return len(r.Instances) == 1 && strings.Contains(r.Instances[0].LogTail, "starting v1")
	})
	if tail := r.Instances[0].LogTail; strings.Contains(tail, "hunter2") || !strings.Contains(tail, "token ***") {
		t.Errorf("log tail %q", tail)
	}
	ok := w.WithSecrets(t, shop, w.release("v2"), map[string]release.SecretRef{"TOKEN": {Ref: "file:" + file}})
	w.desire(with(ok, 10000, false))
	w.waitPhase(ok, wire.Ready)
	w.wantBody("/env?k=TOKEN", "hunter2-hunter2")
	missing := w.WithSecrets(t, shop, w.release("v3"), map[string]release.SecretRef{"TOKEN": {Ref: "file:/is/not/there"}})
	w.desire(with(ok, 10000, false), with(missing, 0, true))
	if r := w.waitPhase(missing, wire.Failed); !strings.Contains(r.Reason, "couldn't resolve the secret TOKEN") {
		t.Errorf("reason %q", r.Reason)
	}
	// No file of the agent holds the value, but the service's own log.
	_ = filepath.Walk(w.dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && !strings.HasSuffix(path, ".log") {
			if b, _ := os.ReadFile(path); strings.Contains(string(b), "hunter2") {
				t.Errorf("%s holds the secret", path)
			}
		}
		return nil
	})
}

func TestScrapes(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	v1.Metrics = "/metrics"
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	w.wantBody("/", "v1")
	w.Wait(t, host, "a scrape", func(o wire.Observed) bool {
		return len(o.Scrapes) == 1 && o.Scrapes[0].Release == v1.Release && o.Scrapes[0].Key == shop && strings.Contains(string(o.Scrapes[0].Body), "requests_total 1")
	})
}

func TestPortTaken(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", w.listen)
	if err != nil {
		t.Fatal(err)
	}
	v1 := w.release("v1")
	w.ask(with(v1, 10000, false))
	w.Wait(t, host, "the reason", func(o wire.Observed) bool {
		s := agenttest.ServiceOf(o, shop)
		return !s.Listening && strings.Contains(s.Reason, "address already in use")
	})
	_ = l.Close()
	w.Wait(t, host, "the listener", func(o wire.Observed) bool {
		s := agenttest.ServiceOf(o, shop)
		return s.Listening && s.Reason == ""
	})
	w.waitPhase(v1, wire.Ready)
	w.wantBody("/", "v1")
}

func TestInstancesComeAndGo(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	stop := w.load(8)
	for _, n := range []int{3, 1, 4, 2} {
		v1.Instances = n
		w.desire(with(v1, 10000, false))
		w.waitRevision(v1.Release, fmt.Sprint(n, " instances"), func(r wire.RevisionObserved) bool {
			return r.Phase == wire.Ready && r.Ready == n && len(r.Instances) == n
		})
	}
	got := stop()
	w.waitRevision(v1.Release, "counters", func(r wire.RevisionObserved) bool {
		n, bad := requests(r)
		return n == got["v1"] && bad == 0
	})
	// No revision any more: 503, and then not even that.
	w.ask()
	w.Wait(t, host, "the end", func(o wire.Observed) bool { return len(agenttest.ServiceOf(o, shop).Revisions) == 0 })
	if code, _ := w.get("/"); code != 503 {
		t.Errorf("answered %d", code)
	}
	w.Desire(wire.Desired{Key: shop, Removed: true})
	agenttest.Eventually(t, "no listener", func() bool {
		nc, err := net.Dial("tcp", w.listen)
		if err == nil {
			_ = nc.Close()
		}
		return err != nil
	})
}

// Requests that are open when their revision goes are answered.
func TestDraining(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v1, wire.Ready)
	w.waitPhase(v2, wire.Ready)
	var answered atomic.Int64
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() {
			if code, body := w.get("/slow"); code == 200 && body == "v1" {
				answered.Add(1)
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // the requests are under way
	w.desire(with(v2, 10000, false))
	wait.Wait()
	if answered.Load() != 10 {
		t.Errorf("%d of 10 open requests were answered", answered.Load())
	}
}

func TestOneAgentPerFolder(t *testing.T) {
	w := newWorld(t)
	w.Wait(t, host, "a report", func(o wire.Observed) bool { return o.Boot != "" })
	err := agent.Run(t.Context(), agent.Config{Server: w.URL, Host: "x", DataDir: w.dir, TrustKeys: w.Keys.Public()})
	if !errors.Is(err, agent.ErrLocked) {
		t.Errorf("the second agent: %v", err)
	}
	if err := agent.StopAll(t.Context(), w.dir); !errors.Is(err, agent.ErrLocked) {
		t.Errorf("StopAll beside an agent: %v", err)
	}
}

func TestStopOnExit(t *testing.T) {
	p := agenttest.NewPlane(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	dir := t.TempDir()
	go func() {
		done <- agent.Run(ctx, agent.Config{Server: p.URL, Token: agenttest.Token, Host: host, DataDir: dir, TrustKeys: p.Keys.Public(), StopOnExit: true})
	}()
	v1 := p.Revision(t, shop, agenttest.Release{Files: map[string]string{"a": "1"}, Env: map[string]string{"VERSION": "v1"}})
	g := p.Desire(wire.Desired{Key: shop, Listen: ":0", Revisions: []wire.Revision{with(v1, 10000, false)}})
	s := p.WaitWeights(t, host, shop, g, map[release.ID]int{v1.Release: 10000})
	o := p.Wait(t, host, "ready", func(o wire.Observed) bool {
		return agenttest.RevisionOf(agenttest.ServiceOf(o, shop), v1.Release).Phase == wire.Ready
	})
	pid := agenttest.RevisionOf(agenttest.ServiceOf(o, shop), v1.Release).Instances[0].PID
	open := make(chan string, 1)
	began := make(chan struct{})
	go func() {
		close(began)
		res, err := http.Get("http://" + s.Address + "/slow")
		if err != nil {
			open <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		open <- string(b)
	}()
	<-began
	time.Sleep(50 * time.Millisecond) // the request is under way
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := <-open; got != "v1" {
		t.Errorf("the open request: %s", got)
	}
	if !dead(pid) {
		t.Errorf("process %d was left behind", pid)
	}
}

func TestConfigIsChecked(t *testing.T) {
	p := agenttest.NewPlane(t)
	good := agent.Config{Server: p.URL, Host: host, DataDir: t.TempDir(), TrustKeys: p.Keys.Public()}
	for want, change := range map[string]func(*agent.Config){
		"not an http":      func(c *agent.Config) { c.Server = "ftp://x" },
		"plain text":       func(c *agent.Config) { c.Server = "http://192.0.2.1" },
		"trusts no key":    func(c *agent.Config) { c.TrustKeys = nil },
		"Host and DataDir": func(c *agent.Config) { c.Host = "" },
		"no such file":     func(c *agent.Config) { c.TrustFile = "/is/not/there" },
	} {
		c := good
		change(&c)
		if err := agent.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}
