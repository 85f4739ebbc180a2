package control

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/store"
)

// watchCancel ends the build's context when a person cancels the run.
func (c *Controller) watchCancel(ctx context.Context, lease store.Lease) (context.Context, func() bool, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	asked := make(chan struct{})
	done := make(chan struct{})
	topics, unsubscribe := c.store.Subscribe()
	poll := time.NewTicker(safetyPoll)
	go func() {
		defer close(done)
		defer unsubscribe()
		defer poll.Stop()
		for {
			var s run.State
			err := c.store.View(ctx, func(tx *store.Tx) error {
				row, err := tx.Run(lease.Project, lease.ID)
				if err != nil {
					return err
				}
				s, err = run.Decode(row.State)
				return err
			})
			if err == nil && s.Cancel != "" {
				close(asked)
				cancel(errors.New(s.Cancel))
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-topics:
			case <-poll.C:
			}
		}
	}()
	cancelled := func() bool {
		select {
		case <-asked:
			return true
		default:
			return false
		}
	}
	return ctx, cancelled, func() { cancel(nil); <-done }
}

// interrupted ends a build that a person cancelled. One that a shutdown
// interrupted stays as it is: it begins anew later.
func (c *Controller) interrupted(lease store.Lease, cancelled func() bool, cause error, res *runner.Result) error {
	if !cancelled() {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.leaseTTL)
	defer cancel()
	return c.failBuild(ctx, lease, run.Cancelled, "", res)
}

func (c *Controller) runSteps(ctx context.Context, lease store.Lease, row store.Run, def pipeline.Definition, work, checkout string) (runner.Result, error) {
	folder, err := c.logs.folder(row.Project, row.ID)
	if err != nil {
		return runner.Result{}, err
	}
	outputs := []string{}
	for _, a := range def.Build.Artifacts {
		outputs = append(outputs, a.Path)
	}
	subdir := path.Dir(row.Path)
	if subdir == "." {
		subdir = ""
	}
	return runner.Run(ctx, runner.Spec{
		Project: row.Project, Service: row.Service, Commit: row.Commit, Checkout: checkout, Subdir: subdir,
		Scratch: filepath.Join(work, "scratch"), Caches: filepath.Join(c.dir, "caches"), Steps: def.Build.Steps, Outputs: outputs,
		Isolation: c.isolation, Hidden: []string{c.dir}, Secret: c.secret,
		OpenLog: func(step string) (io.WriteCloser, error) {
			c.markStep(ctx, lease, step, func(s *run.Step, now time.Time) { s.State, s.Started = "running", &now })
			return os.Create(filepath.Join(folder, step+".log"))
		},
		Done: func(r runner.StepResult) {
			c.markStep(ctx, lease, r.Name, func(s *run.Step, now time.Time) {
				s.State, s.Reason, s.Exit, s.Ended = string(r.State), r.Reason, r.ExitCode, &now
			})
		},
	})
}

// markStep shows how far a step is. It is for those who watch: if it fails the
// build goes on, and its end says it all.
func (c *Controller) markStep(ctx context.Context, lease store.Lease, step string, mark func(*run.Step, time.Time)) {
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		for i := range t.state.Steps {
			if s := &t.state.Steps[i]; s.Name == step {
				mark(s, tx.Now())
				if err := t.tell("", "step", map[string]string{"step": step, "state": s.State}); err != nil {
					return err
				}
			}
		}
		return t.close()
	})
	if err != nil && ctx.Err() == nil {
		c.log.Warn("couldn't show how far a step is", "run", lease.ID, "step", step, "error", err)
	}
}

// steps copies what the steps came to into the run.
func (c *Controller) steps(ctx context.Context, row store.Run, res *runner.Result) ([]run.Step, error) {
	out := make([]run.Step, 0, len(res.Steps))
	for _, s := range res.Steps {
		x := run.Step{Name: s.Name, Kind: string(s.Kind), State: string(s.State), Exit: s.ExitCode, Reason: s.Reason}
		if x.State == "" {
			x.State = string(runner.Skipped)
		}
		if !s.Started.IsZero() {
			x.Started = &s.Started
		}
		if !s.Ended.IsZero() {
			x.Ended = &s.Ended
		}
		for _, r := range s.Reports {
			if x.Tests == nil {
				x.Tests = &run.Tests{}
			}
			x.Tests.Passed += r.Passed
			x.Tests.Failed += r.Failed
			x.Tests.Skipped += r.Skipped
		}
		var err error
		if x.Log, err = c.keepLog(ctx, c.logs.path(row.Project, row.ID, s.Name)); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}
