package analysis

import (
	"math"
	"strings"
	"testing"
	"time"
)

func planned(t *testing.T, in PlanInput) PlanOutput {
	t.Helper()
	if in.Settings == (Settings{}) {
		in.Settings = Defaults()
	}
	out, err := Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPlan(t *testing.T) {
	busy := planned(t, PlanInput{BaselineRate: 0.005, Share: 0.05, RPS: 400, Bake: 15 * time.Minute})
	if busy.CanaryRequests != 400*13*60/20 {
		t.Errorf("%d canary requests are judged in 13 minutes at 20 a second", busy.CanaryRequests)
	}
	if busy.ChanceOfExtension > 0.01 || busy.ExpectedSecondsToPass < 120 || busy.ExpectedSecondsToPass > 300 || len(busy.Advice) != 0 {
		t.Errorf("with much traffic: %+v", busy)
	}
	thin := planned(t, PlanInput{BaselineRate: 0.005, Share: 0.05, RPS: 10, Bake: 15 * time.Minute})
	if thin.ChanceOfExtension < 0.9 || thin.Detectable < 2*busy.Detectable {
		t.Errorf("with little traffic: %+v", thin)
	}
	if all := strings.Join(thin.Advice, "\n"); !strings.Contains(all, "synthetic") || !strings.Contains(all, "raise the share") || !strings.Contains(all, "bake 2h") {
		t.Errorf("it advises: %s", all)
	}
	// The advice holds: with the proposed bake the regression is seen.
	longer := planned(t, PlanInput{BaselineRate: 0.005, Share: 0.05, RPS: 10, Bake: 2*time.Hour + 15*time.Minute})
	if longer.Detectable > 0.0151 {
		t.Errorf("after the advice: %+v", longer)
	}
	if none := planned(t, PlanInput{BaselineRate: 0.005, Share: 0.05, RPS: 0, Bake: time.Hour}); none.Detectable != 1 || none.ChanceOfExtension != 1 || none.ExpectedSecondsToPass != NeverPasses || !strings.Contains(none.Advice[0], "no traffic") {
		t.Errorf("without traffic: %+v", none)
	}
	if few := planned(t, PlanInput{BaselineRate: 0, Share: 0.05, RPS: 1, Bake: 5 * time.Minute}); !strings.Contains(strings.Join(few.Advice, " "), "no-data") {
		t.Errorf("below minEvents: %+v", few)
	}
}

// Without any error the bake passes when the closed form says so.
func TestPlanWithoutErrors(t *testing.T) {
	s := Defaults()
	s.WarmUp = 0
	out := planned(t, PlanInput{Settings: s, Share: 0.1, RPS: 10, Bake: 10 * time.Minute})
	closed := math.Log(2/s.Beta) / -math.Log1p(-s.MaxExcess)
	if out.ExpectedSecondsToPass < closed || out.ExpectedSecondsToPass > 1.3*closed {
		t.Errorf("passes after %v s, the closed form says %v", out.ExpectedSecondsToPass, closed)
	}
}

// Evidence of earlier steps counts, and 100 % is planned on what is known before.
func TestPlanOfLaterSteps(t *testing.T) {
	earlier := []PlanStep{{0.05, 15 * time.Minute}, {0.25, 15 * time.Minute}}
	alone := planned(t, PlanInput{BaselineRate: 0.005, Share: 0.5, RPS: 10, Bake: 5 * time.Minute})
	later := planned(t, PlanInput{BaselineRate: 0.005, Share: 0.5, RPS: 10, Bake: 5 * time.Minute, Earlier: earlier})
	if later.Detectable >= alone.Detectable || later.CanaryRequests <= alone.CanaryRequests || later.ChanceOfExtension > alone.ChanceOfExtension {
		t.Errorf("alone %+v, later %+v", alone, later)
	}
	full := planned(t, PlanInput{BaselineRate: 0.005, Share: 1, RPS: 40, Bake: 15 * time.Minute})
	if full.Detectable >= 0.02 || full.ChanceOfExtension > 0.1 {
		t.Errorf("at 100 %%: %+v", full)
	}
}

func TestPlanIsTheSameForTheSameSeed(t *testing.T) {
	in := PlanInput{BaselineRate: 0.005, Share: 0.05, RPS: 40, Bake: 15 * time.Minute, Seed: 3}
	a, b := planned(t, in), planned(t, in)
	if a.ChanceOfExtension != b.ChanceOfExtension || a.ExpectedSecondsToPass != b.ExpectedSecondsToPass {
		t.Errorf("%+v\n%+v", a, b)
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	good := PlanInput{Settings: Defaults(), BaselineRate: 0.005, Share: 0.05, RPS: 40, Bake: time.Minute}
	for name, f := range map[string]func(*PlanInput){
		"share":    func(p *PlanInput) { p.Share = 0 },
		"baseline": func(p *PlanInput) { p.BaselineRate = math.NaN() },
		"traffic":  func(p *PlanInput) { p.RPS = math.Inf(1) },
		"bake":     func(p *PlanInput) { p.Bake = -1 },
		"alpha":    func(p *PlanInput) { p.Settings.Alpha = 0 },
		"rate to":  func(p *PlanInput) { p.Care = 2 },
	} {
		in := good
		f(&in)
		if _, err := Plan(in); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	in := PlanInput{Settings: Defaults(), BaselineRate: 0.005, Share: 0.5, RPS: 40, Bake: 15 * time.Minute,
		Earlier: []PlanStep{{0.05, 15 * time.Minute}, {0.25, 15 * time.Minute}}}
	for range b.N {
		if _, err := Plan(in); err != nil {
			b.Fatal(err)
		}
	}
}

// underWay plays a bake up to a moment, at 20 canary requests of 400 a second.
func underWay(rate float64, elapsed time.Duration) PlanInput {
	in := PlanInput{Settings: Defaults(), BaselineRate: 0.005, RPS: 400, Share: 0.05, Bake: 15 * time.Minute}
	r := NewRate("http-errors", in.Settings, 1, Frozen{Bad: 5000, Total: 1_000_000})
	r.StartStep()
	for at := time.Duration(0); at < elapsed; at += 10 * time.Second {
		kind := Judged
		if at < in.Settings.WarmUp {
			kind = WarmUp
		}
		r.Add(Bin{NC: 200, KC: int64(math.Round(200 * rate)), NB: 3800, KB: 19}, kind)
	}
	in.Running = &Running{Elapsed: elapsed, Warm: elapsed, Test: r}
	return in
}

// A bake that runs is foretold from what it has shown: as the plan said while all
// goes as planned, and as its traffic now lets it see when that changed.
func TestPlanOfABakeThatRuns(t *testing.T) {
	in := underWay(0.005, 10*time.Minute)
	before := in
	before.Running = nil
	was, now := planned(t, before), planned(t, in)
	if now.CanaryRequests != was.CanaryRequests || math.Abs(now.Detectable/was.Detectable-1) > 0.02 {
		t.Errorf("it goes as planned: %+v, was %+v", now, was)
	}
	sofar := in.Running.Test.Result().Detectable
	if now.Detectable >= sofar {
		t.Errorf("by its end it sees %v, and saw %v so far", now.Detectable, sofar)
	}
	if now.ExpectedSecondsToPass != 0 || now.ChanceOfExtension > 0.05 {
		t.Errorf("it has passed: %+v", now)
	}
	less := in
	less.RPS = 40
	if got := planned(t, less); got.Detectable <= now.Detectable || got.Detectable > sofar || got.CanaryRequests != in.Running.Test.StepN+2*300 {
		t.Errorf("with a tenth of the traffic: %+v", got)
	}
	less.RPS = 0
	if got := planned(t, less); math.Abs(got.Detectable/sofar-1) > 0.01 || got.ExpectedSecondsToPass != 0 || got.ChanceOfExtension != 0 {
		t.Errorf("without traffic any more it stays at what it has: %+v", got)
	}
	good, worse := underWay(0.005, 3*time.Minute), underWay(0.012, 3*time.Minute)
	good.Bake, worse.Bake = 200*time.Second, 200*time.Second
	if a, b := planned(t, good), planned(t, worse); b.ChanceOfExtension < a.ChanceOfExtension+0.3 || b.ExpectedSecondsToPass <= a.ExpectedSecondsToPass {
		t.Errorf("with errors that it must make up for: %+v, without: %+v", b, a)
	}
	if failed := underWay(0.05, 10*time.Minute); planned(t, failed).ChanceOfExtension != 1 {
		t.Errorf("it has failed: %+v", planned(t, failed))
	}
	early := underWay(0.005, time.Minute) // all of it warm-up
	if got := planned(t, early); got.CanaryRequests != was.CanaryRequests || math.Abs(got.Detectable/was.Detectable-1) > 0.02 {
		t.Errorf("during its warm-up: %+v, was %+v", got, was)
	}
	over := underWay(0.005, 15*time.Minute)
	if got := planned(t, over); got.CanaryRequests != over.Running.Test.StepN || got.Detectable <= 0 {
		t.Errorf("at its end: %+v", got)
	}
	// The advice is a bake that is longer than the one that can't see it.
	thin := underWay(0.005, 10*time.Minute)
	thin.RPS, thin.Care = 100, 0.008
	if all := strings.Join(planned(t, thin).Advice, "\n"); !strings.Contains(all, "not 0.8 %: it takes about") || !strings.Contains(all, "so bake 4h") || !strings.Contains(all, "synthetic") {
		t.Errorf("it advises: %s", all)
	}
	bad := in
	bad.Running = &Running{Elapsed: -1, Test: in.Running.Test}
	if _, err := Plan(bad); err == nil {
		t.Error("a bake that has run for less than nothing is planned")
	}
	alone := in
	alone.Share = 1
	alone.Running = &Running{Elapsed: 5 * time.Minute, Warm: 10 * time.Minute, Test: in.Running.Test}
	alone.Running.Test.StartStep()
	alone.Running.Test.Add(Bin{NC: 4000, KC: 20}, Judged|Alone)
	if got := planned(t, alone); got.Detectable > alone.Running.Test.Result().Detectable || got.CanaryRequests != 4000+400*600 {
		t.Errorf("at 100 %%: %+v", got)
	}
}
