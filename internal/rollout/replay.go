package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/sluicehq/sluice/internal/verdict"
)

// ErrState reports a stored state that this build cannot go on from.
var ErrState = errors.New("rollout state can't be used")

// maxStateBytes bounds what [DecodeState] reads. States are below 4 KiB.
const maxStateBytes = 1 << 20

// upcaster turns a state of one version into one of the next.
type upcaster func(json.RawMessage) (json.RawMessage, error)

// upcasters by the version that they read. There is only one version so far.
var upcasters = map[int]upcaster{}

// DecodeState reads a state that this or an older version of Sluice wrote.
func DecodeState(b []byte) (State, error) {
	b, err := upcast(b, stateVersion, upcasters)
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("%w: couldn't read it: %w", ErrState, err)
	}
	return s, s.sane()
}

func upcast(b []byte, to int, ups map[int]upcaster) ([]byte, error) {
	if len(b) > maxStateBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrState, len(b), maxStateBytes)
	}
	v, err := version(b)
	if err != nil {
		return nil, err
	}
	if v > to {
		return nil, fmt.Errorf("%w: it has version %d and this build knows up to %d: a newer Sluice wrote it; run that one", ErrState, v, to)
	}
	for ; v < to; v++ {
		up, ok := ups[v]
		if !ok {
			return nil, fmt.Errorf("%w: version %d is no longer understood: upgrade through the release before", ErrState, v)
		}
		if b, err = up(b); err != nil {
			return nil, fmt.Errorf("%w: couldn't upcast version %d: %w", ErrState, v, err)
		}
		if got, err := version(b); err != nil || got != v+1 {
			return nil, fmt.Errorf("%w: the upcaster of version %d left version %d", ErrState, v, got)
		}
	}
	return b, nil
}

func version(b []byte) (int, error) {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return 0, fmt.Errorf("%w: couldn't read it: %w", ErrState, err)
	}
	if head.V < 1 {
		return 0, fmt.Errorf("%w: it names no version", ErrState)
	}
	return head.V, nil
}

// sane refuses what no [Step] has ever returned.
func (s State) sane() error {
	switch s.Phase {
	case Pending, Preparing, Checking, Shifting, Baking, Finishing, Succeeded,
		RollingBack, RolledBack, RollbackFailed, Cancelled, Superseded:
	default:
		return fmt.Errorf("%w: unknown phase %.40q", ErrState, s.Phase)
	}
	switch s.Verdict {
	case "", verdict.Pass, verdict.Fail, verdict.Inconclusive, verdict.NoData:
	default:
		return fmt.Errorf("%w: unknown verdict %.40q", ErrState, s.Verdict)
	}
	switch s.Held.Cause {
	case "", CauseDrift, CauseFrozen, CauseUnreachable, CauseNoData, CauseInconclusive, CausePlan:
	default:
		return fmt.Errorf("%w: unknown cause %.40q", ErrState, s.Held.Cause)
	}
	switch s.Asked {
	case "", Drive, Continue, Stop, Revert:
	default:
		return fmt.Errorf("%w: unknown wish %.40q", ErrState, s.Asked)
	}
	switch {
	case s.Step < 0, s.Key < 0, s.From < 0, s.Weight < 0, s.Weight > FullWeight, s.Extended < 0,
		s.Run < 0, s.Keep < 0, s.Moved < 0, s.InPhase < 0, s.InAction < 0, s.Back < 0, s.HeldFor < 0:
		return fmt.Errorf("%w: a number is out of range", ErrState)
	case s.Weight > 0 && !s.Exposed:
		return fmt.Errorf("%w: %s without exposure", ErrState, percent(s.Weight))
	case s.Held.On != (s.Held.Cause != ""):
		return fmt.Errorf("%w: a hold needs a cause", ErrState)
	}
	return nil
}

// check refuses a state that does not belong to the plan.
func (s State) check(plan Plan) error {
	if s.V != stateVersion {
		return fmt.Errorf("%w: version %d: read stored states with DecodeState", ErrState, s.V)
	}
	if err := s.sane(); err != nil {
		return err
	}
	if s.Step >= len(plan.Steps) {
		return fmt.Errorf("%w: it is at step %d of a plan with %d", ErrState, s.Step, len(plan.Steps))
	}
	if s.Weight > plan.Steps[s.Step].Weight {
		return fmt.Errorf("%w: %s at a step of %s", ErrState, percent(s.Weight), percent(plan.Steps[s.Step].Weight))
	}
	if n := plan.total(); s.Run > n || s.Keep > n || s.Moved > n {
		return fmt.Errorf("%w: %d, %d and %d of %d instances", ErrState, s.Run, s.Keep, s.Moved, n)
	}
	want := Phase("")
	switch plan.Steps[s.Step].Kind {
	case StepPrepare:
		want = Preparing
	case StepShift, StepReplace, StepDrive:
		want = Shifting
	case StepBake, StepHold:
		want = Baking
	case StepCheck:
		want = Checking
	case StepRetire:
		want = Finishing
	}
	switch s.Phase {
	case Preparing, Shifting, Baking, Checking, Finishing:
		if s.Phase != want {
			return fmt.Errorf("%w: %s at a step of kind %s", ErrState, s.Phase, plan.Steps[s.Step].Kind)
		}
	}
	return nil
}

// Replay rebuilds the state from the recorded events. An event that was refused
// was never recorded, so that any error means that plan and events don't match.
func Replay(plan Plan, events []Event) (State, error) {
	s := New(plan)
	for i, e := range events {
		var err error
		if s, _, err = Step(plan, s, e); err != nil {
			return s, fmt.Errorf("couldn't replay event %d (%s): %w", i, e.name(), err)
		}
	}
	return s, nil
}

// Merge joins two events that follow each other directly: ticks add up, and what
// was seen again is seen once. A log may replace its last event by the merged one
// only if that event was [Quiet] when it was stepped; a tick that ended a bake
// and the one after it are not their sum, and would replay to another state.
func Merge(a, b Event) (Event, bool) {
	if a.check() != nil || b.check() != nil {
		return Event{}, false
	}
	switch {
	case a.Tick != nil && b.Tick != nil:
		if b.Tick.Elapsed > math.MaxInt64-a.Tick.Elapsed {
			return Event{}, false
		}
		return Event{Tick: &Tick{Elapsed: a.Tick.Elapsed + b.Tick.Elapsed}}, true
	case a.Seen != nil && b.Seen != nil && *a.Seen == *b.Seen:
		return a, true
	}
	return Event{}, false
}

// Quiet reports whether e changed nothing but counters and what was seen last.
func Quiet(before, after State, e Event, effects []Effect) bool {
	return len(effects) == 0 && len(Facts(before, after, e)) == 0
}
