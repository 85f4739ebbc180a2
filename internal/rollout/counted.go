package rollout

import (
	"fmt"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// A counted plan moves instances, not only weights: it says how many of them, over
// all hosts of the target, run the candidate (Run) and the previous release
// (Keep), and how many of the target's places have given their traffic to the
// candidate (Moved). Hosts are filled one after the other in sorted order, so
// that three numbers say what each host does.

// counted reports whether the plan moves instances.
func (p Plan) counted() bool { return p.Instances > 0 }

// total is how many instances the target runs.
func (p Plan) total() int { return p.Hosts * p.Instances }

// Share is what one host shall run of a rollout's two releases.
type Share struct {
	Candidate int // instances
	Old       int
	Weight    int // of the candidate, basis points
}

// Shares returns what each host shall run, in the sorted order of their names.
// It is nil where every host takes the plan's weight and all its instances.
func (p Plan) Shares(s State) []Share {
	if !p.counted() {
		return nil
	}
	return p.spread(s.Run, s.Keep, s.Moved)
}

func (p Plan) spread(run, keep, moved int) []Share {
	out := make([]Share, p.Hosts)
	at := func(n, i int) int { return max(0, min(n-i*p.Instances, p.Instances)) }
	for i := range out {
		x := Share{Candidate: at(run, i), Old: p.Instances - at(p.total()-keep, i)}
		switch {
		case x.Candidate == 0:
		case p.Worker:
			x.Weight = x.Candidate * FullWeight / (x.Candidate + x.Old)
		case x.Old == 0:
			x.Weight = FullWeight // nobody else is there
		default:
			x.Weight = ceil(at(moved, i)*FullWeight, p.Instances) // a raise is never lost in rounding
		}
		out[i] = x
	}
	return out
}

// weigh is the candidate's overall weight: the mean over hosts, as users reach
// all of them alike. A worker's is its share of the instances.
func (p Plan) weigh(run, keep, moved int) int {
	if p.Worker {
		return run * FullWeight / max(1, run+keep)
	}
	sum := 0
	for _, x := range p.spread(run, keep, moved) {
		sum += x.Weight
	}
	return ceil(sum, p.Hosts)
}

func ceil(a, b int) int { return (a + b - 1) / b }

// count makes the plan a counted one.
func (p *Plan) count(t pipeline.Target) {
	p.Hosts, p.Instances, p.Worker = max(1, len(t.Hosts)), max(1, t.Instances), t.Worker()
	first := &p.Steps[0]
	first.Keep = p.total()
	if p.First {
		first.Keep = 0
	}
}

// replace adds a step that brings the target to these counts.
func (p *Plan) replace(run, keep, moved int) {
	p.Steps = append(p.Steps, PlanStep{Kind: StepReplace, Weight: p.weigh(run, keep, moved), Run: run, Keep: keep, Moved: moved})
}

// begins reports whether a replacement still waits for the traffic of its
// instances to follow: another one ends it.
func (s PlanStep) begins() bool { return s.Kind == StepReplace && s.Moved < s.Run }

// batches are the steps of a rolling replacement. With an additional batch the
// new instances are ready before the old ones go; else the old ones go first.
// In both cases users follow once the new ones are ready.
func (p *Plan) batches(b pipeline.Batches, bake func()) {
	n := p.total()
	size := max(1, b.Size(n))
	for done := 0; done < n; {
		next := min(done+size, n)
		keep := n - next
		if b.Additional {
			keep = n - done
		}
		if done == 0 && b.Additional && !p.Worker {
			p.Steps[0].Run = next // preparing is the first half of the first batch
		} else {
			p.replace(next, keep, done)
		}
		p.replace(next, n-next, next)
		bake()
		done = next
	}
}

// validCounts refuses counts that the target does not have, or that leave a plan
// with less than it says.
func (p Plan) validCounts() error {
	n := p.total()
	if p.Instances < 0 || p.Hosts < 0 || p.counted() && (p.Hosts == 0 || p.Hosts > 1000 || p.Instances > 1000) || !p.counted() && (p.Hosts > 0 || p.Worker) {
		return fmt.Errorf("%w: %d instances on each of %d hosts", ErrPlan, p.Instances, p.Hosts)
	}
	var last PlanStep
	for i, s := range p.Steps {
		switch {
		case !p.counted() || !s.places():
			if s.Run != 0 || s.Keep != 0 || s.Moved != 0 || s.Kind == StepReplace {
				return fmt.Errorf("%w: step %d (%s) counts instances", ErrPlan, i, s.Kind)
			}
			continue
		case s.Run < last.Run || s.Run > n || s.Keep < 0 || s.Keep > n || s.Moved < last.Moved || s.Moved > s.Run || i > 0 && s.Keep > last.Keep:
			return fmt.Errorf("%w: step %d runs %d of %d instances, keeps %d and moved %d", ErrPlan, i, s.Run, n, s.Keep, s.Moved)
		case s.Weight != p.weigh(s.Run, s.Keep, s.Moved):
			return fmt.Errorf("%w: step %d says %s, and its instances give %s", ErrPlan, i, percent(s.Weight), percent(p.weigh(s.Run, s.Keep, s.Moved)))
		}
		last = s
	}
	if p.counted() && last.Run != n {
		return fmt.Errorf("%w: it ends with %d of %d instances", ErrPlan, last.Run, n)
	}
	return nil
}

// places reports whether a step says where instances are.
func (s PlanStep) places() bool {
	return s.Kind == StepPrepare || s.Kind == StepShift || s.Kind == StepReplace
}
