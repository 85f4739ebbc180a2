package rollout

import (
	"fmt"
	"strconv"

	"github.com/sluicehq/sluice/internal/release"
)

// FactKind is what a fact is about.
type FactKind string

// The kinds of facts.
const (
	FactCommand  FactKind = "command"
	FactPhase    FactKind = "phase"
	FactStep     FactKind = "step"
	FactWeight   FactKind = "weight" // as wanted, basis points
	FactVerdict  FactKind = "verdict"
	FactCheck    FactKind = "check"
	FactExtended FactKind = "extended"
	FactPaused   FactKind = "paused"
	FactHeld     FactKind = "held"
	FactStuck    FactKind = "stuck"
	FactCapacity FactKind = "capacity" // of the candidate
	FactCounts   FactKind = "counts"   // instances of candidate and previous release, of a counted plan
	FactRollback FactKind = "rollback" // the rollback's own result
	FactAsked    FactKind = "asked"    // of a driven target: drive, continue, stop, revert
)

// Fact is one change that must become evidence, in the transaction that commits it.
type Fact struct {
	Kind     FactKind      `json:"kind"`
	Step     int           `json:"step"` // at which it happened, after the change
	From     string        `json:"from,omitempty"`
	To       string        `json:"to,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	By       release.Actor `json:"by,omitempty"` // release.System when nobody asked
	Full     bool          `json:"full,omitempty"`
	Override bool          `json:"override,omitempty"`
}

// Facts returns what must be kept as evidence of the step from before to after
// that e caused. Nothing of phase, step, weight, verdict, flag or command
// changes without a fact; time, observations and repeated verdicts are none.
func Facts(before, after State, e Event) []Fact {
	var out []Fact
	actor := release.System
	note := func(f Fact) {
		f.Step = after.Step
		if f.By == "" {
			f.By = actor
		}
		out = append(out, f)
	}
	change := func(kind FactKind, from, to, reason string) {
		if from != to {
			note(Fact{Kind: kind, From: from, To: to, Reason: reason})
		}
	}
	if c := e.Command; c != nil {
		if c.By != "" {
			actor = c.By
		}
		note(Fact{Kind: FactCommand, To: string(c.Kind), Reason: c.Reason, Full: c.Full, Override: c.Override})
	}
	if c := e.Checked; c != nil && before.Phase == Checking && c.Step == before.Step && !before.CheckOK {
		to := "ok"
		if !c.OK {
			to = "failed"
		}
		note(Fact{Kind: FactCheck, To: to, Reason: c.Reason})
	}
	change(FactVerdict, string(before.Verdict), string(after.Verdict), after.Sentence)
	change(FactPhase, string(before.Phase), string(after.Phase), after.Reason)
	change(FactStep, strconv.Itoa(before.Step), strconv.Itoa(after.Step), "")
	change(FactWeight, strconv.Itoa(before.Weight), strconv.Itoa(after.Weight), after.Reason)
	change(FactCapacity, strconv.FormatBool(before.Capacity), strconv.FormatBool(after.Capacity), after.Reason)
	change(FactCounts, counts(before), counts(after), after.Reason)
	change(FactAsked, string(before.Asked), string(after.Asked), after.Reason)
	change(FactExtended, strconv.Itoa(before.Extended), strconv.Itoa(after.Extended), after.Sentence)
	flag := func(kind FactKind, a, b Flag) {
		if a != b {
			note(Fact{Kind: kind, From: onOff(a), To: onOff(b), Reason: b.Reason, By: b.By})
		}
	}
	flag(FactPaused, before.Paused, after.Paused)
	flag(FactHeld, before.Held, after.Held)
	flag(FactStuck, before.Stuck, after.Stuck)
	change(FactRollback, before.Rollback, after.Rollback, after.Reason)
	return out
}

func counts(s State) string {
	if s.Run == 0 && s.Keep == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.Run, s.Keep)
}

func onOff(f Flag) string {
	switch {
	case !f.On:
		return "off"
	case f.Cause != "":
		return string(f.Cause)
	}
	return "on"
}
