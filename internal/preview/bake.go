package preview

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// seed makes every preview of the same definition and traffic the same.
const seed = 1

// Settings are the judge's for an environment.
func Settings(a pipeline.Analysis) analysis.Settings {
	s := analysis.Defaults()
	s.Alpha, s.Beta, s.MaxExcess = a.Alpha, a.Beta, a.MaxExcess/100
	s.MinEvents, s.Bin, s.WarmUp = int64(a.MinEvents), a.Bin, a.WarmUp
	return s
}

// steps puts a plan into words; with traffic it says what each bake can do.
func steps(e pipeline.Environment, p rollout.Plan, t *Traffic) ([]Step, error) {
	out := []Step{}
	var earlier []analysis.PlanStep
	for _, s := range p.Steps {
		x := Step{Kind: s.Kind, Weight: float64(s.Weight) / 100, BakeSeconds: s.Bake.Seconds(), Basis: s.Basis, Text: text(s, p), Risk: risk(s, p)}
		if s.Kind == rollout.StepBake && s.Analysis && s.Basis != rollout.BasisNone && t != nil {
			b, err := bake(e, s, earlier, *t)
			if err != nil {
				return nil, err
			}
			x.Bake = b
			earlier = append(earlier, analysis.PlanStep{Share: share(s), Bake: s.Bake})
		}
		out = append(out, x)
	}
	return out, nil
}

func text(s rollout.PlanStep, p rollout.Plan) string {
	weight := number(float64(s.Weight)/100) + " %"
	switch s.Kind {
	case rollout.StepPrepare:
		return starting(s, p)
	case rollout.StepCheck:
		return moment(s.Hook) + "check " + strings.Join(s.Checks, ", ")
	case rollout.StepShift:
		return "move " + weight + " of " + whose(p) + " to it"
	case rollout.StepReplace:
		return replacing(s, p, weight)
	case rollout.StepDrive:
		out := p.Mover.Name + " moves " + whose(p) + " to it by itself, to " + weight + " at most"
		if p.Mover.Final != "" {
			out += "; it can't take back: " + p.Mover.Final
		}
		return out
	case rollout.StepHold:
		return "wait for a person to advance it"
	case rollout.StepRetire:
		if p.First {
			return "done"
		}
		if !p.Warm() {
			return "done; the previous release is gone with its last instance"
		}
		if p.RetireAfter == 0 {
			return "done; the previous release stops"
		}
		return fmt.Sprintf("done; the previous release stays warm for %s", pipeline.Short(p.RetireAfter))
	case rollout.StepBake:
		out := fmt.Sprintf("bake %s at %s", pipeline.Short(s.Bake), weight)
		if s.Shadow > 0 {
			out = fmt.Sprintf("bake %s on copies of %s %% of the requests that may be made twice", pipeline.Short(s.Bake), number(float64(s.Shadow)/100))
		}
		switch {
		case !s.Analysis:
			return out + ", not judged"
		case s.Basis == rollout.BasisConcurrent:
			return out + ", judged against the running release"
		case s.Basis == rollout.BasisBeforeAfter:
			return out + ", judged against the time before (weaker)"
		}
		return out + ", judged by absolute limits"
	}
	return string(s.Kind)
}

// risk names the risk that a step of a rollout removes; "" where it only exposes users,
// or ends what others did.
func risk(s rollout.PlanStep, p rollout.Plan) string {
	switch s.Kind {
	case rollout.StepPrepare:
		return "users on a release that does not start"
	case rollout.StepCheck:
		return pipeline.HookRisk(s.Hook)
	case rollout.StepShift:
		if s.Weight < rollout.FullWeight {
			return "a bad release that more than " + number(float64(s.Weight)/100) + " % of " + whose(p) + " meet at once"
		}
	case rollout.StepReplace:
		if s.Weight < rollout.FullWeight {
			return "a release that cannot run, found on all instances at once"
		}
	case rollout.StepBake:
		switch {
		case s.Shadow > 0:
			return "a regression that users would have met"
		case !s.Analysis:
			return "a crash that takes that long to show"
		case s.Basis == rollout.BasisNone:
			return "a limit that breaks only in use"
		}
		return "a regression that only use shows"
	case rollout.StepHold:
		return "a step that nobody looked at"
	case rollout.StepRetire:
		if !p.First && p.Warm() && p.RetireAfter > 0 {
			return "a way back that must be started first, for that long"
		}
	case rollout.StepDrive: // it exposes users
	}
	return ""
}

// share is the candidate's part of all requests that are counted in a step. Copies
// come on top of users' requests.
func share(s rollout.PlanStep) float64 {
	n := float64(s.Share()) / rollout.FullWeight
	if s.Shadow > 0 {
		return n / (1 + n)
	}
	return n
}

// bake says what one bake can see of the metrics whose events are requests.
func bake(e pipeline.Environment, s rollout.PlanStep, earlier []analysis.PlanStep, t Traffic) (*Bake, error) {
	set := Settings(e.Analysis)
	share := share(s)
	b := &Bake{NeedRPS: need(set, append(slices.Clone(earlier), analysis.PlanStep{Share: share, Bake: s.Bake}))}
	if t.RPS <= 0 {
		return b, nil
	}
	err := b.foretell(e, func(m pipeline.Metric) (MetricBake, bool, error) {
		base, ok := baseline(m, t)
		if !ok {
			return MetricBake{}, false, nil
		}
		out, err := analysis.Plan(analysis.PlanInput{
			Settings: set, Metrics: len(e.Analysis.Metrics), BaselineRate: base, RPS: t.RPS, Earlier: earlier, Share: share, Bake: s.Bake, Seed: seed,
		})
		return MetricBake{Name: m.Name, BaselineRate: base, PlanOutput: out}, true, err
	})
	return b, err
}

