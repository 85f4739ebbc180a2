package control

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// saidOfDrift is what the feed of a run tells of hosts that were changed.
func (w *world) saidOfDrift(r string) (out []string) {
	w.Helper()
	feed, err := w.front.Feed(w.Context(), "default", r, 0, 0)
	w.must(err)
	for _, f := range feed {
		if f.Kind == "drift" {
			out = append(out, string(f.Data))
		}
	}
	return out
}

// Somebody's tool that changes a host again as soon as it was put back is put back
// again and again, and fills no record.
func TestAToolThatAlwaysChangesAHostFillsNoRecord(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.untilState(r, run.Succeeded)
		h := w.hosts[0]
		w.pause(10 * time.Second)
		applied := len(h.shop("production").journal)
		for range 24 {
			h.meddle("production", stranger)
			w.pause(5 * time.Second)
		}
		if n := len(w.saidOfDrift(r)); n < 4 || n > 10 {
			w.Errorf("told %d times in two minutes", n)
		}
		if n := len(h.shop("production").journal) - applied; n < 2 || n > 5 {
			w.Errorf("put back %d times in two minutes", n)
		}
		h.meddled, h.next = nil, w.clock.now()
		w.pause(time.Minute)
		if e := w.env(r); e.WaitingFor != "" {
			w.Errorf("told still: %q", e.WaitingFor)
		}
	})
}

// A host that went silent after it said something strange keeps nobody from being told
// of another one.
func TestASilentHostHidesNoOther(t *testing.T) {
	stories(t, func(w *world) {
		one, two := w.addHost("one"), w.addHost("two")
		yaml := strings.Replace(production, "run: ./app,", "run: ./app, hosts: [one, two],", 1)
		w.first(yaml)
		r, _ := w.ship(w.definition(yaml), "v2")
		w.untilState(r, run.Succeeded)
		w.pause(time.Minute)
		one.meddle("production", stranger)
		one.report()
		one.down = true // its word is the last one, and nobody knows whether it passed
		w.pause(10 * time.Minute)
		if said := w.saidOfDrift(r); len(said) != 0 {
			w.Errorf("told what a silent host said last: %q", said)
		}
		two.meddle("production", stranger)
		w.pause(10 * time.Second)
		if said := w.saidOfDrift(r); len(said) != 2 || !strings.Contains(said[0], "host two runs") || strings.Contains(said[0], "host one") {
			w.Errorf("told %q", said)
		}
	})
}

// What somebody changed and is left as it is until a person says so is not put back by
// a rehearsal that begins by itself.
func TestNoRehearsalOverWhatSomebodyChanged(t *testing.T) {
	stories(t, func(w *world) {
		yaml := strings.Replace(production, "    rollout: {", "    rehearse: {every: 1h}\n    rollout: {onDrift: hold, ", 1)
		w.first(yaml)
		v2 := w.released(yaml, "v2")
		rehearsals := func() (out []Status) {
			runs, err := w.front.Runs(w.Context(), store.RunFilter{Project: "default", Limit: 100})
			w.must(err)
			return slices.DeleteFunc(runs, func(s Status) bool { return s.Kind != run.KindRehearse })
		}
		w.pause(10 * time.Minute)
		first := rehearsals()
		if len(first) != 1 || first[0].State != run.Succeeded || w.runs("production") != v2 {
			w.Fatalf("once there was a way back: %+v", first)
		}
		h := w.hosts[0]
		h.meddle("production", stranger)
		h.meddled[h.shop("production").doc.Key] = meddling{anyGeneration, stranger}
		w.pause(70 * time.Minute)
		if n := rehearsals(); len(n) != 1 || w.env(first[0].Run).WaitingFor == "" {
			w.Fatalf("%d rehearsals over what is to be left; it waits for %q", len(n)-1, w.env(first[0].Run).WaitingFor)
		}
		h.meddled[h.shop("production").doc.Key] = meddling{h.shop("production").doc.Generation, stranger}
		w.must(w.front.Rollout(w.Context(), "default", first[0].Run, Command{Command: rollout.Command{Kind: rollout.Resume, By: bob, Reason: "put it back"}, Environment: "production"}))
		w.pause(10 * time.Minute)
		if n := rehearsals(); len(n) != 2 {
			w.Errorf("%d rehearsals after it was put back", len(n)-1)
		}
	})
}

