package preview

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
)

// Traffic is what the caller knows of the service's requests.
type Traffic struct {
	RPS          float64 `json:"rps"`          // requests per second of both versions together; 0: not known
	BaselineRate float64 `json:"baselineRate"` // fraction of them that the stable version answers badly
}

// Preview is what a definition would do.
type Preview struct {
	Service      string              `json:"service"`
	Owner        string              `json:"owner"`
	Definition   release.Digest      `json:"definition"`
	Traffic      Traffic             `json:"traffic"`
	Build        []Stage             `json:"build"`
	Artifacts    []pipeline.Artifact `json:"artifacts"`
	Environments []Environment       `json:"environments"`
}

// Stage is one step of the build. All stages of a wave may run at once.
type Stage struct {
	Name    string        `json:"name"`
	Kind    pipeline.Kind `json:"kind"`
	Wave    int           `json:"wave"` // from 1
	Needs   []string      `json:"needs"`
	Run     string        `json:"run"`
	Network bool          `json:"network"`
	Reports []string      `json:"reports"`
	Risk    string        `json:"risk"` // that it removes
}

// Guard is something that must hold, and the risk that it removes.
type Guard struct {
	Name string `json:"name"`
	Rule string `json:"rule,omitempty"`
	Risk string `json:"risk"`
}

// Approval is the decision that people take.
type Approval struct {
	Quorum         int     `json:"quorum"`
	ExpiresSeconds float64 `json:"expiresSeconds"`
	Risk           string  `json:"risk"`
}

// Environment is one place that a release would enter.
type Environment struct {
	Name       string         `json:"name"`
	Production bool           `json:"production"`
	Risk       string         `json:"risk"`
	After      []string       `json:"after"`
	AfterRisk  string         `json:"afterRisk,omitempty"`
	Target     string         `json:"target"`
	Gates      []Guard        `json:"gates"`
	Approval   *Approval      `json:"approval,omitempty"`
	Strategy   string         `json:"strategy"`
	Rollout    string         `json:"rolloutRisk"` // that the strategy removes
	Moves      string         `json:"moves"`       // who moves the traffic
	Leaves     string         `json:"leaves"`      // when the release before is gone
	Metrics    []string       `json:"metrics"`
	Steps      []Step         `json:"steps"`      // when a release runs there already
	FirstSteps []Step         `json:"firstSteps"` // when none does
	FirstNote  string         `json:"firstNote"`  // what a first release lacks
	Rollback   []string       `json:"rollback"`   // how it is taken back, in sentences
	Checks     []Guard        `json:"checks"`     // of verify
	Judge      *JudgeSettings `json:"judge,omitempty"`
}

// JudgeSettings are how strictly it is judged.
type JudgeSettings struct {
	WarmUpSeconds  float64 `json:"warmUpSeconds"`
	BinSeconds     float64 `json:"binSeconds"`
	MaxExcess      float64 `json:"maxExcess"` // percentage points
	Alpha          float64 `json:"alpha"`
	Beta           float64 `json:"beta"`
	MinEvents      int     `json:"minEvents"`
	MaxExtend      int     `json:"maxExtend"`
	OnInconclusive string  `json:"onInconclusive"`
	OnNoData       string  `json:"onNoData"`
}

// Step is one step of a compiled rollout plan, in words, with what its bake can
// do.
type Step struct {
	Kind        rollout.StepKind `json:"kind"`
	Weight      float64          `json:"weight"` // percent of the candidate from this step on
	BakeSeconds float64          `json:"bakeSeconds,omitempty"`
	Basis       rollout.Basis    `json:"basis,omitempty"`
	Text        string           `json:"text"`
	Risk        string           `json:"risk,omitempty"` // that it removes; a step that only exposes users removes none
	Bake        *Bake            `json:"bake,omitempty"` // StepBake that is judged
}

// Bake is what a bake can see. Rates are fractions; without known traffic only
// NeedRPS is set.
type Bake struct {
	NeedRPS               float64      `json:"needRPS"`                         // least traffic at which a healthy release without errors passes by its end
	CanaryRequests        int64        `json:"canaryRequests,omitempty"`        // that are judged
	Detectable            float64      `json:"detectable,omitempty"`            // of the first metric
	ExpectedSecondsToPass *float64     `json:"expectedSecondsToPass,omitempty"` // of the slowest metric; -1: most healthy releases never pass
	ChanceOfExtension     float64      `json:"chanceOfExtension"`               // of the metric with the largest
	Metrics               []MetricBake `json:"metrics,omitempty"`
	Advice                []string     `json:"advice,omitempty"`
	Running               *Running     `json:"running,omitempty"` // it runs: all is at the traffic that it measures, and of its end
}

