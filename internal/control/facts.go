package control

import (
	"strconv"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/verdict"
)

const causeCommand = "command" // of a person

// causeOf names what kind of event made a rollout go back.
func causeOf(e rollout.Event) string {
	switch {
	case e.Judged != nil:
		return "verdict"
	case e.Command != nil:
		return causeCommand
	case e.Checked != nil:
		return "check"
	case e.Tick != nil:
		return "timeout"
	}
	return "health"
}

// revision numbers what a person can have looked at: it rises with each fact (of
// phase, step, weight, flag, verdict, command), and not with what is only counted.
func (t *turn) revision() int64 { return t.watch.Facts + 1 }

// fact makes one change of a rollout a statement, and a line of the live feed.
func (t *turn) fact(id string, f rollout.Fact) error {
	t.watch.Facts++
	at := about{project: t.row.Project, run: t.row.Run, environment: t.row.Environment}
	typed, reason := "", clip(f.Reason)
	if f.By != "" && f.By != release.System {
		typed, reason = f.Reason, "" // a person's words stay beside the log
	}
	ev, err := t.c.event(t.tx, at, f.By, typed)
	if err != nil {
		return err
	}
	m, err := release.ParseManifest(t.candidate.Manifest, t.row.Release)
	if err != nil {
		return err
	}
	for i, p := range t.predicates(ev, f, reason) {
		if _, err := t.c.record(t.tx, id+"/"+strconv.Itoa(i), at, p, evidence.Subjects(m, t.row.Release)...); err != nil {
			return err
		}
	}
	return t.tell("rollout", f)
}

func (t *turn) predicates(ev evidence.Event, f rollout.Fact, reason string) []evidence.Predicate {
	step := evidence.RolloutStep{
		Event: ev, Rollout: t.row.ID, Revision: t.revision(), Kind: string(f.Kind), Step: f.Step,
		Phase: string(t.state.Phase), From: f.From, To: f.To, Weight: &t.state.Weight, Reason: reason,
	}
	back := evidence.Rollback{Event: ev, Rollout: t.row.ID, Cause: t.watch.Cause, To: t.restoreID(), Weight: &t.state.Seen.MaxWeight, Reason: reason}
	switch f.Kind {
	case rollout.FactVerdict:
		return []evidence.Predicate{t.verdict(ev, f, reason)}
	case rollout.FactCommand:
		step.Command = f.To
		if f.Override {
			return []evidence.Predicate{step, evidence.Override{Event: ev, Rollout: t.row.ID, Step: f.Step, What: f.To, Verdict: t.state.Verdict}}
		}
	case rollout.FactPaused, rollout.FactHeld, rollout.FactStuck:
		step.Kind, step.Flag, step.Set = evidence.StepFlag, string(f.Kind), f.To != "off"
		if f.Kind == rollout.FactStuck && step.Set {
			back.Stage = evidence.RollbackStuck
			return []evidence.Predicate{step, back}
		}
	case rollout.FactCounts: // of both releases: "2/3" is 2 of the candidate, 3 of the one before
		step.Kind = string(rollout.FactCapacity)
	case rollout.FactPhase:
		if f.To == string(rollout.RollingBack) {
			back.Stage = evidence.RollbackStarted
			return []evidence.Predicate{step, back}
		}
	case rollout.FactRollback:
		back.Stage, back.Millis = evidence.RollbackCompleted, t.watch.rollbackMillis()
		if f.To == rollout.RollbackGivenUp {
			back.Stage = evidence.RollbackGivenUp
		}
		return []evidence.Predicate{back}
	}
	return []evidence.Predicate{step}
}

func (t *turn) verdict(ev evidence.Event, f rollout.Fact, reason string) evidence.Predicate {
	if f.To == "" {
		// A new bake begins without a verdict.
		return evidence.RolloutStep{Event: ev, Rollout: t.row.ID, Revision: t.revision(), Kind: evidence.StepStep, Step: f.Step, Phase: string(t.state.Phase), From: f.From, Weight: &t.state.Weight, Reason: "the next bake begins without a verdict"}
	}
	v := evidence.Verdict{Event: ev, Rollout: t.row.ID, Revision: t.revision(), Step: f.Step, Verdict: verdict.Verdict(f.To), Reason: reason}
	for _, m := range t.watch.Result.Metrics {
		v.Metrics = append(v.Metrics, metricVerdict(m))
	}
	return v
}

func metricVerdict(m analysis.Metric) evidence.MetricVerdict {
	return evidence.MetricVerdict{
		Name: m.Name, Kind: m.Kind, Verdict: m.Verdict, Basis: m.Basis,
		CanaryBad: m.KC, CanaryTotal: m.NC, BaselineBad: m.KB, BaselineTotal: m.NB,
		Estimate: evidence.Finite(m.Estimate), LogFail: evidence.Finite(m.LogFail), LogPass: evidence.Finite(m.LogPass),
		Bound: evidence.Finite(m.Bound), Detectable: evidence.Finite(m.Detectable), Sentence: clip(m.Sentence),
	}
}
