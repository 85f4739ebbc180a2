package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

func (w *world) explained(runID string) Explanation {
	w.Helper()
	x, err := w.front.Explain(w.Context(), "default", runID)
	w.must(err)
	return x
}

func (w *world) promoted(id release.ID) string {
	w.Helper()
	r, err := w.front.Promote(w.Context(), "default", id.Short(), "production", bob)
	w.must(err)
	return r
}

// queued is the place of a run in the queue for production, 0 if it has none.
func (w *world) queued(runID string) int {
	w.Helper()
	if q := w.env(runID).Queue; q != nil {
		return q.Position
	}
	return 0
}

// Who comes while a rollout is live waits for its turn, says behind whom, and
// goes in the order in which they came. Who gives up its place lets the next one
// forward.
func TestQueueOrder(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		def := w.definition(production)
		_, v3 := w.ship(def, "v3") // made, and taken out again so that it can be promoted
		w.must(w.front.Abort(w.Context(), "default", "2", "", "later", bob))
		w.settle()
		_, v4 := w.ship(def, "v4")
		w.must(w.front.Abort(w.Context(), "default", "3", "", "later", bob))
		w.settle()
		_, v5 := w.ship(def, "v5")
		w.must(w.front.Abort(w.Context(), "default", "4", "", "later", bob))
		w.untilState("4", run.Cancelled)
		live, v2 := w.ship(def, "v2")
		w.untilPhase(live, rollout.Baking, 10)
		a, b, c := w.promoted(v3), w.promoted(v4), w.promoted(v5)
		w.settle()
		for i, r := range []string{a, b, c} {
			e := w.env(r)
			if e.State != run.Waiting || e.Queue == nil || e.Queue.Position != i+1 || e.Queue.Behind != live || !strings.Contains(e.WaitingFor, "run "+live) {
				w.Errorf("run %s: %+v, %+v", r, e.Queue, e)
			}
		}
		if why := w.env(a).Queue.Waits; why != "" {
			w.Errorf("run %s goes on by itself, and not: %s", live, why)
		}
		w.must(w.tell(live, rollout.Command{Kind: rollout.Pause, Reason: "look"}))
		if why := w.env(a).Queue.Waits; why != "it is paused" {
			w.Errorf("run %s is paused, and not %q", live, why)
		}
		w.must(w.tell(live, rollout.Command{Kind: rollout.Resume}))
		x := w.explained(b)
		if !strings.Contains(x.Now, "place 2 in the queue") || !strings.Contains(x.Why, "Run "+live+" is baking at 10 %") || !strings.Contains(x.Why, "run "+a+", which goes before it") ||
			!strings.Contains(x.When, "when run "+live+" has ended, and after run "+a) || !strings.Contains(x.When, "in ") || x.Next == "" {
			w.Errorf("%+v", x)
		}
		if len(x.Choices) != 2 || x.Choices[0].Line() != "sluice abort "+b || x.Choices[1].Line() != "sluice explain "+live {
			w.Errorf("%+v", x.Choices)
		}
		// Nobody takes the place of what is live, and one is called off.
		w.must(w.front.Abort(w.Context(), "default", b, "", "not needed any more", bob))
		w.settle()
		if s := w.status(b); s.State != run.Cancelled || w.queued(c) != 2 {
			w.Errorf("%s; the next one has place %d", s.State, w.queued(c))
		}
		if w.runs("production") != v1 || w.env(live).Phase != rollout.Baking {
			w.Error("the live rollout was touched")
		}
		w.untilState(live, run.Succeeded)
		w.untilPhase(a, rollout.Baking, 10)
		if w.runs("production") != v2 || w.queued(c) != 1 || w.env(c).Queue.Behind != a {
			w.Errorf("%+v", w.env(c))
		}
		// A rollback that a person asks for ends what is live, and goes before the rest.
		w.must(w.tell(a, rollout.Command{Kind: rollout.Abort, Reason: "odd"}))
		w.untilState(a, run.RolledBack)
		w.untilState(c, run.Succeeded)
		if w.runs("production") != v5 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
		if got := w.said(w.leaf(b, evidence.TypeRun)); got != "run/v1 change=cancelled" {
			w.Errorf("evidence of the one that was called off: %q", got)
		}
	})
}

// leaf is the only statement of a kind that a run has.
func (w *world) leaf(runID, kind string) store.Leaf {
	w.Helper()
	ls := w.leaves(store.LeafFilter{Run: runID, PredicateType: kind})
	if len(ls) != 1 {
		w.Fatalf("run %s has %d statements %s", runID, len(ls), kind)
	}
	return ls[0]
}

