package control

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// What a bake will be able to see is said while a person decides and while it
// runs, at the traffic that was measured; so is what an approver should know.
func TestForecast(t *testing.T) {
	stories(t, func(w *world) {
		if got, err := w.front.Traffic(w.Context(), "default", "shop", "production"); err != nil || got.RPS != 0 {
			w.Errorf("before anything ran: %+v, %v", got, err)
		}
		w.first(production)
		w.hosts[0].rps = 100
		w.pause(30 * time.Minute)
		got, err := w.front.Traffic(w.Context(), "default", "shop", "production")
		if err != nil || got.RPS < 95 || got.RPS > 105 || got.BaselineRate != 0 {
			w.Errorf("of 100 requests per second were measured %+v, %v", got, err)
		}
		r, _ := w.ship(w.definition(approved), "v2")
		d, p := w.packet(r)
		if len(p.Findings) != 1 || !strings.Contains(p.Findings[0], "no rollback of shop was ever rehearsed") {
			w.Errorf("the packet's findings: %q", p.Findings)
		}
		before := w.env(r).Forecast
		if before == nil || before.Detectable <= 0 || before.Detectable > 0.5 || before.CanaryRequests < 900 || before.CanaryRequests > 1100 {
			w.Fatalf("while a person decides: %+v", before)
		}
		w.must(w.decide(r, d, true, bob))
		w.untilPhase(r, rollout.Baking, 50)
		if now := w.env(r).Forecast; now == nil || now.Detectable != before.Detectable {
			w.Errorf("while it bakes: %+v, and before: %+v", now, before)
		}
		s := w.until(r, "judged", func(s Status) bool {
			ms := s.Environments[0].Metrics
			return len(ms) == 1 && ms[0].Detectable > 0 && ms[0].Detectable < 1
		})
		// From then on it is what the bake itself measures, in the numbers of its verdict.
		e := s.Environments[0]
		f := e.Forecast
		if f == nil || f.Running == nil || f.Running.CanaryRPS < 45 || f.Running.CanaryRPS > 55 || f.Running.EndsAt.IsZero() || f.Running.RemainingSeconds <= 0 ||
			f.Metrics[0].DetectableSoFar != e.Metrics[0].Detectable || f.Detectable > e.Metrics[0].Detectable {
			w.Errorf("while it is judged: %+v; %+v", f, e.Metrics)
		}
		x, err := w.front.Explain(w.Context(), "default", r)
		if err != nil || x.Forecast == nil || x.Forecast.Running == nil {
			w.Errorf("explained: %+v, %v", x, err)
		}
		w.untilState(r, run.Succeeded)
		if f := w.env(r).Forecast; f != nil {
			w.Errorf("after the end: %+v", f)
		}
	})
}

