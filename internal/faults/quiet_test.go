package faults

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// Nobody comes during a bake: that is no data and no pass. It holds and says so;
// when users come it is judged and goes on by itself.
func TestNoTrafficDuringABake(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	s.rollout = oneStep
	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	held := p.Wait(run, "held", heldBy("without data"))
	e := production(held)
	if e.Verdict == "pass" || e.Weight != 10 || held.State != "waiting" {
		t.Errorf("held at %g %% with the verdict %q as %s", e.Weight, e.Verdict, held.State)
	}
	out, code := p.sluice("explain", run)
	if code != 0 {
		t.Errorf("explain ended with %d: %s", code, out)
	}
	says(t, out, "sluice advance", "--override", "sluice abort")
	if out, code := p.sluice("advance", run, "--env", "production"); code != 1 {
		t.Errorf("advance without an override ended with %d: %s", code, out)
	}
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	end := p.WaitState(run, "succeeded")
	if production(end).Verdict != "pass" {
		t.Errorf("it succeeded with the verdict %q", production(end).Verdict)
	}
	if got := load.Stop(); got.Dropped+got.Bad > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}
}

// Where the definition says so a bake without traffic is extended first.
func TestNoTrafficExtends(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	s.rollout = "{onNoData: extend, canary: {steps: [{weight: 10, bake: 5s}]}}" + strings.Replace(judged, "warmUp", "maxExtend: 1, warmUp", 1)
	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	p.Wait(run, "extended", func(s control.Status) bool {
		e := production(s)
		return e.Bake != nil && e.Bake.Extended == 1
	})
	p.Wait(run, "held", heldBy("extended once"))
	if out, code := p.sluice("abort", run, "--env", "production", "--reason", "enough"); code != 0 {
		t.Errorf("abort ended with %d: %s", code, out)
	}
	p.WaitState(run, "rolled-back")
}

// Down lets an open request end, and leaves no process and no listener.
func TestDownDrains(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	type answer struct {
		status int
		body   string
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		status, body, err := get("http://" + s.addr + "/slow?for=3s")
		answered <- answer{status, body, err}
	}()
	machinetest.Until(t, "the request is under way", func() bool {
		_, body, err := get("http://" + s.addr + "/begun")
		return err == nil && body == "1\n"
	})
	if out, code := p.sluice("down"); code != 0 {
		t.Errorf("down ended with %d: %s", code, out)
	}
	if a := <-answered; a.err != nil || a.status != 200 || strings.TrimSpace(a.body) != "slow v0" {
		t.Errorf("the open request was answered %d %q %v", a.status, a.body, a.err)
	}
	for _, addr := range []string{s.addr, strings.TrimPrefix(p.URL, "http://")} {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_ = c.Close()
			t.Errorf("something listens on %s", addr)
		}
	}
	if left := left(p.dir); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	if out, code := p.sluice("down"); code != 0 || !strings.Contains(out, "Nothing") {
		t.Errorf("a second down ended with %d: %s", code, out)
	}
	// What ran is there again when the server is: nothing is lost by a down.
	<-p.done
	p.up()
	machinetest.Until(t, "the service answers again", func() bool {
		status, _, err := get("http://" + s.addr + "/")
		return err == nil && status == 200
	})
}
