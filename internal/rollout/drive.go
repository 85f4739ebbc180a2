package rollout

import (
	"fmt"
	"slices"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// Mover is a target that moves traffic by itself, of a driven plan.
type Mover struct {
	Name   string `json:"name"`             // for people: "ECS", "Argo Rollouts"
	Pauses bool   `json:"pauses,omitempty"` // it can be told weights at which it waits
	Final  string `json:"final,omitempty"`  // what it can't take back, for people; empty: nothing
}

// Driving is what a driven target says of the deployment that it was asked for.
// Its weight is the observation's.
type Driving struct {
	Known    bool   `json:"known,omitempty"`    // it has the deployment
	Step     string `json:"step,omitempty"`     // its own, in its own words
	Waiting  bool   `json:"waiting,omitempty"`  // it stands at a pause point, until it is led on
	Done     bool   `json:"done,omitempty"`     // it has moved all that it was to move
	Stopped  bool   `json:"stopped,omitempty"`  // it moves no more
	Reverted bool   `json:"reverted,omitempty"` // it has given all back to the previous release
}

// Ask is what a driven target is asked for by a state. Control keeps it with the
// promised effect.
type Ask struct {
	Kind EffectKind `json:"kind"`
	Key  int64      `json:"key,omitempty"`  // Drive: two starts with one key are one
	From int        `json:"from,omitempty"` // Continue: only if it waits at this weight
}

// Ask returns what is asked, once its generation is known.
func (s State) Ask() Ask { return Ask{Kind: s.Asked, Key: s.Key, From: s.From} }

// Followed reports whether what was asked is visible in o, so that it is not asked
// again. It is meant for an observation that was made after every call before it
// was answered, or could not land any more.
func (a Ask) Followed(o Observation) bool {
	d := o.Driving
	switch {
	case o.Hosts == 0 || o.Missing > 0:
		return false // unknown
	case a.Kind == Drive:
		return d.Known
	case a.Kind == Continue:
		// What was stopped, or is gone, is not led on: that it is, is drift.
		return !d.Known || !d.Waiting || d.Stopped || d.Reverted || o.MaxWeight != a.From
	case a.Kind == Stop:
		return !d.Known || d.Stopped || d.Done || d.Reverted
	case a.Kind == Revert:
		return !d.Known || d.Reverted
	}
	return false
}

// CompileDriven turns an environment's strategy into a plan for a target that
// moves traffic by itself. A stepped strategy needs one that waits at the plan's
// weights; each other is one drive to 100 %, judged all the while.
func CompileDriven(env pipeline.Environment, previous bool, by Mover) (Plan, error) {
	r := env.Rollout
	no := func(format string, args ...any) (Plan, error) {
		return Plan{}, fmt.Errorf("couldn't compile the rollout of %s: "+format, append([]any{env.Name}, args...)...)
	}
	switch {
	case by.Name == "":
		return no("nobody moves its traffic")
	case !slices.Contains(pipeline.Strategies, r.Strategy):
		return no("strategy %q is not known", r.Strategy)
	case r.Stepped() && len(r.Steps) == 0:
		return no("%s needs at least one step", r.Strategy)
	case r.Stepped() && !by.Pauses:
		return no("%s moves all traffic without waiting in between, so it can't do %s; the nearest is %s", by.Name, r.Strategy, pipeline.AllAtOnce)
	case env.Shadow != nil:
		return no("%s splits the traffic, and copies no requests: leave out shadow", by.Name)
	case len(env.Analysis.Actions()) > 0:
		return no("%s can't be left standing half-way, so that each failure takes it back: leave out onFail of metrics and alarms", by.Name)
	case r.OnFail != "":
		return no("%s can't be left standing half-way, so it can't do onFail %s; the nearest is %s", by.Name, r.OnFail, pipeline.GoBack)
	}
	p := newPlan(env)
	p.Strategy, p.Named, p.First = r.Strategy, r.Named, !previous
	p.Mover, p.OnDrift = by, pipeline.DriftHold // nobody but itself puts it back
	judged := len(env.Analysis.Metrics) > 0
	switch {
	case !previous:
		p.drive(FullWeight)
		if d := firstBake(r); d > 0 && judgesLimits(env.Analysis) {
			p.bake(d, BasisNone, true)
		}
	case r.Stepped():
		for _, c := range r.Steps {
			p.drive(basisPoints(c.Weight))
			p.bake(c.Bake, p.basis(), judged)
		}
		if p.weight() != FullWeight {
			p.drive(FullWeight)
		}
	default:
		p.drive(FullWeight)
		if r.Bake > 0 {
			p.bake(r.Bake, p.basis(), judged)
		}
	}
	p.end(env.Verify)
	p.Steps = hooked(p.Steps, env.Hooks)
	p.Engine = p.needs()
	if err := p.Validate(); err != nil {
		return no("%w", err)
	}
	return p, nil
}

// CompileDrivenRollback takes a completed release of a driven target back: a
// deployment of the previous one, in one drive.
func CompileDrivenRollback(env pipeline.Environment, by Mover) Plan {
	p := newPlan(env)
	p.Strategy, p.Mover, p.OnDrift = StrategyRollback, by, pipeline.DriftHold
	p.drive(FullWeight)
	p.end(env.Verify)
	p.Engine = p.needs()
	return p
}

func (p *Plan) drive(weight int) {
	p.Steps = append(p.Steps, PlanStep{Kind: StepDrive, Weight: weight})
}

// driven reports whether the target moves by itself.
func (p Plan) driven() bool {
	return p.Mover != Mover{} || slices.ContainsFunc(p.Steps, func(s PlanStep) bool { return s.Kind == StepDrive })
}

// validDrive refuses what Sluice can't do where another moves traffic.
func (p Plan) validDrive() error {
	if !p.driven() {
		return nil
	}
	if p.Mover.Name == "" || p.counted() || p.OnFail != "" || len(p.Actions) > 0 || p.OnDrift != pipeline.DriftHold {
		return fmt.Errorf("%w: a driven plan names its mover, counts no instances, goes back on a failure and holds on drift", ErrPlan)
	}
	drives := 0
	for i, s := range p.Steps {
		switch {
		case s.Kind == StepShift || s.Kind == StepReplace || s.Shadow > 0:
			return fmt.Errorf("%w: step %d (%s) would move what %s moves", ErrPlan, i, s.Kind, p.Mover.Name)
		case s.Kind == StepDrive:
			drives++
		}
	}
	if drives > 1 && !p.Mover.Pauses {
		return fmt.Errorf("%w: %s doesn't wait between %d drives", ErrPlan, p.Mover.Name, drives)
	}
	return nil
}

// ask wants something of a driven target. As with apply, nothing that was observed
// before can complete anything.
func (m *machine) ask(k EffectKind) {
	m.s.Applying, m.s.Asked = true, k
	m.effects = slices.DeleteFunc(m.effects, func(e Effect) bool { // the last word counts
		return e.Kind == Drive || e.Kind == Continue || e.Kind == Stop || e.Kind == Revert
	})
	m.effects = append(m.effects, Effect{Kind: k})
}

// lead lets the target go on to the present step's weight.
func (m *machine) lead(from int) {
	m.s.Capacity = true
	if m.s.Asked == "" {
		m.ask(Drive)
		return
	}
	m.s.From = from
	m.ask(Continue)
}

// there reports whether the target stands where the present step ends.
func (m *machine) there() bool {
	o := m.s.Seen
	if o.MaxWeight != m.s.Weight || !o.Driving.Known {
		return false
	}
	return o.Driving.Done || o.Driving.Waiting && m.s.Weight < FullWeight
}

// nudge leads the target on from a pause point that is not the plan's. It is told
// so once at each; what it doesn't follow is repeated by time, see again.
func (m *machine) nudge() {
	if at := m.s.Seen.MaxWeight; m.waits() && (m.s.Asked != Continue || m.s.From != at) {
		m.lead(at)
	}
}

// waits reports whether the target stands at a pause point below the present step.
func (m *machine) waits() bool {
	d := m.s.Seen.Driving
	return m.everywhere() && d.Known && d.Waiting && m.s.Seen.MaxWeight < m.s.Weight
}

// lags reports whether what was asked was answered and is not followed.
func (m *machine) lags() bool {
	if !m.plan.driven() {
		return m.differs()
	}
	return m.waits() || m.everywhere() && m.s.Asked == Drive && !m.s.Seen.Driving.Known
}

// again repeats what was asked and is not visible.
func (m *machine) again() {
	switch {
	case m.s.Phase == RollingBack && m.s.Asked != "", m.s.Asked == Drive && !m.s.Seen.Driving.Known:
		m.ask(m.s.Asked)
	case m.waits():
		m.lead(m.s.Seen.MaxWeight)
	}
}

// restores reports whether drift is being put back.
func (m *machine) restores() bool {
	return !m.plan.driven() && (m.plan.OnDrift == "" || m.s.Resumed)
}

// strays says in what the target is not where its plan lets it be, or nothing.
// That it is further than it may be is never too old to count.
func (m *machine) strays() string {
	s, o, d, name := &m.s, m.s.Seen, m.s.Seen.Driving, m.plan.Mover.Name
	switch {
	case o.Hosts == 0 || o.Missing > 0:
		return ""
	case o.MaxWeight > s.Weight:
		return fmt.Sprintf("%s gives the candidate %s where the plan allows %s", name, percent(o.MaxWeight), percent(s.Weight))
	case !m.fresh() || s.Asked == "":
		return ""
	case d.Reverted:
		return name + " has reverted it, which Sluice did not ask for"
	case d.Stopped:
		return name + " has stopped it, which Sluice did not ask for"
	case !d.Known && (s.Phase != Shifting || s.Asked != Drive):
		return name + " no longer knows the deployment"
	case s.Phase != Shifting && o.MaxWeight != s.Weight:
		return fmt.Sprintf("%s gives the candidate %s where it had %s", name, percent(o.MaxWeight), percent(s.Weight))
	}
	return ""
}

// causeDriven is what holds a driven rollout beside what holds any: also while it
// moves. Silence holds it, so that no timeout counts it: it is no verdict.
func (m *machine) causeDriven() (Cause, string) {
	s := &m.s
	if why := m.strays(); why != "" {
		return CauseDrift, why
	}
	if s.Held.Cause == CauseDrift && (!m.fresh() || s.Seen.Hosts == 0 || s.Seen.Missing > 0 || !s.Resumed) {
		return CauseDrift, s.Held.Reason // until a person has looked, and it is read right
	}
	if s.Seen.Missing > 0 {
		return CauseUnreachable, m.silent()
	}
	return "", ""
}

// turnBack begins the way back: first no user more, then all of them back. What
// stands still needs no stop.
func (m *machine) turnBack() {
	s, d := &m.s, m.s.Seen.Driving
	s.Weight = 0
	switch {
	case s.Asked == "": // it was never started
	case d.Known && (d.Done || d.Stopped || d.Reverted):
		s.Capacity = false
		m.ask(Revert)
	default:
		m.ask(Stop)
	}
}

// backDriven goes on with a rollback as far as the target was observed. A stop that
// is not followed in time doesn't keep from reverting.
func (m *machine) backDriven() {
	s := &m.s
	switch {
	case s.Asked == "":
		m.isBack()
	case s.Asked == Stop && (m.everywhere() && m.s.Ask().Followed(s.Seen) || s.Stuck.On):
		s.Capacity = false
		m.ask(Revert)
	case s.Asked == Revert && m.everywhere() && m.s.Ask().Followed(s.Seen) && s.Seen.MaxWeight == 0 && m.restored():
		m.isBack()
	}
}

func (m *machine) silent() string {
	out := "what " + m.plan.Mover.Name + " does is unknown"
	if m.s.Seen.Unreachable != "" {
		out += ": " + m.s.Seen.Unreachable
	}
	return out
}

// asked is the last wish in words.
func (m *machine) asked() string {
	switch m.s.Asked {
	case Drive:
		return "start"
	case Continue:
		return "go on"
	}
	return string(m.s.Asked)
}

// missingDriven says what is waited for.
func (m *machine) missingDriven() string {
	s, o, d, name := &m.s, m.s.Seen, m.s.Seen.Driving, m.plan.Mover.Name
	back := s.Phase == RollingBack
	switch {
	case o.Missing > 0:
		return m.silent()
	case s.Applying:
		return fmt.Sprintf("%s was not asked to %s yet", name, m.asked())
	case !m.fresh():
		return fmt.Sprintf("%s did not answer yet that it shall %s (generation %d)", name, m.asked(), s.Wanted)
	case o.Hosts == 0:
		return name + " was not read yet"
	case back && s.Asked == Stop:
		return fmt.Sprintf("%s has not stopped yet, at %s%s", name, percent(o.MaxWeight), d.says())
	case back && o.MaxWeight > 0:
		return fmt.Sprintf("%s still gives the candidate %s%s", name, percent(o.MaxWeight), d.says())
	case back && d.Known && !d.Reverted:
		return name + " has not finished reverting" + d.says()
	case back:
		return "the previous release is not ready"
	case m.strays() != "":
		return m.strays()
	case s.Asked == Drive && !d.Known:
		return name + " doesn't know the deployment, which is asked for again"
	case s.Phase == Shifting && m.waits():
		return fmt.Sprintf("%s waits at %s%s", name, percent(o.MaxWeight), d.says())
	case s.Phase == Shifting:
		return fmt.Sprintf("%s is at %s of %s%s", name, percent(o.MaxWeight), percent(s.Weight), d.says())
	case !o.CandidateReady && s.Phase == Preparing:
		return name + " can't take the release yet"
	case !o.CandidateReady:
		return "not all of the candidate is ready"
	case s.Phase == Finishing && !d.Done:
		return name + " has not finished" + d.says()
	}
	return "nothing is missing"
}

// says is the target's own step.
func (d Driving) says() string {
	if d.Step == "" {
		return ""
	}
	return " (it says: " + d.Step + ")"
}

// driving says what a drive step does.
func (m *machine) driving() string {
	return fmt.Sprintf("%s moves %s to the candidate by itself, to %s at most%s", m.plan.Mover.Name, m.users(), percent(m.step().Weight), m.s.Seen.Driving.says())
}

func (m *machine) begins() string {
	if !m.plan.driven() {
		return "the candidate is started beside the running release, without users"
	}
	out := m.plan.Mover.Name + " is made sure of, and then moves users by itself"
	if m.plan.Mover.Final != "" {
		out += "; it can't take back: " + m.plan.Mover.Final
	}
	return out
}

func (m *machine) abortDriven() string {
	name, out := m.plan.Mover.Name, ""
	switch {
	case m.s.Asked == "":
		return "ends it; " + name + " was not asked for anything"
	case m.plan.First:
		out = "stops " + name + " and reverts it, to nothing, as there is no previous release"
	default:
		out = "stops " + name + " and reverts all users to the previous release"
	}
	if m.plan.Mover.Final != "" {
		out += "; it can't take back: " + m.plan.Mover.Final
	}
	return out
}
