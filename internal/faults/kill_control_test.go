package faults

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// recoveryBudget is design.md's: from SIGKILL until rollouts move again.
const recoveryBudget = 6 * time.Second

// inTime holds a recovery against its budget, with room for a machine that does
// much else: the budget itself is measured by make bench.
func inTime(t *testing.T, took time.Duration) {
	t.Helper()
	if took > 10*recoveryBudget {
		t.Errorf("it moved again after %s, the budget is %s", took, recoveryBudget)
	}
}

func production(s control.Status) control.EnvironmentStatus {
	for _, e := range s.Environments {
		if e.Name == "production" {
			return e
		}
	}
	return control.EnvironmentStatus{}
}

func inPhase(want rollout.Phase) func(control.Status) bool {
	return func(s control.Status) bool { return production(s).Phase == want }
}

func inBuild(s control.Status) bool { return len(s.Steps) > 0 && s.Steps[0].State == "running" }

func bakingAt(weight float64) func(control.Status) bool {
	return func(s control.Status) bool {
		e := production(s)
		return e.Phase == rollout.Baking && e.Weight == weight && e.Bake != nil && e.Bake.ElapsedSeconds > 0.2
	}
}

// A power cut at each phase of a rollout: it goes on where it was and ends as it
// should, users notice nothing, and the agent applies each generation once.
func TestKillControlPlaneAtEachPhase(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.replace("    rollout:", "    verify: [{name: smoke, http: {path: /check, status: 200}}]\n    rollout:")
	s.first(p)
	cases := []struct {
		name    string
		rollout string
		b       behaviour
		when    func(control.Status) bool
		ends    string
	}{
		{name: "building", when: inBuild, ends: "succeeded"},
		{name: "preparing", b: behaviour{StartMillis: 1000}, when: inPhase(rollout.Preparing), ends: "succeeded"},
		{name: "shifting", rollout: oneStep, when: inPhase(rollout.Shifting), ends: "succeeded"},
		{name: "baking at 10", rollout: oneStep, when: bakingAt(10), ends: "succeeded"},
		{name: "baking at 50", rollout: twoSteps, when: bakingAt(50), ends: "succeeded"},
		{name: "checking", b: behaviour{CheckMillis: 700}, when: inPhase(rollout.Checking), ends: "succeeded"},
		{name: "baking a bad one", rollout: oneStep, b: behaviour{Bad: 80}, when: inPhase(rollout.Baking), ends: "rolled-back"},
		{name: "rolling back", rollout: oneStep, b: behaviour{Bad: 80}, when: inPhase(rollout.RollingBack), ends: "rolled-back"},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			load := servertest.StartLoad(s.addr, 2)
			defer load.Stop()
			if s.rollout = c.rollout; s.rollout == "" {
				s.rollout = atOnce
			}
			c.b.Version = fmt.Sprintf("v%d", i+1)
			seen, killed := p.caught(t, s, c.b, c.when)
			p.goesOn(t, seen, killed, c.ends)
			got := load.Stop()
			if got.Dropped > 0 || c.b.Bad == 0 && got.Bad > 0 {
				t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
			}
		})
	}
	p.whole(t)
}

// Finishing waits for an instance that crashed while the checks ran.
func TestKillControlPlaneWhileFinishing(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.replace("    rollout:", "    verify: [{name: smoke, http: {path: /check, status: 200}}]\n    rollout:")
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	crashed := map[string]bool{}
	seen, killed := p.caught(t, s, behaviour{Version: "v1", StartMillis: 2500, CheckMillis: 1000}, func(s control.Status) bool {
		if inPhase(rollout.Checking)(s) && !crashed[s.Run] {
			crashed[s.Run] = true
			killPID(t, p.instances()[s.Release][0])
		}
		return crashed[s.Run] && inPhase(rollout.Finishing)(s)
	})
	p.goesOn(t, seen, killed, "succeeded")
	if got := load.Stop(); got.Dropped > 0 {
		t.Errorf("of %d requests %d were dropped: %v", got.All, got.Dropped, got.Errors)
	}
	p.whole(t)
}

// A rollout that waits for a person waits on after a power cut, and the packet
// that was seen before is the one that is decided on.
func TestKillControlPlaneWhileWaiting(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.replace("    rollout:", "    approval: {quorum: 1}\n    rollout:")
	s.ship(behaviour{Version: "v1"})
	waits := func(s control.Status) bool { return production(s).Packet != "" && s.State == "waiting" }
	seen, _, hit := p.killWhen(p.Run(s.Dir), waits)
	if !hit {
		t.Fatalf("it did not wait: %s", servertest.Show(seen))
	}
	p.up()
	packet := production(seen).Packet
	if now := p.Wait(seen.Run, "waiting", waits); production(now).Packet != packet {
		t.Errorf("the packet was %s and is %s", packet, production(now).Packet)
	}
	p.Call("POST", "runs/"+seen.Run+"/environments/production/decisions", map[string]any{"packet": packet, "decision": "approve", "comment": "fine"}, nil)
	p.kill() // at once after the decision was answered: it is not lost
	p.up()
	p.WaitState(seen.Run, "succeeded")
	if status, body, err := get("http://" + s.addr + "/"); status != 200 || err != nil {
		t.Errorf("the service answers %d %q %v", status, body, err)
	}
	p.whole(t)
}

// A server that dies again and again, whatever it is at: each life takes the
// rollout a little further.
func TestKillControlPlaneAgainAndAgain(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	s.rollout = oneStep
	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	p.Wait(run, "built", func(s control.Status) bool { return s.Release != "" }) // builds that never end are given up
	kills := 0
	for deadline := time.Now().Add(machinetest.Patience); !servertest.Ended(p.Status(run)); kills++ {
		if time.Now().After(deadline) {
			t.Fatalf("%d lives were not enough: %s", kills, servertest.Show(p.Status(run)))
		}
		// No condition: power fails at any moment. Lives get longer, so that each
		// machine comes to the end.
		time.Sleep(time.Duration(50+rand.IntN(1500+400*kills)) * time.Millisecond)
		p.kill()
		p.up()
	}
	p.WaitState(run, "succeeded")
	if got := load.Stop(); got.Dropped+got.Bad > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}
	p.whole(t)
	t.Logf("it took %d lives", kills+1)
}

// goesOn starts the server again and waits for the run's end.
func (p *plane) goesOn(t *testing.T, seen control.Status, killed time.Time, ends string) {
	t.Helper()
	started := p.up()
	took := p.recovered(seen, killed)
	inTime(t, took)
	end := p.WaitState(seen.Run, ends)
	if e := production(end); ends == "rolled-back" && e.Weight != 0 {
		t.Errorf("rolled back to weight %g", e.Weight)
	}
	t.Logf("ready %s after the start, moved %s after the kill", started.Round(time.Millisecond), took.Round(time.Millisecond))
}

// whole checks what has to be true after any fault: the agent's journal and the
// evidence.
func (p *plane) whole(t *testing.T) {
	t.Helper()
	appliedOnce(t, filepath.Join(p.dir, "agent"))
	p.proven(t)
}

// proven checks that the evidence verifies.
func (p *plane) proven(t *testing.T) {
	t.Helper()
	if rep, err := evidence.Verify(bytes.NewReader(p.Bundle()), evidence.VerifyOptions{}); err != nil || !rep.OK {
		t.Errorf("the evidence does not verify: %+v, %v", rep, err)
	}
}
