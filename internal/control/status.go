package control

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Status is a run as its users see it. The keys are the contract of
// `status --json`.
type Status struct {
	Run          string              `json:"run"`
	Kind         string              `json:"kind"`
	Project      string              `json:"project"`
	Service      string              `json:"service"`
	Repository   string              `json:"repository,omitempty"`
	Commit       string              `json:"commit"`
	Release      release.ID          `json:"release"`
	Digest       release.Digest      `json:"digest"` // of the first artifact
	Artifacts    []release.Artifact  `json:"artifacts"`
	State        run.Outcome         `json:"state"`
	Reason       string              `json:"reason"`
	Actor        release.Actor       `json:"actor"`
	ReusedFrom   string              `json:"reusedFrom,omitempty"` // run whose build this is
	Steps        []run.Step          `json:"steps"`
	Environments []EnvironmentStatus `json:"environments"`
	CreatedAt    time.Time           `json:"createdAt"`
	UpdatedAt    time.Time           `json:"updatedAt"` // the last thing that happened; to wait is none
}

// EnvironmentStatus is one environment of a run.
type EnvironmentStatus struct {
	Name            string             `json:"name"`
	State           run.Outcome        `json:"state"`
	Release         release.ID         `json:"release"`
	PreviousRelease release.ID         `json:"previousRelease"`
	Strategy        string             `json:"strategy"`
	Step            int                `json:"step"`
	Steps           int                `json:"steps"`
	Weight          float64            `json:"weight"` // percent of the new release, as read back
	Verdict         verdict.Verdict    `json:"verdict"`
	Reason          string             `json:"reason"`
	WaitingFor      string             `json:"waitingFor"`
	Stuck           bool               `json:"stuck"`
	Paused          bool               `json:"paused"`
	Held            string             `json:"held,omitempty"`
	Frozen          bool               `json:"frozen,omitempty"`  // it failed, and a person decides; Held says how
	Preview         []string           `json:"preview,omitempty"` // where the new release alone answers, as hosts say
	Phase           rollout.Phase      `json:"phase,omitempty"`
	Rollout         string             `json:"rollout,omitempty"`
	Revision        int64              `json:"revision,omitempty"` // rises with each fact; for commands that must not act on something else than was seen
	Queue           *QueueStatus       `json:"queue,omitempty"`    // it waits for its turn
	Packet          release.Digest     `json:"packet,omitempty"`
	Decision        string             `json:"decision,omitempty"` // on the packet, which the run's next turn takes
	Gates           []gate.Decision    `json:"gates,omitempty"`
	Plan            []rollout.PlanStep `json:"plan,omitempty"`
	Bake            *BakeStatus        `json:"bake,omitempty"`
	Metrics         []analysis.Metric  `json:"metrics,omitempty"`
	Signals         *Signals           `json:"signals,omitempty"`
	RollbackMillis  *int64             `json:"rollbackMillis,omitempty"`
	DetectSeconds   *float64           `json:"detectSeconds,omitempty"` // first exposure → verdict fail
	Points          []Point            `json:"points,omitempty"`
	Forecast        *preview.Bake      `json:"forecast,omitempty"` // of the bake that runs, at the traffic that it measures, or comes next, at that measured before
}

// BakeStatus is how far a bake is.
type BakeStatus struct {
	ElapsedSeconds float64 `json:"elapsedSeconds"`
	TotalSeconds   float64 `json:"totalSeconds"`
	Extended       int     `json:"extended"`
}

// Status returns one run; points asks for the chart's too.
func (c *Controller) Status(ctx context.Context, project, id string, points bool) (Status, error) {
	var out Status
	err := c.store.View(ctx, func(tx *store.Tx) error {
		t, err := c.readRun(tx, project, id)
		if err != nil {
			return err
		}
		out, err = t.status(true, points)
		return err
	})
	return out, err
}

// Runs lists runs, newest first.
func (c *Controller) Runs(ctx context.Context, f store.RunFilter) ([]Status, error) {
	out := []Status{}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Runs(f)
		if err != nil {
			return fmt.Errorf("couldn't list runs: %w", err)
		}
		if len(rows) == 0 && f.Before == "" && f.Live == nil {
			return known(tx, f.Project, f.Service)
		}
		for _, r := range rows {
			t, err := c.runTurnOf(tx, r)
			if err != nil {
				return err
			}
			s, err := t.status(false, false)
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		return nil
	})
	return out, err
}

