package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

var strangeID = release.DigestOf([]byte("a release that nobody set"))

// stranger has a host run a release that nobody set there.
func stranger(s *wire.Service) {
	s.Revisions = append(s.Revisions, wire.RevisionObserved{Release: strangeID, Phase: wire.Ready, Ready: 1, Wanted: true})
}

// surplus has a host run three instances of each where one is wanted.
func surplus(s *wire.Service) {
	for i := range s.Revisions {
		s.Revisions[i].Ready += 2
	}
}

// Under every strategy a release or instances that nobody set on a host hold the
// rollout, by the host's name, as a fact, an alarm and a choice; a person's word
// goes on over nothing; and what was wanted is put back, at once or when a person
// says so.
func TestStrangersAndSurplusAreDrift(t *testing.T) {
	for strategy, rollouts := range map[string]string{
		"canary":     "{onDrift: %s, canary: {steps: [{weight: 10, bake: 1m}, {weight: 50, bake: 1m}]}}",
		"linear":     "{onDrift: %s, linear: {step: 50, every: 1m}}",
		"blue-green": "{onDrift: %s, blue-green: {bake: 2m}}",
		"at once":    "{onDrift: %s, all-at-once: {bake: 2m}}",
		"rolling":    "{onDrift: %s, rolling: {batch: 1, bake: 1m}}",
	} {
		if raceDetector && strategy != "canary" {
			continue // which is after something else, and slow
		}
		t.Run(strategy, func(t *testing.T) {
			w := newWorld(t, store.SQLite)
			for _, onDrift := range []string{"restore", "hold"} {
				w.heldForMeddling(rollouts, onDrift)
			}
		})
	}
}

func (w *world) heldForMeddling(rollouts, onDrift string) {
	w.Helper()
	yaml := strings.Replace(production, production[strings.Index(production, "rollout: ")+len("rollout: "):strings.Index(production, "\n    analysis")], fmt.Sprintf(rollouts, onDrift), 1)
	if w.runs("production") == "" {
		w.first(yaml)
	}
	w.pause(time.Minute) // of traffic, which the bake is judged by
	r, _ := w.ship(w.definition(yaml), "v2 "+onDrift)
	w.until(r, "in a bake", func(s Status) bool { return s.Environments[0].Phase == rollout.Baking && s.Environments[0].Held == "" })
	for name, x := range map[string]struct {
		with func(*wire.Service)
		says string
	}{
		"a stranger": {stranger, "host local runs release " + strangeID.Short() + ", which was not set to run there"},
		"a surplus":  {surplus, "where 1 were set"},
	} {
		if onDrift == "restore" {
			// Reports lead to the hold and to what is put back in one go: it shows in the
			// feed, and holds as long as the host doesn't follow.
			w.hosts[0].meddle("production", x.with)
			w.until(r, name, func(Status) bool { return w.alarmed(r, x.says) })
			w.until(r, "put back", func(s Status) bool { return s.Environments[0].Held == "" })
			continue
		}
		w.hosts[0].meddle("production", x.with)
		e := w.until(r, name, func(s Status) bool { return strings.Contains(s.Environments[0].Held, x.says) }).Environments[0]
		if !w.alarmed(r, "host local runs") || e.State != run.Waiting || !strings.Contains(e.WaitingFor, "host local runs") {
			w.Errorf("%s: it waits for %q as %s", name, e.WaitingFor, e.State)
		}
		if err := w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "go"}); err == nil {
			w.Errorf("%s: an override went on over it", name)
		}
		can := fmt.Sprintf("%+v", w.explained(r))
		if !strings.Contains(can, x.says) || !strings.Contains(can, string(rollout.Resume)) || !strings.Contains(can, string(rollout.Abort)) {
			w.Errorf("%s: explain says %s", name, can)
		}
		w.pause(40 * time.Second)
		if e := w.env(r); e.Held == "" {
			w.Errorf("%s: put back by nobody", name)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Resume, Reason: "put it back"}))
		w.until(r, "put back", func(s Status) bool { return s.Environments[0].Held == "" })
	}
	flags := 0
	for _, l := range w.leaves(store.LeafFilter{Run: r, PredicateType: evidence.TypeRolloutStep}) {
		st, err := w.front.trusted.Verify(l.Envelope)
		w.must(err)
		if said := string(st.Predicate); strings.Contains(said, `"set":true`) && strings.Contains(said, "host local runs") {
			flags++
		}
	}
	if flags != 2 {
		w.Errorf("%d leaves tell of what was found twice", flags)
	}
	w.untilState(r, run.Succeeded)
}

