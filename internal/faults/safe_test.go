package faults

import (
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// frozen tells a rollout that the judge failed, and that waits for a person.
var frozen = heldBy("judge failed it")

// A failure that freezes moves nobody, also not by way of a power cut, until a
// person decides.
func TestFreezeThroughAPowerCut(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	s.rollout = "{canary: {steps: [{weight: 10, bake: 5s}]}, onFail: freeze}" + judged
	s.ship(behaviour{Version: "bad", Bad: 80})
	seen, _, hit := p.killWhen(p.Run(s.Dir), frozen)
	if !hit {
		t.Fatalf("never frozen: %s", servertest.Show(seen))
	}
	p.up()
	now := p.Wait(seen.Run, "frozen still", func(s control.Status) bool { return frozen(s) && production(s).Weight == 10 })
	if e := production(now); e.Phase != rollout.Baking || e.Verdict != "fail" {
		t.Errorf("it is %s, judged %s", e.Phase, e.Verdict)
	}
	out, code := p.sluice("explain", seen.Run)
	if code != 0 {
		t.Errorf("explain ended with %d", code)
	}
	says(t, out, "abort", "advance", "--override")
	if out, code := p.sluice("abort", seen.Run, "--reason", "it is bad"); code != 0 {
		t.Errorf("abort ended with %d: %s", code, out)
	}
	end := p.WaitState(seen.Run, "rolled-back")
	if e := production(end); e.Weight != 0 {
		t.Errorf("rolled back at %g %%", e.Weight)
	}
	if got := load.Stop(); got.Dropped > 0 {
		t.Errorf("of %d requests %d were dropped: %v", got.All, got.Dropped, got.Errors)
	}
	p.whole(t)
}

// A release that must not go back freezes; its fix takes its place with the users
// that it has, and nobody is dropped, though the power fails as the fix comes in.
func TestRollForwardThroughAPowerCut(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	first := p.instances()
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	s.rollout = "{canary: {steps: [{weight: 20, bake: 5s}]}, onFail: roll-forward}" + judged
	s.ship(behaviour{Version: "bad", Bad: 80})
	bad := p.Run(s.Dir)
	failed := p.Wait(bad, "frozen", frozen)
	s.ship(behaviour{Version: "fix", StartMillis: 3000})
	seen, killed, hit := p.killWhen(p.Run(s.Dir), inPhase(rollout.Preparing))
	if !hit {
		t.Fatalf("never seen: %s", servertest.Show(seen))
	}
	p.goesOn(t, seen, killed, "succeeded")
	if st := p.Status(bad); production(st).State != "superseded" {
		t.Errorf("the failed one is %s", production(st).State)
	}
	if e := production(p.Status(seen.Run)); e.PreviousRelease == failed.Release || first[e.PreviousRelease] == nil {
		t.Errorf("the fix goes back to %s", e.PreviousRelease.Short())
	}
	by := load.Settled().By["bad"]
	var way control.Way
	p.Call("GET", "services/shop/environments/production/way-back", nil, &way)
	if way.Kind != "warm" || first[way.To] == nil {
		t.Errorf("the way back is %+v", way)
	}
	got := load.Stop()
	if got.Dropped > 0 || got.By["bad"] != by {
		t.Errorf("of %d requests %d were dropped, %d reached what was replaced: %v", got.All, got.Dropped, got.By["bad"]-by, got.Errors)
	}
	p.whole(t)
}