// known tells a project or service that is empty from one that is not there: what
// nobody ever ran has no rows at all.
func known(tx *store.Tx, project, service string) error {
	rows, err := tx.Runs(store.RunFilter{Project: project, Limit: 1})
	switch {
	case err != nil:
		return fmt.Errorf("couldn't look for project %s: %w", project, err)
	case len(rows) > 0 && service != "":
		return missing("there is no service %q in project %s; `sluice runs` lists what there is", service, project)
	case len(rows) > 0, project == release.DefaultProject:
		return nil
	}
	return missing("there is no project %q: nothing ever ran in it; without --project it is %s", project, release.DefaultProject)
}

func (t *runTurn) status(single, points bool) (Status, error) {
	s := Status{
		Run: t.row.ID, Kind: t.row.Kind, Project: t.row.Project, Service: t.row.Service, Repository: t.row.Repository, Commit: t.row.Commit,
		Release: t.state.Release, Artifacts: t.state.Artifacts, State: t.state.Outcome, Reason: t.state.Reason, Actor: t.row.Actor,
		ReusedFrom: t.state.Reused, Steps: t.state.Steps, Environments: []EnvironmentStatus{}, CreatedAt: t.row.CreatedAt, UpdatedAt: t.row.UpdatedAt,
	}
	if at, ok, err := t.tx.LastFeed(t.row.Project, t.row.ID); err != nil {
		return s, err
	} else if ok {
		s.UpdatedAt = at
	}
	if s.Steps == nil {
		s.Steps = []run.Step{}
	}
	if len(s.Artifacts) > 0 {
		s.Digest = s.Artifacts[0].Digest
	} else {
		s.Artifacts = []release.Artifact{}
	}
	for _, e := range t.state.Environments {
		es := EnvironmentStatus{
			Name: e.Name, State: orPending(e.State), Release: t.state.Release, PreviousRelease: e.Previous, Strategy: e.Strategy,
			Verdict: e.Verdict, Reason: e.Reason, WaitingFor: e.WaitingFor, Packet: e.Packet, Gates: e.Gates, Rollout: e.Rollout,
		}
		var err error
		if es.Queue, err = t.queueStatus(e); err != nil {
			return s, err
		}
		if es.Decision, err = t.decision(e); err != nil {
			return s, err
		}
		if es.Decision != "" {
			es.WaitingFor = es.Decision + "; the run's next turn takes it"
		}
		if es.Strategy == "" {
			if env, ok := t.def.Environment(e.Name); ok {
				es.Strategy = env.Rollout.Strategy
			}
		}
		if single {
			if es.Forecast, err = t.forecast(e); err != nil {
				return s, err
			}
		}
		if e.Rollout != "" {
			ro, err := t.c.openTurn(t.tx, t.row.Project, e.Rollout)
			if err != nil {
				return s, err
			}
			ro.describe(&es)
			if single {
				if _, p, err := t.strayedOf(e.Name); err != nil {
					return s, err
				} else if p.Strayed.told() {
					es.WaitingFor = p.Strayed.sentence()
				}
				if es.Forecast, err = ro.forecast(); err != nil {
					return s, err
				}
				if es.Preview, err = ro.previews(); err != nil {
					return s, err
				}
			}
			if points {
				if es.Points, err = ro.points(); err != nil {
					return s, err
				}
			}
		}
		if es.State == run.RollingBack && s.State == run.Running {
			s.State = run.RollingBack
		}
		if es.State == run.Waiting && s.State == run.Running {
			s.State = run.Waiting
		}
		s.Environments = append(s.Environments, es)
	}
	return s, nil
}

