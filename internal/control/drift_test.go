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
