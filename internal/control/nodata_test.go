package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Without traffic nothing passes: the bake is held until users come.
func TestNoTraffic(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		w.hosts[0].rps = 0
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		if x, err := w.front.Explain(w.Context(), "default", r); err != nil || !strings.HasSuffix(x.Next, "; without data it is held at the bake's end") {
			w.Errorf("while it bakes: %+v, %v", x, err)
		}
		w.until(r, "held", func(s Status) bool { return s.Environments[0].Held != "" })
		w.pause(3 * time.Minute)
		e := w.env(r)
		if e.Weight != 10 || e.Verdict != verdict.NoData || e.State != run.Waiting || !strings.Contains(e.WaitingFor, "without data") {
			w.Errorf("without traffic: %+v", e)
		}
		x, err := w.front.Explain(w.Context(), "default", r)
		if err != nil || !strings.Contains(strings.Join(x.Can, "\n"), "sluice advance "+r+" --env production --override") {
			w.Errorf("%+v, %v", x, err)
		}
		if !w.alarmed(r, "without data") {
			w.Error("no alarm")
		}
		w.hosts[0].rps = 100
		w.untilState(r, run.Succeeded)
	})
}

func (w *world) alarmed(runID, about string) bool {
	feed, err := w.front.Feed(w.Context(), "default", runID, 0, 0)
	w.must(err)
	for _, f := range feed {
		if f.Kind == "alarm" && strings.Contains(string(f.Data), about) {
			return true
		}
	}
	return false
}

// Where the plan says so a bake without data, or without proof, is extended, and
// held in the end.
func TestExtended(t *testing.T) {
	stories(t, func(w *world) {
		env := strings.Replace(production, "rollout: {", "rollout: {onNoData: extend, ", 1)
		env = strings.Replace(env, "analysis: {", "analysis: {maxExtend: 2, ", 1)
		env = strings.ReplaceAll(env, "1m", "30s")
		v1 := w.first(env)
		w.hosts[0].rps = 0
		r, _ := w.ship(w.definition(env), "v2")
		began := w.untilPhase(r, rollout.Baking, 10)
		if x, err := w.front.Explain(w.Context(), "default", r); err != nil || !strings.HasSuffix(x.Next, "; without data it bakes up to 2 times more, and is then held") {
			w.Errorf("while it bakes: %+v, %v", x, err)
		}
		at := w.clock.now()
		w.until(r, "held", func(s Status) bool { return s.Environments[0].Held != "" })
		if d := w.clock.now().Sub(at); d < 89*time.Second || d > 96*time.Second {
			w.Errorf("three bakes of 30 s took %s", d)
		}
		if e := w.env(r); e.Bake.Extended != 2 || !strings.Contains(e.Held, "extended 2 times") || e.Step != began.Step {
			w.Errorf("%+v, %q", e.Bake, e.Held)
		}
		// Enough to be judged, not enough to prove anything.
		w.hosts[0].rps = 55
		w.pause(10 * time.Second)
		e := w.env(r)
		if e.Verdict != verdict.Inconclusive || e.Weight != 10 || e.Held == "" {
			w.Errorf("with few requests: %s at %g, held %q", e.Verdict, e.Weight, e.Held)
		}
		w.hosts[0].rps = 0

		for _, c := range []struct {
			cmd  rollout.Command
			says string
		}{
			{rollout.Command{Kind: rollout.Advance}, "it is held"},
			{rollout.Command{Kind: rollout.Advance, Override: true}, "needs a reason"},
			{rollout.Command{Kind: rollout.Resume}, "it is not paused but held"},
			{rollout.Command{Kind: rollout.GiveUp, Reason: "no"}, "only a stuck rollback can be given up"},
		} {
			if err := w.tell(r, c.cmd); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.says) {
				w.Errorf("%+v: %v", c.cmd, err)
			}
		}
		revision := w.env(r).Revision
		if err := w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "it was looked at"}, revision-1); !errors.Is(err, store.ErrStale) || !strings.Contains(err.Error(), "you looked at") || !strings.Contains(err.Error(), "sluice status "+r) {
			w.Errorf("with a stale revision: %v", err)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "it was looked at by hand"}, revision))
		w.untilPhase(r, rollout.Baking, 50)
		var overrides []evidence.Override
		for _, l := range w.leaves(store.LeafFilter{Run: r}) {
			if strings.Contains(string(l.Envelope), "looked at by hand") {
				w.Error("a person's words are in the log itself")
			}
			if l.PredicateType != evidence.TypeOverride {
				continue
			}
			st, err := w.front.trusted.Verify(l.Envelope)
			w.must(err)
			o, err := evidence.Decode[evidence.Override](st)
			w.must(err)
			overrides = append(overrides, o)
		}
		if len(overrides) != 1 || overrides[0].What != "advance" || len(overrides[0].Payloads) != 1 || overrides[0].Verdict == verdict.Pass {
			w.Errorf("overrides: %+v", overrides)
		}

		w.must(w.tell(r, rollout.Command{Kind: rollout.Pause, Reason: "lunch"}))
		paused := w.env(r)
		if err := w.tell(r, rollout.Command{Kind: rollout.Advance}); err == nil || !strings.Contains(err.Error(), "paused by local:alice (lunch)") {
			w.Errorf("advance while paused: %v", err)
		}
		w.pause(time.Minute)
		if e := w.env(r); !e.Paused || e.State != run.Waiting || e.Bake.ElapsedSeconds != paused.Bake.ElapsedSeconds {
			w.Errorf("paused at %+v, a minute later %+v", paused.Bake, e.Bake)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Resume}))
		w.pause(5 * time.Second)
		if e := w.env(r); e.Paused || e.Bake.ElapsedSeconds < paused.Bake.ElapsedSeconds+4 {
			w.Errorf("resumed: %+v", e.Bake)
		}
		// An abort is taken whatever the person looked at; an advance after it is not.
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "enough"}, 1))
		if err := w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "no"}); err == nil || !strings.Contains(err.Error(), "abort beats advance") {
			w.Errorf("advance after abort: %v", err)
		}
		w.untilState(r, run.RolledBack)
		if w.runs("production") != v1 {
			w.Error("v1 does not run")
		}
	})
}

