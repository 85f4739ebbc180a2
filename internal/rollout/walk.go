package rollout

import (
	"fmt"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/verdict"
)

// settle walks until something has to be waited for.
func (m *machine) settle() {
	for {
		switch m.s.Phase {
		case RollingBack:
			m.back()
			return
		case Preparing, Checking, Shifting, Baking, Finishing:
		default: // pending, or at an end
			return
		}
		m.hold()
		if m.s.Paused.On || m.s.Held.On || !m.next() {
			return
		}
	}
}

// enter begins step i.
func (m *machine) enter(i int) {
	s := &m.s
	s.Step, s.InPhase = i, 0
	s.Held, s.HeldFor, s.Resumed = Flag{}, 0, false
	p := m.step()
	copies := s.Shadow != p.Shadow
	s.Shadow = p.Shadow
	switch p.Kind {
	case StepPrepare:
		s.Phase, s.Capacity, s.Old = Preparing, true, !m.plan.First
		if m.plan.driven() { // nothing runs before it exposes: see lead
			s.Capacity = false
		} else {
			m.place(p)
		}
	case StepShift, StepReplace:
		s.Phase, s.Weight, s.Exposed = Shifting, p.Weight, s.Exposed || p.Weight > 0
		m.place(p)
	case StepDrive:
		from := s.Weight
		s.Phase, s.Weight, s.Exposed = Shifting, p.Weight, true
		m.lead(from)
	case StepBake:
		s.Phase = Baking
		s.Verdict, s.Sentence, s.Failing, s.Extended = "", "", "", 0
	case StepHold:
		s.Phase = Baking
	case StepCheck:
		s.Phase, s.CheckOK = Checking, false
		m.effects = append(m.effects, Effect{Kind: Check})
	case StepRetire:
		s.Phase = Finishing
	}
	if copies {
		m.apply()
	}
}

// place wants the instances of a step.
func (m *machine) place(p PlanStep) {
	m.s.Run, m.s.Keep, m.s.Moved = p.Run, p.Keep, p.Moved
	m.s.Taken = m.s.Taken || m.plan.counted() && !m.plan.First && p.Keep < m.plan.total()
	m.apply()
}

// next takes the step after the present one if that is done, and reports whether
// it did. Whatever the step waits for, the next one is built only on routers that
// were all read to be as wanted.
func (m *machine) next() bool {
	s := &m.s
	done := false
	switch p := m.step(); p.Kind {
	case StepPrepare:
		done = s.Seen.CandidateReady
	case StepShift:
		done = !m.plan.counted() || s.Seen.CandidateReady && m.keeps()
	case StepReplace:
		done = s.Seen.CandidateReady && m.keeps()
	case StepDrive:
		if done = m.there(); !done {
			m.nudge()
		}
	case StepCheck:
		done = s.CheckOK
	case StepHold: // left by a person's advance only
		done = s.Hurry
	case StepBake:
		switch {
		case s.Hurry:
			done = true
		case s.InPhase < p.Bake:
		case !p.Analysis || s.Verdict == verdict.Pass:
			done = true
		default: // hold has found that it may be extended
			s.InPhase = 0
			s.Extended++
			if s.Verdict != verdict.Inconclusive {
				m.alarm("nothing was judged in a whole bake, which is extended: " + m.said())
			}
		}
	case StepRetire:
		if m.agreed() && s.Seen.CandidateReady && (!m.plan.driven() || s.Seen.Driving.Done) {
			s.Phase = Succeeded
		}
		return false
	}
	if !done || !m.agreed() || !m.mayReplace(s.Step+1) {
		return false
	}
	m.enter(s.Step + 1)
	return true
}

// keeps reports whether the previous release has the instances that it is to keep, as
// far as a person doesn't go on without them.
func (m *machine) keeps() bool { return m.s.Seen.OldReady || m.s.Lame }

// mayReplace reports whether step i may be taken as far as instances go: none are
// let go while others are missing.
func (m *machine) mayReplace(i int) bool {
	return !m.plan.counted() || !m.plan.Steps[i].places() || m.agreed() && m.s.Seen.CandidateReady && m.keeps()
}

// lame reports whether all that is waited for are instances of the previous release:
// a broken one would hold up its own fix, so that a person may go on without them.
func (m *machine) lame() bool {
	return m.plan.counted() && m.s.Phase != Checking && m.s.Phase != Finishing && m.agreed() && m.s.Seen.CandidateReady && !m.keeps()
}

// fresh reports whether the last observation is of what is wanted now.
func (m *machine) fresh() bool {
	return !m.s.Applying && m.s.Seen.Generation >= m.s.Wanted
}

// everywhere reports whether every wanted host has told of what is wanted now.
func (m *machine) everywhere() bool {
	return m.fresh() && m.s.Seen.Hosts > 0 && m.s.Seen.Missing == 0
}

// agreed reports whether every wanted host was read to be at the wanted weight.
func (m *machine) agreed() bool { return m.everywhere() && !m.differs() }