// MetricBake is what a bake can see of one metric.
type MetricBake struct {
	Name         string  `json:"name"`
	BaselineRate float64 `json:"baselineRate"`
	analysis.PlanOutput
	DetectableSoFar float64 `json:"detectableSoFar,omitempty"` // of a bake that runs; as its verdict says
}

// Of previews a definition that was parsed without an error.
func Of(d pipeline.Definition, t Traffic) (Preview, error) {
	p := Preview{Service: d.Service, Owner: d.Owner, Traffic: t, Artifacts: d.Build.Artifacts, Build: []Stage{}, Environments: []Environment{}}
	var err error
	if p.Definition, err = d.Digest(); err != nil {
		return p, fmt.Errorf("couldn't preview: %w", err)
	}
	waves, err := pipeline.Order(d.Build.Steps)
	if err != nil {
		return p, fmt.Errorf("couldn't preview the build: %w", err)
	}
	for i, wave := range waves {
		for _, s := range wave {
			p.Build = append(p.Build, stage(s, i+1))
		}
	}
	for _, e := range d.Environments {
		x, err := environment(d, e, t)
		if err != nil {
			return p, fmt.Errorf("couldn't preview %s: %w", e.Name, err)
		}
		p.Environments = append(p.Environments, x)
	}
	return p, nil
}

func stage(s pipeline.Step, wave int) Stage {
	out := Stage{Name: s.Name, Kind: s.Kind, Wave: wave, Needs: append([]string{}, s.Needs...), Run: s.Run, Network: s.Network, Reports: []string{}, Risk: pipeline.StageRisk(s.Kind)}
	for _, r := range s.Reports {
		out.Reports = append(out.Reports, r.Format+" "+r.Path)
	}
	return out
}

func environment(d pipeline.Definition, e pipeline.Environment, t Traffic) (Environment, error) {
	x := Environment{
		Name: e.Name, Production: pipeline.Production(d, e.Name), Risk: pipeline.EnvironmentRisk(d, e), After: append([]string{}, e.After...),
		Target: target(e.Target), Gates: []Guard{}, Checks: []Guard{}, Strategy: e.Rollout.Name(), Rollout: pipeline.RolloutRisk(e.Rollout), Metrics: []string{},
	}
	if len(e.After) > 0 {
		x.AfterRisk = pipeline.PathRisk
	}
	for _, g := range e.Gates {
		x.Gates = append(x.Gates, Guard{Name: g.Name, Rule: g.CEL, Risk: pipeline.GateRisk(g)})
	}
	if e.Approval != nil {
		x.Approval = &Approval{Quorum: e.Approval.Quorum, ExpiresSeconds: e.Approval.Expires.Seconds(), Risk: pipeline.ApprovalRisk}
	}
	for _, l := range []struct {
		moment string
		checks []pipeline.Check
	}{{pipeline.BeforeTraffic, e.Hooks.BeforeTraffic}, {pipeline.AfterStep, e.Hooks.AfterStep}, {"", e.Verify}, {pipeline.AfterTraffic, e.Hooks.AfterTraffic}} {
		for _, c := range l.checks {
			x.Checks = append(x.Checks, Guard{Name: c.Name, Rule: moment(l.moment) + c.Rule(), Risk: pipeline.HookRisk(l.moment)})
		}
	}
	for _, m := range e.Analysis.Metrics {
		x.Metrics = append(x.Metrics, metric(m))
	}
	for _, a := range e.Analysis.Alarms {
		x.Metrics = append(x.Metrics, alarm(a))
	}
	plan, err := rollout.Compile(e, true)
	if err != nil {
		return x, err
	}
	first, err := rollout.Compile(e, false)
	if err != nil {
		return x, err
	}
	if len(e.Analysis.Metrics) > 0 {
		a := e.Analysis
		x.Judge = &JudgeSettings{
			WarmUpSeconds: a.WarmUp.Seconds(), BinSeconds: a.Bin.Seconds(), MaxExcess: a.MaxExcess, Alpha: a.Alpha, Beta: a.Beta,
			MinEvents: a.MinEvents, MaxExtend: plan.MaxExtend, OnInconclusive: plan.OnInconclusive, OnNoData: plan.OnNoData,
		}
	}
	if x.Steps, err = steps(e, plan, &t); err != nil {
		return x, err
	}
	if x.FirstSteps, err = steps(e, first, nil); err != nil {
		return x, err
	}
	x.FirstNote, x.Rollback = firstNote(e, first), rollback(plan)
	if e.Rehearse != nil {
		x.Rollback = append(x.Rollback, fmt.Sprintf("A rollback is rehearsed here by itself, %s after the last rehearsal.", pipeline.Short(e.Rehearse.Every)))
	}
	x.Moves, x.Leaves = moves(e.Target, plan), leaves(plan)
	return x, nil
}