// A fail is acted on while the rollout is paused.
func TestFailWhilePaused(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, v2 := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.must(w.tell(r, rollout.Command{Kind: rollout.Pause}))
		w.hosts[0].bad[v2] = 0.4
		w.untilState(r, run.RolledBack)
	})
}

// A rollback that nobody confirms gets stuck; only then a person can give it up.
func TestStuck(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		r, v2 := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.hosts[0].down = true
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort}))
		w.pause(time.Minute)
		if e := w.env(r); e.State != run.RollingBack || e.Stuck {
			w.Errorf("%+v", e)
		}
		if err := w.tell(r, rollout.Command{Kind: rollout.GiveUp, Reason: "it burns"}); err == nil || !strings.Contains(err.Error(), "not stuck") {
			w.Errorf("give-up too early: %v", err)
		}
		w.until(r, "stuck", func(s Status) bool { return s.Environments[0].Stuck })
		if !w.alarmed(r, "stuck") {
			w.Error("no alarm")
		}
		if err := w.tell(r, rollout.Command{Kind: rollout.GiveUp}); err == nil || !strings.Contains(err.Error(), "needs a reason") {
			w.Errorf("give-up without a reason: %v", err)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.GiveUp, Reason: "the host burned down"}))
		s := w.untilState(r, run.RollbackFailed)
		if run.ExitCode(s.State) != 5 || !strings.Contains(s.Reason, "given up") {
			w.Errorf("%s: %s", s.State, s.Reason)
		}
		if w.runs("production") != v1 {
			w.Error("v1 is no longer what runs")
		}
		if err := w.front.Lift(w.Context(), "default", "shop", v2.Short(), "", bob); !errors.Is(err, ErrInvalid) {
			w.Errorf("lift without a reason: %v", err)
		}
		if err := w.tell(r, rollout.Command{Kind: rollout.Abort}); !errors.Is(err, ErrRefused) {
			w.Errorf("abort of an ended run: %v", err)
		}
	})
}
