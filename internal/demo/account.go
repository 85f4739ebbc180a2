package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/run"
)

// account tells the story as it happens. On a terminal its last line moves; else
// every line stands, and only what has changed is told.
type account struct {
	w       io.Writer
	moving  bool // w is a terminal
	colours bool
	began   time.Time
	acts    int
	shown   bool // a moving line stands there
	last    string
	lastAt  time.Time
}

const (
	width  = 80
	indent = "   "
)

// Colours, as SGR parameters.
const (
	red   = "31"
	green = "32"
	bold  = "1"
	dim   = "2"
)

func (a *account) paint(colour, text string) string {
	if !a.colours {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (a *account) print(line string) {
	a.settle()
	fmt.Fprintln(a.w, line)
}

// settle lets what moves end.
func (a *account) settle() {
	if a.shown {
		fmt.Fprint(a.w, "\r\x1b[K")
		a.shown = false
	}
}

// act begins the next part of the story.
func (a *account) act(title string) {
	a.acts++
	a.last = ""
	a.print("")
	title = fmt.Sprintf("%d  %s", a.acts, title)
	at := fmt.Sprintf("%.0f s", time.Since(a.began).Seconds())
	gap := max(2, width-utf8.RuneCountInString(title)-len(at))
	a.print(a.paint(bold, title) + strings.Repeat(" ", gap) + a.paint(dim, at))
}

// say tells something, over as many lines as it takes.
func (a *account) say(format string, args ...any) {
	for _, l := range wrap(fmt.Sprintf(format, args...), width-len(indent)) {
		a.print(indent + l)
	}
}

// aside is said more quietly.
func (a *account) aside(format string, args ...any) {
	for _, l := range wrap(fmt.Sprintf(format, args...), width-len(indent)) {
		a.print(indent + a.paint(dim, l))
	}
}

// verdict tells what was decided, with the reason in the judge's own words.
func (a *account) verdict(colour, word, sentence string) {
	lines := wrap(word+": "+sentence, width-len(indent))
	for i, l := range lines {
		if i == 0 {
			l = a.paint(colour, word) + strings.TrimPrefix(l, word)
		}
		a.print(indent + l)
	}
}

// quietly is how long an account without a terminal keeps a line to itself that
// differs from the one before in numbers only.
const quietly = 4 * time.Second

// move shows the present state of something. key says when it has become
// another state, which is told at once also where nothing can move.
func (a *account) move(key, line string) {
	line = indent + line
	if a.moving {
		fmt.Fprint(a.w, "\r\x1b[K"+cut(line, width-1))
		a.shown = true
		return
	}
	if key == a.last && time.Since(a.lastAt) < quietly {
		return
	}
	a.last, a.lastAt = key, time.Now()
	fmt.Fprintln(a.w, line)
}

// wrap breaks text at spaces into lines of at most n characters, as far as its
// words allow.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > n {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}

// bar draws a share of traffic.
func bar(percent float64) string {
	const cells = 20
	n := max(0, min(cells, int(percent/100*cells+0.5)))
	return strings.Repeat("█", n) + strings.Repeat("░", cells-n)
}

// number groups digits, as in 12 345.
func number(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// traffic is the moving line of a rollout: weight, and both sides' counts.
func traffic(candidate, stable string, e control.EnvironmentStatus) string {
	line := fmt.Sprintf("%s %4.0f %%", bar(e.Weight), e.Weight)
	if g := e.Signals; g != nil {
		line += fmt.Sprintf("   %s %s, %d bad   %s %s, %d bad", candidate, number(g.CanaryRequests), g.CanaryBad, stable, number(g.StableRequests), g.StableBad)
	}
	return line
}

// building is the moving line of a build.
func building(s control.Status, now time.Time) string {
	done, running := 0, []string{}
	for _, x := range s.Steps {
		switch x.State {
		case "running":
			name := x.Name
			if x.Started != nil {
				name += fmt.Sprintf(" %.0f s", now.Sub(*x.Started).Seconds())
			}
			running = append(running, name)
		case "succeeded":
			done++
		}
	}
	line := fmt.Sprintf("building: %d of %d steps", done, len(s.Steps))
	if len(running) > 0 {
		line += ", now " + strings.Join(running, ", ")
	}
	return line
}

// built sums a build up in one sentence.
func built(s control.Status) string {
	var first, last time.Time
	tests := 0
	var names []string
	for _, x := range s.Steps {
		names = append(names, x.Name)
		if x.Tests != nil {
			tests += x.Tests.Passed
			names[len(names)-1] = fmt.Sprintf("%s (%d tests pass)", x.Name, x.Tests.Passed)
		}
		if x.Started != nil && (first.IsZero() || x.Started.Before(first)) {
			first = *x.Started
		}
		if x.Ended != nil && x.Ended.After(last) {
			last = *x.Ended
		}
	}
	return fmt.Sprintf("Built once, in %.1f s: %s.", last.Sub(first).Seconds(), strings.Join(names, ", "))
}

// table is the end of the story in numbers.
func (a *account) table(d Document) {
	a.print("")
	a.print(indent + a.paint(bold, fmt.Sprintf("%-4s %-12s %-13s %7s %5s  %s", "", "state", "verdict", "good", "bad", "found after, back in")))
	for _, r := range d.Releases {
		word, verdict, colour := string(r.State), string(r.Verdict), ""
		switch r.State {
		case run.Succeeded:
			colour = green
		case run.RolledBack, run.Failed, run.RollbackFailed:
			colour = red
		}
		if verdict == "" {
			verdict = "-"
		}
		found := ""
		if r.RequestsToDetect != nil && r.DetectSeconds != nil {
			found = fmt.Sprintf("%s requests, %.1f s", number(*r.RequestsToDetect), *r.DetectSeconds)
			if r.RollbackMillis != nil {
				found += fmt.Sprintf("; %d ms", *r.RollbackMillis)
			}
		}
		state := fmt.Sprintf("%-12s", word)
		if colour != "" {
			state = a.paint(colour, state)
		}
		line := fmt.Sprintf("%-4s %s %-13s %7s %5s  %s", r.Version, state, verdict, number(r.GoodResponses), number(r.BadResponses), found)
		a.print(indent + strings.TrimRight(line, " "))
	}
}
