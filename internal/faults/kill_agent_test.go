package faults

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// answeredAgain waits until requests are answered that began after the call, and
// returns the counts then: what is dropped later the next agent has dropped.
func answeredAgain(t *testing.T, load *servertest.Load) servertest.Counts {
	t.Helper()
	gone := time.Now()
	machinetest.Until(t, "requests are answered again", func() bool { return load.Counts().LastOK.After(gone) })
	return load.Settled()
}

// The agent dies under load, and with it the proxy: it is started again and takes
// up its instances, which never noticed. A rollout that was under way goes on.
func TestKillAgent(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	cases := []struct {
		name  string
		b     behaviour
		when  func(control.Status) bool
		plane bool // the control plane dies too
	}{
		{name: "at rest", when: servertest.Ended},
		{name: "preparing", b: behaviour{StartMillis: 3000}, when: inPhase(rollout.Preparing)},
		{name: "in a batch", b: behaviour{StartMillis: 3000}, when: inBatch(2)},
		{name: "baking", when: bakingAt(10)},
		{name: "baking, with the control plane", when: bakingAt(10), plane: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			load := servertest.StartLoad(s.addr, 2)
			defer load.Stop()
			s.rollout, c.b.Version = oneStep, c.name
			if c.name == "at rest" {
				s.rollout = atOnce
			}
			if c.name == "in a batch" {
				s.rollout = "{rolling: {batch: 1}}"
			}
			s.ship(c.b)
			run := p.Run(s.Dir)
			candidate := p.Wait(run, c.name, c.when).Release
			if c.name == "preparing" {
				machinetest.Until(t, "both instances of the candidate were started", func() bool { return len(p.instances()[candidate]) == 2 })
			}
			if c.name == "in a batch" {
				machinetest.Until(t, "the next one starts beside the other two", func() bool {
					return len(p.instances()[candidate]) == 2 && len(p.all()) == 3
				})
			}
			if c.name != "in a batch" { // which goes on meanwhile
				machinetest.Until(t, "nothing but the candidate and the one before it runs", func() bool { return len(p.instances()) == 2 })
			}
			before, pid := p.instances(), p.agentPID()
			killed := time.Now()
			if c.plane {
				p.kill()
			}
			killPID(t, pid)
			if c.plane {
				p.up()
			}
			back := answeredAgain(t, load)
			// It may answer before the server has noted that it started it.
			machinetest.Until(t, "another agent is noted", func() bool { now := p.agentPID(); return now != pid && running(now) })
			after := p.instances()
			if c.name == "in a batch" { // which goes on: those that are replaced may be gone by now
				keepOnly(before, candidate)
				keepOnly(after, candidate)
			}
			if !sameProcesses(before, after) {
				t.Errorf("the instances were %v and are %v", before, after)
			}
			p.WaitState(run, "succeeded")
			end := load.Stop()
			if end.Dropped > back.Dropped || end.Bad > back.Bad {
				t.Errorf("after the agent was back %d requests were dropped and %d answered badly: %v", end.Dropped-back.Dropped, end.Bad-back.Bad, end.Errors)
			}
			t.Logf("back after %s; %d of %d requests met a closed door", back.LastOK.Sub(killed).Round(time.Millisecond), end.Dropped, end.All)
		})
	}
	p.whole(t)
}

// all are the instances' processes of all releases.
func (p *plane) all() []int {
	var out []int
	for _, pids := range p.instances() {
		out = append(out, pids...)
	}
	return out
}

func keepOnly(all map[release.ID][]int, id release.ID) {
	maps.DeleteFunc(all, func(other release.ID, _ []int) bool { return other != id })
}

func sameSet(a, b []int) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func sameProcesses(a, b map[release.ID][]int) bool {
	return maps.EqualFunc(a, b, sameSet)
}

// Instances that died with the agent are started again: the whole machine but the
// control plane was out of memory, say.
func TestKillAgentAndInstances(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	before := p.all()
	for _, pid := range append([]int{p.agentPID()}, before...) {
		killPID(t, pid)
	}
	machinetest.Until(t, "the service answers", func() bool {
		status, _, err := get("http://" + s.addr + "/")
		return err == nil && status == 200
	})
	machinetest.Until(t, "two others run, and those that were killed are on record no more", func() bool {
		now := p.all()
		return len(now) == 2 && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) || !running(pid) })
	})
	appliedOnce(t, filepath.Join(p.dir, "agent"))
}