// describe fills in what the rollout knows; it is fresher than the run's copy.
func (t *turn) describe(e *EnvironmentStatus) {
	s, w := t.state, t.watch
	e.Phase, e.Revision, e.Step, e.Steps, e.Plan = s.Phase, t.revision(), s.Step, len(t.plan.Steps), t.plan.Steps
	e.Weight = float64(s.Seen.Weight()) / 100
	e.Verdict, e.Paused, e.Stuck = s.Verdict, s.Paused.On, s.Stuck.On
	if s.Reason != "" {
		e.Reason = s.Reason
	}
	x := rollout.Explain(t.plan.Plan, s)
	switch {
	case s.Phase.Terminal():
		e.WaitingFor = ""
	case s.Held.On:
		e.Held, e.WaitingFor, e.State = s.Held.Reason, s.Held.Reason, run.Waiting
	case s.Paused.On:
		e.WaitingFor, e.State = x.Why, run.Waiting
	default:
		e.WaitingFor = x.Why
	}
	if s.Phase == rollout.RollingBack {
		e.State = run.RollingBack
	}
	e.Frozen = s.Frozen != "" && !s.Phase.Terminal() && s.Phase != rollout.RollingBack
	if s.Phase == rollout.Baking {
		e.Bake = &BakeStatus{ElapsedSeconds: s.InPhase.Seconds(), TotalSeconds: t.plan.Steps[s.Step].Bake.Seconds(), Extended: s.Extended}
	}
	e.Metrics = w.Result.Metrics
	if s.Exposed {
		sig := w.Seen
		e.Signals = &sig
	}
	e.RollbackMillis = w.rollbackMillis()
	if !w.FailedAt.IsZero() && !w.ShownAt.IsZero() {
		d := w.FailedAt.Sub(w.ShownAt).Seconds()
		e.DetectSeconds = &d
	}
}

// PacketOf returns the newest packet of a run's environment.
func (c *Controller) PacketOf(ctx context.Context, project, runID, env string) (store.Packet, error) {
	var p store.Packet
	err := c.store.View(ctx, func(tx *store.Tx) error {
		var ok bool
		var err error
		p, ok, err = tx.Packet(project, runID, env)
		if err == nil && !ok {
			return missing("run %s has no approval packet for %q; `sluice explain %s` says what it waits for", runID, env, runID)
		}
		return err
	})
	return p, err
}

// Quarantines lists what was quarantined.
func (c *Controller) Quarantines(ctx context.Context, project, service string) ([]store.Quarantine, error) {
	var out []store.Quarantine
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		out, err = tx.Quarantines(project, service)
		return err
	})
	return out, err
}

// Feed returns what happened after an id, for those who watch live.
func (c *Controller) Feed(ctx context.Context, project, runID string, after int64, limit int) ([]store.Feed, error) {
	var out []store.Feed
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		out, err = tx.FeedAfter(project, runID, after, limit)
		return err
	})
	return out, err
}

// Subscribe notifies of commits; see [store.Store.Subscribe].
func (c *Controller) Subscribe() (<-chan string, func()) { return c.store.Subscribe() }

// Releases lists the releases of a service, newest first.
func (c *Controller) Releases(ctx context.Context, project, service string) ([]store.Release, error) {
	var out []store.Release
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		out, err = tx.FindReleases(project, service, "")
		return err
	})
	return out, err
}

// FindRelease returns the release that prefix names.
func (c *Controller) FindRelease(ctx context.Context, project, prefix string) (store.Release, error) {
	var out store.Release
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		out, err = findRelease(tx, project, "", prefix)
		return err
	})
	return out, err
}

// FeedEnd returns the id of the newest line of the feed.
func (c *Controller) FeedEnd(ctx context.Context) (int64, error) {
	var end int64
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		end, err = tx.FeedEnd()
		return err
	})
	return end, err
}

// Answer returns what a command with an Idempotency-Key was answered.
func (c *Controller) Answer(ctx context.Context, project, key string) (store.Answer, bool, error) {
	var a store.Answer
	var ok bool
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		a, ok, err = tx.Answer(project, key)
		return err
	})
	return a, ok, err
}

// PutAnswer keeps what a command was answered.
func (c *Controller) PutAnswer(ctx context.Context, a store.Answer) error {
	return c.store.Update(ctx, func(tx *store.Tx) error {
		a.At = tx.Now()
		return tx.PutAnswer(&a)
	})
}