// Many that wait are all woken, not only the first hundred.
func TestEverybodyIsWoken(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED with -short: it ships a hundred releases")
	}
	w := newWorld(t, store.SQLite)
	w.first(production)
	live, _ := w.ship(w.definition(production), "v2")
	w.untilPhase(live, rollout.Baking, 10)
	many := 120
	if raceDetector { // which is after something else, and slow
		many = 12
	}
	var ids []string
	for i := range many {
		_, id := w.ship(w.definition(production), "v2", setting("production", "N", time.Duration(i).String()))
		ids = append(ids, w.promoted(id))
	}
	w.settle()
	w.must(w.tell(live, rollout.Command{Kind: rollout.Abort, Reason: "odd"}))
	w.untilState(live, run.RolledBack)
	end, asleep := w.status(live).UpdatedAt, 0
	w.view(func(tx *store.Tx) error {
		for _, id := range ids {
			row, err := tx.Run("default", id)
			if err != nil {
				return err
			}
			if s, err := run.Decode(row.State); err != nil || s.TickedAt.Before(end) {
				asleep++
			}
		}
		return nil
	})
	if asleep > 0 {
		t.Errorf("%d runs were not woken when the rollout ended", asleep)
	}
}

// A newer commit takes the place of one that waits, also for a place to build,
// and never of one that users are on.
func TestNewerCommit(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		def := w.definition(approved)
		r2, _ := w.ship(def, "v2")
		w.until(r2, "waiting for approval", func(s Status) bool { return s.Environments[0].Packet != "" })
		r3, _ := w.ship(def, "v3")
		s := w.untilState(r2, run.Superseded)
		if !strings.Contains(s.Reason, "commit v30000000000 is newer") {
			w.Error(s.Reason)
		}
		if got := w.said(w.leaf(r2, evidence.TypeRun)); got != "run/v1 change=superseded" {
			w.Error(got)
		}
		d, _ := w.packet(r3)
		w.must(w.decide(r3, d, true, bob))
		w.untilPhase(r3, rollout.Baking, 50)
		r4, _ := w.ship(def, "v4")
		w.settle()
		if w.env(r3).Phase != rollout.Baking || w.queued(r4) != 1 {
			w.Errorf("the live rollout: %+v", w.env(r3))
		}
		// An older commit that is asked for by name takes nobody's place.
		w.must(w.store.Update(w.Context(), func(tx *store.Tx) error {
			return w.front.supersede(tx, "default", "shop", "/repo", "v0", map[string]bool{w.status(r4).Commit: true})
		}))
		if s := w.status(r4); s.State != run.Waiting {
			w.Errorf("the newer one is %s", s.State)
		}
		// What waits for a place to build has not begun.
		var building string
		w.must(w.store.Update(w.Context(), func(tx *store.Tx) (err error) {
			row := store.Run{Project: "default", Kind: run.KindRun, Service: "shop", Repository: "/repo", Path: "sluice.yaml", Commit: "v5", Actor: alice}
			if building, err = w.front.insertRun(tx, row, def, run.State{Phase: run.Queued, Environments: []run.Environment{{Name: "production"}}}); err != nil {
				return err
			}
			return w.front.supersede(tx, "default", "shop", "/repo", "v6", nil)
		}))
		if s := w.status(building); s.State != run.Superseded {
			w.Errorf("the one that waits for a place to build is %s", s.State)
		}
		w.untilState(r4, run.Superseded)
		w.untilState(r3, run.Succeeded)
	})
}

// A build that a person stops leaves a statement too, about the run itself.
func TestCancelledBuildIsStated(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		var id string
		w.must(w.store.Update(w.Context(), func(tx *store.Tx) (err error) {
			row := store.Run{Project: "default", Kind: run.KindRun, Service: "shop", Repository: "/repo", Path: "sluice.yaml", Commit: "v5", Actor: alice}
			id, err = w.front.insertRun(tx, row, w.definition(production), run.State{Phase: run.Queued, Environments: []run.Environment{{Name: "production"}}})
			return err
		}))
		w.must(w.front.Abort(w.Context(), "default", id, "", "wrong branch", bob))
		w.must(w.front.Abort(w.Context(), "default", id, "", "asked twice", alice))
		w.untilState(id, run.Cancelled)
		l := w.leaf(id, evidence.TypeRun)
		st, err := w.front.trusted.Verify(l.Envelope)
		w.must(err)
		p, err := evidence.Decode[evidence.Run](st)
		w.must(err)
		if st.Subject[0].Kind() != "run" || len(p.Payloads) != 1 || p.Actor == "" || strings.Contains(string(l.Envelope), "wrong branch") {
			w.Errorf("%+v about %+v", p, st.Subject)
		}
		if !strings.Contains(w.status(id).Reason, "wrong branch") {
			w.Error(w.status(id).Reason)
		}
	})
}

