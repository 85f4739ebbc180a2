package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// Somebody else changes the weights that a host routes by, or how many instances it
// runs. The rollout is held and says so; it is put back at once, or when a person says
// so, and it goes on.
func TestDrift(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name, onDrift string
		tamper        []string
		says          string
	}{
		{"restore", "restore", []string{`"weight":1000`, `"weight":6000`, `"weight":9000`, `"weight":4000`}, ""},
		{"hold", "hold", []string{`"weight":1000`, `"weight":6000`, `"weight":9000`, `"weight":4000`}, "60 % where 10 % was set"},
		{"instances", "hold", []string{`"instances":2`, `"instances":4`}, "where 2 were set"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			onDrift := x.onDrift
			p, s := newPlane(t), newShop(t)
			s.first(p)
			load := servertest.StartLoad(s.addr, 2) // some are dropped: the host's agent dies
			defer load.Stop()
			s.rollout = strings.Replace(oneStep, "{canary:", fmt.Sprintf("{onDrift: %s, canary:", onDrift), 1)
			s.rollout = strings.Replace(s.rollout, "bake: 5s", "bake: 15s", 1) // which must not be over when the agent is back
			s.ship(behaviour{Version: "v1"})
			run := p.Run(s.Dir)
			id := production(p.Wait(run, "baking", bakingAt(10))).Release
			p.tamper(t, x.tamper...)
			if onDrift == "hold" {
				held := p.Wait(run, "held", func(s control.Status) bool { return strings.Contains(production(s).Held, x.says) })
				if e := production(held); x.name == "hold" && e.Weight != 60 || servertest.Ended(held) || x.name == "instances" && !strings.Contains(e.Held, "host local runs ") {
					t.Errorf("held as %+v", e)
				}
				if out, code := p.sluice("explain", run); code != 0 || !strings.Contains(out, "sluice resume "+run) || !strings.Contains(out, "sluice abort "+run) {
					t.Errorf("explain ended with %d and offers: %s", code, out)
				}
				if out, code := p.sluice("resume", run, "--env", "production", "--reason", "put it back"); code != 0 {
					t.Errorf("resume ended with %d: %s", code, out)
				}
			}
			p.WaitState(run, "succeeded")
			asked := (&host{t: t, dir: filepath.Join(p.dir, "agent")}).weightsAsked(id)
			tens := 0
			for _, w := range asked {
				if w == 1000 {
					tens++
				}
			}
			if tens < 2 {
				t.Errorf("the host was asked for the weights %v, want the wrong one put back", asked)
			}
			p.whole(t)
		})
	}
}

// Nobody ships anything, and somebody changes what the host runs: it is told where
// people look, put back, and told no more.
func TestDriftBetweenRollouts(t *testing.T) {
	t.Parallel()
	for _, onDrift := range []string{"restore", "hold"} {
		t.Run(onDrift, func(t *testing.T) {
			t.Parallel()
			p, s := newPlane(t), newShop(t)
			s.rollout = strings.Replace(oneStep, "{canary:", fmt.Sprintf("{onDrift: %s, canary:", onDrift), 1)
			s.ship(behaviour{Version: "v0"})
			run := p.Run(s.Dir)
			id := production(p.WaitState(run, "succeeded")).Release
			h := &host{t: t, dir: filepath.Join(p.dir, "agent")}
			asked := len(h.weightsAsked(id))
			p.tamper(t, `"instances":2`, `"instances":4`)
			machinetest.Until(t, "it is told", func() bool {
				said, err := os.ReadFile(p.log)
				return err == nil && strings.Contains(string(said), "hosts run something else than they were told") && strings.Contains(string(said), "host local runs ")
			})
			if onDrift == "hold" {
				p.Wait(run, "told", func(s control.Status) bool { return strings.Contains(production(s).WaitingFor, "host local runs ") })
				if out, code := p.sluice("explain", run); code != 0 || !strings.Contains(out, "sluice resume "+run+" --env production") {
					t.Errorf("explain ended with %d and offers: %s", code, out)
				}
				if out, code := p.sluice("resume", run, "--env", "production", "--reason", "put it back"); code != 0 {
					t.Errorf("resume ended with %d: %s", code, out)
				}
			}
			machinetest.Until(t, "the host is told again what to run", func() bool { return len(h.weightsAsked(id)) > asked })
			p.Wait(run, "all is as it was set", func(s control.Status) bool { return production(s).WaitingFor == "" })
			p.whole(t)
		})
	}
}

// A host whose agent dies routes as before once it is back: nobody changed anything,
// and no person is asked.
func TestAnAgentThatDiesIsNoDrift(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	s.rollout = strings.NewReplacer("{canary:", "{onDrift: hold, canary:", "bake: 5s", "bake: 15s").Replace(oneStep)
	load := servertest.StartLoad(s.addr, 2) // some are dropped: the host's agent dies
	defer load.Stop()
	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	p.Wait(run, "baking", bakingAt(10))
	for range 3 {
		pid := p.agentPID()
		killPID(t, pid)
		machinetest.Until(t, "another agent works", func() bool { now := p.agentPID(); return now != pid && running(now) })
	}
	p.Wait(run, "at its end", func(s control.Status) bool {
		if e := production(s); strings.Contains(e.Held, "somebody else") {
			t.Fatalf("held: %s", e.Held)
		}
		return servertest.Ended(s)
	})
	p.WaitState(run, "succeeded")
	p.whole(t)
}

// tamper changes what the agent remembers of its desired state while it cannot
// see it, and lets it start again from that.
func (p *plane) tamper(t *testing.T, replace ...string) {
	t.Helper()
	p.tampered = true
	pid := p.agentPID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(p.dir, "agent", "desired", "default.shop.production.json")
	was, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	now := []byte(strings.NewReplacer(replace...).Replace(string(was)))
	if bytes.Equal(was, now) {
		t.Fatalf("nothing to replace by %q in %s", replace, was)
	}
	if err := os.WriteFile(file, now, 0o600); err != nil {
		t.Fatal(err)
	}
	killPID(t, pid)
}
