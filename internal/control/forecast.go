package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
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
	return t.c.forecasts.of(fmt.Sprintf("%s/%s/%s/%s/%.2g/%.2g", t.row.Project, t.row.ID, e.Name, e.Packet, traffic.RPS, traffic.BaselineRate), func() (*preview.Bake, error) {
		return preview.Forecast(env, plan, step, traffic)
	})
}

func nextBake(p rollout.Plan, step int) int {
	for step < len(p.Steps) && p.Steps[step].Kind != rollout.StepBake {
		step++
	}
	return step
}

// forecasts keeps what bakes are foretold to see: a simulation of some ten
// milliseconds that a page would otherwise ask for each second.
type forecasts struct {
	mu   sync.Mutex
	kept map[string]*preview.Bake
}

// maxForecasts bounds them; all are forgotten when there are more.
const maxForecasts = 1000

// forecast is what the bake that runs, or else the next one, can see at the
// traffic that was measured before the exposure. Nil: nothing can be said.
func (t *turn) forecast() (*preview.Bake, error) {
	step := nextBake(t.plan.Plan, t.state.Step)
	if !t.row.Live || t.state.Phase == rollout.RollingBack || step >= len(t.plan.Steps) || t.plan.First {
		return nil, nil
	}
	return t.c.forecasts.of(fmt.Sprintf("%s/%s/%d", t.row.Project, t.row.ID, step), func() (*preview.Bake, error) {
		return preview.Forecast(t.plan.Environment, t.plan.Plan, step, t.watch.Traffic)
	})
}

// of returns what was foretold under a key, or foretells it.
func (f *forecasts) of(key string, foretell func() (*preview.Bake, error)) (*preview.Bake, error) {
	f.mu.Lock()
	b, ok := f.kept[key]
	f.mu.Unlock()
	if ok {
		return b, nil
	}
	b, err := foretell()
	if err != nil {
		return nil, fmt.Errorf("couldn't foretell what the bake of %s can see: %w", key, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept == nil || len(f.kept) >= maxForecasts {
		f.kept = map[string]*preview.Bake{}
	}
	f.kept[key] = b
	return b, nil
}
