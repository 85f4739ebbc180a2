package webui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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
	Revision int64
	Seen     string
}

// reason says whether an action asks why.
type reason int

const (
	noReason reason = iota
	mayReason
	mustReason
)

// choices are what a person can do now, as [control.Explanation.Can] lists it:
// the state machine alone knows what makes sense.
type choices struct {
	Actions []action
	Decide  bool     // approve or reject the packet
	Advice  []string // what is no button
	Lines   []string // the same in a terminal
}

// choose turns the lines of Can ("sluice VERB RUN [--env ENV] [flags]   what it
// does") into buttons. A line that it does not know is shown as it is.
func choose(x control.Explanation, s control.Status) choices {
	var out choices
	for _, line := range x.Can {
		command, what, _ := strings.Cut(line, "   ")
		fields := strings.Fields(command)
		if len(fields) < 3 || fields[0] != "sluice" || fields[2] != x.Run {
			out.Advice = append(out.Advice, line)
			continue
		}
		a := action{Kind: rollout.CommandKind(fields[1]), What: sentence(what), Env: x.Environment}
		for _, flag := range fields[3:] {
			a.Full = a.Full || flag == "--full"
			a.Override = a.Override || flag == "--override"
		}
		switch fields[1] {
		case "approve", "reject":
			out.Decide = true
			out.Lines = append(out.Lines, command)
			continue
		case "logs", "explain", "status", "watch":
			out.Lines = append(out.Lines, command)
			continue
		}
		if e, ok := environment(s, x.Environment); ok && e.Rollout != "" {
			a.Revision, a.Seen = e.Revision, seen(a.Kind, e)
			a.dress(e)
		} else {
			a.dress(control.EnvironmentStatus{})
		}
		if a.Label == "" { // "mend what is missing" is no command
			out.Advice = append(out.Advice, advice(fields, what))
			continue
		}
		out.Actions = append(out.Actions, a)
		out.Lines = append(out.Lines, command)
	}
	slices.SortStableFunc(out.Actions, func(a, b action) int { return cmp.Compare(a.order(), b.order()) })
	return out
}

// advice undoes the form of a command.
func advice(fields []string, what string) string {
	words := []string{fields[1]}
	for i := 3; i < len(fields); i++ {
		if fields[i] == "--env" {
			i++
			continue
		}
		words = append(words, fields[i])
	}
	return strings.Join(words, " ") + ": " + what
}

// adviceOf makes the command at the end of an advice stand out.
func adviceOf(line string) string {
	if what, command, ok := strings.Cut(line, ": sluice "); ok {
		return strings.TrimSuffix(sentence(what), ".") + ": `sluice " + command + "`"
	}
	return sentence(strings.TrimSpace(line))
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

// seen is what a command is about, beside the rollout itself: it holds while
// only counters move. The verdict is not in it: control looks at the present one
// before it lets a rollout go on.
func seen(k rollout.CommandKind, e control.EnvironmentStatus) string {
	switch k {
	case rollout.Pause: // is meant whatever it does just now
		return e.Rollout
	case rollout.Resume:
		return fmt.Sprintf("%s.%t", e.Rollout, e.Paused)
	}
	return fmt.Sprintf("%s.%s.%d.%t.%t.%t", e.Rollout, e.Phase, e.Step, e.Paused, e.Held != "", e.Stuck)
}
