package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

func (w *world) way(to string) Way {
	w.Helper()
	way, err := w.front.WayBack(w.Context(), "default", "shop", "production", to)
	w.must(err)
	return way
}

func (w *world) back(to string) (string, error) {
	return w.front.Rollback(w.Context(), "default", "shop", "production", to, "customers complain", bob)
}

// released ships a commit to its end.
func (w *world) released(environments, commit string) release.ID {
	w.Helper()
	r, id := w.ship(w.definition(environments), commit)
	w.untilState(r, run.Succeeded)
	return id
}

// A finished release is taken back at once while the one before is warm, and is
// kept out then.
func TestRollbackWarm(t *testing.T) {
	stories(t, func(w *world) {
		if _, err := w.front.WayBack(w.Context(), "default", "shop", "production", ""); !errors.Is(err, ErrMissing) {
			w.Errorf("of nothing: %v", err)
		}
		v1 := w.first(production)
		if way := w.way(""); way.Kind != "impossible" || !strings.Contains(way.Sentence, "no earlier release of shop is kept as the way back of production; ship a fix, or name one with --to (`sluice artifact ls` lists them)") {
			w.Errorf("of a first release: %+v", way)
		}
		if _, err := w.back(""); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no earlier release") {
			w.Errorf("of a first release: %v", err)
		}
		v2 := w.released(production, "v2")
		if way := w.way(""); way.Kind != "warm" || way.From != v2 || way.To != v1 || !strings.Contains(way.Sentence, "weight 0") {
			w.Errorf("%+v", way)
		}
		r, err := w.back("")
		w.must(err)
		s := w.untilState(r, run.Succeeded)
		if s.Kind != run.KindRollback || s.Environments[0].Strategy != "rollback" || s.Environments[0].PreviousRelease != v2 || w.runs("production") != v1 {
			w.Errorf("%+v", s)
		}
		w.golden("rollback.txt", w.transcript(r))
		w.pause(10 * time.Second)
		shop := w.hosts[0].shop("production")
		if got := shop.weights(); got[len(got)-1] != v1.Short()+"=10000" {
			w.Errorf("applied %q", got)
		}
		if way := w.way(""); way.Kind != "impossible" {
			w.Errorf("after it: %+v", way)
		}
		way := w.way(v2.Short())
		if way.Kind != "impossible" || !strings.Contains(way.Sentence, "quarantined: it was taken back from production: rolled back: customers complain") {
			w.Errorf("back to what was taken back: %+v", way)
		}
		if _, err := w.back(v2.Short()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "quarantine lift "+v2.Short()) {
			w.Errorf("back to what was taken back: %v", err)
		}
		if _, err := w.back(v1.Short()); err == nil || !strings.Contains(err.Error(), "runs in production already") {
			w.Errorf("back to what runs: %v", err)
		}
	})
}

// Later it is started first; and an older release can be named.
func TestRollbackCold(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		v2 := w.released(production, "v2")
		w.pause(2 * time.Hour)
		if way := w.way(""); way.Kind != "cold" || way.To != v1 || way.Seconds != 60 || !strings.Contains(way.Sentence, "must be started first") {
			w.Errorf("%+v", way)
		}
		v3 := w.released(production, "v3")
		if way := w.way(""); way.Kind != "warm" || way.To != v2 {
			w.Errorf("%+v", way)
		}
		if way := w.way(v1.Short()); way.Kind != "cold" || way.From != v3 || way.To != v1 {
			w.Errorf("%+v", way)
		}
		r, err := w.back(v1.Short())
		w.must(err)
		w.untilState(r, run.Succeeded)
		if w.runs("production") != v1 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
		for _, line := range w.hosts[0].shop("production").weights() {
			if strings.Contains(line, v1.Short()+"=5000") && strings.Contains(line, v3.Short()) {
				w.Errorf("not in one step: %s", line)
			}
		}
		_, v4 := w.ship(w.definition(production), "v4")
		if _, err := w.back(v4.Short()); err == nil || !strings.Contains(err.Error(), "never ran in production") {
			w.Errorf("to a release that never ran: %v", err)
		}
		if _, err := w.back("ffffff"); !errors.Is(err, ErrMissing) {
			w.Errorf("to no release: %v", err)
		}
	})
}

