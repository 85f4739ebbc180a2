package rollout

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
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
	r := env.Rollout
	p.Strategy, p.Named, p.First = r.Strategy, r.Named, !previous
	p.OnFail, p.OnDrift, p.Actions = r.OnFail, r.OnDrift, env.Analysis.Actions()
	judged := len(env.Analysis.Metrics) > 0
	bake := func(d time.Duration) {
		if d > 0 {
			p.bake(d, p.basis(), judged)
		}
	}
	n := env.Target.Total()
	if err := p.shadow(env, previous, judged); err != nil {
		return Plan{}, err
	}
	switch {
	case !slices.Contains(pipeline.Strategies, r.Strategy):
		return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: strategy %q is not one of %s",
			env.Name, r.Strategy, strings.Join(pipeline.Strategies, ", "))
	case r.Stepped() && len(r.Steps) == 0:
		return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: %s needs at least one step", env.Name, r.Strategy)
	case !previous:
		if env.Target.Worker() {
			p.count(env.Target)
			p.replace(n, 0, n)
		} else {
			p.shift(FullWeight)
		}
		if bake := firstBake(r); bake > 0 && judgesLimits(env.Analysis) {
			p.bake(bake, BasisNone, true)
		}
	case r.Strategy == pipeline.Rolling:
		if r.Batches == nil || r.Batches.Size(n) > n || r.Batches.Batch.Count < 0 {
			return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: its batches don't fit %d instances", env.Name, n)
		}
		p.count(env.Target)
		p.batches(*r.Batches, func() { bake(r.Bake) })
	case env.Target.Worker() && r.Stepped():
		counts, err := pipeline.WorkerCounts(r.Steps, n)
		if err != nil {
			return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: %w", env.Name, err)
		}
		p.count(env.Target)
		for i, c := range counts {
			p.replace(c, n-c, c)
			p.bake(r.Steps[i].Bake, p.basis(), judged)
		}
		if p.weight() != FullWeight {
			p.replace(n, 0, n)
		}
	case env.Target.Worker() && r.Strategy == pipeline.AllAtOnce:
		p.count(env.Target)
		p.replace(n, 0, n)
		bake(r.Bake)
	case env.Target.Worker():
		return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: a worker can't do %s, as its second group would take work as soon as it runs; the nearest is %s", env.Name, r.Strategy, pipeline.Canary)
	case r.Stepped():
		for _, c := range r.Steps {
			p.shift(basisPoints(c.Weight))
			p.bake(c.Bake, p.basis(), judged)
		}
		if p.weight() != FullWeight {
			p.shift(FullWeight)
		}
	case r.Strategy == pipeline.Immutable && n > 1:
		p.count(env.Target)
		p.Steps[0].Run = 1
		p.replace(n, n, 0)
		p.Steps = append(p.Steps, PlanStep{Kind: StepShift, Weight: FullWeight, Run: n, Keep: n, Moved: n})
		bake(r.Bake)
	default: // all at once, blue/green: what is prepared takes all traffic
		p.shift(FullWeight)
		bake(r.Bake)
	}
	p.end(env.Verify)
	p.Steps = hooked(p.Steps, env.Hooks)
	p.Engine = p.needs()
	if err := p.Validate(); err != nil {
		return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: %w", env.Name, err)
	}
	return p, nil
}

// shadow begins with copies of requests, where a release runs whose requests they
// can be. The candidate has to run beside it then.
func (p *Plan) shadow(env pipeline.Environment, previous, judged bool) error {
	switch s := env.Shadow; {
	case s == nil || !previous:
	case env.Target.Worker() || p.Strategy == pipeline.Rolling || p.Strategy == pipeline.Immutable:
		return fmt.Errorf("couldn't compile the rollout of %s: shadow needs all of the candidate beside the running release, behind one router, which %s of this target hasn't; the nearest is %s", env.Name, p.Strategy, pipeline.Canary)
	default:
		p.Steps = append(p.Steps, PlanStep{Kind: StepBake, Shadow: basisPoints(s.Share), Bake: s.Bake, Basis: BasisConcurrent, Analysis: judged})
	}
	return nil
}

// basis is what the next bake is judged against: at 100 % nothing is left to
// compare with.
func (p *Plan) basis() Basis {
	if p.weight() == FullWeight {
		return BasisBeforeAfter
	}
	return BasisConcurrent
}

