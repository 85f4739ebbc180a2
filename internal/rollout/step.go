package rollout

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sluicehq/sluice/internal/verdict"
)

// stateVersion is the encoding that this build writes; see [DecodeState].
const stateVersion = 1

// repeatEvery is how often a wish that the target doesn't follow is repeated.
const repeatEvery = 30 * time.Second

// ErrTransition reports an event that cannot happen in that state. It is a
// mistake of the caller; the state is unchanged.
var ErrTransition = errors.New("no such transition")

// ErrRefused reports a command that is not allowed now. The message says why and
// what can be done instead; the state is unchanged.
var ErrRefused = errors.New("refused")

// New returns the state of a rollout that waits for its [Start].
func New(plan Plan) State {
	return State{V: stateVersion, Phase: Pending, Old: !plan.First}
}

// Step decides what follows when e happens to s. It walks as many steps of the
// plan as need no waiting. The effects are to be carried out after the new state
// was committed. On an error the state is returned as it was.
func Step(plan Plan, s State, e Event) (State, []Effect, error) {
	if err := plan.Validate(); err != nil {
		return s, nil, err
	}
	if err := s.check(plan); err != nil {
		return s, nil, err
	}
	if err := e.check(); err != nil {
		return s, nil, fmt.Errorf("%w: %s in %s: %w", ErrTransition, e.name(), s.Phase, err)
	}
	if s.Phase.Terminal() {
		switch {
		case e.Command != nil:
			return s, nil, fmt.Errorf("%w: the rollout has ended (%s), so %s has nothing to act on", ErrRefused, s.Phase, e.Command.Kind)
		case e.Start != nil:
			return s, nil, fmt.Errorf("%w: %s in %s", ErrTransition, e.name(), s.Phase)
		default: // a late report changes nothing
			return s, nil, nil
		}
	}
	m := &machine{plan: plan, s: s}
	var err error
	switch {
	case e.Start != nil:
		err = m.start()
	case e.Applied != nil:
		err = m.applied(*e.Applied)
	case e.Tick != nil:
		err = m.tick(e.Tick.Elapsed)
	case e.Seen != nil:
		m.seen(*e.Seen)
	case e.Judged != nil:
		err = m.judged(*e.Judged)
	case e.Checked != nil:
		m.checked(*e.Checked)
	case e.Command != nil:
		err = m.command(*e.Command)
	}
	if err != nil {
		return s, nil, err
	}
	m.settle()
	return m.s, m.effects, nil
}

// machine is one decision in progress.
type machine struct {
	plan    Plan
	s       State
	effects []Effect
}

func (m *machine) step() PlanStep { return m.plan.Steps[m.s.Step] }

// apply asks for the target to be brought to the state. Whatever was observed
// before is from then on too old to complete anything.
func (m *machine) apply() {
	m.s.Applying = true
	for _, e := range m.effects {
		if e.Kind == Apply {
			return
		}
	}
	m.effects = append(m.effects, Effect{Kind: Apply})
}

func (m *machine) alarm(reason string) {
	m.effects = append(m.effects, Effect{Kind: Alarm, Reason: reason})
}

func (m *machine) unlisted(event string) error {
	return fmt.Errorf("%w: %s in %s (step %d, %s)", ErrTransition, event, m.s.Phase, m.s.Step, m.step().Kind)
}

func (m *machine) start() error {
	if m.s.Phase != Pending {
		return m.unlisted("start")
	}
	m.enter(0)
	return nil
}

func (m *machine) applied(a Applied) error {
	if m.s.Phase == Pending {
		return m.unlisted("applied")
	}
	if a.Generation < m.s.Wanted {
		return fmt.Errorf("%w: generation %d was applied after %d: another worker has taken over", ErrTransition, a.Generation, m.s.Wanted)
	}
	m.s.Wanted, m.s.Applying = a.Generation, false
	if m.s.Asked == Drive && m.s.Key == 0 {
		m.s.Key = a.Generation
	}
	return nil
}

