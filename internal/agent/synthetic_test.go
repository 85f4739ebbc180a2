package agent_test

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// Traffic is made as long as it is wanted, reaches both versions by their
// weights, and is in no count of users. A rate that nobody can mean is refused.
func TestSynthetic(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	ask := func(y *wire.Synthetic) int64 {
		d := wire.Desired{Key: shop, Hosts: []string{host}, Listen: w.listen, Revisions: []wire.Revision{with(v1, 5000, false), with(v2, 5000, true)}}
		if y != nil {
			d.Requires, d.Synthetic = []string{wire.FeatureSynthetic}, y
		}
		return w.Desire(d)
	}
	both := map[release.ID]int{v1.Release: 5000, v2.Release: 5000}
	w.WaitWeights(t, host, shop, ask(&wire.Synthetic{Rate: 200, Paths: []string{"/a", "/b"}}), both)
	made := func(id release.ID) (n uint64) {
		for _, c := range agenttest.RevisionOf(agenttest.ServiceOf(w.Observed(host), shop), id).Synthetic {
			n += c.Requests
		}
		return n
	}
	w.Wait(t, host, "traffic to both", func(wire.Observed) bool { return made(v1.Release) > 10 && made(v2.Release) > 10 })
	s := agenttest.ServiceOf(w.Observed(host), shop)
	if n, _ := requests(agenttest.RevisionOf(s, v1.Release)); n != 0 || s.Total.Requests != 0 {
		t.Errorf("%d of its requests count as users', %d in all", n, s.Total.Requests)
	}
	w.WaitWeights(t, host, shop, ask(nil), both)
	last := uint64(0)
	w.Wait(t, host, "the end of it", func(wire.Observed) bool {
		n := made(v1.Release) + made(v2.Release)
		ended := n == last
		last = n
		return ended
	})
	ask(&wire.Synthetic{Rate: 1e6, Paths: []string{"/"}})
	w.Wait(t, host, "a refusal", func(o wire.Observed) bool {
		return strings.Contains(agenttest.ServiceOf(o, shop).Reason, "rate of 1e+06")
	})
}
