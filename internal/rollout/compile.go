package rollout

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// StrategyRollback is the strategy of a rollout that takes a completed release
// back to an earlier one. It is compiled by [CompileRollback] only.
const StrategyRollback = "rollback"

// What the plan does when the judge can't tell.
const (
	Extend    = "extend" // bake again, at most MaxExtend times, then hold
	HoldThere = "hold"
)

// ErrPlan reports a plan that this build cannot run.
var ErrPlan = errors.New("plan can't be run")

const (
	defaultTimeout         = 30 * time.Minute
	defaultRollbackTimeout = 5 * time.Minute
	defaultRetireAfter     = time.Hour
)

// Compile turns an environment's strategy into a plan. previous says whether a
// release runs there that can be gone back to; without one there is nothing to
// compare with, so that every strategy goes straight to 100 %.
func Compile(env pipeline.Environment, previous bool) (Plan, error) {
	p := newPlan(env)
	p.Strategy = env.Rollout.Strategy
	p.First = !previous
	switch {
	case p.Strategy != pipeline.AllAtOnce && p.Strategy != pipeline.Canary:
		return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: strategy %q is not one of %s, %s",
			env.Name, p.Strategy, pipeline.AllAtOnce, pipeline.Canary)
	case !previous:
		p.shift(FullWeight)
		if bake := firstBake(env.Rollout); bake > 0 && judgesLimits(env.Analysis) {
			p.bake(bake, BasisNone, true)
		}
	case p.Strategy == pipeline.AllAtOnce:
		p.shift(FullWeight)
		if env.Rollout.Bake > 0 {
			p.bake(env.Rollout.Bake, BasisBeforeAfter, len(env.Analysis.Metrics) > 0)
		}
	default:
		if len(env.Rollout.Steps) == 0 {
			return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: a canary needs at least one step", env.Name)
		}
		for _, c := range env.Rollout.Steps {
			p.shift(int(math.Round(c.Weight * 100)))
			basis := BasisConcurrent
			if p.weight() == FullWeight {
				basis = BasisBeforeAfter // nothing is left to compare with
			}
			p.bake(c.Bake, basis, len(env.Analysis.Metrics) > 0)
		}
		if p.weight() != FullWeight {
			p.shift(FullWeight)
		}
	}
	p.end(env.Verify)
	p.Steps = hooked(p.Steps, env.Hooks)
	if err := p.Validate(); err != nil {
		return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: %w", env.Name, err)
	}
	return p, nil
}

// CompileRollback makes the plan that takes a completed release back: all
// traffic in one step as soon as the capacity is there, and no second canary.
func CompileRollback(env pipeline.Environment) Plan {
	p := newPlan(env)
	p.Strategy = StrategyRollback
	p.shift(FullWeight)
	p.end(env.Verify)
	return p
}

func newPlan(env pipeline.Environment) Plan {
	r := env.Rollout
	p := Plan{
		Engine:          Engine,
		OnInconclusive:  r.OnInconclusive,
		OnNoData:        r.OnNoData,
		MaxExtend:       env.Analysis.MaxExtend,
		Timeout:         r.Timeout,
		RollbackTimeout: r.RollbackTimeout,
		RetireAfter:     r.RetireAfter,
	}
	if p.OnInconclusive == "" {
		p.OnInconclusive = Extend
	}
	if p.OnNoData == "" {
		p.OnNoData = HoldThere
	}
	if p.Timeout == 0 {
		p.Timeout = defaultTimeout
	}
	if p.RollbackTimeout == 0 {
		p.RollbackTimeout = defaultRollbackTimeout
	}
	if p.RetireAfter == 0 {
		p.RetireAfter = defaultRetireAfter
	}
	p.Steps = []PlanStep{{Kind: StepPrepare}}
	return p
}

func (p *Plan) weight() int { return p.Steps[len(p.Steps)-1].Weight }

