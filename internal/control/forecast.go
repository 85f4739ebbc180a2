package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Traffic is what the router of an environment counted for the release that runs
// there, over the hour before or since it does so. Its RPS is 0 where nothing is
// known: nothing runs there, nobody asked, or it was not watched for long enough.
func (c *Controller) Traffic(ctx context.Context, project, service, environment string) (out preview.Traffic, err error) {
	key := release.Key{Project: project, Service: service, Environment: environment}
	err = c.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Environment(key)
		if err != nil {
			return fmt.Errorf("couldn't read environment %s: %w", key, err)
		}
		if !ok {
			return nil
		}
		p, err := decodePlace(row)
		if err != nil {
			return err
		}
		current, err := decodeRevision(row.Current)
		if err != nil || current == nil {
			return err
		}
		out, err = c.traffic(tx, key, p.Environment, current.Release)
		return err
	})
	return out, err
}

func (c *Controller) traffic(tx *store.Tx, key release.Key, env pipeline.Environment, stable release.ID) (preview.Traffic, error) {
	counts, _, window, err := c.before(tx, key, env, stable)
	return trafficOf(counts, window), err
}

func trafficOf(counts cumulative, window time.Duration) preview.Traffic {
	if counts.Requests == 0 || window <= 0 {
		return preview.Traffic{}
	}
	n := float64(counts.Requests)
	return preview.Traffic{RPS: min(1e7, n/window.Seconds()), BaselineRate: min(0.99, float64(counts.Bad)/n)}
}

// forecast is what the first bake of an environment that waits for approval can
// see at the traffic that is measured there now. Nil: nothing can be said.
func (t *runTurn) forecast(e run.Environment) (*preview.Bake, error) {
	env, ok := t.def.Environment(e.Name)
	if !ok || e.Packet == "" || e.Previous == "" || e.Rollout != "" {
		return nil, nil
	}
	plan, err := rollout.Compile(env, true)
	if err != nil {
		return nil, fmt.Errorf("couldn't plan %s: %w", e.Name, err)
	}
	key := release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}
	traffic, err := t.c.traffic(t.tx, key, env, e.Previous)
	if err != nil {
		return nil, err
	}
	step := nextBake(plan, 0)
	of := fmt.Sprintf("%s/%s/%s", t.row.Project, t.row.ID, e.Name)
	return t.c.forecasts.of(of, fmt.Sprintf("%s/%.2g/%.2g", e.Packet, traffic.RPS, traffic.BaselineRate), func() (*preview.Bake, error) {
		return preview.Forecast(env, plan, step, traffic)
	})
}

func nextBake(p rollout.Plan, step int) int {
	for step < len(p.Steps) && p.Steps[step].Kind != rollout.StepBake {
		step++
	}
	return step
}

// forecast is what the bake that runs can see by its end at the traffic that it
// measures itself, or else what the next one can at the traffic that was measured
// last. Nil: nothing can be said.
func (t *turn) forecast() (*preview.Bake, error) {
	s, w, env := t.state, &t.watch, t.plan.Environment
	step := nextBake(t.plan.Plan, s.Step)
	if !t.row.Live || s.Phase == rollout.RollingBack || s.Verdict == verdict.Fail || step >= len(t.plan.Steps) || t.plan.First {
		return nil, nil
	}
	of := t.row.Project + "/" + t.row.ID
	if s.Phase != rollout.Baking || w.Pace.Step != s.Step || w.Pace.Took <= 0 {
		traffic := w.Traffic
		if all := float64(w.Pace.Canary + w.Pace.Stable); w.Pace.Took > 0 && all > 0 {
			traffic.RPS = min(1e7, all/w.Pace.Took.Seconds()) // an earlier bake knows better than the hour before
		}
		return t.c.forecasts.of(of, fmt.Sprintf("%d/%d", step, w.Closed), func() (*preview.Bake, error) {
			return preview.Forecast(env, t.plan.Plan, step, traffic)
		})
	}
	b, err := t.c.forecasts.of(of, fmt.Sprintf("%d/%d/%d", step, s.Extended, w.Closed), func() (*preview.Bake, error) {
		now := preview.Now{Took: w.Pace.Took, Canary: w.Pace.Canary, Stable: w.Pace.Stable, Elapsed: s.InPhase, Warm: w.Warm, Extended: s.Extended, Tests: map[string]analysis.Rate{}}
		for _, x := range w.Tests {
			if x.Rate != nil {
				now.Tests[x.Metric.Name] = *x.Rate
			} else if x.Latency != nil {
				if r, ok := x.Latency.Told(); ok {
					now.Tests[x.Metric.Name] = r
				}
			}
		}
		return preview.Live(env, t.plan.Plan, step, now)
	})
	if err != nil || b == nil {
		return nil, err
	}
	// The time goes on between two bins, and what is kept is for all who look.
	out, r := *b, *b.Running
	left := max(0, t.plan.Steps[step].Bake-s.InPhase)
	if out.Running, r.RemainingSeconds = &r, left.Seconds(); left > 0 && !s.Paused.On && !s.Held.On && !w.TickedAt.IsZero() {
		r.EndsAt = w.TickedAt.Add(left)
	}
	return &out, nil
}

// forecasts keeps what bakes are foretold to see, one for each that is looked at: a
// simulation of some ten milliseconds that each page would otherwise ask for each
// second. It is made anew when something was measured, once for all who look.
type forecasts struct {
	mu   sync.Mutex
	kept map[string]*foretold
}

type foretold struct {
	from string // what it was made of
	once sync.Once
	bake *preview.Bake
	err  error
}

// maxForecasts bounds them; all are forgotten when there are more.
const maxForecasts = 1000

// of returns what was foretold of something from what is known of it, or foretells it.
func (f *forecasts) of(key, from string, foretell func() (*preview.Bake, error)) (*preview.Bake, error) {
	f.mu.Lock()
	x := f.kept[key]
	if x == nil || x.from != from {
		if f.kept == nil || len(f.kept) >= maxForecasts {
			f.kept = map[string]*foretold{}
		}
		x = &foretold{from: from}
		f.kept[key] = x
	}
	f.mu.Unlock()
	x.once.Do(func() {
		if x.bake, x.err = foretell(); x.err != nil {
			x.err = fmt.Errorf("couldn't foretell what the bake of %s can see: %w", key, x.err)
		}
	})
	return x.bake, x.err
}
