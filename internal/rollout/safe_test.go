package rollout

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// told delivers what was seen as control does: only when it is not what was seen
// before.
func told(t *testing.T, p Plan, s State, o Observation) State {
	t.Helper()
	if o == s.Seen {
		return s
	}
	s, _, err := Step(p, s, Event{Seen: &o})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func with(t *testing.T, p Plan, s State, events ...Event) State {
	t.Helper()
	for _, e := range events {
		var err error
		if s, _, err = Step(p, s, e); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// A person overrides a freeze because the candidate can't run. The next look says
// whether it can: it is not left alone until a timeout.
func TestAnOverriddenCrashIsLookedAtAgain(t *testing.T) {
	env := pipeline.Environment{Name: "production", Rollout: pipeline.Rollout{
		Strategy: pipeline.Canary, OnFail: pipeline.Freeze, Timeout: 30 * time.Minute, RollbackTimeout: time.Minute,
		Steps: []pipeline.CanaryStep{{Weight: 5, Bake: time.Minute}},
	}}
	p, err := Compile(env, true)
	if err != nil {
		t.Fatal(err)
	}
	crashed := Observation{Generation: 1, Hosts: 1, OldReady: true, OldSeen: true, Failed: "on host a: exit code 3"}
	frozen := with(t, p, New(p), Event{Start: &Start{}}, Event{Applied: &Applied{Generation: 1}})
	frozen = told(t, p, frozen, crashed)
	if frozen.Held.Cause != CauseFrozen {
		t.Fatalf("it is not frozen: %+v", frozen)
	}
	tried := with(t, p, frozen, Event{Command: &Command{Kind: Advance, By: "local:ana", Override: true, Reason: "the host was full"}})
	if tried.Held.On {
		t.Fatalf("the override left it held: %+v", tried.Held)
	}
	t.Run("it still can't run", func(t *testing.T) {
		if s := told(t, p, tried, crashed); s.Held.Cause != CauseFrozen || s.Frozen == "" {
			t.Errorf("nobody looked again: %+v", s)
		}
	})
	t.Run("it runs", func(t *testing.T) {
		runs := crashed
		runs.Failed, runs.CandidateReady, runs.CandidateSeen = "", true, true
		if s := told(t, p, tried, runs); s.Phase != Shifting || s.Weight != 500 {
			t.Errorf("it did not go on: %+v", s)
		}
	})
}
