package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
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

// newWorld is for stories beside each other: they wait more than they compute.
func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	return worldWith(t, t.TempDir(), agenttest.Options{})
}

// worldWith has an agent on dir whose options matter.
func worldWith(t *testing.T, dir string, o agenttest.Options) *world {
	t.Helper()
	w := &world{T: t, Plane: agenttest.NewPlane(t), dir: dir, listen: porttest.Free(t)}
	w.agent = w.StartAgentWith(t, host, dir, o)
	return w
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

// slow opens n requests and returns when an instance has them all. The returned
// function waits for their ends, and fails the test unless version answered each.
func (w *world) slow(n int, version string) (answered func()) {
	w.Helper()
	var good atomic.Int64
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			if code, body := w.get("/slow"); code == 200 && body == version {
				good.Add(1)
			}
		})
	}
	begun(w, w.listen, n)
	return func() {
		w.Helper()
		wait.Wait()
		if good.Load() != int64(n) {
			w.Errorf("%d of %d open requests were answered by %s", good.Load(), n, version)
		}
	}
}

// begun waits until the service at address has got n slow requests.
func begun(t testing.TB, address string, n int) {
	t.Helper()
	var b []byte
	machinetest.Until(t, fmt.Sprintf("%d slow requests have begun", n), func() bool {
		res, err := http.Get("http://" + address + "/begun")
		if err != nil {
			t.Fatal(err)
		}
		b, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
		return err == nil && string(b) == strconv.Itoa(n)
	}, func() string { return string(b) })
}

// load asks in the background until the returned function is called, which
// returns how many answers of each version there were, and fails the test when a
// request was not answered by 200.
func (w *world) load(clients int) (stop func() map[string]int) {
	stop, _ = w.counted(clients)
	return stop
}

// counted is load that says how many were answered so far.
func (w *world) counted(clients int) (stop func() map[string]int, answered func() int) {
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
	stop = func() map[string]int {
		close(done)
		wait.Wait()
		c.CloseIdleConnections()
		return got
	}
	answered = func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, k := range got {
			n += k
		}
		return n
	}
	return stop, answered
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
	w.waitRevision(v1.Release, "v1 at weight 0", func(r wire.RevisionObserved) bool { return r.Weight == 0 })
	w.desire(with(v2, 10000, false))
	w.Wait(t, host, "v1 gone", func(o wire.Observed) bool { return len(agenttest.ServiceOf(o, shop).Revisions) == 1 })
	got := stop()
	w.waitRevision(v2.Release, "counters of v2", func(r wire.RevisionObserved) bool {
		n, bad := requests(r)
		return n == got["v2"] && bad == 0
	})
	// v1 is gone, and its counts are in the sum: also of what was under way at its last report.
	w.Wait(t, host, "counters of all", func(o wire.Observed) bool {
		all := agenttest.ServiceOf(o, shop).Total
		return all.Bad == 0 && all.Requests == uint64(got["v1"]+got["v2"])
	})
}

// From the rollback's arrival at the wire to weight 0 read back at the wire.
func TestRollbackIsFast(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v1, wire.Ready) // they start at the same time
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
	named := t.TempDir()
	w := worldWith(t, t.TempDir(), agenttest.Options{Secrets: []string{named}})
	file := filepath.Join(named, "token")
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
	machinetest.Until(t, "no listener", func() bool {
		nc, err := net.Dial("tcp", w.listen)
		if err == nil {
			_ = nc.Close()
		}
		return err != nil
	})
}

// The listener moves without a gap, and stays when only the table changes.
func TestListenerMoves(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	nc, err := net.Dial("tcp", w.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	br := bufio.NewReader(nc)
	ask := func() {
		t.Helper()
		_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_ = nc.SetReadDeadline(time.Now().Add(machinetest.Patience))
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%v, %v", res, err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	v2 := w.release("v2")
	w.desire(with(v1, 5000, false), with(v2, 5000, true))
	ask()
	old := w.listen
	w.listen = porttest.Free(t)
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.wantBody("/", "v1")
	ask() // what is open stays open
	if c, err := net.Dial("tcp", old); err == nil {
		_ = c.Close()
		t.Error("the old address is still open")
	}
}

// Requests that are open when their revision goes are answered.
func TestDraining(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	w.desire(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v1, wire.Ready)
	w.waitPhase(v2, wire.Ready)
	answered := w.slow(10, "v1")
	w.desire(with(v2, 10000, false))
	answered()
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
	t.Parallel()
	p := agenttest.NewPlane(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	dir := t.TempDir()
	go func() {
		done <- agent.Run(ctx, agent.Config{Server: p.URL, Token: agenttest.Token, Host: host, DataDir: dir, TrustKeys: p.Keys.Public(), StopOnExit: true, Isolation: agent.None})
	}()
	v1 := p.Revision(t, shop, agenttest.Release{Files: map[string]string{"a": "1"}, Env: map[string]string{"VERSION": "v1"}})
	g := p.Desire(wire.Desired{Key: shop, Listen: ":0", Revisions: []wire.Revision{with(v1, 10000, false)}})
	s := p.WaitWeights(t, host, shop, g, map[release.ID]int{v1.Release: 10000})
	o := p.Wait(t, host, "ready", func(o wire.Observed) bool {
		return agenttest.RevisionOf(agenttest.ServiceOf(o, shop), v1.Release).Phase == wire.Ready
	})
	pid := agenttest.RevisionOf(agenttest.ServiceOf(o, shop), v1.Release).Instances[0].PID
	open := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + s.Address + "/slow")
		if err != nil {
			open <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		open <- string(b)
	}()
	begun(t, s.Address, 1)
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