// Abort, then try again, then advance to the end.
func TestAbortRetryAdvance(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r2, v2 := w.ship(w.definition(production), "v2")
		w.untilPhase(r2, rollout.Baking, 10)
		w.must(w.tell(r2, rollout.Command{Kind: rollout.Abort, Reason: "not in the afternoon"}))
		w.untilState(r2, run.RolledBack)
		again := w.promoted(v2)
		if s := w.untilState(again, run.Failed); !strings.Contains(s.Reason, "gate not-quarantined") || !strings.Contains(s.Reason, "quarantine lift "+v2.Short()) {
			w.Errorf("%s", s.Reason)
		}
		w.must(w.front.Lift(w.Context(), "default", "shop", v2.Short(), "it was only the hour", bob))
		again = w.promoted(v2)
		e := w.untilPhase(again, rollout.Baking, 10)
		if err := w.tell(again, rollout.Command{Kind: rollout.Advance, Full: true}, e.Revision); !errors.Is(err, ErrRefused) {
			w.Errorf("advance without a pass: %v", err)
		}
		w.must(w.tell(again, rollout.Command{Kind: rollout.Advance, Full: true, Override: true, Reason: "seen before"}, w.env(again).Revision))
		w.untilState(again, run.Succeeded)
		if w.runs("production") != v2 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
		w.golden("abort-retry-advance.txt", w.transcript(again))
	})
}

// The revision that a person names stands for what is known, not for what was
// only counted since; a command for what has ended, or given twice, says so.
func TestRevisionIsOfFacts(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.hosts[0].rps = 2000 // so that the judge has made up its mind soon
		w.untilPhase(r, rollout.Baking, 10)
		w.pause(20 * time.Second)
		saw := w.env(r).Revision
		w.pause(10 * time.Second)
		if now := w.env(r); now.Revision != saw || now.Signals.CanaryRequests == 0 {
			w.Fatalf("ten seconds of counting took the revision from %d to %d", saw, now.Revision)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Pause, Reason: "lunch"}, saw))
		if now := w.env(r).Revision; now <= saw {
			w.Errorf("the command left the revision at %d", now)
		}
		if err := w.tell(r, rollout.Command{Kind: rollout.Resume}, saw); !errors.Is(err, store.ErrStale) || !strings.Contains(err.Error(), "you looked at") {
			w.Errorf("with what was seen before: %v", err)
		}
		if err := w.front.Rollout(w.Context(), "default", r, Command{Environment: "moon", Command: rollout.Command{Kind: rollout.Resume}}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `has no environment "moon"; it has production`) {
			w.Errorf("in an environment that is none of its: %v", err)
		}
		if err := w.tell(r, rollout.Command{Kind: rollout.Pause}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "already paused by local:alice (lunch); `sluice resume "+r+" --env production` lets it go on") {
			w.Errorf("paused twice: %v", err)
		}
		// An advance that arrives after an abort is refused; the abort is taken,
		// whatever it was given for, also twice.
		w.must(w.tell(r, rollout.Command{Kind: rollout.Resume}))
		now := w.env(r).Revision
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "enough"}, 1))
		if err := w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "go"}, now); err == nil {
			w.Error("an advance was taken after an abort")
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "really"}))
		w.untilState(r, run.RolledBack)
		for _, k := range []rollout.CommandKind{rollout.Advance, rollout.Pause, rollout.Resume, rollout.Abort, rollout.GiveUp} {
			err := w.tell(r, rollout.Command{Kind: k, Reason: "late"})
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "has ended") || !strings.Contains(err.Error(), "sluice explain "+r) {
				w.Errorf("%s after the end: %v", k, err)
			}
		}
	})
}

// A worker's turn that is written in the same moment makes no command fail.
func TestCommandMeetsATurn(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		b := &meeting{storage: w.front.store, meet: func() { w.move(time.Second) }, times: 2}
		c := w.controller()
		c.store = b
		err := c.Rollout(w.Context(), "default", r, Command{Command: rollout.Command{Kind: rollout.Pause, By: alice}})
		if err != nil || b.times != 0 || !w.env(r).Paused {
			w.Errorf("%v, %d turns left", err, b.times)
		}
	})
}

// meeting lets a transaction find its row written by somebody else.
type meeting struct {
	storage
	meet  func()
	times int
}

func (m *meeting) Update(ctx context.Context, f func(*store.Tx) error) error {
	if m.times > 0 {
		m.times--
		m.meet()
		return store.ErrStale
	}
	return m.storage.Update(ctx, f)
}
