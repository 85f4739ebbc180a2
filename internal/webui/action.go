package webui

import (
	"cmp"
	"slices"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/rollout"
)

// action is one thing that a person can tell a run now.
type action struct {
	Kind     rollout.CommandKind
	Full     bool
	Override bool
	Label    string
	What     string // it does
	Icon     string
	Danger   bool
	Confirm  bool // a second click is wanted
	Reason   reason
	Env      string
	Revision int64 // of facts: it stands while only counters move
}

// reason says whether an action asks why.
type reason int

const (
	noReason reason = iota
	mayReason
	mustReason
)

// choices are what a person can do now, as [control.Explanation] lists it:
// the state machine alone knows what makes sense.
type choices struct {
	Actions []action
	Decide  bool             // approve or reject the packet
	Advice  []control.Choice // what is no button
	Lines   []string         // the same in a terminal
}

// choose turns what can be done into buttons. What is no command to this run is
// shown as advice, with the line that does it.
func choose(x control.Explanation, s control.Status) choices {
	var out choices
	for _, c := range x.Choices {
		switch c.Command {
		case "":
			out.Advice = append(out.Advice, c)
			continue
		case "approve", "reject":
			out.Decide = true
			out.Lines = append(out.Lines, c.Line())
			continue
		case "logs", "explain", "status", "watch":
			out.Lines = append(out.Lines, c.Line())
			continue
		}
		a := action{Kind: rollout.CommandKind(c.Command), What: sentence(c.Text), Env: x.Environment}
		a.Full, a.Override = slices.Contains(c.Argv, "--full"), slices.Contains(c.Argv, "--override")
		if e, ok := environment(s, x.Environment); ok && e.Rollout != "" {
			if a.Kind != rollout.Pause && a.Kind != rollout.Abort { // these are meant whatever it does just now
				a.Revision = e.Revision
			}
			a.dress(e)
		} else {
			a.dress(control.EnvironmentStatus{})
		}
		if a.Label == "" { // it is about something else than this run
			out.Advice = append(out.Advice, c)
			continue
		}
		out.Actions = append(out.Actions, a)
		out.Lines = append(out.Lines, c.Line())
	}
	slices.SortStableFunc(out.Actions, func(a, b action) int { return cmp.Compare(a.order(), b.order()) })
	return out
}

// adviceOf makes the command of an advice stand out.
func adviceOf(c control.Choice) string {
	switch line := c.Line(); {
	case line == "":
		return sentence(c.Text)
	case c.Text == "":
		return "`" + line + "`"
	default:
		return "`" + line + "` " + c.Text
	}
}

// order puts what is harmless and wanted in a hurry first.
func (a action) order() int {
	return slices.Index([]rollout.CommandKind{rollout.Resume, rollout.Pause, rollout.Advance, rollout.Abort, rollout.GiveUp}, a.Kind)
}

// dress says how the action looks.
func (a *action) dress(e control.EnvironmentStatus) {
	switch a.Kind {
	case rollout.Pause:
		a.Label, a.Icon = "Pause", "pause"
	case rollout.Resume:
		a.Label, a.Icon = "Resume", "next"
	case rollout.Advance:
		a.Label, a.Icon, a.Confirm, a.Reason = "Advance", "next", true, mayReason
		if a.Full {
			a.Label = "Advance to 100 %"
		}
		if a.Override {
			a.Label, a.Reason = "Advance without a pass", mustReason
		}
	case rollout.Abort:
		a.Label, a.Icon, a.Confirm, a.Reason, a.Danger = "Abort", "stop", true, mayReason, true
		if e.Signals != nil || e.Weight > 0 {
			a.Label, a.Icon = "Abort and roll back", "back"
		}
		if a.What == "" {
			a.What = "Ends this run. Nothing that users see has changed."
		}
	case rollout.GiveUp:
		a.Label, a.Icon, a.Confirm, a.Reason, a.Danger = "Give up the rollback", "alarm", true, mustReason, true
	}
}