// moment says when a check of a hook is asked.
func moment(hook string) string {
	switch hook {
	case pipeline.BeforeTraffic:
		return "before any user: "
	case pipeline.AfterStep:
		return "after each step: "
	case pipeline.AfterTraffic:
		return "with all users: "
	}
	return ""
}

func target(t pipeline.Target) string {
	s := fmt.Sprintf("%s, listens on %s", t.Type, t.Listen)
	if t.Worker() {
		s = t.Type + ", a worker"
	}
	if t.Preview != "" {
		s += ", previews at " + t.Preview
	}
	if t.Instances > 1 {
		s += fmt.Sprintf(", %d instances", t.Instances)
	}
	if len(t.Hosts) > 1 {
		s += fmt.Sprintf(" on each of %d hosts", len(t.Hosts))
	}
	return s
}

func metric(m pipeline.Metric) string {
	switch m.Kind {
	case pipeline.HTTPLatency:
		var ps []string
		for _, q := range m.AllQuantiles() {
			ps = append(ps, "p"+number(round(100*q)))
		}
		return fmt.Sprintf("%s: %s at most %s× the stable's", m.Name, strings.Join(ps, ", "), number(m.MaxRatio))
	case pipeline.SLO:
		return fmt.Sprintf("%s: burn rate of the %s %% objective over %s", m.Name, number(m.Target), pipeline.Short(m.Window))
	case pipeline.Points:
		return fmt.Sprintf("%s: points compared once at the end of each bake, direction %s", m.Name, m.Direction)
	case pipeline.Limit, pipeline.Gauge:
		if m.Kind == pipeline.Gauge && !m.Absolute() {
			return m.Name + ": advisory, no limit"
		}
		s := m.Name + ":"
		if m.Min != nil {
			s += " at least " + number(*m.Min)
		}
		if m.Max != nil {
			s += " at most " + number(*m.Max)
		}
		return s
	}
	return m.Name
}

func alarm(a pipeline.Alarm) string {
	s := a.Signal() + ":"
	if a.Above != nil {
		s += " above " + number(*a.Above)
	}
	if a.Below != nil {
		s += " below " + number(*a.Below)
	}
	return s + " for " + pipeline.Short(a.For)
}

func firstNote(e pipeline.Environment, p rollout.Plan) string {
	s := "a first release has nothing to compare with: it goes straight to 100 %"
	judged := false
	for _, st := range p.Steps {
		judged = judged || st.Kind == rollout.StepBake && st.Analysis
	}
	switch {
	case judged:
		s += ", then only absolute limits judge it"
	case len(e.Checks()) > 0:
		s += "; health and checks decide"
	default:
		s += "; health decides"
	}
	return s + ". It has nothing to go back to: taken back, users get 503."
}

func rollback(p rollout.Plan) []string {
	out := []string{Failing(p)}
	if p.RetireAfter > 0 && p.Warm() {
		out = append(out, fmt.Sprintf("The previous release stays warm at weight 0 for %s after the rollout; until then going back takes about a second and needs neither registry nor network.", pipeline.Short(p.RetireAfter)))
	}
	return append(out,
		fmt.Sprintf("A rollback that is not observed within %s is flagged stuck and goes on being tried.", pipeline.Short(p.RollbackTimeout)),
		"A release that was rolled back is quarantined until a person lifts it.")
}

// short writes seconds as a duration that people read.
func short(s float64) string { return pipeline.Short(time.Duration(s * float64(time.Second))) }
