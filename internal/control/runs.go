package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// runTurn is one decision about one run inside one transaction.
type runTurn struct {
	c     *Controller
	tx    *store.Tx
	row   store.Run
	def   pipeline.Definition
	state run.State
	wake  *time.Time

	queued bool // it waited for its turn when this one began
}

// openRun opens a leased run.
func (c *Controller) openRun(tx *store.Tx, lease store.Lease) (*runTurn, error) {
	if err := tx.Check(lease); err != nil {
		return nil, err
	}
	return c.readRun(tx, lease.Project, lease.ID)
}

func (c *Controller) readRun(tx *store.Tx, project, id string) (*runTurn, error) {
	row, err := tx.Run(project, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, missing("there is no run %q; `sluice runs` lists them", id)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read run %s: %w", id, err)
	}
	return c.runTurnOf(tx, row)
}

// runTurnOf opens a turn on a row that was just read.
func (c *Controller) runTurnOf(tx *store.Tx, row store.Run) (*runTurn, error) {
	id := row.ID
	t := &runTurn{c: c, tx: tx, row: row}
	if err := json.Unmarshal(row.Definition, &t.def); err != nil {
		return nil, fmt.Errorf("couldn't read the definition of run %s: %w", id, err)
	}
	var err error
	if t.state, err = run.Decode(row.State); err != nil {
		return nil, fmt.Errorf("run %s: %w", id, err)
	}
	t.queued = queued(t.state)
	return t, nil
}

// safetyWake bounds how long a run sleeps while its rollout is live.
const safetyWake = 5 * time.Minute

// close writes the turn.
func (t *runTurn) close() error {
	t.summarise()
	was := t.row.Phase
	if err := t.stateEnd(); err != nil {
		return err
	}
	if t.queued && !queued(t.state) { // whoever stands behind it may go on
		if err := t.tx.WakeRuns(t.row.Project, t.row.Service, t.row.ID, t.tx.Now()); err != nil {
			return err
		}
	}
	t.row.Phase, t.row.Release = string(t.state.Outcome), t.state.Release
	t.row.Live = t.state.Phase != run.Ended
	switch action, _ := run.Next(t.state); {
	case t.wake != nil:
	case action == run.ActBuild || action == run.ActEnd:
		t.wakeIn(0) // due as long as it is not done: if we die, another takes it on
	default:
		t.wakeIn(safetyWake) // the rollout wakes it sooner
	}
	t.row.WakeAt = t.wake
	t.state.TickedAt, t.state.Planned = t.tx.Now(), 0
	if t.wake != nil {
		t.state.Planned = max(t.wake.Sub(t.tx.Now()), time.Millisecond)
	}
	if !t.row.Live {
		t.row.WakeAt = nil
	}
	var err error
	if t.row.State, err = json.Marshal(t.state); err != nil {
		return fmt.Errorf("couldn't encode the state of run %s: %w", t.row.ID, err)
	}
	if err := t.tx.SaveRun(&t.row); err != nil {
		return fmt.Errorf("couldn't save run %s: %w", t.row.ID, err)
	}
	if was == t.row.Phase {
		return nil
	}
	return t.tell("", "run", map[string]string{"state": t.row.Phase, "reason": t.state.Reason})
}

// summarise makes the run's outcome that of the environment it is at.
func (t *runTurn) summarise() {
	if t.state.Phase == run.Ended {
		return
	}
	t.state.Outcome = run.Running
	for _, e := range t.state.Environments {
		if e.State == run.Waiting || e.State == run.RollingBack {
			t.state.Outcome = e.State
		}
	}
}

// wakeIn asks for the next turn after d.
func (t *runTurn) wakeIn(d time.Duration) {
	at := t.tx.Now().Add(max(d, 0))
	if t.wake == nil || at.Before(*t.wake) {
		t.wake = &at
	}
}

// elapsed is the time since the last turn, as far as it can be believed.
func (t *runTurn) elapsed() time.Duration {
	if t.state.TickedAt.IsZero() {
		return 0
	}
	planned := t.state.Planned
	if planned == 0 { // written before it was kept
		planned = approvalTick
	}
	return clampElapsed(t.tx.Now().Sub(t.state.TickedAt), planned)
}

func (t *runTurn) tell(env, kind string, data any) error {
	return addFeed(t.tx, store.Feed{Project: t.row.Project, Run: t.row.ID, Service: t.row.Service, Environment: env, Kind: kind}, data)
}

func (t *runTurn) subject() evidence.Subject {
	return evidence.ReleaseSubject(t.row.Project, t.row.Service, t.state.Release)
}

// stop ends an environment, and with it the run.
func (t *runTurn) stop(e *run.Environment, o run.Outcome, reason string) error {
	e.State, e.Reason, e.WaitingFor, e.Queued = o, reason, "", false
	t.state.End()
	return t.tell(e.Name, "stopped", map[string]string{"state": string(o), "reason": reason})
}

func (t *runTurn) wait(e *run.Environment, what string) {
	if e.State != run.Waiting {
		e.Waited = 0
	}
	e.State, e.WaitingFor, e.Queued = run.Waiting, what, false
	t.wakeIn(approvalTick)
}

