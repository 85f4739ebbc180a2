package faults

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// A worker takes its work itself: its share is counted in real processes, and it
// is judged by what it says of its work.
func TestWorkersByTheirProcesses(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	agent := filepath.Join(p.dir, "agent")
	s.replace("listen: 'ADDR', ", "")
	s.replace("instances: 2", "instances: 4, metrics: {path: /metrics}")
	s.rollout = "{canary: {steps: [{weight: 25, bake: 6s}, {weight: 50, bake: 6s}]}}\n    analysis: {warmUp: 0s, bin: 1s, metrics: [{name: dead, kind: limit, query: 'max(dead_letters{revision=\"$revision\"})', max: 3}]}"
	first := p.WaitState(func() string { s.ship(behaviour{Version: "v0"}); return p.Run(s.Dir) }(), "succeeded").Release
	is := func(want map[release.ID]int) func() bool {
		return func() bool { return maps.Equal(alive(t, agent), want) }
	}
	machinetest.Until(t, "four of the first", is(map[release.ID]int{first: 4}))

	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	second := p.Wait(run, "at 25", bakingAt(25)).Release
	machinetest.Until(t, "one of four", is(map[release.ID]int{first: 3, second: 1}))
	seen, killed, hit := p.killWhen(run, bakingAt(50))
	if !hit {
		t.Fatalf("never seen at 50 %%: %s", servertest.Show(seen))
	}
	machinetest.Until(t, "two of each", is(map[release.ID]int{first: 2, second: 2}))
	p.goesOn(t, seen, killed, "succeeded")
	machinetest.Until(t, "four of the second", is(map[release.ID]int{second: 4}))

	s.ship(behaviour{Version: "v2", Dead: 9})
	run = p.Run(s.Dir)
	p.Wait(run, "one works", func(s control.Status) bool { return production(s).Phase == rollout.Baking || servertest.Ended(s) })
	end := p.WaitState(run, "rolled-back")
	says(t, production(end).Reason, "dead")
	if e := production(end); e.Weight != 0 || e.Verdict != "fail" {
		t.Errorf("rolled back at %g %% by %q", e.Weight, e.Verdict)
	}
	machinetest.Until(t, "four of the second again", is(map[release.ID]int{second: 4}))
	p.whole(t)
}
