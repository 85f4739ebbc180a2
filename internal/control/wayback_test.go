package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
	"github.com/sluicehq/sluice/internal/target/host"
)

// What is told before a rollback is what it then does, also while a rollout is
// live; and a release that cannot be reached that way is refused, not ignored.
func TestWayOutOfLive(t *testing.T) {
	stories(t, func(w *world) {
		r1, v1 := w.ship(w.definition(production), "v1")
		w.hosts[0].down = true
		w.settle()
		if way := w.way(""); way.Kind != "impossible" || way.From != v1 || !strings.Contains(way.Sentence, "users then get 503") {
			w.Errorf("of a first release under way: %+v", way)
		}
		w.hosts[0].down = false
		w.untilState(r1, run.Succeeded)
		v2 := w.released(production, "v2")
		r3, v3 := w.ship(w.definition(production), "v3")
		w.untilPhase(r3, rollout.Baking, 10)
		if way := w.way(""); way.Kind != "warm" || way.From != v3 || way.To != v2 || !strings.Contains(way.Sentence, "aborted") {
			w.Errorf("of a live rollout: %+v", way)
		}
		if _, err := w.back(v1.Short()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "can only be aborted") {
			w.Errorf("to a release that an abort does not lead to: %v", err)
		}
		if _, err := w.back(v2.Short()); err != nil {
			w.Error(err)
		}
		w.untilState(r3, run.RolledBack)
		// Hosts stopped v1 for the sake of v3, although its hour is not over.
		if way := w.way(""); way.Kind != "cold" || way.To != v1 {
			w.Errorf("after a rollout that was taken back: %+v", way)
		}
	})
}

// Who asks for a rollback twice does not get back what was taken back.
func TestRollbackTwice(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		v2 := w.released(production, "v2")
		w.hosts[0].down = true
		r, err := w.back("")
		w.must(err)
		w.settle()
		if way := w.way(""); way.From != v2 || way.To != v1 || !strings.Contains(way.Sentence, "already") {
			w.Errorf("%+v", way)
		}
		if again, err := w.back(""); err != nil || again != r {
			w.Errorf("run %s, want %s; %v", again, r, err)
		}
		w.hosts[0].down = false
		w.untilState(r, run.Succeeded)
		if w.runs("production") != v1 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
	})
}

// A release is not set beside itself: neither hosts nor the judge could tell the
// two apart.
func TestReleaseThatRunsAlready(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		w.pause(time.Minute)
		applied := len(w.hosts[0].shop("production").journal)
		r, err := w.front.Promote(w.Context(), "default", v1.Short(), "production", bob)
		w.must(err)
		s := w.untilState(r, run.Succeeded)
		if e := s.Environments[0]; e.Rollout != "" || e.Reason != "this release runs there already" {
			w.Errorf("%+v", e)
		}
		if got := w.hosts[0].shop("production").journal[applied:]; len(got) != 0 {
			w.Errorf("hosts were told %v", got)
		}
	})
}

// The hour of the release before may end while the next rollout is pending. When
// that one is cancelled before it began, the release is retired all the same.
func TestRetiredAfterCancelled(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		v2 := w.released(production, "v2")
		w.pause(time.Minute)
		r, _ := w.ship(w.definition(production), "v3")
		one := func(table string, handle func(context.Context, store.Lease) error) {
			w.Helper()
			lease, ok, err := storetest.One(w.store.Acquire(w.Context(), table, w.c.owner, w.c.leaseTTL, 1))
			if err != nil || !ok {
				w.Fatalf("nothing is due in %s: %v", table, err)
			}
			w.c.hold(w.Context(), lease, handle)
		}
		one("runs", w.c.stepRun)
		w.must(w.store.Update(w.Context(), func(tx *store.Tx) error {
			row, _, err := tx.Environment(w.place("production").Key)
			if err != nil {
				return err
			}
			now := tx.Now()
			row.RetireAt, row.WakeAt = &now, &now
			return tx.PutEnvironment(&row)
		}))
		one("environments", w.c.stepPlace)
		w.must(w.front.Abort(w.Context(), "default", r, "production", "not today", bob))
		w.untilState(r, run.Cancelled)
		w.pause(time.Minute)
		shop := w.hosts[0].shop("production")
		if got := shop.weights(); got[len(got)-1] != v2.Short()+"=10000" {
			w.Errorf("hosts still run %q", got[len(got)-1])
		}
	})
}

// A bin that became due after the providers could be asked stays open until they
// were: nobody's answer is missing because of the moment of a wake-up.
func TestBinWaitsForAnswers(t *testing.T) {
	stories(t, func(w *world) {
		o := &shopOrders{w: w, bad: map[string]float64{}, began: map[string]time.Time{}}
		w.metrics.answer = o.answer
		w.first(orders)
		r, _ := w.ship(w.definition(orders), "v2")
		e := w.untilPhase(r, rollout.Baking, 50)
		w.view(func(tx *store.Tx) error {
			for _, asked := range []bool{false, true} {
				turn, err := w.c.openTurn(tx, "default", e.Rollout)
				if err != nil {
					return err
				}
				rows, err := tx.ObservedHosts()
				if err != nil {
					return err
				}
				turn.watch.BinElapsed = turn.plan.Environment.Analysis.Bin
				if _, err := turn.judge(host.Decode(rows), answers{asked: asked}, 0); err != nil {
					return err
				}
				if closed := turn.watch.BinElapsed == 0; closed != asked {
					w.Errorf("asked %t: the bin was closed: %t", asked, closed)
				}
			}
			return nil
		})
		w.untilState(r, run.Succeeded)
	})
}
