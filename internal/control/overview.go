package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Cell is one service in one environment, on the first page.
type Cell struct {
	release.Key
	Release    release.ID      `json:"release"` // that has the traffic
	Commit     string          `json:"commit"`
	Candidate  release.ID      `json:"candidate,omitempty"`
	Weight     float64         `json:"weight,omitempty"` // percent of the candidate
	Run        string          `json:"run,omitempty"`    // that is live, or was last
	State      run.Outcome     `json:"state"`
	Phase      rollout.Phase   `json:"phase,omitempty"`
	Verdict    verdict.Verdict `json:"verdict,omitempty"`
	WaitingFor string          `json:"waitingFor,omitempty"`
	Stuck      bool            `json:"stuck,omitempty"` // its rollback is: look at once
	Since      time.Time       `json:"since,omitzero"`
}

// Overview lists what runs where.
func (c *Controller) Overview(ctx context.Context, project string) ([]Cell, error) {
	out := []Cell{}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		keys := map[release.Key]*Cell{}
		var order []release.Key
		cell := func(k release.Key) *Cell {
			if keys[k] == nil {
				keys[k] = &Cell{Key: k}
				order = append(order, k)
			}
			return keys[k]
		}
		rows, err := tx.Environments(project)
		if err != nil {
			return fmt.Errorf("couldn't list environments: %w", err)
		}
		for _, r := range rows {
			x := cell(r.Key)
			cur, err := decodeRevision(r.Current)
			if err != nil {
				return fmt.Errorf("couldn't read what runs in %s: %w", r.Key, err)
			}
			if cur == nil {
				continue
			}
			x.Release, x.Since, x.State = cur.Release, r.UpdatedAt, run.Succeeded
			if p, err := decodePlace(r); err == nil && !p.Since.IsZero() {
				x.Since = p.Since
			}
			if p, err := decodePlace(r); err == nil && p.Strayed.told() {
				x.WaitingFor = p.Strayed.sentence()
			}
			x.Commit = commitOf(cur)
		}
		live := true
		last, err := tx.Rollouts(store.RolloutFilter{Project: project, Live: &live})
		if err != nil {
			return fmt.Errorf("couldn't list rollouts: %w", err)
		}
		moving := map[release.Key]bool{}
		for _, r := range last {
			moving[keyOf(r)] = true
		}
		for _, r := range rows {
			if moving[r.Key] {
				continue
			}
			ended, err := tx.Rollouts(store.RolloutFilter{Project: r.Project, Service: r.Service, Environment: r.Key.Environment, Limit: 1})
			if err != nil {
				return fmt.Errorf("couldn't list rollouts: %w", err)
			}
			last = append(last, ended...)
		}
		for _, r := range last {
			c.overview(tx, cell(keyOf(r)), r)
		}
		for _, k := range order {
			out = append(out, *keys[k])
		}
		return nil
	})
	return out, err
}

// overview fills in the last rollout of a cell. One that this build can't read,
// because a newer one started it, is told in its cell and takes nothing from the
// others.
func (c *Controller) overview(tx *store.Tx, x *Cell, r store.Rollout) {
	x.Run, x.Phase = r.Run, rollout.Phase(r.Phase)
	if r.Live {
		x.Candidate, x.State = r.Release, run.Running
	}
	t, err := c.turnOf(tx, r)
	if err != nil {
		x.WaitingFor = err.Error()
		return
	}
	var e EnvironmentStatus
	t.describe(&e)
	x.Phase, x.Verdict = e.Phase, e.Verdict
	if !r.Live {
		return
	}
	x.Weight, x.WaitingFor, x.Stuck = e.Weight, e.WaitingFor, e.Stuck
	if e.State != "" {
		x.State = e.State
	}
}

func commitOf(r *wire.Revision) string {
	var m release.Manifest
	if json.Unmarshal(r.Manifest, &m) != nil {
		return ""
	}
	return m.Commit
}

// keyOf names the environment that a rollout's row is of.
func keyOf(r store.Rollout) release.Key {
	return release.Key{Project: r.Project, Service: r.Service, Environment: r.Environment}
}