// While a bake runs the traffic of now decides what it will see: not what was known
// before it began. A bake that nobody visits says so.
func TestForecastOfABakeThatLosesItsTraffic(t *testing.T) {
	stories(t, func(w *world) {
		slow := strings.NewReplacer("bake: 1m", "bake: 10m").Replace(production)
		w.first(slow)
		w.hosts[0].rps = 100
		w.pause(30 * time.Minute)
		w.hosts[0].rps = 0
		r, _ := w.ship(w.definition(slow), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		before := w.env(r).Forecast
		if before == nil || before.Running != nil || before.Detectable >= 1 {
			w.Fatalf("before anything was measured: %+v", before)
		}
		w.pause(time.Minute)
		f := w.env(r).Forecast
		if f == nil || f.Running == nil || f.Running.CanaryRPS != 0 || !f.Running.NoData || f.Running.Undecided != "held" || f.Detectable != 1 || len(f.Advice) != 1 || !strings.Contains(f.Advice[0], "send synthetic traffic") {
			w.Fatalf("nobody came: %+v", f)
		}
		w.hosts[0].rps = 20
		w.pause(time.Minute)
		now := w.env(r).Forecast
		if now.Running.CanaryRPS <= 0 || now.Running.CanaryRPS > 3 || now.Running.NoData || now.Detectable <= before.Detectable || now.Detectable >= 1 {
			w.Errorf("with a fifth of the traffic: %+v %+v; before: %+v", now, now.Running, before)
		}
		left := now.Running.RemainingSeconds
		w.must(w.tell(r, rollout.Command{Kind: rollout.Pause, By: bob}))
		w.pause(time.Minute)
		if f := w.env(r).Forecast; f == nil || f.Running == nil || !f.Running.EndsAt.IsZero() || f.Running.RemainingSeconds < left-10 {
			w.Errorf("paused: %+v", f.Running)
		}
	})
}

// What is foretold is worked out once for all who look, and anew only when
// something was measured.
func TestForecastsAreSharedUntilSomethingIsMeasured(t *testing.T) {
	var f forecasts
	var made atomic.Int32
	look := func(from string) *preview.Bake {
		b, err := f.of("o1", from, func() (*preview.Bake, error) {
			return &preview.Bake{CanaryRequests: int64(made.Add(1))}, nil
		})
		if err != nil {
			t.Error(err)
		}
		return b
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if b := look("bin 1"); b.CanaryRequests != 1 {
				t.Errorf("worked out %d times", b.CanaryRequests)
			}
		})
	}
	all.Wait()
	if b := look("bin 2"); b.CanaryRequests != 2 || len(f.kept) != 1 {
		t.Errorf("after a bin: %+v, %d kept", b, len(f.kept))
	}
	for i := range maxForecasts + 1 {
		_, _ = f.of(fmt.Sprint(i), "", func() (*preview.Bake, error) { return nil, nil })
	}
	if len(f.kept) > maxForecasts {
		t.Errorf("%d are kept", len(f.kept))
	}
	if _, err := f.of("bad", "", func() (*preview.Bake, error) { return nil, errors.New("no") }); err == nil || !strings.Contains(err.Error(), "bake of bad") {
		t.Error(err)
	}
}

// What counts as the time before is the last hour: not what was longer ago.
func TestTheTimeBeforeIsAnHour(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		h := w.hosts[0]
		h.rps = 100
		rate := func() float64 {
			got, err := w.front.Traffic(w.Context(), "default", "shop", "production")
			w.must(err)
			return got.BaselineRate
		}
		h.bad[v1] = 0.1
		w.pause(30 * time.Minute)
		if r := rate(); r < 0.09 || r > 0.11 {
			w.Errorf("after half an hour with 10 %% of errors: %g", r)
		}
		h.bad[v1] = 0
		w.pause(40 * time.Minute)
		if r := rate(); r < 0.01 || r > 0.06 {
			w.Errorf("when a third of the hour had them: %g", r)
		}
		w.pause(40 * time.Minute)
		if r := rate(); r != 0 {
			w.Errorf("when all of it was longer ago: %g", r)
		}
	})
}

// A new process is slow and fails at first. Its warm-up begins with its first
// user, however long nobody came, and what it does meanwhile is not judged.
func TestWarmUpBeginsWithTheFirstUser(t *testing.T) {
	stories(t, func(w *world) {
		slow := strings.NewReplacer("warmUp: 0s", "warmUp: 30s", "bake: 1m", "bake: 3m").Replace(production)
		v1 := w.first(slow)
		h := w.hosts[0]
		h.bad[v1] = 0.1 // or it would be a catastrophe, which is judged at any time
		h.rps = 0
		r, v2 := w.ship(w.definition(slow), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.pause(time.Minute)
		h.rps, h.bad[v2] = 500, 0.3
		w.pause(20 * time.Second)
		h.bad[v2] = 0.1
		w.pause(15 * time.Second)
		if e := w.env(r); e.Phase != rollout.Baking {
			w.Fatalf("it was judged while it was cold: %+v", e)
		}
		h.bad[v2] = 0.3
		w.untilState(r, run.RolledBack)
	})
}