// Between rollouts somebody changes what hosts run. It is told once, where people look,
// and put back at once, or when a person says so; then nothing is told of it any more.
func TestBetweenRollouts(t *testing.T) {
	stories(t, func(w *world) {
		for _, onDrift := range []string{"restore", "hold"} {
			w.straysBetween(onDrift)
		}
	})
}

func (w *world) straysBetween(onDrift string) {
	w.Helper()
	yaml := strings.Replace(production, "rollout: {", "rollout: {onDrift: "+onDrift+", ", 1)
	if w.runs("production") == "" {
		w.first(yaml)
	}
	w.pause(time.Minute)
	r, _ := w.ship(w.definition(yaml), "v2 "+onDrift)
	w.untilState(r, run.Succeeded)
	w.pause(10 * time.Second)
	h := w.hosts[0]
	about := r
	said := func() (out []string) {
		feed, err := w.front.Feed(w.Context(), "default", about, 0, 0)
		w.must(err)
		for _, f := range feed {
			if f.Kind == "drift" {
				out = append(out, string(f.Data))
			}
		}
		return out
	}
	leaves := func() (out []string) {
		for _, l := range w.leaves(store.LeafFilter{Run: r, PredicateType: evidence.TypeRolloutStep}) {
			st, err := w.front.trusted.Verify(l.Envelope)
			w.must(err)
			if p := string(st.Predicate); strings.Contains(p, `"kind":"drift"`) || strings.Contains(p, `"command":"resume"`) {
				out = append(out, p)
			}
		}
		return out
	}
	cell := func() string {
		cells, err := w.front.Overview(w.Context(), "default")
		w.must(err)
		return cells[0].WaitingFor
	}
	// What a host says in between is not told of.
	applied := len(h.shop("production").journal)
	for _, with := range []func(*wire.Service){stranger, surplus} {
		h.meddle("production", with)
		w.pause(500 * time.Millisecond)
	}
	h.meddled = nil
	h.next = w.clock.now()
	w.pause(10 * time.Second)
	if got := said(); len(got) > 0 || cell() != "" || len(h.shop("production").journal) != applied {
		w.Errorf("%s: told of what passed by itself: %s", onDrift, got)
	}

	h.meddle("production", stranger)
	what := "host local runs release " + strangeID.Short()
	if onDrift == "hold" {
		w.pause(10 * time.Second)
		for range 5 { // a host that changes all the time fills no record
			h.meddle("production", surplus)
			w.pause(time.Second)
			h.meddle("production", stranger)
			w.pause(time.Second)
		}
		w.pause(time.Minute)
		if len(h.shop("production").journal) != applied {
			w.Errorf("somebody put it back though it is to be left")
		}
		if e := w.env(r); !strings.Contains(e.WaitingFor, what) || !strings.Contains(cell(), what) {
			w.Errorf("status says %q, the overview %q", e.WaitingFor, cell())
		}
		if x := w.explained(r); !strings.Contains(x.Why, what) || !strings.Contains(strings.Join(x.Can, "\n"), "sluice resume "+r+" --env production") {
			w.Errorf("explain: %+v", x)
		}
		if got, facts := said(), leaves(); len(got) != 1 || len(facts) != 1 || !strings.Contains(facts[0], what) {
			w.Errorf("told %q, recorded %q", got, facts)
		}
		w.must(w.front.Rollout(w.Context(), "default", r, Command{Command: rollout.Command{Kind: rollout.Resume, By: bob, Reason: "put it back"}, Environment: "production"}))
	}
	w.pause(10 * time.Second)
	if got := len(h.shop("production").journal); got != applied+1 {
		w.Errorf("%s: it was asked for again %d times", onDrift, got-applied)
	}
	if e := w.env(r); e.WaitingFor != "" || cell() != "" || w.explained(r).Why != w.status(r).Reason {
		w.Errorf("%s: told still: %q, %q", onDrift, e.WaitingFor, cell())
	}
	got, facts := said(), leaves()
	if want := map[string]int{"restore": 2, "hold": 3}[onDrift]; len(got) != want || len(facts) != want || !strings.Contains(got[0], what) || !strings.Contains(got[want-1], "run again what was set") {
		w.Errorf("%s: told %q, recorded %q", onDrift, got, facts)
	}
	if err := w.front.Rollout(w.Context(), "default", r, Command{Command: rollout.Command{Kind: rollout.Resume, By: bob}, Environment: "production"}); err == nil {
		w.Error("there is nothing to resume")
	}

	// A host that doesn't follow is asked again, in time and with the same.
	follows := false
	always := func(s *wire.Service) {
		if !follows {
			stranger(s)
		}
	}
	h.meddle("production", always)
	h.meddled[h.shop("production").doc.Key] = meddling{anyGeneration, always}
	w.pause(10 * time.Second)
	if onDrift == "hold" {
		w.must(w.front.Rollout(w.Context(), "default", r, Command{Command: rollout.Command{Kind: rollout.Resume, By: bob}}))
	}
	applied = len(h.shop("production").journal)
	w.pause(2 * time.Minute)
	if n := len(h.shop("production").journal) - applied; n < 3 || n > 5 {
		w.Errorf("%s: asked %d times in two minutes", onDrift, n)
	}
	// A rollout doesn't build on it: nobody is exposed until all is as it was set.
	next, id := w.ship(w.definition(yaml), "v3 "+onDrift)
	w.pause(20 * time.Second)
	if e := w.env(next); e.Phase != rollout.Preparing || !strings.Contains(e.Held, what) || h.shop("production").revisions[id].weight != 0 {
		w.Errorf("%s: it began as %s, held %q", onDrift, e.Phase, e.Held)
	}
	if w.env(r).WaitingFor != "" {
		w.Errorf("%s: the run before tells of it still", onDrift)
	}
	follows = true
	h.next = w.clock.now()
	if onDrift == "hold" {
		w.must(w.tell(next, rollout.Command{Kind: rollout.Resume}))
	}
	w.untilState(next, run.Succeeded)
	w.pause(5 * time.Minute)
	about = next // which found all that it was told of itself
	if cell() != "" || w.env(next).WaitingFor != "" || len(said()) > 0 {
		w.Errorf("%s: told after all is well: %q", onDrift, cell())
	}
}

