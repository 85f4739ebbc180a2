package control

import (
	"fmt"
	"sync"

	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/rollout"
)

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
	step := t.state.Step
	for step < len(t.plan.Steps) && t.plan.Steps[step].Kind != rollout.StepBake {
		step++
	}
	if !t.row.Live || t.state.Phase == rollout.RollingBack || step >= len(t.plan.Steps) || t.plan.First {
		return nil, nil
	}
	f := &t.c.forecasts
	key := fmt.Sprintf("%s/%s/%d", t.row.Project, t.row.ID, step)
	f.mu.Lock()
	b, ok := f.kept[key]
	f.mu.Unlock()
	if ok {
		return b, nil
	}
	b, err := preview.Forecast(t.plan.Environment, t.plan.Plan, step, t.watch.Traffic)
	if err != nil {
		return nil, fmt.Errorf("couldn't foretell what the bake of rollout %s can see: %w", t.row.ID, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept == nil || len(f.kept) >= maxForecasts {
		f.kept = map[string]*preview.Bake{}
	}
	f.kept[key] = b
	return b, nil
}
