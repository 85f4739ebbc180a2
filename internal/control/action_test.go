package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// A signal that only pauses waits for a person. Resumed it is heard no more, although
// the judge goes on to say it; each step is that person's then.
func TestASignalThatPauses(t *testing.T) {
	stories(t, func(w *world) {
		const pauses = `
  - name: production
    target: {type: host, listen: 127.0.0.1:9002, run: ./app}
    rollout: {canary: {steps: [{weight: 20, bake: 1m}, {weight: 50, bake: 1m}]}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [{name: http-errors, onFail: pause}]}
`
		w.first(pauses)
		w.pause(time.Minute)
		r, v2 := w.ship(w.definition(pauses), "v2")
		w.hosts[0].bad[v2] = 0.3
		w.until(r, "paused", func(s Status) bool { return s.Environments[0].Paused })
		w.pause(10 * time.Minute)
		if e := w.env(r); !e.Paused || e.Frozen || e.Weight != 20 {
			w.Errorf("paused: %+v", e)
		}
		if x := w.explained(r); !strings.Contains(x.Why, "the judge failed it: http-errors") {
			w.Errorf("explained: %+v", x)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Resume}))
		for _, weight := range []float64{20, 50} {
			w.until(r, "held", func(s Status) bool {
				e := s.Environments[0]
				return e.Paused || e.Weight == weight && strings.Contains(e.Held, "took what failed for no failure")
			})
			if e := w.env(r); e.Paused || e.Frozen {
				w.Fatalf("at %g %% it was stopped again: %+v", weight, e)
			}
			w.must(w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "the errors are the partner's"}))
		}
		w.untilState(r, run.Succeeded)
		asks := strings.Replace(pauses, "    rollout:", "    approval: {quorum: 1}\n    rollout:", 1)
		other, _ := w.ship(w.definition(asks), "v3")
		if _, p := w.packet(other); !strings.HasSuffix(p.RollbackPlan.OnFail, "moves all users back to the previous release in one step. A fail of http-errors alone pauses it until a person resumes.") {
			w.Errorf("an approver reads: %s", p.RollbackPlan.OnFail)
		}
		if w.runs("production") != v2 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
	})
}

// A signal has the name that the definition gives it, whatever its kind; and one that
// fails while a person has paused is not lost: who resumes answers for it.
func TestASignalByItsOwnName(t *testing.T) {
	stories(t, func(w *world) {
		const own = `
  - name: production
    target: {type: host, listen: 127.0.0.1:9002, run: ./app}
    rollout: {onFail: freeze, canary: {steps: [{weight: 20, bake: 2m}]}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [{name: shop-errors, kind: http-errors, onFail: ACTION}]}
`
		back, pauses := strings.Replace(own, "ACTION", "rollback", 1), strings.Replace(own, "ACTION", "pause", 1)
		w.first(back)
		w.pause(time.Minute)
		r, v2 := w.ship(w.definition(back), "v2")
		w.hosts[0].bad[v2] = 0.3
		if s := w.untilState(r, run.RolledBack); !strings.Contains(s.Environments[0].Reason, "shop-errors") {
			w.Errorf("it went back for: %s", s.Environments[0].Reason)
		}

		r, v3 := w.ship(w.definition(pauses), "v3")
		w.untilPhase(r, rollout.Baking, 20)
		w.must(w.tell(r, rollout.Command{Kind: rollout.Pause, Reason: "lunch"}))
		w.hosts[0].bad[v3] = 0.3
		w.pause(time.Minute)
		if x := w.explained(r); !w.env(r).Paused || !strings.Contains(x.Why, "the judge failed it: shop-errors") {
			w.Errorf("paused by both: %+v", x)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Resume}))
		w.until(r, "held", func(s Status) bool {
			return strings.Contains(s.Environments[0].Held, "took what failed for no failure (shop-errors)")
		})
	})
}

// An alarm's own action is found by its name as a metric's is.
func TestAnAlarmThatPauses(t *testing.T) {
	stories(t, func(w *world) {
		depth := 1.0
		w.metrics.answer = func(string) ([]Sample, error) { return []Sample{{Series: "a", Value: depth}}, nil }
		env := withMetrics("", "{name: dlq, query: dlq, above: 3, for: 10s, onFail: pause}")
		w.first(env)
		w.pause(time.Minute)
		r, _ := w.ship(w.definition(env), "v2")
		w.until(r, "baking", func(s Status) bool { return s.Environments[0].Phase == rollout.Baking })
		depth = 4
		w.until(r, "paused", func(s Status) bool { return s.Environments[0].Paused })
		if x := w.explained(r); !strings.Contains(x.Why, "dlq") {
			w.Errorf("explained: %+v", x)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "the queue is full"}))
		w.untilState(r, run.RolledBack)
	})
}

// The fix of a release that failed takes its place, and is aborted before its first
// turn. The users of the failed release go back with it: no rollout is left that would
// take them.
func TestAFixThatIsAbortedBeforeItBegan(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(forward)
		w.pause(time.Minute)
		r, v2 := w.ship(w.definition(forward), "v2")
		w.hosts[0].bad[v2] = 0.3
		w.until(r, "frozen", func(s Status) bool { return s.Environments[0].Frozen })
		fix, _ := w.ship(w.definition(forward), "v3")
		for i := 0; w.env(fix).Phase != rollout.Pending; i++ { // runs alone: no rollout has a turn
			leases, err := w.c.store.Acquire(w.Context(), "runs", w.c.owner, w.c.leaseTTL, 1)
			if err != nil || i > 1000 {
				w.Fatalf("the fix did not get so far: %v\n%s", err, w.logged)
			}
			for _, lease := range leases {
				w.c.hold(w.Context(), lease, w.c.stepRun)
			}
			w.c.background.Wait()
		}
		w.must(w.tell(fix, rollout.Command{Kind: rollout.Abort, Reason: "it is the wrong fix"}))
		w.untilState(fix, run.Cancelled)
		w.pause(time.Minute)
		if got := w.hosts[0].shop("production").weights(); !strings.HasPrefix(got[len(got)-1], v1.Short()+"=10000") {
			w.Errorf("users of %s are left where they are: %s", v2.Short(), got[len(got)-1])
		}
	})
}