// misplaced reports whether checks wait for a host to say where it answers: that is no
// trouble of the release, so neither a timeout nor a verdict comes of it.
func (m *machine) misplaced() bool {
	return m.s.Phase == Checking && !m.s.CheckOK && m.s.Seen.Misplaced != ""
}

// differs reports whether a host was read to have another weight than the one
// wanted of it now, or to run something else.
func (m *machine) differs() bool {
	o := m.s.Seen
	if m.plan.driven() {
		return m.strays() != ""
	}
	return m.fresh() && o.Hosts > 0 && (o.Off != "" || m.reroutes())
}

// reroutes reports whether a host's weight is not the one that all have; those of a
// counted plan have one each.
func (m *machine) reroutes() bool {
	return !m.plan.counted() && (m.s.Seen.MinWeight != m.s.Weight || m.s.Seen.MaxWeight != m.s.Weight)
}

// hold sets or lifts the hold. It is derived anew at each event, so that a hold
// lifts by itself when its cause is gone, and the next cause shows.
func (m *machine) hold() {
	s := &m.s
	cause, reason := m.cause()
	if cause == s.Held.Cause && (!m.misplaced() || reason == s.Held.Reason) {
		return // the reason stays the one that it was held for
	}
	s.Held, s.HeldFor, s.Resumed = Flag{}, 0, false
	if cause == "" {
		return
	}
	s.Held = Flag{On: true, Cause: cause, Reason: reason}
	if cause == CauseDrift && m.plan.OnDrift == "" {
		m.apply() // put it back to what was recorded
	}
	if cause != CausePlan && cause != CauseFrozen { // fail has told
		m.alarm("held: " + reason)
	}
}

func (m *machine) cause() (Cause, string) {
	s := &m.s
	if m.plan.driven() {
		if cause, reason := m.causeDriven(); cause != "" {
			return cause, reason
		}
	}
	if s.Phase != Shifting {
		if m.differs() {
			return CauseDrift, m.drifted() + ": somebody else changed it"
		}
		if s.Held.Cause == CauseDrift && (!m.fresh() || m.plan.OnDrift == pipeline.DriftHold && !s.Resumed) {
			return CauseDrift, s.Held.Reason // until the router is read back right
		}
	}
	if s.Frozen != "" {
		return CauseFrozen, s.Frozen
	}
	if s.Seen.Missing > 0 && (s.Phase == Baking || s.Phase == Finishing) {
		return CauseUnreachable, unreachable(s.Seen)
	}
	if m.misplaced() {
		return CauseUnreachable, s.Seen.Misplaced
	}
	p := m.step()
	switch {
	case s.Hurry:
		return "", ""
	case p.Kind == StepHold:
		return CausePlan, "the plan wants a person's advance here"
	case p.Kind != StepBake || s.InPhase < p.Bake || !p.Analysis || s.Verdict == verdict.Pass:
		return "", ""
	}
	cause, on, said := CauseNoData, m.plan.OnNoData, "the bake ended without data to judge"
	switch {
	case s.Verdict == verdict.Fail && s.Waived == "":
		cause, on, said = CauseInconclusive, HoldThere, "the judge failed it"
	case s.Verdict == verdict.Fail, s.Waived != "" && s.Verdict == "":
		cause, on, said = CauseInconclusive, HoldThere, "a person took what failed for no failure ("+s.Waived+"), and so takes each step"
	case s.Verdict == verdict.Inconclusive:
		cause, on, said = CauseInconclusive, m.plan.OnInconclusive, "the bake ended and neither better nor worse was proved"
	}
	if on == Extend && s.Extended < m.plan.MaxExtend {
		return "", ""
	}
	if s.Extended > 0 {
		said += fmt.Sprintf(", extended %s", times(s.Extended))
	}
	if s.Sentence != "" {
		said += ": " + s.Sentence
	}
	return cause, said
}

// fail takes the plan's safe action. Whatever it is, the weight doesn't rise.
func (m *machine) fail(reason string) { m.act(m.plan.OnFail, reason) }

// goBack leaves everything else and takes the candidate out of traffic.
func (m *machine) goBack(reason string, loud bool) {
	s := &m.s
	s.Phase, s.Reason = RollingBack, reason
	s.Paused, s.Held, s.HeldFor, s.Frozen = Flag{}, Flag{}, 0, ""
	s.InPhase, s.Back, s.Shadow = 0, 0, 0
	if m.plan.driven() {
		m.turnBack()
		if loud {
			m.alarm("rolling back: " + reason)
		}
		return
	}
	switch {
	case s.Weight > 0 && s.Keep < m.plan.kept() && !m.plan.Worker:
		// In the middle of a replacement the previous release has too little to
		// take all users: its capacity comes back first, see back. Hosts that it
		// left stay with the candidate until then.
		s.Moved = max(s.Moved, (m.plan.total()-s.Keep)/m.plan.Instances*m.plan.Instances)
		s.Keep = m.plan.kept()
	case s.Weight > 0:
		// Where the previous release runs it takes the traffic at once, even if
		// an instance or a host of it is missing. Where it runs nowhere, moving
		// the traffic would answer nobody: it is brought back first, see back. A
		// worker's work waits meanwhile.
		if m.plan.First || m.plan.Worker || s.Seen.OldReady || s.Seen.OldSeen {
			m.withdraw()
		}
	default:
		s.Keep = m.plan.kept()
		if s.Seen.MaxWeight == 0 {
			s.Capacity, s.Run, s.Moved = false, 0, 0 // nobody is on it
		}
	}
	m.apply()
	if loud {
		m.alarm("rolling back: " + reason)
	}
}

