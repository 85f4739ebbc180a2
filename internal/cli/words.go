package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

// labelWidth is the column at which the facts about a run begin.
const labelWidth = 12

// statusLines tells a run for people; lines may be wider than the terminal.
func (a *app) statusLines(s control.Status, w io.Writer) []string {
	var out []string
	put := func(label, text string) {
		pad := strings.Repeat(" ", max(1, labelWidth-utf8.RuneCountInString(label)))
		out = append(out, a.paint(w, bold, label)+pad+text)
	}
	head := fmt.Sprintf("%s  commit %s  %s", clean(s.Service), commit(s.Commit), a.state(w, string(s.State)))
	if s.Kind != "" && s.Kind != run.KindRun {
		head = clean(s.Kind) + " of " + head
	}
	put("run "+clean(s.Run), head)
	about := "by " + clean(string(s.Actor)) + ", " + ago(s.CreatedAt)
	if s.ReusedFrom != "" {
		about += ", build of run " + clean(s.ReusedFrom)
	}
	if s.Release != "" {
		about = "release " + clean(short(s.Release)) + "  " + about
	}
	put("", about)
	if s.Reason != "" && ended(s) {
		put("", a.paint(w, dim, "because ")+prose(s.Reason))
	}
	if len(s.Steps) > 0 && s.ReusedFrom == "" {
		a.buildLines(s, w, put)
	}
	for _, e := range s.Environments {
		a.environmentLines(e, s, w, put)
	}
	return out
}

// buildLines are one line for a build that went well, else one for each step
// that did not.
func (a *app) buildLines(s control.Status, w io.Writer, put func(label, text string)) {
	var done []string
	for _, x := range s.Steps {
		done = append(done, a.mark(w, x.State)+" "+clean(x.Name))
	}
	put("build", strings.Join(done, "  "))
	for _, x := range s.Steps {
		switch x.State {
		case "running", "failed", "timed-out":
			put("", "  "+a.stepLine(x))
		}
	}
}

func (a *app) mark(w io.Writer, state string) string {
	switch state {
	case "succeeded", "reused", "pass":
		return a.paint(w, green, "✓")
	case "failed", "timed-out", "fail":
		return a.paint(w, red, "✗")
	case "running":
		return a.paint(w, yellow, "▸")
	case "skipped", "cancelled":
		return a.paint(w, dim, "-")
	}
	return a.paint(w, dim, "·")
}

// stepLine tells a step of the build: what became of it, and how long it took.
func (a *app) stepLine(s run.Step) string {
	text := clean(s.Name) + " " + clean(s.State)
	switch {
	case s.Started != nil && s.Ended != nil:
		text += " after " + pipeline.Span(s.Ended.Sub(*s.Started))
	case s.Started != nil && s.State == "running":
		text += " for " + pipeline.Span(time.Since(*s.Started))
	}
	if s.Tests != nil {
		text += ", " + plural(s.Tests.Passed, "test") + " passed"
		if s.Tests.Failed > 0 {
			text += fmt.Sprintf(", %d failed", s.Tests.Failed)
		}
		if s.Tests.Skipped > 0 {
			text += fmt.Sprintf(", %d skipped", s.Tests.Skipped)
		}
	}
	if s.Reason != "" && s.State != "succeeded" {
		text += ": " + prose(s.Reason)
	}
	return text
}

