package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/rollout"
)

// printPlan writes a preview for people.
func (a *app) printPlan(p preview.Preview) {
	fmt.Fprintf(a.out, "%s, owned by %s\n\n%s\n", a.paint(a.out, bold, clean(p.Service)), clean(p.Owner), a.paint(a.out, bold, "Build, once"))
	name, kind := len("step"), len("kind")
	for _, s := range p.Build {
		name, kind = max(name, len(s.Name)), max(kind, len(s.Kind))
	}
	steps := sheet{a: a, w: a.out, label: 2 + name + 2 + kind + 2, indent: 2}
	for _, s := range p.Build {
		text := "removes: " + s.Risk
		if s.Network {
			text += " (may use the network)"
		}
		steps.put(fmt.Sprintf("%d %-*s  %-*s", s.Wave, name, s.Name, kind, s.Kind), prose(text))
	}
	for _, x := range p.Artifacts {
		sheet{a: a, w: a.out, label: 11, indent: 2}.put("artifact", clean(fmt.Sprintf("%s, type %s, from %s", x.Name, x.Type, x.Path)))
	}
	for i, e := range p.Environments {
		a.printEnvironment(e, i > 0 && slices.Equal(e.Rollback, p.Environments[i-1].Rollback))
	}
	if p.Traffic.RPS == 0 {
		a.say("\nGive --rps, and --baseline-rate in percent, to see what each bake can detect.")
	}
}

// printEnvironment writes one environment; same says that it is taken back as
// the one before.
func (a *app) printEnvironment(e preview.Environment, same bool) {
	fmt.Fprintf(a.out, "\n%s  %s\n", a.paint(a.out, bold, clean(e.Name)), clean(e.Strategy+", "+e.Target))
	s := sheet{a: a, w: a.out, label: 10, indent: 2}
	s.put("removes", prose(e.Risk))
	s.put("", prose(e.Rollout))
	if len(e.After) > 0 {
		s.put("after", clean(strings.Join(e.After, ", ")+" (removes: "+e.AfterRisk+")"))
	}
	guards := func(label string, gs []preview.Guard) {
		for _, g := range gs {
			text := g.Name
			if g.Rule != "" {
				text += ": " + g.Rule
			}
			text += " (removes: " + g.Risk + ")"
			s.hang(label, prose(text), 2)
			label = ""
		}
	}
	guards("gates", e.Gates)
	if e.Approval != nil {
		s.put("approval", clean(fmt.Sprintf("by %s within %s (removes: %s)", oneOr(e.Approval.Quorum, "person", "people"), seconds(e.Approval.ExpiresSeconds), e.Approval.Risk)))
	}
	guards("checks", e.Checks)
	label := "judged"
	for _, m := range e.Metrics {
		s.hang(label, prose(m), 2)
		label = ""
	}
	if j := e.Judge; j != nil {
		text := fmt.Sprintf("warm-up %s, bins of %s, at most %s percentage points worse; inconclusive: %s, no data: %s",
			seconds(j.WarmUpSeconds), seconds(j.BinSeconds), number(j.MaxExcess), extends(j.OnInconclusive, j.MaxExtend), extends(j.OnNoData, j.MaxExtend))
		s.put("", text)
	}
	a.printSteps(s, e.Steps)
	s.hang("moves", prose(e.Moves), 2)
	s.hang("old", prose(e.Leaves), 2)
	s.put("first", prose(e.FirstNote))
	label = "back"
	if same {
		s.put(label, "as above")
		return
	}
	for _, r := range e.Rollback {
		s.put(label, prose(r))
		label = ""
	}
}

func (a *app) printSteps(s sheet, steps []preview.Step) {
	label, said := "steps", map[string]bool{}
	for i, x := range steps {
		text := fmt.Sprintf("%d. %s", i+1, x.Text)
		// Said once; that of a check stands beside the check.
		if x.Risk != "" && x.Kind != rollout.StepCheck && !said[x.Risk] {
			said[x.Risk] = true
			text += " (removes: " + x.Risk + ")"
		}
		s.hang(label, prose(text), 3)
		label = ""
		if x.Bake == nil {
			continue
		}
		in := sheet{a: a, w: s.w, label: 2, indent: s.indent + s.label + 3}
		for _, line := range x.Bake.Sentence() {
			in.put("", prose(line))
		}
		for _, line := range x.Bake.Advice {
			in.put("!", prose(line))
		}
	}
}

func extends(what string, most int) string {
	if what == "extend" {
		return fmt.Sprintf("extend, at most %s", plural(most, "time"))
	}
	return what
}

func seconds(s float64) string {
	return pipeline.Span(time.Duration(s * float64(time.Second)))
}

func number(x float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", x), "0"), ".")
}
