package rollout

import (
	"slices"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// hooked puts the checks of hooks between the steps of a plan, whatever strategy
// made it: before the first step that exposes anybody, after each step that moved
// traffic and its bake, and before the end.
func hooked(steps []PlanStep, h pipeline.Hooks) []PlanStep {
	out := make([]PlanStep, 0, len(steps))
	ask := func(hook string, checks []pipeline.Check, weight int) {
		if len(checks) > 0 {
			out = append(out, PlanStep{Kind: StepCheck, Weight: weight, Checks: names(checks), Hook: hook})
		}
	}
	// The checks of verify, and those that a strategy ends with, close the plan.
	tail := len(steps) - 1
	for tail > 0 && steps[tail-1].Kind == StepCheck && steps[tail-1].Weight == FullWeight {
		tail--
	}
	moved, asked, weight := false, true, 0
	for i, s := range steps {
		switch {
		case !moved && s.Weight > 0:
			ask(pipeline.BeforeTraffic, h.BeforeTraffic, 0)
			asked = false
		case moved && !asked && (moves(s) && !steps[i-1].begins() || i == tail):
			ask(pipeline.AfterStep, h.AfterStep, weight)
			asked = true
		}
		asked = asked && !moves(s)
		if s.Kind == StepRetire {
			ask(pipeline.AfterTraffic, h.AfterTraffic, weight)
		}
		moved, weight = moved || s.Weight > 0, s.Weight
		out = append(out, s)
	}
	return out
}

// moves says whether a step changes who reaches the candidate.
func moves(s PlanStep) bool {
	return !slices.Contains([]StepKind{StepPrepare, StepCheck, StepBake, StepHold, StepRetire}, s.Kind)
}

func names(checks []pipeline.Check) []string {
	out := make([]string, len(checks))
	for i, c := range checks {
		out[i] = c.Name
	}
	return out
}