func (a *app) environmentLines(e control.EnvironmentStatus, s control.Status, w io.Writer, put func(label, text string)) {
	text := a.state(w, string(e.State)) + "  " + clean(e.Strategy)
	if e.Rollout != "" && e.Steps > 0 && !e.Phase.Terminal() {
		text += fmt.Sprintf(", step %d of %d, %s", e.Step+1, e.Steps, clean(string(e.Phase)))
	}
	for _, f := range []struct {
		on   bool
		word string
	}{{e.Paused, "paused"}, {e.Frozen, "frozen"}, {e.Held != "" && !e.Frozen, "held"}} {
		if f.on {
			text += ", " + a.paint(w, yellow, f.word)
		}
	}
	if e.Stuck {
		text += ", " + a.paint(w, red, "ROLLBACK STUCK")
	}
	put(clean(e.Name), text)
	if e.Stuck {
		put("", a.paint(w, red, "it goes on being tried; look at it now: ")+"sluice explain "+clean(s.Run))
	}
	if q := e.Queue; q != nil {
		line := fmt.Sprintf("place %d in the queue", q.Position)
		if q.Behind != "" {
			line += ", behind run " + clean(q.Behind)
		}
		if len(q.Before) > 0 {
			line += ", after run " + clean(strings.Join(q.Before, ", "))
		}
		put("", line)
	}
	if e.Rollout != "" && !e.Phase.Terminal() {
		line := fmt.Sprintf("%s %s %%", bar(e.Weight), number(e.Weight))
		if e.Bake != nil {
			line += fmt.Sprintf("  bake %s of %s", seconds(e.Bake.ElapsedSeconds), seconds(e.Bake.TotalSeconds))
			if e.Bake.Extended > 0 {
				line += fmt.Sprintf(", extended %s", plural(e.Bake.Extended, "time"))
			}
		}
		put("", line)
	}
	if e.Bake != nil {
		for _, line := range foretold(e.Forecast) {
			put("", a.paint(w, dim, "bake: ")+line)
		}
	}
	if len(e.Preview) > 0 {
		put("", a.paint(w, dim, "preview: ")+"the new release alone answers at "+clean(strings.Join(e.Preview, ", ")))
	}
	if g := e.Signals; g != nil && g.CanaryRequests+g.StableRequests > 0 {
		put("", fmt.Sprintf("new %d requests, %d bad; running release %d, %d bad", g.CanaryRequests, g.CanaryBad, g.StableRequests, g.StableBad))
	}
	for _, m := range e.Metrics {
		told := m.Sentence != "" && (ended(s) && strings.Contains(s.Reason, m.Sentence) || strings.Contains(e.WaitingFor, m.Sentence))
		if !told && (m.Verdict == e.Verdict || m.Verdict == verdict.Fail) {
			put("", a.paint(w, dim, "verdict ")+a.state(w, string(m.Verdict))+"  "+clean(m.Name)+": "+prose(m.Sentence))
		}
	}
	for _, g := range e.Gates {
		if g.Answer != "pass" || !ended(s) && e.Rollout == "" {
			put("", a.paint(w, dim, "gate ")+clean(g.Gate)+" "+a.state(w, string(g.Answer))+": "+prose(g.Reason))
		}
	}
	judged := e.Bake != nil && e.Held == "" && !e.Paused && len(e.Metrics) > 0 // then the verdict tells it
	if e.WaitingFor != "" && !judged {
		put("", a.paint(w, dim, "waiting: ")+prose(e.WaitingFor)) // a sentence, or a noun
	}
	if e.Reason != "" && !strings.HasSuffix(s.Reason, e.Reason) {
		label := "because "
		if e.State == run.Succeeded { // how it went: a rehearsal's times
			label = ""
		}
		put("", a.paint(w, dim, label)+prose(e.Reason))
	}
	if e.RollbackMillis != nil {
		put("", fmt.Sprintf("all users were back after %d ms", *e.RollbackMillis))
	}
}

