package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// Blue/green: a group that its check refuses meets no user; one that it takes gets
// everybody in one step; and while it bakes it is taken back in one step, though
// the agent died meanwhile.
func TestBlueGreenSwitchesAndSwitchesBack(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	preview := porttest.Free(t)
	s.replace("listen: 'ADDR'", "listen: 'ADDR', preview: '"+preview+"'")
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	first := p.instances()

	s.rollout = "{blue-green: {bake: 5m, retireAfter: 1h, preTraffic: [{name: ready, http: {path: /, contains: 'hello good', retries: 0}}]}}" + judged
	s.ship(behaviour{Version: "wrong"})
	run := p.Run(s.Dir)
	end := p.WaitState(run, "failed")
	says(t, production(end).Reason, "ready", "hello good")
	if got := load.Counts(); got.Dropped+got.Bad > 0 || got.By["wrong"] > 0 {
		t.Errorf("of %d requests %d were dropped, %d answered badly and %d by what was refused: %v", got.All, got.Dropped, got.Bad, got.By["wrong"], got.Errors)
	}

	s.ship(behaviour{Version: "good"})
	run = p.Run(s.Dir)
	// At the preview it is met before anybody is moved.
	seen := p.Wait(run, "switched", inPhase(rollout.Baking))
	if e := production(seen); e.Weight != 100 {
		t.Errorf("switched to %g %%", e.Weight)
	}
	if _, body, err := get("http://" + preview + "/"); err != nil || strings.TrimSpace(body) != "hello good" {
		t.Errorf("the preview answers %q, %v", body, err)
	}
	machinetest.Until(t, "what was refused has gone", func() bool { return len(p.instances()) == 2 })
	both := p.instances()
	killPID(t, p.agentPID())
	back := answeredAgain(t, load)
	if now := p.instances(); !sameProcesses(both, now) {
		t.Errorf("the instances were %v and are %v", both, now)
	}
	p.Wait(run, "baking still", bakingAt(100))
	machinetest.Until(t, "after the agent's death the preview answers", func() bool {
		_, body, err := get("http://" + preview + "/")
		return err == nil && strings.TrimSpace(body) == "hello good"
	})

	asked := time.Now()
	if out, code := p.sluice("abort", run, "--reason", "orders are lost"); code != 0 {
		t.Errorf("abort ended with %d: %s", code, out)
	}
	took := time.Since(asked)
	end = p.WaitState(run, "rolled-back")
	e := production(end)
	if e.Weight != 0 || e.RollbackMillis == nil { // how long it takes make bench measures
		t.Errorf("rolled back to %g %%, measured: %t", e.Weight, e.RollbackMillis != nil)
	}
	by := load.Settled().By["good"]
	moreOf(t, load, 50)
	got := load.Stop()
	if got.By["good"] != by {
		t.Errorf("%d requests went to what was taken back", got.By["good"]-by)
	}
	if got.Dropped > back.Dropped || got.Bad > back.Bad {
		t.Errorf("after the agent was back %d requests were dropped and %d answered badly: %v", got.Dropped-back.Dropped, got.Bad-back.Bad, got.Errors)
	}
	for id, pids := range first {
		if now := p.instances()[id]; !sameSet(pids, now) {
			t.Errorf("the old group was %v and is %v", pids, now)
		}
	}
	if e.RollbackMillis != nil {
		t.Logf("switched back in %d ms; the command line took %s", *e.RollbackMillis, took.Round(time.Millisecond))
	}
	p.whole(t)
}

// Each of the other strategies takes a good release from end to end, by the steps
// that it promises.
func TestOtherStrategiesEndToEnd(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	machinetest.Until(t, "the control plane has counts to compare the first one with", func() bool {
		var hosts []control.Host
		if err := p.Try("GET", "hosts", nil, &hosts); err != nil {
			t.Fatal(err)
		}
		return len(hosts) == 1 && len(hosts[0].Services) == 1 && hosts[0].Services[0].Requests > 500
	})
	for _, c := range []struct {
		name, rollout string
		seen          []float64 // weights at bakes
		kinds         string
	}{
		{"immutable", "{immutable: {bake: 5s, preTraffic: [{name: ready, http: {path: /}}]}}" + judged, []float64{100}, "prepare replace check shift bake retire"},
		{"linear", "{linear: {step: 50, every: 5s}}" + judged, []float64{50}, "prepare shift bake shift retire"},
		{"traffic-splitting", "{traffic-splitting: {weight: 20, evaluate: 5s}}" + judged, []float64{20}, "prepare shift bake shift retire"},
		{"CodeDeployDefault.OneAtATime", "CodeDeployDefault.OneAtATime", nil, "prepare replace replace replace replace retire"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := load.Settled()
			s.rollout = c.rollout
			s.ship(behaviour{Version: c.name})
			run := p.Run(s.Dir)
			for _, w := range c.seen {
				p.Wait(run, "baking", func(s control.Status) bool { return bakingAt(w)(s) || servertest.Ended(s) })
			}
			end := p.WaitState(run, "succeeded")
			var words []string
			for _, k := range kinds(end) {
				words = append(words, string(k))
			}
			if got := strings.Join(words, " "); got != c.kinds {
				t.Errorf("its steps were %s, not %s", got, c.kinds)
			}
			if e := production(end); e.Weight != 100 || e.Reason != "" && !strings.Contains(e.Reason, "100") {
				t.Errorf("ended at %g %%: %s", e.Weight, e.Reason)
			}
			if got := load.Settled(); got.Dropped > before.Dropped || got.Bad > before.Bad {
				t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All-before.All, got.Dropped-before.Dropped, got.Bad-before.Bad, got.Errors)
			}
		})
	}
	if _, body, err := get("http://" + s.addr + "/"); err != nil || !strings.Contains(body, "OneAtATime") {
		t.Errorf("the service answers %q, %v", body, err)
	}
	p.whole(t)
}
