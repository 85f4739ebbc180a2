package preview

import (
	"fmt"
	"math"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// Now is what a bake that runs has measured.
type Now struct {
	Took           time.Duration // since it began, or was extended; not 0
	Canary, Stable int64         // requests in that time
	Elapsed        time.Duration // of the bake
	Warm           time.Duration // that the warm-up has had
	Extended       int
	Tests          map[string]analysis.Rate // by the metric's name, as they stand
}

// Running is a bake that runs, in the words of a forecast.
type Running struct {
	CanaryRPS        float64   `json:"canaryRPS"`        // requests per second at the new release, measured in this bake
	MeasuredSeconds  float64   `json:"measuredSeconds"`  // for so long
	NoData           bool      `json:"noData,omitempty"` // at this traffic it ends with too few requests to judge by
	Undecided        string    `json:"undecided"`        // what becomes of it without a pass: extended, held
	RemainingSeconds float64   `json:"remainingSeconds"` // of the bake
	EndsAt           time.Time `json:"endsAt,omitzero"`  // if its time goes on; the caller knows
}

// Live says what the bake at a step can do that runs, at the traffic that it has
// measured itself; nil where the judge has nothing to say of it. The share is the
// realised one.
func Live(e pipeline.Environment, p rollout.Plan, step int, now Now) (*Bake, error) {
	s, earlier, ok := judged(p, step)
	if !ok || now.Took <= 0 {
		return nil, nil
	}
	set := Settings(e.Analysis)
	b := &Bake{
		NeedRPS: need(set, append(earlier, analysis.PlanStep{Share: share(s), Bake: s.Bake})),
		Running: &Running{CanaryRPS: float64(now.Canary) / now.Took.Seconds(), MeasuredSeconds: now.Took.Seconds(), Undecided: "held"},
	}
	all := float64(now.Canary + now.Stable)
	in := analysis.PlanInput{
		Settings: set, Metrics: len(e.Analysis.Metrics), RPS: min(1e7, all/now.Took.Seconds()), Share: share(s), Bake: s.Bake, Seed: seed,
	}
	switch {
	case now.Canary == 0:
		in.RPS = 0 // whatever others get, it is judged by nothing
	case now.Stable > 0 || s.Share() == rollout.FullWeight:
		in.Share = float64(now.Canary) / all
	}
	err := b.foretell(e, func(m pipeline.Metric) (MetricBake, bool, error) {
		r, ok := now.Tests[m.Name]
		if _, requests := baseline(m, Traffic{}); !ok || !requests || r.Failed != nil {
			return MetricBake{}, false, nil
		}
		in.BaselineRate = min(0.99, r.Baseline())
		in.Running = &analysis.Running{Elapsed: now.Elapsed, Warm: now.Warm, Test: r}
		out, err := analysis.Plan(in)
		sofar := r.Result().Detectable
		out.Detectable = min(out.Detectable, sofar) // what was seen stays seen
		return MetricBake{Name: m.Name, BaselineRate: in.BaselineRate, PlanOutput: out, DetectableSoFar: sofar}, true, err
	})
	if err != nil || len(b.Metrics) == 0 {
		return nil, err
	}
	on := p.OnInconclusive
	if b.Running.NoData = b.CanaryRequests < set.MinEvents; b.Running.NoData {
		on = p.OnNoData
	}
	if on == rollout.Extend && now.Extended < p.MaxExtend {
		b.Running.Undecided = "extended"
	}
	return b, nil
}

// Telling says in words what a bake can do; clock writes when it ends.
func (b *Bake) Telling(clock func(time.Time) string) []string {
	r := b.Running
	if r == nil {
		return b.Sentence()
	}
	first := b.Metrics[0]
	if r.CanaryRPS == 0 {
		out := []string{fmt.Sprintf("no request reached the new release in the %s that this bake measured: it can see nothing more", short(roundSeconds(r.MeasuredSeconds)))}
		if b.NeedRPS > 0 && b.ChanceOfExtension > 0 {
			out[0] += fmt.Sprintf("; to pass it needs about %s requests per second in all", number(round(b.NeedRPS)))
		}
		return append(out, b.end(clock))
	}
	out := []string{fmt.Sprintf("%s requests per second reach the new release in this bake; by its end about %s are judged", perSecond(r.CanaryRPS), analysis.Count(first.CanaryRequests))}
	for _, m := range b.Metrics {
		s := m.Name + ": "
		switch {
		case m.Detectable >= 1:
			s += "by its end it can see no regression"
		case m.DetectableSoFar >= 1:
			s += fmt.Sprintf("so far it could see no regression, by its end it will see %s bad or more", percent(m.Detectable))
		case percent(m.DetectableSoFar) == percent(m.Detectable):
			s += fmt.Sprintf("so far and by its end it sees %s bad or more", percent(m.Detectable))
		default:
			s += fmt.Sprintf("so far it could see %s bad or more, by its end it will see %s or more", percent(m.DetectableSoFar), percent(m.Detectable))
		}
		out = append(out, fmt.Sprintf("%s (stable %s)", s, percent(m.BaselineRate)))
	}
	return append(out, b.end(clock))
}

// end says when the bake ends, and how.
func (b *Bake) end(clock func(time.Time) string) string {
	r := b.Running
	at := "its time is over"
	switch {
	case r.RemainingSeconds > 0 && r.EndsAt.IsZero():
		at = "it stands, with " + short(roundSeconds(r.RemainingSeconds)) + " to go"
	case r.RemainingSeconds > 0:
		at = "ends at about " + clock(r.EndsAt)
	}
	chance := math.Round(100 * b.ChanceOfExtension)
	switch {
	case r.NoData:
		return fmt.Sprintf("%s; it then has too few requests to judge by and is %s", at, r.Undecided)
	case b.ExpectedSecondsToPass != nil && *b.ExpectedSecondsToPass == 0 && chance == 0:
		return at + "; what it has seen is a pass already"
	case chance == 0:
		return at + ", with a pass if the new release is as good as the stable one"
	case chance >= 50:
		return fmt.Sprintf("%s; a release as good as the stable one is then undecided and %s, with a chance of %.0f %%", at, r.Undecided, chance)
	}
	return fmt.Sprintf("%s, with a pass if the new release is as good as the stable one (%.0f %% chance that it is undecided then and %s)", at, chance, r.Undecided)
}

func perSecond(x float64) string {
	if x < 1 {
		return number(math.Ceil(x*100) / 100)
	}
	if x < 10 {
		return number(math.Round(x*10) / 10)
	}
	return analysis.Count(int64(math.Round(x)))
}
