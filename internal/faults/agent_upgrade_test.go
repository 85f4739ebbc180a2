package faults

import (
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// An agent is upgraded in the middle of a rolling replacement: the next one takes
// over ports, instances and counts, the replacement goes on, and no request is
// dropped. A bad one is taken back by the agent that took over.
func TestUpgradeAgentInABatch(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.replace("instances: 2", "instances: 4")
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	least := fewest(t, p.dir+"/agent")
	for _, c := range []struct {
		rollout string
		b       behaviour
		ends    string
	}{
		{"{rolling: {batch: 2}}", behaviour{Version: "good", StartMillis: 1500}, "succeeded"},
		{"{rolling: {batch: 2, bake: 5s}}" + judged, behaviour{Version: "bad", Bad: 80, StartMillis: 300}, "rolled-back"},
	} {
		t.Run(c.b.Version, func(t *testing.T) {
			was := load.Settled()
			s.rollout = c.rollout
			s.ship(c.b)
			run := p.Run(s.Dir)
			if c.b.Bad > 0 {
				p.Wait(run, "exposed", func(s control.Status) bool { return production(s).Weight > 0 })
			} else {
				p.Wait(run, "in a batch", inBatch(1))
			}
			pid := p.agentPID()
			asked := time.Now()
			if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			machinetest.Until(t, "another agent works", func() bool { now := p.agentPID(); return now != pid && running(now) })
			t.Logf("another agent worked %s after it was asked for", time.Since(asked).Round(time.Millisecond))
			p.WaitState(run, c.ends)
			got := load.Settled()
			if got.Dropped > was.Dropped || c.b.Bad == 0 && got.Bad > was.Bad {
				t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All-was.All, got.Dropped-was.Dropped, got.Bad-was.Bad, got.Errors)
			}
			machinetest.Until(t, "the agent before is gone", func() bool { return !running(pid) })
		})
	}
	load.Stop()
	if n := least(); n < 4 {
		t.Errorf("there was a moment with %d instances", n)
	}
	p.whole(t)
}
