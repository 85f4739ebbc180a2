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
