package agent_test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/release"
)

// A service moves to another address with its release: both answer until the
// release was judged good, also across an upgrade of the agent, and then the old
// one is closed. No request is lost on either.
func TestAddressMovesWithTheRelease(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.release("v1"), w.release("v2")
	old, next := w.listen, porttest.Free(t)
	ask := func(listen string, also []string, revs ...wire.Revision) {
		t.Helper()
		weights := make(map[release.ID]int)
		for _, r := range revs {
			weights[r.Release] = r.Weight
		}
		g := w.Desire(wire.Desired{Key: shop, Requires: []string{wire.FeatureAlso}, Hosts: []string{host}, Listen: listen, Also: also, Revisions: revs})
		if s := w.WaitWeights(t, host, shop, g, weights); s.Address != listen {
			t.Errorf("it says that it listens at %s, not at %s", s.Address, listen)
		}
	}
	answers := func(addr string) bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		res, err := http.Get("http://" + addr)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == 200
	}
	ask(old, nil, with(v1, 10000, false))
	w.waitPhase(v1, wire.Ready)
	stop := w.strict()
	ask(old, []string{next}, with(v1, 10000, false), with(v2, 0, true))
	w.waitPhase(v2, wire.Ready)
	if !answers(old) || !answers(next) {
		t.Error("not both addresses answer during the rollout")
	}
	w.upgrade()
	ask(old, []string{next}, with(v1, 5000, false), with(v2, 5000, true))
	if !answers(old) || !answers(next) {
		t.Error("not both addresses answer after the upgrade")
	}
	stop()
	w.listen = next
	stop = w.strict()
	ask(next, nil, with(v2, 10000, false))
	machinetest.Until(t, "the end of the old address", func() bool { return !answers(old) })
	stop()

	// One that is taken is known before anything is exposed.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w.Desire(wire.Desired{Key: shop, Requires: []string{wire.FeatureAlso}, Hosts: []string{host}, Listen: next, Also: []string{taken.Addr().String()}, Revisions: []wire.Revision{with(v2, 10000, false)}})
	w.Wait(t, host, "the reason", func(o wire.Observed) bool {
		s := agenttest.ServiceOf(o, shop)
		return !s.Listening && strings.Contains(s.Reason, "address already in use")
	})
	w.wantBody("/", "v2")
}