// withdraw takes all traffic from the candidate, and from a worker its work.
func (m *machine) withdraw() {
	s := &m.s
	s.Weight, s.Moved, s.Keep = 0, 0, m.plan.kept()
	if m.plan.Worker {
		s.Run = 0
	}
}

// kept is how many instances the previous release has when it has all.
func (p Plan) kept() int {
	if p.First {
		return 0
	}
	return p.total()
}

// back goes on with a rollback: previous capacity, then traffic, then the
// candidate's capacity, then the end.
func (m *machine) back() {
	s := &m.s
	if m.plan.driven() {
		m.backDriven()
		return
	}
	if s.Weight > 0 {
		// A previous release that is starting must not get traffic before it is
		// ready; when that takes too long a part of it is better than none.
		if s.Seen.OldReady && (m.fresh() || !m.plan.counted()) || s.Stuck.On && s.Seen.OldSeen {
			m.withdraw()
			m.apply()
		}
		return
	}
	if !m.everywhere() || s.Seen.MaxWeight != 0 || !m.restored() {
		return
	}
	if s.Capacity {
		s.Capacity, s.Run = false, 0
		m.apply()
		return
	}
	// Every host has applied the generation without the candidate: it is gone or
	// draining, and no router knows it.
	m.isBack()
}

// isBack ends a rollback that was observed.
func (m *machine) isBack() {
	s := &m.s
	s.Rollback, s.Stuck = RollbackDone, Flag{}
	s.Phase = RolledBack
	if s.Aborted && !s.Exposed {
		s.Phase = Cancelled
	}
}

// restored reports whether what can be gone back to was observed. Where nobody
// was exposed nothing was taken from the previous release.
func (m *machine) restored() bool {
	return m.plan.First || !m.s.Exposed && !m.s.Taken || m.s.Seen.OldReady
}

func (m *machine) missingForBack() string {
	s := &m.s
	switch {
	case m.plan.driven():
		return m.missingDriven()
	case s.Weight > 0 && !s.Seen.OldSeen:
		return "the previous release runs nowhere yet, so the candidate still has " + percent(s.Weight)
	case s.Weight > 0:
		return "the previous release is not ready yet, so the candidate still has " + percent(s.Weight)
	case s.Seen.Missing > 0:
		return unreachable(s.Seen)
	case !m.fresh():
		return m.notApplied()
	case s.Seen.MaxWeight > 0:
		return "a router still gives the candidate " + percent(s.Seen.MaxWeight)
	case !m.restored():
		return "the previous release is not ready"
	}
	return "no host reports"
}

func (m *machine) missingForStep() string {
	s := &m.s
	switch {
	case m.plan.driven() && s.Phase != Checking:
		return m.missingDriven()
	case s.Seen.Missing > 0:
		return unreachable(s.Seen)
	case m.misplaced():
		return s.Seen.Misplaced
	case s.Phase == Checking:
		return "the checks are not all answered yet"
	case !m.fresh():
		return m.notApplied()
	case s.Seen.Hosts == 0:
		return "no host reports"
	case m.differs():
		return m.drifted()
	case !s.Seen.CandidateReady:
		return "not every instance of the candidate is ready"
	case m.plan.counted() && !m.keeps():
		return "not every instance that stays of the previous release is ready"
	}
	return "nothing is missing"
}

func (m *machine) drifted() string {
	if m.plan.driven() {
		return m.strays()
	}
	if !m.reroutes() {
		return m.s.Seen.Off
	}
	return fmt.Sprintf("the router has %s where %s was set", weights(m.s.Seen), percent(m.s.Weight))
}

func (m *machine) notApplied() string {
	if m.s.Applying {
		return "what is wanted was not sent to the hosts yet"
	}
	return fmt.Sprintf("not every host has applied generation %d (the lowest is at %d)", m.s.Wanted, m.s.Seen.Generation)
}

func unreachable(o Observation) string {
	switch {
	case o.Unreachable != "" && o.Missing == 1:
		return "host " + o.Unreachable + " is unreachable"
	case o.Unreachable != "":
		return "hosts " + o.Unreachable + " are unreachable"
	case o.Missing == 1:
		return "1 host is unreachable"
	}
	return fmt.Sprintf("%d hosts are unreachable", o.Missing)
}

func weights(o Observation) string {
	if o.MinWeight == o.MaxWeight {
		return percent(o.MinWeight)
	}
	return percent(o.MinWeight) + " to " + percent(o.MaxWeight)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