// foretell fills in what a bake can see of each metric, and what that comes to.
func (b *Bake) foretell(e pipeline.Environment, of func(pipeline.Metric) (MetricBake, bool, error)) error {
	slowest := 0.0
	for _, m := range e.Analysis.Metrics {
		x, ok, err := of(m)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		out := x.PlanOutput
		if len(b.Metrics) == 0 {
			b.CanaryRequests, b.Detectable = out.CanaryRequests, out.Detectable
		}
		b.Metrics = append(b.Metrics, x)
		b.ChanceOfExtension = max(b.ChanceOfExtension, out.ChanceOfExtension)
		switch {
		case slowest == analysis.NeverPasses:
		case out.ExpectedSecondsToPass == analysis.NeverPasses:
			slowest = analysis.NeverPasses
		default:
			slowest = max(slowest, out.ExpectedSecondsToPass)
		}
		for _, a := range out.Advice {
			b.Advice = append(b.Advice, m.Name+": "+a)
		}
	}
	if len(b.Metrics) > 0 {
		b.ExpectedSecondsToPass = &slowest
	}
	return nil
}

// baseline is the stable's rate of bad events; false where events are not
// requests, so that traffic says nothing about them.
func baseline(m pipeline.Metric, t Traffic) (float64, bool) {
	switch m.Kind {
	case pipeline.HTTPErrors:
		return t.BaselineRate, true
	case pipeline.HTTPLatency:
		return 1 - slices.Max(m.AllQuantiles()), true // "slower than the bound" is a rate of that; the highest sees least
	}
	return 0, false
}

// need is the least traffic at which a release without any error passes the
// last of the steps: judge.md's n ≥ ln(2/β)/−ln(1−δ) with the mixture's ln 2
// more, over all steps, and minEvents in the last one.
func need(set analysis.Settings, all []analysis.PlanStep) float64 {
	warm := set.WarmUp
	var judged, last float64 // canary's seconds at full traffic
	for _, s := range all {
		d := max(0, s.Bake-warm)
		warm = max(0, warm-s.Bake)
		last = d.Seconds() * s.Share
		judged += last
	}
	if last <= 0 {
		return 0
	}
	n := (math.Log(2/set.Beta) + math.Ln2) / -math.Log1p(-set.MaxExcess)
	rps := max(n/judged, float64(set.MinEvents)/last)
	scale := math.Pow(10, math.Floor(math.Log10(rps))-1) // two digits that matter, rounded up
	return math.Ceil(rps/scale-1e-9) * scale
}

func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// Sentence says in words what a bake can do, for people.
func (b *Bake) Sentence() []string {
	var out []string
	for _, m := range b.Metrics {
		s := fmt.Sprintf("%s: %s canary requests; ", m.Name, analysis.Count(m.CanaryRequests))
		if m.Detectable >= 1 {
			s += "no regression can be seen"
		} else {
			s += fmt.Sprintf("sees %s bad or more (stable %s)", percent(m.Detectable), percent(m.BaselineRate))
		}
		switch {
		case m.ExpectedSecondsToPass == analysis.NeverPasses:
			s += "; most healthy releases do not pass"
		default:
			s += "; passes after about " + short(roundSeconds(m.ExpectedSecondsToPass))
		}
		s += fmt.Sprintf(", %.0f %% chance of an extension", 100*m.ChanceOfExtension)
		out = append(out, s)
	}
	if len(out) == 0 && b.NeedRPS > 0 {
		out = append(out, fmt.Sprintf("needs about %s requests per second to pass by its end", number(round(b.NeedRPS))))
	}
	return out
}

func round(x float64) float64 { return math.Round(x*1e6) / 1e6 }

func roundSeconds(s float64) float64 {
	if s < 10 {
		return math.Round(s*10) / 10
	}
	return math.Round(s)
}

// percent of a fraction, with the digits that matter.
func percent(f float64) string {
	p := 100 * f
	digits := 2
	switch {
	case p == math.Trunc(p) && p < 1000:
		digits = 0
	case p >= 10:
		digits = 1
	}
	return strconv.FormatFloat(p, 'f', digits, 64) + " %"
}

// Forecast says what the bake at a step of a compiled plan can do, after the
// bakes before it; nil where the judge has nothing to say of it.
func Forecast(e pipeline.Environment, p rollout.Plan, step int, t Traffic) (*Bake, error) {
	s, earlier, ok := judged(p, step)
	if !ok {
		return nil, nil
	}
	return bake(e, s, earlier, t)
}

// judged returns the bake at a step and the bakes before it; false if the judge has
// nothing to say of it.
func judged(p rollout.Plan, step int) (s rollout.PlanStep, earlier []analysis.PlanStep, ok bool) {
	if step < 0 || step >= len(p.Steps) {
		return s, nil, false
	}
	for i, s := range p.Steps[:step+1] {
		if s.Kind != rollout.StepBake || !s.Analysis || s.Basis == rollout.BasisNone {
			continue
		}
		if i == step {
			return s, earlier, true
		}
		earlier = append(earlier, analysis.PlanStep{Share: share(s), Bake: s.Bake})
	}
	return s, nil, false
}