// sentence tells an event of a run for people; "" where it says nothing that
// another one does not.
func (a *app) sentence(e event, s control.Status) string {
	var d map[string]any
	if json.Unmarshal(e.Data.Data, &d) != nil {
		return ""
	}
	get := func(k string) string {
		s, _ := d[k].(string)
		return clean(s)
	}
	because := func(s string) string {
		if s == "" {
			return ""
		}
		return ": " + pipeline.PlainTimes(s)
	}
	env := ""
	if e.Data.Environment != "" {
		env = clean(e.Data.Environment) + "  "
	}
	switch e.Kind {
	case "run":
		if get("kind") != "" { // the first one; what becomes of it is told of its environments, and at the end
			return fmt.Sprintf("%s %s of %s, by %s", get("kind"), clean(e.Data.Run), clean(e.Data.Service), get("by"))
		}
		return ""
	case "step":
		for _, x := range s.Steps {
			if x.Name == get("step") && x.State == get("state") && x.State != "running" {
				return "step " + a.stepLine(x)
			}
		}
		return "step " + get("step") + " " + get("state")
	case "release":
		text, passed, ran := "release "+shorten(get("release"))+" made", 0, false
		for _, x := range s.Steps {
			if x.Tests != nil {
				passed, ran = passed+x.Tests.Passed, true
			}
		}
		if ran { // and not in an earlier run, whose build this one takes
			text += ", " + plural(passed, "test") + " passed"
		}
		return text
	case "promoted":
		return env + "release " + shorten(get("release")) + " promoted, " + get("strategy")
	case "approval":
		return fmt.Sprintf("%swaits for approval: sluice approve %s --env %s", env, clean(e.Data.Run), clean(e.Data.Environment))
	case "approve", "reject":
		return env + map[string]string{"approve": "approved", "reject": "rejected"}[e.Kind] + " by " + get("by")
	case "alarm":
		return env + a.paint(a.err, red, "alarm") + because(get("reason"))
	case "unchanged":
		return env + "release " + shorten(get("release")) + " runs already: nothing moves"
	case "rehearsed":
		return env + "rehearsal" + because(get("reason"))
	case "drift":
		return env + a.paint(a.err, yellow, "drift between rollouts") + because(get("reason"))
	case "gap":
		passed, _ := d["passedSeconds"].(float64)
		counted, _ := d["countedSeconds"].(float64)
		return fmt.Sprintf("%snobody looked for %s, or the clock jumped: %s are counted", env, seconds(passed), seconds(counted))
	case "stopped":
		return env + a.state(a.err, get("state")) + because(get("reason"))
	case "rollout":
		var f rollout.Fact
		if json.Unmarshal(e.Data.Data, &f) != nil {
			return ""
		}
		if text := a.factSentence(f); text != "" {
			return env + text
		}
		return ""
	}
	return env + clean(e.Kind) + because(get("reason"))
}

func shorten(digest string) string {
	d := strings.TrimPrefix(digest, "sha256:")
	return d[:min(len(d), 12)]
}

func (a *app) factSentence(f rollout.Fact) string {
	to, reason := clean(f.To), ""
	if f.Reason != "" {
		reason = ": " + prose(f.Reason)
	}
	on := f.To != "off"
	switch f.Kind {
	case rollout.FactCommand:
		if f.Full {
			to += " --full"
		}
		if f.Override {
			to += " --override"
		}
		return to + " by " + clean(string(f.By)) + reason
	case rollout.FactPhase:
		switch rollout.Phase(f.To) {
		case rollout.Shifting, rollout.Pending:
			return "" // the weight tells
		case rollout.Succeeded, rollout.RolledBack, rollout.RollbackFailed, rollout.Cancelled, rollout.Superseded, rollout.RollingBack:
			return a.state(a.err, to) + reason
		}
		return to
	case rollout.FactWeight:
		n, err := strconv.Atoi(f.To)
		if err != nil {
			return ""
		}
		return fmt.Sprintf("%s %s %% of users", bar(float64(n)/100), number(float64(n)/100))
	case rollout.FactCounts:
		candidate, before, ok := strings.Cut(to, "/")
		if !ok {
			return ""
		}
		return "instances: " + candidate + " new, " + before + " old" + reason
	case rollout.FactVerdict:
		if to == "" {
			return ""
		}
		return "verdict " + a.state(a.err, to) + reason
	case rollout.FactCheck:
		return "checks " + to + reason
	case rollout.FactExtended:
		if f.To == "0" {
			return ""
		}
		return "bake extended" + reason
	case rollout.FactPaused:
		if !on {
			return "resumed"
		}
		return "paused by " + clean(string(f.By)) + reason
	case rollout.FactHeld:
		if !on {
			return "goes on"
		}
		return a.paint(a.err, yellow, "held") + reason
	case rollout.FactStuck:
		if !on {
			return "no longer stuck"
		}
		return a.paint(a.err, red, "stuck") + reason
	case rollout.FactStep, rollout.FactCapacity, rollout.FactRollback:
		return "" // phase and weight tell
	}
	return clean(string(f.Kind)) + " " + to + reason
}
