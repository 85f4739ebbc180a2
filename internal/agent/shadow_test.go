package agent_test

import (
	"testing"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
)

// Users' requests are copied to a candidate without weight: it is counted by its
// copies, users see the stable version only.
func TestShadow(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	ask := func(shadow int) {
		c := with(v2, 0, true)
		c.Shadow = shadow
		w.Desire(wire.Desired{
			Key: shop, Hosts: []string{host}, Listen: w.listen, Requires: []string{wire.FeatureShadow},
			Revisions: []wire.Revision{with(v1, 10000, false), c},
		})
	}
	ask(5000)
	w.waitPhase(v1, wire.Ready) // they start at the same time
	w.waitPhase(v2, wire.Ready)
	copies := func() (n uint64) {
		for _, c := range agenttest.RevisionOf(agenttest.ServiceOf(w.Observed(host), shop), v2.Release).Shadow {
			n += c.Requests
		}
		return n
	}
	sent := uint64(0)
	w.Wait(t, host, "copies at the candidate", func(wire.Observed) bool {
		w.wantBody("/", "v1")
		sent++
		return copies() > 20
	})
	s := agenttest.ServiceOf(w.Observed(host), shop)
	if n, _ := requests(agenttest.RevisionOf(s, v2.Release)); n != 0 || copies() > sent {
		t.Errorf("of %d requests %d were copied, and %d count as the candidate's users'", sent, copies(), n)
	}
}
