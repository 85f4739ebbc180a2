package host_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/target/host"
)

var (
	rolled = release.Key{Project: "default", Service: "shop", Environment: "production"}
	oldID  = release.DigestOf([]byte("old"))
	newID  = release.DigestOf([]byte("new"))
)

// replacing is a rolling replacement of 2 × 2 instances at a step.
func replacing(t *testing.T, worker bool, at func(rollout.PlanStep) bool) (rollout.Plan, rollout.State, []string) {
	t.Helper()
	hosts := []string{"b", "a"} // as the file names them; they are taken in sorted order
	target := pipeline.Target{Type: "host", Listen: ":80", Hosts: hosts, Instances: 2}
	if worker {
		target.Listen = ""
	}
	plan, err := rollout.Compile(pipeline.Environment{Name: "production", Target: target, Rollout: pipeline.Rollout{
		Strategy: pipeline.Rolling, Batches: &pipeline.Batches{Batch: pipeline.Amount{Count: 1}, Additional: true},
	}}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range plan.Steps {
		if at(s) {
			return plan, rollout.State{Run: s.Run, Keep: s.Keep, Moved: s.Moved, Weight: s.Weight, Capacity: true, Old: true}, hosts
		}
	}
	t.Fatal("no such step")
	return plan, rollout.State{}, nil
}

// says is a host that runs so many instances of each, and its weight.
func says(name string, old, candidate, weight int) host.Report {
	revision := func(id release.ID, n, weight int) wire.RevisionObserved {
		return wire.RevisionObserved{Release: id, Phase: wire.Ready, Weight: weight, Ready: n, Instances: make([]wire.Instance, n)}
	}
	return host.Report{Arrived: time.Unix(100, 0), Observed: wire.Observed{Host: name, Services: []wire.Service{{
		Key: rolled, Generation: 7, Listening: true,
		Revisions: []wire.RevisionObserved{revision(oldID, old, wire.FullWeight-weight), revision(newID, candidate, weight)},
	}}}}
}

// Each host is held to its own share: what is right on one is drift on another,
// and what one lacks is not made up by the other.
func TestEachHostHasItsShare(t *testing.T) {
	plan, state, hosts := replacing(t, false, func(s rollout.PlanStep) bool { return s.Run == 3 && s.Moved == 3 })
	want := host.WantedOf(plan, state, hosts, 2)
	if a, b := want.Shares["a"], want.Shares["b"]; a != (rollout.Share{Candidate: 2, Weight: 10000}) || b != (rollout.Share{Candidate: 1, Old: 1, Weight: 5000}) {
		t.Fatalf("a %+v, b %+v", a, b)
	}
	see := func(reports ...host.Report) rollout.Observation {
		return want.Observe(reports, rolled, hosts, newID, oldID, time.Unix(101, 0))
	}
	if o := see(says("a", 0, 2, 10000), says("b", 1, 1, 5000)); o.Off != "" || !o.CandidateReady || !o.OldReady || o.MinWeight != 5000 || o.MaxWeight != 10000 || o.Weight() != 7500 || !o.OldSeen || o.Hosts != 2 {
		t.Errorf("as wanted: %+v", o)
	}
	for says, reports := range map[string][]host.Report{
		"host a gives the candidate 50 % where 100 % was set":              {says("a", 0, 2, 5000), says("b", 1, 1, 5000)},
		"host b gives the candidate 100 % where 50 % was set":              {says("a", 0, 2, 10000), says("b", 1, 1, 10000)},
		"host b runs 2 instances of the candidate where 1 were set":        {says("a", 0, 2, 10000), says("b", 1, 2, 5000)},
		"host a runs 1 instances of the previous release where 0 were set": {says("a", 1, 2, 10000), says("b", 1, 1, 5000)},
	} {
		if o := see(reports...); o.Off != says {
			t.Errorf("%q, want %q", o.Off, says)
		}
	}
	// One host has too many ready, the other too few.
	if o := see(says("a", 0, 1, 10000), says("b", 1, 2, 5000)); o.CandidateReady {
		t.Errorf("3 of 3 on the wrong hosts: %+v", o)
	}
	if o := see(says("a", 0, 2, 10000), says("b", 0, 1, 5000)); o.OldReady {
		t.Errorf("the one that stays is gone: %+v", o)
	}
	if o := see(says("a", 0, 2, 10000)); o.Missing != 1 || o.Unreachable != "b" {
		t.Errorf("one is silent: %+v", o)
	}
}

// The shares that are written are the ones that are held to, also where the
// release before ran another number of instances; per host they sum up.
func TestSharesAreWritten(t *testing.T) {
	plan, state, hosts := replacing(t, false, func(s rollout.PlanStep) bool { return s.Run == 1 && s.Moved == 1 })
	want := host.WantedOf(plan, state, hosts, 5)
	var d wire.Desired
	old, candidate := &wire.Revision{Instances: 5}, &wire.Revision{Instances: 2}
	want.Put(&d, old, candidate)
	if len(d.Requires) != 1 || d.Requires[0] != wire.FeatureShares {
		t.Errorf("requires %q", d.Requires)
	}
	for h, o := range map[string]wire.Share{"a": {Instances: 3, Weight: 5000}, "b": {Instances: 5, Weight: 10000}} {
		if old.Shares[h] != o || old.Shares[h].Weight+candidate.Shares[h].Weight != wire.FullWeight {
			t.Errorf("%s: old %+v, candidate %+v", h, old.Shares[h], candidate.Shares[h])
		}
	}
	// Without the candidate, or without a release before, nothing else is left.
	candidate = nil
	want.Put(&d, old, candidate)
	if old.Shares["a"].Weight != wire.FullWeight {
		t.Errorf("alone: %+v", old.Shares)
	}
	if host.WantedOf(rollout.Plan{}, state, hosts, 2) != nil {
		t.Error("a plan of weights has shares")
	}
	(*host.Wanted)(nil).Put(&d, old, nil)
}

// A worker has no weight to read: what runs takes work, also while it stops.
func TestWorkersAreCounted(t *testing.T) {
	plan, state, hosts := replacing(t, true, func(s rollout.PlanStep) bool { return s.Run == 2 && s.Moved == 2 })
	want := host.WantedOf(plan, state, hosts, 2)
	a, b := says("a", 0, 2, 0), says("b", 2, 0, 0)
	a.Services[0].Listening, b.Services[0].Listening = false, false
	a.Services[0].Reason = "it is a worker"
	o := want.Observe([]host.Report{a, b}, rolled, hosts, newID, oldID, time.Unix(101, 0))
	if o.Off != "" || o.MaxWeight != 10000 || o.MinWeight != 0 || !o.CandidateReady || !o.OldReady || o.Failed != "" {
		t.Errorf("as wanted: %+v", o)
	}
	a.Services[0].Revisions[1].Ready, a.Services[0].Revisions[1].Phase = 0, wire.Stopping
	state.Run, state.Keep, state.Moved, state.Weight = 0, 4, 0, 0
	o = host.WantedOf(plan, state, hosts, 2).Observe([]host.Report{a, b}, rolled, hosts, newID, oldID, time.Unix(101, 0))
	if o.MaxWeight == 0 || o.OldReady {
		t.Errorf("it drains still: %+v", o)
	}
	if d := host.Document(rolled, pipeline.Target{Type: "host"}, 1); strings.Join(d.Requires, "") != wire.FeatureWorker {
		t.Errorf("requires %q", d.Requires)
	}
}
