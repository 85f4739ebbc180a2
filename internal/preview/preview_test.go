package preview_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/rollout"
)

func definition(t *testing.T, change ...string) pipeline.Definition {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("..", "pipeline", "testdata", "good", "interface.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d, problems := pipeline.Parse("sluice.yaml", []byte(strings.NewReplacer(change...).Replace(string(src))))
	if problems.Failed() {
		t.Fatal(problems.Err())
	}
	return d
}

func of(t *testing.T, d pipeline.Definition, traffic preview.Traffic) preview.Preview {
	t.Helper()
	p, err := preview.Of(d, traffic)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func bakes(e preview.Environment) []*preview.Bake {
	var out []*preview.Bake
	for _, s := range e.Steps {
		if s.Kind == rollout.StepBake {
			out = append(out, s.Bake)
		}
	}
	return out
}

// A plan says where rollbacks are rehearsed by themselves.
func TestPlanTellsOfRehearsals(t *testing.T) {
	d := definition(t)
	d.Environments[0].Rehearse = &pipeline.Rehearse{Every: 168 * time.Hour}
	p := of(t, d, preview.Traffic{})
	for i, want := range []bool{true, false} {
		if text := strings.Join(p.Environments[i].Rollback, "\n"); strings.Contains(text, "rehearsed here by itself, 168h after the last rehearsal") != want {
			t.Errorf("%s:\n%s", p.Environments[i].Name, text)
		}
	}
}

func TestEveryStageNamesTheRiskThatItRemoves(t *testing.T) {
	p := of(t, definition(t), preview.Traffic{})
	if len(p.Build) == 0 || len(p.Environments) != 2 {
		t.Fatalf("got %+v", p)
	}
	for _, s := range p.Build {
		if s.Risk == "" || s.Wave < 1 {
			t.Errorf("stage %+v", s)
		}
	}
	for _, e := range p.Environments {
		if e.Risk == "" || e.Rollout == "" || len(e.Rollback) < 3 || e.FirstNote == "" {
			t.Errorf("environment %+v", e)
		}
		for _, s := range e.Steps {
			exposes := s.Weight == 100 && s.Kind == rollout.StepShift
			if (s.Risk == "") != exposes {
				t.Errorf("%s: step %q removes %q", e.Name, s.Text, s.Risk)
			}
		}
		if e.Strategy == pipeline.AllAtOnce && !strings.Contains(e.Rollout, "it leaves that every user meets a bad release at once") {
			t.Errorf("all at once: %s", e.Rollout)
		}
		for _, g := range append(e.Gates, e.Checks...) {
			if g.Risk == "" {
				t.Errorf("%s: %+v", e.Name, g)
			}
		}
	}
	if p.Environments[0].Production || !p.Environments[1].Production || p.Environments[1].Approval == nil {
		t.Errorf("production is %v, %v", p.Environments[0].Production, p.Environments[1].Production)
	}
}

// TestThePlanIsTheOneThatWillRun: what is shown is what rollout compiles.
func TestThePlanIsTheOneThatWillRun(t *testing.T) {
	d := definition(t)
	p := of(t, d, preview.Traffic{})
	for i, e := range d.Environments {
		for _, previous := range []bool{true, false} {
			plan, err := rollout.Compile(e, previous)
			if err != nil {
				t.Fatal(err)
			}
			steps := p.Environments[i].Steps
			if !previous {
				steps = p.Environments[i].FirstSteps
			}
			if len(steps) != len(plan.Steps) {
				t.Fatalf("%s: %d steps, the plan has %d", e.Name, len(steps), len(plan.Steps))
			}
			for j, s := range plan.Steps {
				if got := steps[j]; got.Kind != s.Kind || got.Weight != float64(s.Weight)/100 || got.BakeSeconds != s.Bake.Seconds() || got.Basis != s.Basis || got.Text == "" {
					t.Errorf("%s step %d: %+v is not %+v", e.Name, j, got, s)
				}
				if !previous && steps[j].Bake != nil {
					t.Errorf("%s: a first release has nothing to compare with, yet %+v", e.Name, steps[j])
				}
			}
		}
	}
}

func TestMoreTrafficSeesMoreAndPassesSooner(t *testing.T) {
	d := definition(t)
	little := bakes(of(t, d, preview.Traffic{RPS: 20, BaselineRate: 0.005}).Environments[1])
	much := bakes(of(t, d, preview.Traffic{RPS: 2000, BaselineRate: 0.005}).Environments[1])
	if len(little) != 3 || len(much) != 3 {
		t.Fatalf("%d and %d bakes", len(little), len(much))
	}
	if !(much[0].Detectable < little[0].Detectable) || !(much[0].ChanceOfExtension < little[0].ChanceOfExtension) || !(much[0].CanaryRequests > little[0].CanaryRequests) {
		t.Errorf("little %+v\nmuch %+v", little[0], much[0])
	}
	// judge.md: 0.5 % baseline, 12 000 canary requests → about 0.9 % is seen.
	if x := bakes(of(t, definition(t, "maxExcess: 0.5", "maxExcess: 1"), preview.Traffic{RPS: 308, BaselineRate: 0.005}).Environments[1])[0]; x.CanaryRequests < 11_900 || x.CanaryRequests > 12_100 || x.Detectable < 0.008 || x.Detectable > 0.012 {
		t.Errorf("%+v", x)
	}
	if len(little[0].Advice) == 0 {
		t.Error("a bake that cannot see what matters says nothing")
	}
}

// TestWithoutTrafficABakeSaysHowMuchItNeeds, and with that it passes.
func TestWithoutTrafficABakeSaysHowMuchItNeeds(t *testing.T) {
	d := definition(t)
	for i, b := range bakes(of(t, d, preview.Traffic{}).Environments[1]) {
		if b == nil || b.NeedRPS <= 0 || b.ExpectedSecondsToPass != nil || len(b.Metrics) != 0 {
			t.Fatalf("bake %d: %+v", i, b)
		}
		if s := strings.Join(b.Sentence(), " "); !strings.Contains(s, "requests per second") {
			t.Errorf("says %q", s)
		}
		enough := bakes(of(t, definition(t, "- {name: http-latency, quantile: 0.99, maxRatio: 1.5}", ""), preview.Traffic{RPS: 1.1 * b.NeedRPS}).Environments[1])[i]
		if enough.ChanceOfExtension > 0.05 {
			t.Errorf("bake %d with %.3g requests per second: %+v", i, 1.1*b.NeedRPS, enough)
		}
	}
}

func TestTheSameQuestionHasTheSameAnswer(t *testing.T) {
	d := definition(t)
	x := preview.Traffic{RPS: 50, BaselineRate: 0.002}
	if a, b := of(t, d, x), of(t, d, x); !reflect.DeepEqual(a, b) {
		t.Error("two previews differ")
	}
}

func TestAFirstReleaseIsToldWhatItLacks(t *testing.T) {
	p := of(t, definition(t), preview.Traffic{})
	if n := p.Environments[0].FirstNote; !strings.Contains(n, "health and checks decide") || !strings.Contains(n, "503") {
		t.Errorf("dev: %q", n)
	}
	if n := p.Environments[1].FirstNote; !strings.Contains(n, "only absolute limits") {
		t.Errorf("production, which has a limit: %q", n)
	}
}
