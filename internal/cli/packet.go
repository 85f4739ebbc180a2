package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// printPacket writes an approval packet for reading. Everything in it is data
// that others made: it is cleaned.
func (a *app) printPacket(w io.Writer, p control.Packet, of httpapi.Packet) {
	fmt.Fprintf(w, "%s\n", a.paint(w, bold, fmt.Sprintf("%s into %s: run %s", clean(p.Service), clean(p.Environment), clean(p.Run))))
	s := sheet{a: a, w: w, label: 9} // a digest fits beside it in 80 columns
	s.put("packet", string(of.Digest))
	s.put("", fmt.Sprintf("made %s, expires %s", moment(of.CreatedAt), moment(of.ExpiresAt)))
	s.put("release", clean(string(p.Release)))
	s.put("commit", clean(p.Commit))
	label := "artifact"
	for _, x := range p.Artifacts {
		s.put(label, clean(fmt.Sprintf("%s, %s, %s", x.Name, x.Type, bytesOf(x.Size))))
		s.put("", clean(string(x.Digest)))
		label = ""
	}
	built := "steps were isolated by " + p.Isolation
	if p.Isolation == "none" {
		built = a.paint(w, yellow, "steps were not isolated")
	} else {
		built = clean(built)
	}
	s.put("build", built)
	tests := "no test report"
	if p.Tests.Reports > 0 {
		tests = fmt.Sprintf("%d passed, %d failed, %d skipped (%s)", p.Tests.Passed, p.Tests.Failed, p.Tests.Skipped, plural(p.Tests.Reports, "report"))
	}
	s.put("tests", tests)
	label = "gates"
	for _, g := range p.Gates {
		s.hang(label, a.state(w, clean(string(g.Answer)))+" "+clean(g.Gate)+": "+prose(g.Reason), 2)
		label = ""
	}
	if len(p.Gates) == 0 {
		s.put("gates", "none")
	}
	previous := "none: this is the first release here"
	if p.Previous != "" {
		previous = clean(string(p.Previous))
	}
	s.put("runs now", previous)
	label = "config"
	for _, c := range p.Changes {
		s.hang(label, clean(change(c)), 2)
		label = ""
	}
	if len(p.Changes) == 0 && p.Previous != "" {
		s.put("config", "unchanged")
	}
	label = "rollout"
	for i, st := range planLines(p.Plan) {
		if i == 0 {
			st = p.Plan.Strategy + ": " + st
		}
		s.hang(label, prose(st), 2)
		label = ""
	}
	s.put("watched", clean(watched(p)))
	back := p.RollbackPlan
	if back.Cold != "" {
		back.Sentence += " Later, " + back.Cold + "."
	}
	s.put("back", prose(back.Sentence))
	if back.OnFail != "" {
		s.put("on fail", prose(back.OnFail))
	}
	if d := back.Drill; d != nil {
		text := fmt.Sprintf("in %s, run %s, %s: ", d.Environment, d.Run, moment(d.At))
		if d.Succeeded {
			text += fmt.Sprintf("back in %s, forward again in %s (%s)", pipeline.Span(time.Duration(d.BackMillis)*time.Millisecond), pipeline.Span(time.Duration(d.OnMillis)*time.Millisecond), d.Way)
		} else {
			text += "failed: " + d.Reason
		}
		s.put("drilled", clean(text))
	}
	label = "know"
	for _, f := range p.Findings {
		s.hang(label, a.paint(w, yellow, prose(f)), 2)
		label = ""
	}
	s.put("owner", clean(p.Owner))
}

func watched(p control.Packet) string {
	if len(p.Monitoring.Metrics) == 0 {
		return "nothing is judged; health and checks decide"
	}
	return strings.Join(p.Monitoring.Metrics, ", ")
}

// planLines tells how users will be moved.
func planLines(p rollout.Plan) []string {
	var out []string
	for _, s := range p.Steps {
		weight := number(float64(s.Weight)/100) + " %"
		switch s.Kind {
		case rollout.StepShift:
			out = append(out, weight+" of users")
		case rollout.StepBake:
			text := fmt.Sprintf(", bake %s", pipeline.Span(s.Bake))
			switch {
			case !s.Analysis:
				text += " (not judged)"
			case s.Basis == rollout.BasisBeforeAfter:
				text += " (judged against the time before)"
			case s.Basis == rollout.BasisNone:
				text += " (judged by absolute limits)"
			}
			if len(out) > 0 {
				out[len(out)-1] += text
			}
		case rollout.StepCheck:
			out = append(out, "check "+strings.Join(s.Checks, ", "))
		case rollout.StepHold:
			out = append(out, "wait for a person")
		case rollout.StepPrepare, rollout.StepRetire:
		}
	}
	return out
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// bytesOf is a size as people say it.
func bytesOf(n int64) string {
	const k = 1000
	switch {
	case n < k:
		return fmt.Sprintf("%d B", n)
	case n < k*k:
		return fmt.Sprintf("%.1f kB", float64(n)/k)
	case n < k*k*k:
		return fmt.Sprintf("%.1f MB", float64(n)/k/k)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/k/k/k)
}
