package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// forgotten has the host apply a generation of which there is no record.
func (h *fakeHost) forgotten(generation int64, revisions []wire.Revision) {
	h.touched = true
	doc := h.shop("production").doc
	doc.Generation, doc.Revisions = generation, revisions
	h.apply(doc)
	h.next = h.w.clock.now()
}

func (w *world) lastRun() string {
	w.Helper()
	last, err := w.front.Runs(w.Context(), store.RunFilter{Project: "default", Limit: 1})
	w.must(err)
	return last[0].Run
}

// What stays until a person says so stays also when the time of the release before has
// come, whose end is told to hosts.
func TestWhatIsLeftIsNotPutBackByARetirement(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		w.released(production, "v2")
		r, h := w.lastRun(), w.hosts[0]
		was := h.shop("production").journal[0].doc.Revisions
		w.pause(time.Minute)
		h.forgotten(5000, was)
		w.pause(3 * time.Hour)
		if doc := h.shop("production").doc; doc.Generation != 5000 {
			w.Errorf("put back by generation %d; told %q", doc.Generation, w.saidOfDrift(r))
		}
		if way := w.way(""); way.Kind != cold || !strings.Contains(way.Sentence, "must be started first") {
			w.Errorf("hosts run something else, and the way back is said to be %s: %s", way.Kind, way.Sentence)
		}
		w.must(w.front.Rollout(w.Context(), "default", r, Command{Command: rollout.Command{Kind: rollout.Resume, By: bob, Reason: "the record is right"}, Environment: "production"}))
		w.pause(time.Hour)
		if doc := h.shop("production").doc; len(doc.Revisions) != 1 || doc.Revisions[0].Release == was[0].Release {
			w.Errorf("not retired afterwards: generation %d with %d releases", doc.Generation, len(doc.Revisions))
		}
	})
}

// A rehearsal that is due when a backup was restored does not begin before hosts said
// what they run.
func TestNoRehearsalBeforeHostsSpoke(t *testing.T) {
	stories(t, func(w *world) {
		yaml := strings.Replace(production, "    rollout: {", "    rehearse: {every: 2h}\n    rollout: {", 1)
		w.first(yaml)
		w.released(yaml, "v2")
		w.pause(30 * time.Minute)
		h := w.hosts[0]
		was := h.shop("production").journal[0].doc.Revisions
		h.forgotten(5000, was)
		h.down = true
		w.pause(110 * time.Minute)
		h.down = false
		w.pause(20 * time.Minute)
		if doc := h.shop("production").doc; doc.Generation != 5000 {
			w.Errorf("put back by generation %d; told %q", doc.Generation, w.saidOfDrift(w.lastRun()))
		}
	})
}

// A host that runs what was set says so first; another one, which does not, has not
// spoken yet.
func TestTheFirstHostThatSpeaksPutsNoOtherBack(t *testing.T) {
	stories(t, func(w *world) {
		one, two := w.addHost("one"), w.addHost("two")
		yaml := strings.Replace(production, "run: ./app,", "run: ./app, hosts: [one, two],", 1)
		w.first(yaml)
		w.released(yaml, "v2")
		r := w.lastRun()
		w.pause(2 * time.Hour)
		was := two.shop("production").journal[0].doc.Revisions
		two.forgotten(5000, was)
		two.down = true
		w.pause(time.Minute)
		one.forgotten(5000, one.shop("production").doc.Revisions)
		w.pause(time.Minute)
		two.down = false
		w.pause(5 * time.Minute)
		if doc, said := two.shop("production").doc, w.saidOfDrift(r); doc.Generation != 5000 || len(said) != 1 {
			w.Errorf("put back by generation %d; told %q", doc.Generation, said)
		}
		one.down = true
		w.pause(time.Minute)
		two.forgotten(6000, one.shop("production").doc.Revisions)
		w.pause(time.Minute)
		if doc, said := two.shop("production").doc, w.saidOfDrift(r); doc.Generation != 6000 || len(said) != 2 || !strings.Contains(said[1], "hosts run again what was set") {
			w.Errorf("by generation %d it runs again what was set; told %q", doc.Generation, said)
		}
		one.down = false
		w.pause(10 * time.Minute)
		for _, h := range w.hosts[1:] {
			if doc := h.shop("production").doc; doc.Generation <= 6000 {
				w.Errorf("host %s has applied %d", h.name, doc.Generation)
			}
		}
	})
}

// The record is of when a rollout had just told hosts to fetch its release.
func TestARestoredRolloutThatPrepares(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		h := w.hosts[0]
		h.startIn = 10 * time.Second
		was := h.shop("production").doc.Revisions
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Preparing, 0)
		h.forgotten(5000, was)
		if s := w.untilState(r, run.Succeeded); s.State != run.Succeeded {
			w.Errorf("%+v", s)
		}
	})
}
