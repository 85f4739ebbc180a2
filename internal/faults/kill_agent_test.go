package faults

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// backWithin bounds how long users meet a closed door when the agent itself died.
const backWithin = 5 * time.Second

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
		{name: "preparing", b: behaviour{StartMillis: 1500}, when: inPhase(rollout.Preparing)},
		{name: "in a batch", b: behaviour{StartMillis: 1500}, when: inBatch(2)},
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
				until(t, 5*time.Second, "both instances of the candidate were started", func() bool { return len(p.instances("production")[candidate]) == 2 })
			}
			if c.name == "in a batch" {
				until(t, 5*time.Second, "the next one starts beside the other two", func() bool {
					return len(p.instances("production")[candidate]) == 2 && len(p.all()) == 3
				})
			}
			before, pid := p.instances("production"), p.agentPID()
			killed := time.Now()
			if c.plane {
				p.kill()
			}
			killPID(t, pid)
			if c.plane {
				p.up()
			}
			until(t, backWithin, "requests are answered again", func() bool { return load.Counts().LastOK.After(killed.Add(100 * time.Millisecond)) })
			back := load.Counts()
			if now := p.agentPID(); now == pid || !running(now) {
				t.Errorf("the agent was process %d and is %d", pid, now)
			}
			if after := p.instances("production"); !sameProcesses(before, after) {
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
	for _, pids := range p.instances("production") {
		out = append(out, pids...)
	}
	return out
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
	until(t, 10*time.Second, "the service answers", func() bool {
		status, _, err := get("http://" + s.addr + "/")
		return err == nil && status == 200
	})
	until(t, 10*time.Second, "both instances run", func() bool { return len(p.all()) == 2 })
	for _, pid := range p.all() {
		if slices.Contains(before, pid) {
			t.Errorf("process %d was killed and is on record still", pid)
		}
	}
	appliedOnce(t, filepath.Join(p.dir, "agent"))
}