// While the release before is kept warm it is held to what it was told as well, and
// what is put back brings nothing back that was let go.
func TestWarmIsNoDriftAndRetiredStaysSo(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		r, v2 := w.ship(w.definition(production), "v2")
		w.untilState(r, run.Succeeded)
		shop := w.hosts[0].shop("production")
		w.pause(time.Minute)
		told := len(shop.journal)
		w.hosts[0].meddle("production", surplus)
		w.pause(10 * time.Second)
		if len(shop.journal) != told+1 || shop.revisions[v1] == nil || shop.revisions[v2] == nil {
			w.Errorf("told %d times, and runs %d releases", len(shop.journal)-told, len(shop.revisions))
		}
		w.pause(time.Hour)
		if shop.revisions[v1] != nil || shop.revisions[v2] == nil {
			w.Error("the release before was not retired, or the one that runs was")
		}
		w.hosts[0].meddle("production", surplus)
		w.pause(10 * time.Second)
		if len(shop.doc.Revisions) != 1 || shop.doc.Revisions[0].Release != v2 || w.hosts[0].meddled[shop.doc.Key].generation == shop.doc.Generation {
			w.Errorf("it was told to run %+v", shop.weights())
		}
		if e := w.env(r); e.WaitingFor != "" {
			w.Errorf("told still: %q", e.WaitingFor)
		}
	})
}
