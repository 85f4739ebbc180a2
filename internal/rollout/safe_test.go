package rollout

import (
	"strings"
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

// Checks that can't ask a host where it says that it answers say nothing of the
// release: it is held, whatever passes, and goes on once the host can be asked.
func TestAMisplacedHostIsNoVerdict(t *testing.T) {
	p := Plan{Engine: 1, OnInconclusive: HoldThere, OnNoData: HoldThere, Timeout: time.Minute, RollbackTimeout: time.Minute, First: true, Steps: []PlanStep{{Kind: StepPrepare}, {Kind: StepCheck, Checks: []string{"smoke"}}, {Kind: StepShift, Weight: FullWeight}, {Kind: StepRetire, Weight: FullWeight}}}
	const one, other = "host a says nonsense", "host b says nonsense"
	seen := Observation{Generation: 1, Hosts: 1, OldReady: true, CandidateReady: true, CandidateSeen: true, Misplaced: one}
	s := with(t, p, New(p), Event{Start: &Start{}}, Event{Applied: &Applied{Generation: 1}}, Event{Seen: &seen}, Event{Tick: &Tick{Elapsed: time.Hour}})
	if x := Explain(p, s); s.Phase != Checking || s.Held.Cause != CauseUnreachable || x.Why != one || x.When != "when each host says an address of its own" || len(x.Can) != 2 {
		t.Fatalf("%+v; %+v", s, x)
	}
	if _, _, err := Step(p, s, Event{Command: &Command{Kind: Resume, By: "local:ana"}}); err == nil || !strings.Contains(err.Error(), "an address of its own") {
		t.Errorf("%v", err)
	}
	seen.Misplaced = other
	if s = with(t, p, s, Event{Seen: &seen}); s.Held.Reason != other {
		t.Errorf("it is held for what was: %+v", s.Held)
	}
	seen.Misplaced = ""
	if s = with(t, p, s, Event{Seen: &seen}); s.Phase != Checking || s.Held.On {
		t.Errorf("%+v", s)
	}
	if s = with(t, p, s, Event{Checked: &Checked{Step: 1, OK: true}}); s.Phase != Shifting {
		t.Errorf("it did not go on: %+v", s)
	}
}
