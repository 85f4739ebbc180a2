package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// The wall clock jumps an hour, each way, in the middle of a bake: the bake
// counts no more of it than twice what was planned, and nobody is held for longer
// than it takes to report again.
func TestClockJumpInBake(t *testing.T) {
	for _, d := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(d.String(), func(t *testing.T) {
			stories(t, func(w *world) {
				w.first(production)
				r, _ := w.ship(w.definition(production), "v2")
				w.untilPhase(r, rollout.Baking, 10)
				w.pause(20 * time.Second)
				before := w.env(r)
				w.jump(d)
				w.settle()
				after := w.env(r)
				if after.Phase != rollout.Baking || after.Step != before.Step || after.Bake.ElapsedSeconds > before.Bake.ElapsedSeconds+2*rollout.BakingRest.Seconds() || after.Bake.ElapsedSeconds < before.Bake.ElapsedSeconds {
					w.Errorf("bake of %+v became %+v (%s)", before.Bake, after.Bake, after.Phase)
				}
				w.pause(3 * time.Second)
				if held := w.env(r).Held; held != "" {
					w.Errorf("held after the jump: %s", held)
				}
				w.pause(20 * time.Second)
				if e := w.env(r); e.Step != before.Step || e.Bake.ElapsedSeconds < before.Bake.ElapsedSeconds+15 {
					w.Errorf("43 s after %+v: step %d, %+v", before.Bake, e.Step, e.Bake)
				}
				told := false
				feed, err := w.front.Feed(w.Context(), "default", r, 0, 0)
				w.must(err)
				for _, f := range feed {
					told = told || f.Kind == "gap"
				}
				if !told {
					w.Error("nobody was told that the clock jumped")
				}
				w.untilState(r, run.Succeeded)
			})
		})
	}
}

// A host that died right before the clock went back is missed all the same.
func TestClockBackHidesNoHost(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.hosts[0].down = true
		w.jump(-time.Hour)
		w.pause(10 * time.Second)
		if e := w.env(r); !strings.Contains(e.Held, "unreachable") {
			w.Errorf("held: %q", e.Held)
		}
		w.hosts[0].down = false
		w.untilState(r, run.Succeeded)
	})
}

const approved = `
  - name: production
    ` + target + `
    approval: {quorum: 1, expires: 2h}
    rollout: {canary: {steps: [{weight: 50, bake: 20s}]}, retireAfter: 30m}
    analysis: {warmUp: 0s, bin: 2s, maxExcess: 5, metrics: [http-errors]}
`

// A wait for approval ends when it was waited for long enough, and not because
// the clock says so.
func TestClockJumpInApproval(t *testing.T) {
	stories(t, func(w *world) {
		r, _ := w.ship(w.definition(approved), "v1")
		w.untilState(r, run.Waiting)
		for _, d := range []time.Duration{3 * time.Hour, -time.Hour, 3 * time.Hour, -10 * time.Hour} {
			w.jump(d)
			w.pause(5 * time.Minute)
			if s := w.status(r); s.State != run.Waiting {
				w.Fatalf("after a jump of %s it is %s: %s", d, s.State, s.Reason)
			}
		}
		w.pause(90 * time.Minute)
		if s := w.status(r); s.State != run.Waiting {
			w.Fatalf("after 110 min it is %s: %s", s.State, s.Reason)
		}
		w.pause(12 * time.Minute)
		s := w.status(r)
		if s.State != run.Failed || !strings.Contains(s.Reason, "nobody decided within 2h") {
			w.Errorf("after 122 min it is %s: %s", s.State, s.Reason)
		}
	})
}

// What stays warm stays so for its time, whatever the clock says.
func TestClockJumpWhileWarm(t *testing.T) {
	stories(t, func(w *world) {
		env := strings.Replace(approved, "    approval: {quorum: 1, expires: 2h}\n", "", 1)
		v1 := w.first(env)
		r, _ := w.ship(w.definition(env), "v2")
		w.untilState(r, run.Succeeded)
		w.pause(time.Minute)
		w.jump(5 * time.Hour)
		w.pause(time.Minute)
		if w.hosts[0].shop("production").revisions[v1] == nil {
			w.Error("the previous release was retired after two minutes")
		}
		w.pause(31 * time.Minute)
		if w.hosts[0].shop("production").revisions[v1] != nil {
			w.Error("the previous release is still there")
		}
	})
}
