package agent_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/release"
)

func shared(r wire.Revision, candidate bool, shares map[string]wire.Share) wire.Revision {
	r.Candidate, r.Shares = candidate, shares
	return r
}

// A rolling replacement, host by host and instance by instance: each host runs
// its share, what stays is not restarted, and no request is lost.
func TestSharesByHost(t *testing.T) {
	w := newWorld(t)
	const second = "second"
	w.StartAgent(t, second, t.TempDir())
	v1, v2 := w.release("v1"), w.release("v2")
	v1.Instances = 3
	hosts := []string{host, second}
	desire := func(revs ...wire.Revision) int64 {
		listen := "127.0.0.1:0"
		return w.Desire(wire.Desired{Key: shop, Requires: []string{wire.FeatureShares}, Hosts: hosts, Listen: listen, Revisions: revs})
	}
	runs := func(h string, r wire.Revision, ready int) []int {
		t.Helper()
		var pids []int
		w.Wait(t, h, fmt.Sprintf("%d of %s", ready, r.Release.Short()), func(o wire.Observed) bool {
			v := agenttest.RevisionOf(agenttest.ServiceOf(o, shop), r.Release)
			pids = nil
			for _, i := range v.Instances {
				pids = append(pids, i.PID)
			}
			return v.Phase == wire.Ready && v.Ready == ready && len(pids) == ready
		})
		return pids
	}
	g := desire(with(v1, 10000, false))
	w.listen = w.WaitWeights(t, host, shop, g, map[release.ID]int{v1.Release: 10000}).Address
	before, other := runs(host, v1, 3), runs(second, v1, 3)

	stop := w.load(4)
	// The first batch: one of three on one host; the other host is not named.
	g = desire(
		shared(with(v1, 10000, false), false, map[string]wire.Share{host: {Instances: 2, Weight: 6667}}),
		shared(v2, true, map[string]wire.Share{host: {Instances: 1, Weight: 3333}, second: {}}))
	w.WaitWeights(t, host, shop, g, map[release.ID]int{v1.Release: 6667, v2.Release: 3333})
	w.WaitWeights(t, second, shop, g, map[release.ID]int{v1.Release: 10000, v2.Release: 0})
	if now := runs(host, v1, 2); !slices.Equal(now, before[:2]) {
		t.Errorf("processes %v became %v: those that stay were restarted", before, now)
	}
	runs(host, v2, 1)
	runs(second, v2, 0) // known, verified, and nothing of it runs
	if now := runs(second, v1, 3); !slices.Equal(now, other) {
		t.Errorf("processes %v became %v on a host that nothing was asked of", other, now)
	}
	// Then all of it at once: v1 serves until v2 does.
	g = desire(
		shared(with(v1, 10000, false), false, map[string]wire.Share{host: {}}),
		shared(v2, true, map[string]wire.Share{host: {Instances: 3, Weight: 10000}, second: {}}))
	w.WaitWeights(t, host, shop, g, map[release.ID]int{v1.Release: 0, v2.Release: 10000})
	runs(host, v1, 0)
	runs(host, v2, 3)
	// And back, from nothing.
	g = desire(shared(with(v1, 10000, false), false, nil), shared(v2, true, nil))
	w.WaitWeights(t, host, shop, g, map[release.ID]int{v1.Release: 10000, v2.Release: 0})
	runs(host, v1, 3)
	stop()

	g = desire(shared(with(v1, 10000, false), false, map[string]wire.Share{host: {Instances: 1, Weight: 9999}}))
	w.Wait(t, host, "a refusal", func(o wire.Observed) bool {
		return strings.Contains(agenttest.ServiceOf(o, shop).Reason, "weights sum to 9999")
	})
	w.WaitWeights(t, second, shop, g, map[release.ID]int{v1.Release: 10000}) // whose own share is right
}