func (m *machine) tick(d time.Duration) error {
	s := &m.s
	switch s.Phase {
	case Pending:
	case RollingBack:
		before := s.Back
		s.Back = add(s.Back, d)
		if s.Back >= m.plan.RollbackTimeout && !s.Stuck.On {
			s.Stuck = Flag{On: true, Reason: fmt.Sprintf("not back after %s: %s", s.Back, m.missingForBack())}
			m.alarm("rollback is stuck: " + s.Stuck.Reason)
		}
		m.repeat(before, s.Back)
	case Preparing, Checking, Shifting, Baking, Finishing:
		switch {
		case s.Held.On:
			before := s.HeldFor
			s.HeldFor = add(s.HeldFor, d)
			if s.Held.Cause == CauseDrift && m.restores() {
				m.repeat(before, s.HeldFor)
			}
		case s.Paused.On:
		case s.Phase == Baking:
			s.InPhase = add(s.InPhase, d)
		default:
			before := s.InPhase
			s.InPhase, s.InAction = add(s.InPhase, d), add(s.InAction, d)
			if s.InAction >= m.plan.Timeout {
				m.fail(fmt.Sprintf("%s took longer than the timeout of %s: %s", s.Phase, m.plan.Timeout, m.missingForStep()))
				return nil
			}
			if s.Phase == Shifting && m.lags() {
				m.repeat(before, s.InPhase)
			}
		}
	default:
		return m.unlisted("tick")
	}
	return nil
}

// repeat asks again for what is wanted each time that an accumulated duration
// passes a multiple of repeatEvery.
func (m *machine) repeat(before, after time.Duration) {
	switch {
	case before/repeatEvery == after/repeatEvery:
	case m.plan.driven():
		m.again()
	default:
		m.apply()
	}
}

func (m *machine) seen(o Observation) {
	m.s.Seen = o
	if o.Failed == "" || m.s.Phase == Pending || m.s.Phase == RollingBack {
		return
	}
	if m.s.Exposed {
		m.fail("the candidate can't run: " + o.Failed)
	} else {
		m.fail("the candidate can't run: " + o.Failed + " (no user was exposed)")
	}
}

func (m *machine) judged(j Judged) error {
	s := &m.s
	switch {
	case s.Phase == RollingBack: // late: it can't get worse
	case !s.Judged():
		return m.unlisted("judged " + string(j.Verdict))
	case j.Verdict == verdict.Fail: // whatever bake it came from
		m.failed(j)
	case s.Phase != Baking || m.step().Kind != StepBake:
	case j.Step != 0 && j.Step != s.Step: // evidence of another step carries none
	default:
		s.Verdict, s.Sentence, s.Failing = j.Verdict, j.Sentence, ""
	}
	return nil
}

func (m *machine) checked(c Checked) {
	if m.s.Phase != Checking || c.Step != m.s.Step {
		return
	}
	if !c.OK {
		m.fail("a check was not answered as it must be: " + c.Reason)
		return
	}
	m.s.CheckOK = true
}

// add never overflows: a sum too large stays at the largest.
func add(a, b time.Duration) time.Duration {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

func (e Event) name() string {
	switch {
	case e.Start != nil:
		return "start"
	case e.Applied != nil:
		return "applied"
	case e.Tick != nil:
		return "tick"
	case e.Seen != nil:
		return "seen"
	case e.Judged != nil:
		return "judged " + string(e.Judged.Verdict)
	case e.Checked != nil:
		return "checked"
	case e.Command != nil:
		return string(e.Command.Kind)
	}
	return "no event"
}

// check refuses what no caller can mean.
func (e Event) check() error {
	n := 0
	for _, set := range []bool{e.Start != nil, e.Applied != nil, e.Tick != nil, e.Seen != nil, e.Judged != nil, e.Checked != nil, e.Command != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("an event has exactly one field, not %d", n)
	}
	switch {
	case e.Tick != nil && e.Tick.Elapsed < 0:
		return fmt.Errorf("time passed backwards (%s)", e.Tick.Elapsed)
	case e.Seen != nil:
		o := e.Seen
		if o.Hosts < 0 || o.Missing < 0 || o.MinWeight < 0 || o.MaxWeight > FullWeight || o.MinWeight > o.MaxWeight {
			return fmt.Errorf("impossible observation: %d hosts, %d missing, weights %d to %d", o.Hosts, o.Missing, o.MinWeight, o.MaxWeight)
		}
	case e.Judged != nil:
		switch e.Judged.Verdict {
		case "", verdict.Pass, verdict.Fail, verdict.Inconclusive, verdict.NoData:
		default:
			return fmt.Errorf("unknown verdict %.40q", e.Judged.Verdict)
		}
	}
	return nil
}
