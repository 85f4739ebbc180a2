package rollout

import (
	"fmt"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

func (m *machine) command(c Command) error {
	switch c.Kind {
	case Pause:
		return m.pause(c)
	case Resume:
		return m.resume()
	case Advance:
		return m.advance(c)
	case Abort:
		m.abort(c)
		return nil
	case GiveUp:
		return m.giveUp(c)
	case Supersede:
		if m.s.Phase != Pending && !m.mayBeSuperseded() {
			return refused("it has already started (%s): abort it instead", m.s.Phase)
		}
		if m.s.Phase == Pending && m.plan.Replaces {
			return refused("it took the place of a release that failed and still has users: abort it, which gives them back")
		}
		if m.s.Frozen != "" && c.Reason == "" {
			c.Reason = "the next release took its place, as it failed: " + m.s.Frozen
		}
		m.s.Phase, m.s.Reason, m.s.By = Superseded, c.Reason, c.By
		m.s.Paused, m.s.Held, m.s.HeldFor = Flag{}, Flag{}, 0
		if c.Reason == "" {
			m.s.Reason = "a newer release took its place"
		}
		return nil
	}
	return m.unlisted(fmt.Sprintf("command %.40q", c.Kind))
}

func (m *machine) pause(c Command) error {
	s := &m.s
	switch {
	case s.Phase == Pending:
		return refused("it has not started, so there is nothing to pause: abort cancels it")
	case s.Phase == RollingBack:
		return refused("it is rolling back (%s), and that is never paused", s.Reason)
	case s.Paused.On:
		return refused("it is already paused%s", by(s.Paused))
	}
	s.Paused = Flag{On: true, Reason: c.Reason, By: c.By}
	return nil
}

func (m *machine) resume() error {
	s := &m.s
	switch {
	case s.Paused.On:
		if s.Paused.By == release.System && s.Frozen == "" { // it was for a failure that only pauses
			m.waive()
		}
		s.Paused = Flag{}
		return nil
	case s.Held.Cause == CauseDrift: // put it back, also again
		s.Resumed = true
		if !m.plan.driven() { // which nobody but itself puts back
			m.apply()
		}
		return nil
	case s.Held.On:
		return refused("it is not paused but held: %s. %s", s.Held.Reason, m.wayOut())
	}
	return refused("it is not paused")
}

// advance leaves a bake or a hold before its time, on a pass or on a person's
// word. It never makes a verdict.
func (m *machine) advance(c Command) error {
	s := &m.s
	switch {
	case s.Phase == RollingBack:
		return refused("it is rolling back (%s): abort beats advance", s.Reason)
	case s.Paused.On:
		return refused("it is paused%s: resume it first", by(s.Paused))
	case s.Held.Cause == CauseDrift:
		if m.plan.driven() {
			return refused("it is held: %s. Nothing is built on a wrong weight: abort reverts it, or resume it once %s is as it was", s.Held.Reason, m.plan.Mover.Name)
		}
		if m.plan.OnDrift == pipeline.DriftHold && !s.Resumed {
			return refused("it is held: %s. Nothing is built on it: resume puts it back, abort goes back", s.Held.Reason)
		}
		return refused("it is held: %s. The weight is being put back and nothing is built on a wrong one: wait, or abort", s.Held.Reason)
	case s.Held.Cause == CauseUnreachable && m.plan.driven():
		return refused("it is held: %s. It is led on from where it was read only: wait, or abort", s.Held.Reason)
	case s.Frozen != "" && (!c.Override || c.Reason == ""):
		return refused("it is frozen: %s. Only abort, or advance --override --reason TEXT, moves it", s.Frozen)
	case s.Frozen != "" && s.Phase != Baking:
		m.thaw() // the step is tried again, as far as it is not done
		return nil
	case s.Phase != Baking && m.lame():
		if !c.Override || c.Reason == "" {
			return refused("it waits for the previous release, which may be what it mends (%s): advance --override --reason TEXT goes on without them", m.missing())
		}
		s.Lame = true
		return nil
	case s.Phase != Baking:
		return refused("it is %s and goes on by itself (%s): wait, pause or abort", s.Phase, m.missing())
	case c.Override && c.Reason == "":
		return refused("an override is kept as evidence and needs a reason: advance --override --reason TEXT")
	}
	if s.Frozen != "" {
		m.thaw()
	}
	if !c.Override && !m.mayAdvance(c.Full) {
		if s.Held.On {
			return refused("it is held: %s. %s", s.Held.Reason, m.wayOut())
		}
		return refused("the judge has not passed this step yet: %s. Wait for the bake to end, or advance --override --reason TEXT", m.said())
	}
	to := s.Step + 1
	switch {
	case c.Full && m.plan.counted():
		s.Hurry = true // instances can't be skipped
	case c.Full:
		to = max(to, m.lastShift())
	}
	if lame := m.lame(); lame && c.Override {
		s.Lame = true
	} else if !m.mayReplace(to) {
		way := "wait, or abort"
		if lame {
			way = "wait, advance --override --reason TEXT, or abort"
		}
		return refused("%s: no more instances are replaced until that is mended; %s", m.missingForStep(), way)
	}
	m.enter(to)
	return nil
}

// thaw takes a person's word that a failure is none. What the hosts say is theirs
// to take back: a candidate that is read once more as one that can't run freezes it
// again, where only a change of what was seen would come to be told.
func (m *machine) thaw() {
	s := &m.s
	m.waive()
	s.Frozen, s.InAction, s.Seen.Failed = "", 0, ""
	s.Held, s.HeldFor = Flag{}, 0
	s.CheckOK = s.CheckOK || s.Phase == Checking
}

// mayBeSuperseded reports whether the next release may take the place of this one
// although it was exposed: it failed, and is to be mended by going forward.
func (m *machine) mayBeSuperseded() bool {
	return m.s.Frozen != "" && m.plan.OnFail == pipeline.RollForward && m.s.Phase != RollingBack
}

// mayAdvance reports whether no override is needed.
func (m *machine) mayAdvance(full bool) bool {
	switch m.s.Held.Cause {
	case "":
		return !m.step().Analysis || m.s.Verdict == verdict.Pass
	case CausePlan: // its own person is here; the bakes that full skips need the last one's pass
		return !full || m.s.Verdict == verdict.Pass
	}
	return false
}

func (m *machine) lastShift() int {
	for i := len(m.plan.Steps) - 1; i > 0; i-- {
		if k := m.plan.Steps[i].Kind; k == StepShift || k == StepDrive {
			return i
		}
	}
	return 0
}

func (m *machine) abort(c Command) {
	s := &m.s
	if s.Phase == RollingBack {
		return // it already does what is asked
	}
	reason := "aborted by " + string(c.By)
	if c.Reason != "" {
		reason += ": " + c.Reason
	}
	s.Aborted, s.By = true, c.By
	if s.Phase == Pending && !m.plan.Replaces {
		s.Phase, s.Reason = Cancelled, reason
		return
	}
	m.goBack(reason, false)
}

func (m *machine) giveUp(c Command) error {
	s := &m.s
	switch {
	case s.Phase != RollingBack:
		return refused("only a stuck rollback can be given up; this rollout is %s: abort it first", s.Phase)
	case !s.Stuck.On:
		return refused("the rollback is not stuck: it has gone on for %s of %s", s.Back, m.plan.RollbackTimeout)
	case c.Reason == "":
		return refused("giving up leaves the target as it is, and needs a reason: give-up --reason TEXT")
	}
	s.Phase, s.Rollback = RollbackFailed, RollbackGivenUp
	s.By = c.By
	s.Reason += "; rollback given up by " + string(c.By) + ": " + c.Reason
	return nil
}

// said is what the judge answered last about this bake.
func (m *machine) said() string {
	switch {
	case m.s.Sentence != "":
		return m.s.Sentence
	case m.s.Verdict != "":
		return string(m.s.Verdict)
	}
	return "no verdict yet"
}

func (m *machine) missing() string {
	if m.s.Phase == Pending {
		return "it waits for its turn"
	}
	return m.missingForStep()
}

// wayOut is what a person can do about the present hold.
func (m *machine) wayOut() string {
	switch m.s.Held.Cause {
	case CauseDrift:
		if m.plan.driven() {
			return "Abort reverts it"
		}
		return "It goes on when the router is read back right; or abort"
	case CauseFrozen:
		return "Abort goes back; advance --override --reason TEXT goes on"
	case CauseUnreachable:
		if m.plan.driven() {
			return "It goes on when " + m.plan.Mover.Name + " answers; or abort"
		}
		if m.misplaced() {
			return "It goes on when each host says an address of its own; or abort"
		}
		return "It goes on when the host is back; or advance --override --reason TEXT, or abort"
	case CausePlan:
		return "Advance it, or abort"
	}
	return "It goes on when the judge passes it; or advance --override --reason TEXT, or abort"
}

func by(f Flag) string {
	out := ""
	if f.By != "" {
		out = " by " + string(f.By)
	}
	if f.Reason != "" {
		out += " (" + f.Reason + ")"
	}
	return out
}