func (p *Plan) shift(weight int) {
	p.Steps = append(p.Steps, PlanStep{Kind: StepShift, Weight: weight})
}

func (p *Plan) bake(d time.Duration, basis Basis, analysis bool) {
	p.Steps = append(p.Steps, PlanStep{Kind: StepBake, Weight: p.weight(), Bake: d, Basis: basis, Analysis: analysis})
}

func (p *Plan) end(checks []pipeline.Check) {
	if len(checks) > 0 {
		names := make([]string, len(checks))
		for i, c := range checks {
			names[i] = c.Name
		}
		p.Steps = append(p.Steps, PlanStep{Kind: StepCheck, Weight: p.weight(), Checks: names})
	}
	p.Steps = append(p.Steps, PlanStep{Kind: StepRetire, Weight: p.weight()})
}

// firstBake is how long a first release is watched: as long as the longest bake
// that the strategy would have had.
func firstBake(r pipeline.Rollout) time.Duration {
	d := r.Bake
	for _, c := range r.Steps {
		d = max(d, c.Bake)
	}
	return d
}

func judgesLimits(a pipeline.Analysis) bool {
	for _, m := range a.Metrics {
		if m.Kind == pipeline.Limit {
			return true
		}
	}
	return false
}

// Validate reports whether this build can run p: [Step] refuses any other.
func (p Plan) Validate() error {
	if p.Engine < 1 || p.Engine > Engine {
		return fmt.Errorf("%w: it was compiled by engine %d and this build knows 1 to %d: use the version of Sluice that compiled it, or a newer one", ErrPlan, p.Engine, Engine)
	}
	n := len(p.Steps)
	if n < 3 || n > 1000 || p.Steps[0].Kind != StepPrepare || p.Steps[n-1].Kind != StepRetire {
		return fmt.Errorf("%w: it must begin with prepare, end with retire and have a shift between (at most 1000 steps)", ErrPlan)
	}
	for _, on := range []string{p.OnInconclusive, p.OnNoData} {
		if on != Extend && on != HoldThere {
			return fmt.Errorf("%w: %q is neither %s nor %s", ErrPlan, on, Extend, HoldThere)
		}
	}
	if p.Timeout <= 0 || p.RollbackTimeout <= 0 || p.RetireAfter < 0 || p.MaxExtend < 0 {
		return fmt.Errorf("%w: its timeouts must be above 0", ErrPlan)
	}
	weight := 0
	for i, s := range p.Steps {
		switch s.Kind {
		case StepPrepare, StepRetire:
			if i != 0 && i != n-1 {
				return fmt.Errorf("%w: %s stands in the middle", ErrPlan, s.Kind)
			}
		case StepShift:
			if s.Weight <= weight || s.Weight > FullWeight {
				return fmt.Errorf("%w: step %d shifts to %s after %s: weights must rise, to at most 100 %%", ErrPlan, i, percent(s.Weight), percent(weight))
			}
			weight = s.Weight
		case StepBake:
			if s.Bake < 0 || weight == 0 {
				return fmt.Errorf("%w: step %d bakes %s at %s", ErrPlan, i, s.Bake, percent(weight))
			}
			if s.Bake == 0 && s.Analysis {
				return fmt.Errorf("%w: step %d is judged but bakes for no time: give it a bake", ErrPlan, i)
			}
		case StepCheck, StepHold:
		default:
			return fmt.Errorf("%w: step %d is of the unknown kind %q", ErrPlan, i, s.Kind)
		}
		if s.Weight != weight {
			return fmt.Errorf("%w: step %d says %s while the candidate has %s", ErrPlan, i, percent(s.Weight), percent(weight))
		}
	}
	if weight != FullWeight {
		return fmt.Errorf("%w: it ends at %s, not 100 %%", ErrPlan, percent(weight))
	}
	return nil
}

// percent writes basis points for people: 250 is "2.5 %".
func percent(bp int) string {
	return fmt.Sprintf("%g %%", float64(bp)/100)
}