// stateEnd keeps as evidence that a run was ended before it exposed anybody; of
// any other end its rollout has told.
func (t *runTurn) stateEnd() error {
	if t.state.Phase != run.Ended || !t.row.Live {
		return nil
	}
	change := ""
	switch t.state.Outcome {
	case run.Cancelled:
		change = evidence.RunCancelled
	case run.Superseded:
		change = evidence.RunSuperseded
	default:
		return nil
	}
	at := about{project: t.row.Project, run: t.row.ID}
	for _, e := range t.state.Environments {
		if e.State != t.state.Outcome {
			continue
		}
		if e.Rollout != "" {
			return nil
		}
		at.environment = e.Name
	}
	subject := t.subject()
	if t.state.Release == "" {
		var err error
		subject, err = evidence.ObjectSubject(t.row.Project, "run", t.row.ID, map[string]string{"project": t.row.Project, "run": t.row.ID, "service": t.row.Service, "commit": t.row.Commit})
		if err != nil {
			return err
		}
	}
	p := evidence.Run{Change: change, Service: t.row.Service, Commit: t.row.Commit}
	if t.state.Cancel == "" {
		p.Reason = clip(t.state.Reason)
	}
	var err error
	if p.Event, err = t.c.event(t.tx, at, t.state.CancelBy, t.state.Cancel); err != nil {
		return err
	}
	_, err = t.c.record(t.tx, "run/"+t.row.ID+"/"+change, at, p, subject)
	return err
}

// stepRun takes one leased run as far as it can go.
func (c *Controller) stepRun(ctx context.Context, lease store.Lease) error {
	for {
		var state run.State
		err := c.store.View(ctx, func(tx *store.Tx) error {
			row, err := tx.Run(lease.Project, lease.ID)
			if err != nil {
				return fmt.Errorf("couldn't read run %s: %w", lease.ID, err)
			}
			state, err = run.Decode(row.State)
			return err
		})
		if err != nil {
			return err
		}
		action, i := run.Next(state)
		switch action {
		case run.ActBuild:
			select {
			case c.builds <- struct{}{}:
			default:
				return c.queue(ctx, lease)
			}
			err := c.build(ctx, lease)
			<-c.builds
			if err != nil {
				return err
			}
			continue
		case run.ActPromote:
			if err := c.promote(ctx, lease, i); err != nil {
				return err
			}
		case run.ActAwait:
			if err := c.await(ctx, lease, i); err != nil {
				return err
			}
		case run.ActEnd, run.ActNothing:
			return c.endRun(ctx, lease)
		}
		next, err := c.nextAction(ctx, lease)
		if err != nil {
			return err
		}
		if next == i || next < 0 {
			return nil // it waits for the same environment, or nothing is left
		}
	}
}

// nextAction returns the environment that is next, or -1 when the run ended.
func (c *Controller) nextAction(ctx context.Context, lease store.Lease) (int, error) {
	next := -1
	err := c.store.View(ctx, func(tx *store.Tx) error {
		row, err := tx.Run(lease.Project, lease.ID)
		if err != nil {
			return err
		}
		s, err := run.Decode(row.State)
		if err != nil {
			return err
		}
		action, i := run.Next(s)
		if action == run.ActEnd {
			i = len(s.Environments) // one more turn, to end
		}
		if action != run.ActNothing {
			next = i
		}
		return nil
	})
	return next, err
}

func (c *Controller) endRun(ctx context.Context, lease store.Lease) error {
	return c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		if t.state.Phase != run.Ended {
			t.state.End()
		}
		return t.close()
	})
}

// await copies what a rollout came to into its run.
func (c *Controller) await(ctx context.Context, lease store.Lease, i int) error {
	return c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		e := &t.state.Environments[i]
		ro, err := c.openTurn(tx, t.row.Project, e.Rollout)
		if err != nil {
			return err
		}
		e.Verdict, e.Reason = ro.state.Verdict, ro.state.Reason
		if t.row.Kind == run.KindRehearse && ro.state.Phase.Terminal() {
			if err := t.endLeg(e, ro); err != nil {
				return err
			}
			return t.close()
		}
		if e.State = outcomeOfRollout(ro.state); e.State == run.Succeeded {
			e.Reason = ""
		}
		if e.State != run.Running && e.State != run.RollingBack {
			t.wakeIn(0)
		}
		return t.close()
	})
}

// outcomeOfRollout is what a rollout's state means for its environment.
func outcomeOfRollout(s rollout.State) run.Outcome {
	switch s.Phase {
	case rollout.Succeeded:
		return run.Succeeded
	case rollout.RolledBack:
		if !s.Exposed {
			return run.Failed // nobody was exposed to it
		}
		return run.RolledBack
	case rollout.RollbackFailed:
		return run.RollbackFailed
	case rollout.Cancelled:
		return run.Cancelled
	case rollout.Superseded:
		return run.Superseded
	case rollout.RollingBack:
		return run.RollingBack
	}
	return run.Running
}

func orPending(o run.Outcome) run.Outcome {
	if o == "" {
		return "pending"
	}
	return o
}

func orNotFound(err error) error {
	if err == nil {
		return store.ErrNotFound
	}
	return err
}