// A rollout that begins while hosts are about to be told again what was set, or to let
// the previous release go, has the last word.
func TestARolloutThatBeginsHasTheLastWord(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		w.released(production, "v2")
		r, _ := w.ship(w.definition(production), "v3")
		w.untilPhase(r, rollout.Baking, 10)
		row := w.place("production")
		for name, f := range map[string]func(*store.Tx) error{
			"told again": func(tx *store.Tx) error {
				doc, _, err := lastTold(tx, row.Key)
				if err != nil {
					return err
				}
				return w.front.tellAgain(tx, doc)
			},
			"retired": func(tx *store.Tx) error {
				p, err := decodePlace(row)
				if err != nil {
					return err
				}
				current, err := decodeRevision(row.Current)
				if err != nil {
					return err
				}
				return w.front.retire(tx, &row, p, *current)
			},
		} {
			if err := w.store.Update(w.Context(), f); !errors.Is(err, store.ErrStale) || !strings.Contains(err.Error(), "began just now") {
				w.Errorf("%s: %v", name, err)
			}
		}
		w.view(func(tx *store.Tx) error {
			if left, err := tx.PendingEffects("default", placeEffects(row.Key)); err != nil || len(left) != 0 {
				w.Errorf("promised: %+v, %v", left, err)
			}
			return nil
		})
		w.untilState(r, run.Succeeded)
	})
}

// A database that was restored from a backup does not know the last generations, and
// hosts refuse what is below them. What they run stays until a person says so; what they
// are told next is above at once.
func TestHostsKnowMoreThanARestoredRecord(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		v2 := w.released(production, "v2")
		r, h := w.lastRun(), w.hosts[0]
		was := h.shop("production").journal[0].doc.Revisions
		forgotten := h.forgotten
		forgotten(1000, h.shop("production").doc.Revisions)
		w.pause(time.Minute)
		if doc := h.shop("production").doc; doc.Generation <= 1000 || len(w.saidOfDrift(r)) != 0 {
			w.Errorf("what was set runs, by generation %d; told %q", doc.Generation, w.saidOfDrift(r))
		}

		forgotten(5000, was)
		w.pause(5 * time.Minute)
		if doc, said := h.shop("production").doc, w.saidOfDrift(r); doc.Generation != 5000 || len(said) != 1 || !strings.Contains(said[0], "it has applied generation 5000") {
			w.Fatalf("not left as it was: generation %d; told %q", doc.Generation, said)
		}
		x, err := w.front.Explain(w.Context(), "default", r)
		w.must(err)
		if !strings.Contains(x.Why, "the record is of a backup") || !strings.HasPrefix(x.Now, "the record ends with this run") || x.Next != "it is left as it is: the hosts may be right" {
			w.Errorf("explained: %+v", x)
		}
		w.must(w.front.Rollout(w.Context(), "default", r, Command{Command: rollout.Command{Kind: rollout.Resume, By: bob, Reason: "the record is right"}, Environment: "production"}))
		w.pause(time.Minute)
		if doc := h.shop("production").doc; doc.Generation <= 5000 || w.runs("production") != v2 {
			w.Errorf("not put back: generation %d", doc.Generation)
		}

		forgotten(9000, was)
		w.pause(time.Minute)
		v3, _ := w.ship(w.definition(production), "v3")
		w.untilPhase(v3, rollout.Baking, 10)
		if doc := h.shop("production").doc; doc.Generation <= 9000 {
			w.Errorf("the next rollout is at generation %d", doc.Generation)
		}
		forgotten(20000, was) // and the record is of the middle of this rollout
		w.untilState(v3, run.Succeeded)
		if doc := h.shop("production").doc; doc.Generation <= 20000 {
			w.Errorf("the rollout ended at generation %d", doc.Generation)
		}
	})
}
