package faults

import (
	"fmt"
	"os"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// A power cut while a command asks the new release, before anybody reaches it: it
// is asked again, the rollout goes on, and what the command had started is gone.
func TestKillControlPlaneInAHook(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	nap := fmt.Sprintf("sleep 2.%09d", os.Getpid()) // nobody else's
	s.replace("    rollout:", "    hooks: {beforeTraffic: [{name: asked, command: {run: '"+nap+" && exit CODE'}}]}\n    rollout:")
	yaml := s.yaml
	for code, ends := range map[int]string{0: "succeeded", 1: "failed"} {
		t.Run(ends, func(t *testing.T) {
			before := load.Settled()
			s.yaml = yaml
			s.replace("CODE", fmt.Sprint(code))
			seen, killed := p.caught(t, s, behaviour{Version: ends}, func(s control.Status) bool {
				return production(s).Phase == rollout.Checking && len(processesOf(nap)) > 0
			})
			p.goesOn(t, seen, killed, ends)
			got := load.Settled()
			if got.Dropped > before.Dropped || got.Bad > before.Bad || code != 0 && got.By[ends] > 0 {
				t.Errorf("of %d requests %d were dropped, %d answered badly and %d by what was refused: %v", got.All, got.Dropped, got.Bad, got.By[ends], got.Errors)
			}
		})
	}
	load.Stop()
	p.whole(t)
}

// A power cut in each way of a rehearsal: it goes on, and what ran before runs
// after. One whose way back fails ends as failed, and leaves users where they were.
func TestKillControlPlaneInARehearsal(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.replace("    rollout:", "    verify: [{name: smoke, http: {path: /check, status: 200}}]\n    rollout:")
	s.first(p)
	s.ship(behaviour{Version: "v1", CheckMillis: 1500})
	p.WaitState(p.Run(s.Dir), "succeeded")
	ran := p.instances()
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	for _, c := range []struct {
		name string
		when func(control.Status) bool
	}{
		{"back", func(s control.Status) bool { return production(s).Phase != "" }},
		{"forward", func(s control.Status) bool {
			return production(s).Phase == rollout.Checking && production(s).Weight == 100
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var started struct{ Run string }
			p.Call("POST", "services/shop/environments/production/rehearsals", map[string]any{"reason": c.name}, &started)
			seen, killed, hit := p.killWhen(started.Run, c.when)
			if !hit {
				t.Fatalf("never seen %s: %s", c.name, servertest.Show(seen))
			}
			p.goesOn(t, seen, killed, "succeeded")
			if _, body, err := get("http://" + s.addr + "/"); err != nil || body != "hello v1\n" {
				t.Errorf("the service answers %q, %v", body, err)
			}
			if now := p.instances(); !sameProcesses(ran, now) {
				t.Errorf("the instances were %v and are %v", ran, now)
			}
		})
	}
	if got := load.Stop(); got.Dropped+got.Bad > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}
	p.whole(t)
}