// The preview shows the candidate alone before it has any traffic, and what is
// asked there is in no count.
func TestPreview(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	side := porttest.Free(t)
	ask := func(revs ...wire.Revision) {
		t.Helper()
		weights := make(map[release.ID]int)
		for _, r := range revs {
			weights[r.Release] = r.Weight
		}
		g := w.Desire(wire.Desired{Key: shop, Requires: []string{wire.FeaturePreview}, Hosts: []string{host}, Listen: w.listen, Preview: side, Revisions: revs})
		w.WaitWeights(t, host, shop, g, weights)
	}
	look := func() (int, string) {
		t.Helper()
		res, err := http.Get("http://" + side + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	ask(with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v1, wire.Ready)
	w.waitPhase(v2, wire.Ready)
	if at := agenttest.ServiceOf(w.Observed(host), shop).Preview; at != side {
		t.Errorf("the preview is said to be at %q", at)
	}
	for range 20 {
		w.wantBody("/", "v1")
		if code, body := look(); code != 200 || body != "v2" {
			t.Fatalf("the preview: %d %q", code, body)
		}
	}
	o := w.Wait(t, host, "the counts", func(o wire.Observed) bool { return agenttest.ServiceOf(o, shop).Total.Requests >= 20 })
	s := agenttest.ServiceOf(o, shop)
	if n, _ := requests(agenttest.RevisionOf(s, v1.Release)); n != 20 {
		t.Errorf("%d requests of users were counted, want 20", n)
	}
	if n, _ := requests(agenttest.RevisionOf(s, v2.Release)); n != 0 || s.Total.Requests != 20 {
		t.Errorf("%d of the preview's requests were counted, %d in all", n, s.Total.Requests)
	}
	// Taken over: there is no candidate to show.
	ask(with(v1, 0, false), with(v2, 10000, false))
	if code, _ := look(); code != 503 {
		t.Errorf("without a candidate the preview answers %d", code)
	}
	// And without the feature the address is closed.
	w.desire(with(v2, 10000, false))
	w.Wait(t, host, "the end of the preview", func(o wire.Observed) bool { return agenttest.ServiceOf(o, shop).Preview == "" })
	if c, err := net.Dial("tcp", side); err == nil {
		_ = c.Close()
		t.Error("the preview's address is still open")
	}
}

// A worker has no address: it is ready when it has run for a while, its weight is
// its share of the processes, and what fails is seen all the same.
func TestWorker(t *testing.T) {
	w := newWorld(t)
	work := func(name string) wire.Revision {
		r := w.WithRun(t, shop, w.release(name), "exec sleep 1000")
		r.Health.HTTP = ""
		return r
	}
	v1, v2 := work("v1"), work("v2")
	crash := w.WithRun(t, shop, w.release("v3"), "exit 3")
	crash.Health.HTTP = ""
	ask := func(revs ...wire.Revision) {
		t.Helper()
		weights := make(map[release.ID]int)
		for _, r := range revs {
			weights[r.Release] = r.Weight
		}
		g := w.Desire(wire.Desired{Key: shop, Requires: []string{wire.FeatureWorker}, Hosts: []string{host}, Revisions: revs})
		s := w.WaitWeights(t, host, shop, g, weights)
		if s.Address != "" || !s.Listening {
			t.Errorf("a worker listens at %q, listening %v", s.Address, s.Listening)
		}
	}
	v1.Instances = 4
	ask(with(v1, 10000, false))
	old := w.pids(v1)
	v1.Instances = 3
	ask(with(v1, 7500, false), with(v2, 2500, true))
	w.waitPhase(v2, wire.Ready)
	w.waitRevision(v1.Release, "three of four", func(r wire.RevisionObserved) bool { return len(r.Instances) == 3 })
	if now := w.pids(v1); !slices.Equal(now, old[:3]) {
		t.Errorf("processes %v became %v", old, now)
	}
	ask(with(v1, 10000, false), with(v2, 0, true), with(crash, 0, true))
	w.waitPhase(crash, wire.Failed)
	// What has no address must say that it is a worker.
	w.Desire(wire.Desired{Key: shop, Hosts: []string{host}, Revisions: []wire.Revision{with(v1, 10000, false)}})
	w.Wait(t, host, "a refusal", func(o wire.Observed) bool {
		return strings.Contains(agenttest.ServiceOf(o, shop).Reason, "not host:port")
	})
}
