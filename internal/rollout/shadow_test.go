package rollout

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/verdict"
)

func shadowed(strategy string) pipeline.Environment {
	return pipeline.Environment{
		Name: "prod", Shadow: &pipeline.Shadow{Share: 12.5, Bake: 10 * time.Minute},
		Target:   pipeline.Target{Hosts: []string{"local"}, Listen: ":80", Instances: 1},
		Rollout:  pipeline.Rollout{Strategy: strategy, Steps: []pipeline.CanaryStep{{Weight: 5, Bake: time.Minute}}},
		Analysis: pipeline.Analysis{Metrics: []pipeline.Metric{{Name: "http-errors"}}},
	}
}

// Copies come first, where there is somebody to copy from, and where all of the
// candidate stands beside the running release.
func TestShadowInPlans(t *testing.T) {
	p, err := Compile(shadowed(pipeline.Canary), true)
	if err != nil {
		t.Fatal(err)
	}
	if got := outline(p); got != "prepare bake@0 shift@500 bake@500 shift@10000 retire@10000" || p.Steps[1].Shadow != 1250 || !p.Steps[1].Analysis || p.Engine != 2 {
		t.Errorf("%s, %+v, engine %d", got, p.Steps[1], p.Engine)
	}
	if p, err = Compile(shadowed(pipeline.Canary), false); err != nil || strings.Contains(outline(p), "bake@0") {
		t.Errorf("a first release: %s, %v", outline(p), err)
	}
	env := shadowed(pipeline.Rolling)
	if _, err := Compile(env, true); err == nil || !strings.Contains(err.Error(), "the nearest is canary") {
		t.Errorf("rolling: %v", err)
	}
	for what, spoil := range map[string]func(*PlanStep){
		"no copies":      func(s *PlanStep) { s.Shadow = 0 },
		"over 100 %":     func(s *PlanStep) { s.Shadow = FullWeight + 1 },
		"while shifting": func(s *PlanStep) { s.Kind, s.Weight = StepShift, 100 },
	} {
		p, _ := Compile(shadowed(pipeline.Canary), true)
		spoil(&p.Steps[1])
		if err := p.Validate(); !errors.Is(err, ErrPlan) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// While copies are judged nobody is exposed: a fail takes the candidate away, a
// pass lets the first users in, and then nothing is copied any more.
func TestShadowIsJudgedBeforeAnyUser(t *testing.T) {
	for _, v := range []verdict.Verdict{verdict.Pass, verdict.Fail} {
		p, err := Compile(shadowed(pipeline.Canary), true)
		if err != nil {
			t.Fatal(err)
		}
		s := New(p)
		applied := int64(0)
		feed := func(e Event) {
			t.Helper()
			next, effects, err := Step(p, s, e)
			if err != nil {
				t.Fatal(err)
			}
			s = next
			for _, f := range effects {
				if f.Kind == Apply {
					applied++
					if s, _, err = Step(p, s, Event{Applied: &Applied{Generation: applied}}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		seen := func() {
			t.Helper()
			feed(Event{Seen: &Observation{Generation: applied, Hosts: 1, MinWeight: s.Weight, MaxWeight: s.Weight, CandidateReady: true, CandidateSeen: true, OldReady: true, OldSeen: true}})
		}
		feed(Event{Start: &Start{}})
		seen()
		if s.Phase != Baking || s.Shadow != 1250 || s.Weight != 0 || s.Exposed || !s.Judged() || s.Wanted != 2 {
			t.Fatalf("it begins as %+v", s)
		}
		seen()
		feed(Event{Judged: &Judged{Step: s.Step, Verdict: v, Sentence: "as asked"}})
		if v == verdict.Fail {
			if s.Phase != RollingBack || s.Shadow != 0 || s.Exposed {
				t.Errorf("after a fail it is %+v", s)
			}
			continue
		}
		if s.Phase != Baking {
			t.Errorf("a pass ended it early: %+v", s)
		}
		feed(Event{Tick: &Tick{Elapsed: 10 * time.Minute}})
		if s.Phase != Shifting || s.Weight != 500 || s.Shadow != 0 {
			t.Errorf("after its bake it is %+v", s)
		}
	}
}
