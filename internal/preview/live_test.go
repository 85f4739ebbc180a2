package preview_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/rollout"
)

// baking is production of the example, its plan, and its first bake with what it
// judges by http-errors alone.
func baking(t *testing.T) (pipeline.Environment, rollout.Plan, int) {
	t.Helper()
	e := definition(t, "- {name: http-latency, quantile: 0.99, maxRatio: 1.5}", "").Environments[1]
	p, err := rollout.Compile(e, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Steps {
		if s.Kind == rollout.StepBake {
			return e, p, i
		}
	}
	t.Fatal("it has no bake")
	return e, p, 0
}

func told(t *testing.T, e pipeline.Environment, p rollout.Plan, step int, now preview.Now) *preview.Bake {
	t.Helper()
	b, err := preview.Live(e, p, step, now)
	if err != nil || b == nil || b.Running == nil {
		t.Fatalf("%+v, %v", b, err)
	}
	left := max(0, p.Steps[step].Bake-now.Elapsed)
	if b.Running.RemainingSeconds = left.Seconds(); left > 0 {
		b.Running.EndsAt = time.Date(2026, 5, 4, 14, 0, 0, 0, time.UTC).Add(left)
	}
	return b
}

func says(t *testing.T, b *preview.Bake, want ...string) {
	t.Helper()
	all := strings.Join(append(b.Telling(func(at time.Time) string { return at.Format("15:04") }), b.Advice...), "\n")
	for _, w := range want {
		if !strings.Contains(all, w) {
			t.Errorf("%q is not said in\n%s", w, all)
		}
	}
	t.Log("\n" + all)
}

// While a bake runs its own traffic says what it can see: what it has seen and what
// it will see by its end are told apart, and when it ends, and how.
func TestABakeThatRunsIsToldByItsOwnTraffic(t *testing.T) {
	e, p, step := baking(t)
	bake := p.Steps[step].Bake
	set := preview.Settings(e.Analysis)
	start := func() analysis.Rate {
		r := analysis.NewRate("http-errors", set, len(e.Analysis.Metrics), analysis.Frozen{Bad: 500, Total: 1_000_000})
		r.StartStep()
		return r
	}
	// A third of the bake, 10 canary requests a second of 200.
	now := preview.Now{Took: bake / 3, Elapsed: bake / 3, Warm: bake / 3}
	r := start()
	for at := time.Duration(0); at < now.Took; at += time.Second {
		kind := analysis.Judged
		if at < e.Analysis.WarmUp {
			kind = analysis.WarmUp
		}
		r.Add(analysis.Bin{NC: 10, NB: 190, KB: int64(at/time.Second) % 11 / 10}, kind)
		now.Canary, now.Stable = now.Canary+10, now.Stable+190
	}
	now.Tests = map[string]analysis.Rate{"http-errors": r}
	b := told(t, e, p, step, now)
	m := b.Metrics[0]
	if b.Running.CanaryRPS != 10 || m.DetectableSoFar != r.Result().Detectable || m.Detectable >= m.DetectableSoFar || m.Detectable <= 0 || b.CanaryRequests != int64((bake-e.Analysis.WarmUp).Seconds())*10 {
		t.Errorf("%+v %+v", b, b.Running)
	}
	says(t, b, "10 requests per second reach the new release in this bake", "so far it could see ", "by its end it will see ", "(stable 0.", "ends at about ")

	// A few requests more may need one error more: what was seen stays seen.
	noisy := start()
	for n := range 200 {
		if noisy.Add(analysis.Bin{NC: 10, NB: 190, KB: 1}, analysis.Judged); n < 100 {
			continue
		}
		x := now
		x.Elapsed, x.Tests = bake-time.Second, map[string]analysis.Rate{"http-errors": noisy}
		if got := told(t, e, p, step, x).Metrics[0]; got.Detectable > got.DetectableSoFar {
			t.Errorf("after %d bins it sees %v by its end, and saw %v", n, got.Detectable, got.DetectableSoFar)
		}
	}

	// It asks for what it can't see, in the words of plan.
	if b.Detectable > m.BaselineRate+e.Analysis.MaxExcess/100 {
		says(t, b, "the smallest canary rate that this bake can see is", "synthetic")
	}

	// Nobody comes: said plainly, with what to do; and what was seen stays seen.
	none := now
	none.Canary = 0
	b = told(t, e, p, step, none)
	if b.Running.CanaryRPS != 0 || b.Metrics[0].Detectable != m.DetectableSoFar || b.Running.NoData {
		t.Errorf("%+v %+v", b, b.Running)
	}
	says(t, b, "no request reached the new release in the 5m that this bake measured", "a pass already")
	none.Tests = map[string]analysis.Rate{"http-errors": start()}
	b = told(t, e, p, step, none)
	if b.Detectable != 1 || b.ChanceOfExtension != 1 || !b.Running.NoData || b.Running.Undecided != "held" {
		t.Errorf("%+v", b)
	}
	says(t, b, "there is no traffic to judge by: send synthetic traffic", "it needs about ", "it then has too few requests to judge by and is held")

	// All else that has no word on it.
	b.Running.EndsAt = time.Time{}
	says(t, b, "it stands, with ")
	b.Running.RemainingSeconds = 0
	says(t, b, "its time is over")
	for name, at := range map[string]int{"before it": step - 1, "none": len(p.Steps)} {
		if b, err := preview.Live(e, p, at, now); b != nil || err != nil {
			t.Errorf("%s: %+v %v", name, b, err)
		}
	}
	now.Tests = nil
	if b, err := preview.Live(e, p, step, now); b != nil || err != nil {
		t.Errorf("without a metric of requests: %+v %v", b, err)
	}
	if b := (&preview.Bake{NeedRPS: 12}); b.Telling(nil)[0] != b.Sentence()[0] {
		t.Error("a bake that doesn't run is told otherwise than plan tells it")
	}
}