// CompileRollback makes the plan that takes a completed release back: all
// traffic in one step as soon as the capacity is there, and no second canary.
func CompileRollback(env pipeline.Environment) Plan {
	p := newPlan(env)
	p.Strategy = StrategyRollback
	if env.Target.Worker() {
		p.count(env.Target)
		p.replace(p.total(), 0, p.total())
	} else {
		p.shift(FullWeight)
	}
	p.end(env.Verify)
	p.Engine = p.needs()
	return p
}

// needs is the engine that the plan needs.
func (p Plan) needs() int {
	switch {
	case len(p.Actions) > 0 || p.Replaces:
		return 4
	case p.driven():
		return 3
	}
	if p.counted() || p.OnFail != "" || p.OnDrift != "" || slices.ContainsFunc(p.Steps, func(s PlanStep) bool { return s.Shadow > 0 }) {
		return 2
	}
	return 1
}

// Replacing is p for a release that takes the place of one that failed and still has
// users: also where it is aborted before it began, these are given back.
func (p Plan) Replacing() Plan {
	p.Replaces = true
	p.Engine = p.needs()
	return p
}

func newPlan(env pipeline.Environment) Plan {
	r := env.Rollout
	p := Plan{
		Engine:          1,
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
	if p.RetireAfter == 0 && r.Timeout == 0 { // of a definition that was read, 0 is an answer
		p.RetireAfter = defaultRetireAfter
	}
	p.Steps = []PlanStep{{Kind: StepPrepare}}
	return p
}

func basisPoints(percent float64) int { return int(math.Round(percent * 100)) }

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
	return a.Absolute()
}

// Validate reports whether this build can run p: [Step] refuses any other.
func (p Plan) Validate() error {
	if p.Engine < 1 || p.Engine > Engine {
		return fmt.Errorf("%w: it was compiled by engine %d and this build knows 1 to %d: use the version of Sluice that compiled it, or a newer one", ErrPlan, p.Engine, Engine)
	}
	if p.Engine < p.needs() {
		return fmt.Errorf("%w: engine %d has not all that it uses (counts, safe actions and shadows came with 2, drives with 3, actions of single signals and replacing with 4)", ErrPlan, p.Engine)
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
		case StepDrive:
			if s.Weight <= weight || s.Weight > FullWeight {
				return fmt.Errorf("%w: step %d drives to %s after %s: weights must rise, to at most 100 %%", ErrPlan, i, percent(s.Weight), percent(weight))
			}
			weight = s.Weight
		case StepReplace:
			if s.Weight < weight || s.Weight > FullWeight {
				return fmt.Errorf("%w: step %d replaces to %s after %s: weights must not fall, nor be over 100 %%", ErrPlan, i, percent(s.Weight), percent(weight))
			}
			weight = s.Weight
		case StepBake:
			if s.Bake < 0 || weight == 0 && s.Shadow == 0 {
				return fmt.Errorf("%w: step %d bakes %s at %s", ErrPlan, i, s.Bake, percent(weight))
			}
			if s.Bake == 0 && s.Analysis {
				return fmt.Errorf("%w: step %d is judged but bakes for no time: give it a bake", ErrPlan, i)
			}
		case StepCheck, StepHold:
		default:
			return fmt.Errorf("%w: step %d is of the unknown kind %q", ErrPlan, i, s.Kind)
		}
		if s.Shadow < 0 || s.Shadow > FullWeight || s.Shadow > 0 && (s.Kind != StepBake || weight > 0) {
			return fmt.Errorf("%w: step %d copies %s of the requests: only a bake before any user does", ErrPlan, i, percent(s.Shadow))
		}
		if s.Weight != weight {
			return fmt.Errorf("%w: step %d says %s while the candidate has %s", ErrPlan, i, percent(s.Weight), percent(weight))
		}
	}
	for _, known := range []struct{ is, may string }{{p.OnFail, pipeline.Freeze + " " + pipeline.RollForward}, {p.OnDrift, pipeline.DriftHold}} {
		if known.is != "" && !slices.Contains(strings.Fields(known.may), known.is) {
			return fmt.Errorf("%w: %q is not one of %s", ErrPlan, known.is, known.may)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Actions)) {
		if !slices.Contains(actions, p.Actions[name]) {
			return fmt.Errorf("%w: what a fail of %.100q does is %.40q, none of %s", ErrPlan, name, p.Actions[name], strings.Join(actions, ", "))
		}
	}
	if err := p.validCounts(); err != nil {
		return err
	}
	if err := p.validDrive(); err != nil {
		return err
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
