package control

import (
	"fmt"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// displaced is a release that failed with roll-forward as its safe action, and
// whose place another takes. It keeps its users until they are the new one's:
// going back to the release before is what it must not do.
type displaced struct {
	Revision wire.Revision `json:"revision"`
	Weight   int           `json:"weight"` // basis points, when it was displaced
}

// share is what a displaced release still has beside a candidate.
func (d *displaced) share(s rollout.State) int {
	if d == nil || s.Phase == rollout.RollingBack || s.Phase.Terminal() && s.Phase != rollout.Succeeded && s.Phase != rollout.Superseded {
		return 0 // the way back is to the last good release
	}
	return max(0, d.Weight-s.Weight)
}

// mayDisplace reports whether a run may take the place of a live rollout.
func (t *runTurn) mayDisplace(live store.Rollout) (bool, error) {
	if t.row.Kind == run.KindRollback || t.row.Kind == run.KindRehearse || live.Run == t.row.ID || live.Release == t.state.Release {
		return false, nil
	}
	env, ok := t.def.Environment(live.Environment)
	if plan, err := rollout.Compile(env, true); !ok || err != nil || plan.Instances > 0 {
		return false, nil // the shares of three releases are weights, not instances
	}
	ro, err := t.c.turnOf(t.tx, live)
	if err != nil {
		return false, err
	}
	return ro.state.Frozen != "" && ro.plan.OnFail == pipeline.RollForward && ro.plan.Instances == 0 && ro.state.Phase != rollout.RollingBack, nil
}

// held reports whether a live rollout keeps this run out of an environment.
func (t *runTurn) held(key release.Key) (bool, error) {
	live, busy, err := t.tx.LiveRollout(key)
	if err != nil || !busy {
		return false, err
	}
	free, err := t.mayDisplace(live)
	return !free, err
}

// displace ends a frozen rollout, whose place a new one takes in this very
// transaction. It returns nil where nothing is live.
func (t *runTurn) displace(key release.Key, by release.ID) (*displaced, error) {
	live, busy, err := t.tx.LiveRollout(key)
	if err != nil || !busy {
		return nil, err
	}
	ro, err := t.c.turnOf(t.tx, live)
	if err != nil {
		return nil, err
	}
	d := &displaced{Revision: ro.candidate, Weight: ro.state.Weight}
	why := fmt.Sprintf("release %s took its place, as it failed: %s", by.Short(), ro.state.Frozen)
	if err := ro.feed(rollout.Event{Command: &rollout.Command{Kind: rollout.Supersede, By: t.row.Actor, Reason: why}}); err != nil {
		return nil, fmt.Errorf("couldn't take the place of release %s: %w", live.Release.Short(), err)
	}
	if err := ro.close(); err != nil {
		return nil, err
	}
	if d.Weight == 0 {
		return nil, nil // nobody is on it
	}
	return d, nil
}

// wakeWaiting wakes the runs that may wait for this rollout's environment.
func (t *turn) wakeWaiting() error {
	live := true
	waiting, err := t.tx.Runs(store.RunFilter{Project: t.row.Project, Service: t.row.Service, Live: &live, Limit: 100})
	if err != nil {
		return fmt.Errorf("couldn't find the runs that wait: %w", err)
	}
	for _, r := range waiting {
		if err := t.tx.Wake("runs", r.Project, r.ID, t.tx.Now()); err != nil {
			return fmt.Errorf("couldn't wake run %s: %w", r.ID, err)
		}
	}
	return nil
}
