package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

// A worker is stopped right before it raises the weight. Its lease runs out,
// somebody else rolls back, and the first goes on: the weight stays 0.
func TestPausedWorker(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		slow := w.controller()
		sleepy := &brittle{storage: w.store}
		sleepy.paused.Store(true)
		slow.store = sleepy
		reached, goOn := make(chan int64, 1), make(chan struct{})
		slow.target = &steered{inner: w.target.inner, before: func(_ context.Context, d wire.Desired) error {
			for _, r := range d.Revisions {
				if r.Candidate && r.Weight > 0 {
					reached <- d.Generation
					<-goOn
				}
			}
			return nil
		}}
		fast := w.c
		w.c = slow
		r, v2 := w.ship(w.definition(production), "v2")
		ended := make(chan struct{})
		var generation int64
		for generation == 0 {
			// The turn in which it is stopped does not end before it may go on.
			turn := make(chan struct{})
			go func() {
				defer close(turn)
				w.turn()
			}()
			select {
			case <-turn:
				w.clock.set(w, w.clock.now().Add(100*time.Millisecond))
			case generation = <-reached:
				go func() { <-turn; close(ended) }()
			}
		}
		w.target.news = false

		w.clock.set(w, w.clock.now().Add(slow.leaseTTL+time.Second))
		w.c = fast
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "it looks bad"}))
		w.target.news = true
		s := w.untilState(r, run.RolledBack)
		if s.Environments[0].Weight != 0 {
			w.Errorf("%+v", s.Environments[0])
		}
		before := w.hosts[0].shop("production").doc.Generation
		close(goOn)
		<-ended
		w.target.news = true
		w.pause(10 * time.Second)

		shop := w.hosts[0].shop("production")
		if shop.doc.Generation != before || len(shop.doc.Revisions) != 1 || shop.doc.Revisions[0].Release != v1 || shop.doc.Revisions[0].Weight != wire.FullWeight {
			w.Errorf("after the first worker went on: generation %d, was %d: %+v", shop.doc.Generation, before, shop.doc)
		}
		for _, line := range shop.weights() {
			if strings.Contains(line, v2.Short()) && !strings.Contains(line, v2.Short()+"=0") {
				w.Errorf("the host applied %q", line)
			}
		}
		if outcome := "refused: a newer generation was applied"; !w.cameOut(r, generation, outcome) {
			w.Errorf("the late effect did not come out as %q", outcome)
		}
		if strings.Contains(w.logged.String(), "level=ERROR msg=\"couldn't") {
			w.Errorf("the late worker complains: %s", w.logged)
		}
	})
}

// cameOut reports whether an effect of a run's last rollout ended with outcome:
// the store takes the same again, and no other.
func (w *world) cameOut(runID string, generation int64, outcome string) bool {
	w.Helper()
	id := w.env(runID).Rollout
	finish := func(outcome string) error {
		return w.store.Update(w.Context(), func(tx *store.Tx) error {
			return tx.FinishEffect("default", id, generation, outcome)
		})
	}
	return errors.Is(finish("something else"), store.ErrExists) && finish(outcome) == nil
}

// A worker that lost its lease in the middle of a turn commits nothing.
func TestLostLease(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.clock.set(w, w.clock.now().Add(rollout.BakingRest))
		var lease store.Lease
		lease, ok, err := storetest.One(w.store.Acquire(w.Context(), "rollouts", "other", time.Second, 1))
		if err != nil || !ok {
			w.Fatal(ok, err)
		}
		w.clock.set(w, w.clock.now().Add(2*time.Second))
		before := w.env(r).Revision
		w.turn()
		if err := w.c.stepRollout(w.Context(), lease); err == nil || !strings.Contains(err.Error(), store.ErrFenced.Error()) {
			w.Errorf("a turn under a lost lease: %v", err)
		}
		after := w.env(r).Revision
		if after <= before {
			w.Errorf("the new owner did nothing: revision %d, was %d", after, before)
		}
		if w.c.stepRollout(w.Context(), lease); w.env(r).Revision != after {
			w.Error("the old owner wrote")
		}
		w.untilState(r, run.Succeeded)
	})
}