// What was promoted but never held is no way back: that would give it all
// traffic without a bake.
func TestRollbackSkipsNoBake(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		r, v2 := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.must(w.front.Abort(w.Context(), "default", r, "production", "looks odd", bob))
		w.untilState(r, run.RolledBack)
		w.must(w.front.Lift(w.Context(), "default", "shop", v2.Short(), "it was a false alarm", bob))
		if _, err := w.back(v2.Short()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "never finished its rollout in production") {
			w.Errorf("to a release that was never baked: %v", err)
		}
		if w.runs("production") != v1 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
	})
}

// Rolling back while a rollout is live aborts it.
func TestRollbackOfLive(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		r, v2 := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		same, err := w.back("")
		if err != nil || same != r {
			w.Errorf("run %s, %v", same, err)
		}
		s := w.untilState(r, run.RolledBack)
		if !strings.Contains(s.Reason, "aborted by local:bob: customers complain") || w.runs("production") != v1 {
			w.Errorf("%s", s.Reason)
		}
		qs, err := w.front.Quarantines(w.Context(), "default", "shop")
		if err != nil || len(qs) != 1 || qs[0].Release != v2 {
			w.Errorf("%+v, %v", qs, err)
		}
	})
}

// A first release that cannot start is gone without having been shown; one that
// breaks under traffic leaves 503; the next one is a first release again.
func TestFirstReleaseBad(t *testing.T) {
	stories(t, func(w *world) {
		def := w.definition(strings.Replace(production, "10, bake: 1m", "10, bake: 2m", 1))
		r1, v1 := w.ship(def, "v1")
		w.hosts[0].broken[v1] = "exit status 1 (port taken)"
		s := w.untilState(r1, run.Failed)
		if !strings.Contains(s.Reason, "port taken") || !strings.Contains(s.Reason, "no user was exposed") {
			w.Errorf("%s", s.Reason)
		}
		if qs, err := w.front.Quarantines(w.Context(), "default", "shop"); err != nil || len(qs) != 0 {
			w.Errorf("quarantined although nobody was exposed: %+v, %v", qs, err)
		}
		limited := w.definition(strings.Replace(production, "[http-errors]", "[http-errors, {name: depth, kind: limit, query: depth, max: 10}]", 1))
		depth := 1.0
		w.metrics.answer = func(string) ([]Sample, error) { return []Sample{{Value: depth}}, nil }
		r2, v2 := w.ship(limited, "v2")
		w.untilPhase(r2, rollout.Baking, 100)
		w.hosts[0].broken[v2] = "crash loop"
		s = w.untilState(r2, run.RolledBack)
		shop := w.hosts[0].shop("production")
		if len(shop.doc.Revisions) != 0 || w.runs("production") != "" || !strings.Contains(s.Reason, "crash loop") {
			w.Errorf("hosts run %+v; %s", shop.doc.Revisions, s.Reason)
		}
		w.golden("first-bad.txt", w.transcript(r2))
		r3, _ := w.ship(limited, "v3")
		w.untilPhase(r3, rollout.Baking, 100)
		depth = 11
		if s := w.untilState(r3, run.RolledBack); !strings.Contains(s.Reason, "judge failed it") {
			w.Errorf("over its limit: %s", s.Reason)
		}
		depth = 1
		r4, v4 := w.ship(limited, "v4")
		s = w.untilState(r4, run.Succeeded)
		if s.Environments[0].PreviousRelease != "" || w.runs("production") != v4 {
			w.Errorf("%+v", s.Environments[0])
		}
	})
}
