package faults

import (
	"net"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// inBatch is seen in the middle of a batch: its instances start beside the others.
func inBatch(step int) func(control.Status) bool {
	return func(s control.Status) bool {
		e := production(s)
		return e.Phase == rollout.Shifting && e.Step >= step && e.Step < len(e.Plan) && e.Plan[e.Step].Kind == rollout.StepReplace && e.Weight > 0
	}
}

// A power cut in the middle of a batch: the replacement goes on, or comes back,
// nobody's request is dropped, and the service never has an instance too few.
func TestKillControlPlaneInABatch(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.replace("instances: 2", "instances: 4")
	s.first(p)
	s.rollout = "{rolling: {batch: 2, bake: 5s}}" + judged
	for _, c := range []struct {
		name string
		b    behaviour
		when func(control.Status) bool
		ends string
	}{
		{"good", behaviour{Version: "good", StartMillis: 1500}, inBatch(1), "succeeded"},
		{"bad", behaviour{Version: "bad", Bad: 80, StartMillis: 300}, inPhase(rollout.Baking), "rolled-back"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := p.instances()
			load := servertest.StartLoad(s.addr, 2)
			defer load.Stop()
			least := fewest(t, p.dir+"/agent")
			seen, killed := p.caught(t, s, c.b, c.when)
			p.goesOn(t, seen, killed, c.ends)
			got := load.Stop()
			if got.Dropped > 0 || c.b.Bad == 0 && got.Bad > 0 {
				t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
			}
			if n := least(); n < 4 {
				t.Errorf("there was a moment with %d instances", n)
			}
			var runs = seen.Release
			if c.b.Bad > 0 {
				for id := range before {
					runs = id
				}
			}
			machinetest.Until(t, "four instances of the release that stays, and nothing else", func() bool {
				now := alive(t, p.dir+"/agent")
				return len(now) == 1 && now[runs] == 4
			})
		})
	}
	p.whole(t)
}

// Two hosts of two: the batches go host by host, through a power cut, and back.
func TestRollingOverTwoHosts(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t, "--no-agent"), newShop(t)
	_, port, _ := net.SplitHostPort(s.addr)
	hosts := []*host{newHost(t, p, p.URL, "a", "127.0.0.1"), newHost(t, p, p.URL, "b", "127.0.0.2")}
	s.replace("listen: 'ADDR'", "hosts: [a, b], listen: ':"+port+"'")
	s.first(p)
	for _, c := range []struct {
		rollout string
		b       behaviour
		when    func(control.Status) bool
		ends    string
	}{
		{"{rolling: {batch: 1}}", behaviour{Version: "good", StartMillis: 700}, inBatch(3), "succeeded"},
		{"{rolling: {batch: 1, bake: 5s}}" + judged, behaviour{Version: "bad", Bad: 80}, inPhase(rollout.Baking), "rolled-back"},
	} {
		t.Run(c.b.Version, func(t *testing.T) {
			loads := []*servertest.Load{servertest.StartLoad("127.0.0.1:"+port, 1), servertest.StartLoad("127.0.0.2:"+port, 1)}
			least := fewest(t, hosts[0].dir, hosts[1].dir)
			s.rollout = c.rollout
			seen, killed := p.caught(t, s, c.b, c.when)
			p.goesOn(t, seen, killed, c.ends)
			for i, l := range loads {
				if got := l.Stop(); got.Dropped > 0 || c.b.Bad == 0 && got.Bad > 0 || i == 1 && got.By["bad"] > 0 {
					t.Errorf("host %d: of %d requests %d were dropped and %d answered badly: %v", i, got.All, got.Dropped, got.Bad, got.Errors)
				}
			}
			if n := least(); n < 4 {
				t.Errorf("there was a moment with %d instances", n)
			}
		})
	}
	for _, h := range hosts {
		appliedOnce(t, h.dir)
	}
	p.proven(t)
}
