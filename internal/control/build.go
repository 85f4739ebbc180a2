package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/source"
	"github.com/sluicehq/sluice/internal/store"
)

// builderID names who is trusted to have built, in provenance.
const builderID = "https://sluice.dev/builder/v1"

// maxBuildTries bounds how often a build is begun anew after the control plane
// died in the middle of it.
const maxBuildTries = 5

// buildEngine numbers the way in which steps are run: another one builds anew. It
// is not the rollouts' number, which changes more often.
const buildEngine = 1

// buildKey is what decides that two builds would be the same: the source tree
// without the definition, how it is built and kept apart, and the engine. A change of
// configuration alone therefore never builds again.
type buildKey struct {
	Tree   release.Digest `json:"tree"`
	Build  pipeline.Build `json:"build"`
	Path   string         `json:"path"`
	Engine int            `json:"engine"`

	Isolation runner.Isolation `json:"isolation"`
}

// build takes a run from its commit to its release. Steps run outside any
// transaction; what they came to is committed at once: artifacts, release,
// statements and the run's state. If we die before, the build begins anew: its
// steps are isolated and left nothing behind.
func (c *Controller) build(ctx context.Context, lease store.Lease) error {
	row, def, tries, err := c.beginBuild(ctx, lease)
	if err != nil || tries == 0 {
		return err
	}
	key, err := c.keyOfBuild(ctx, row, def)
	if err != nil {
		return c.failBuild(ctx, lease, run.Failed, err.Error(), nil)
	}
	if done, err := c.reuse(ctx, lease, row, key); done || err != nil {
		return err
	}
	if tries > maxBuildTries {
		return c.failBuild(ctx, lease, run.Failed, fmt.Sprintf("the control plane ended %d times while it built; start the run again when it is stable", tries-1), nil)
	}
	ctx, cancelled, stop := c.watchCancel(ctx, lease)
	defer stop()
	work := filepath.Join(c.dir, "work", row.Project, row.ID)
	if err := runner.Remove(work); err != nil {
		return err
	}
	defer func() {
		if err := runner.Remove(work); err != nil {
			c.log.Warn("couldn't remove a build's folder", "error", err)
		}
	}()
	checkout := filepath.Join(work, "checkout")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return fmt.Errorf("couldn't make the build's folder: %w", err)
	}
	if err := source.Checkout(ctx, row.Repository, row.Commit, checkout); err != nil {
		if ctx.Err() != nil {
			return c.interrupted(lease, cancelled, ctx.Err(), nil)
		}
		return c.failBuild(ctx, lease, run.Failed, err.Error(), nil)
	}
	res, err := c.runSteps(ctx, lease, row, def, work, checkout)
	if errors.Is(err, runner.ErrInterrupted) {
		return c.interrupted(lease, cancelled, err, &res)
	}
	if err != nil {
		return c.failBuild(ctx, lease, run.Failed, err.Error(), &res)
	}
	if res.State != runner.Succeeded {
		return c.failBuild(ctx, lease, run.Failed, res.Reason, &res)
	}
	var artifacts []release.Artifact
	for _, a := range def.Build.Artifacts {
		made, err := c.artifacts.Publish(ctx, row.Project, row.Service, a.Name, checkout, path.Join(path.Dir(row.Path), a.Path), tag(row, a.Name))
		if err != nil && ctx.Err() == nil && !errors.Is(err, artifact.ErrUnavailable) {
			return c.failBuild(ctx, lease, run.Failed, err.Error(), &res)
		}
		if err != nil {
			return err
		}
		artifacts = append(artifacts, made)
	}
	return c.finishBuild(ctx, lease, row, def, key, artifacts, &res)
}

// buildRetry is how long a run waits before it asks for a place to build again.
const buildRetry = time.Second

// queue lets a run wait for a place to build. It keeps neither a lease nor a
// worker meanwhile: other runs are promoted, and this one can be aborted.
func (c *Controller) queue(ctx context.Context, lease store.Lease) error {
	return c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		if t.state.Cancel != "" && t.state.Phase != run.Ended {
			t.state.Fail(run.Cancelled, t.state.Cancel)
		}
		t.wakeIn(buildRetry)
		return t.close()
	})
}

// tag is the immutable tag of an artifact: which run built it from what.
func tag(row store.Run, name string) string {
	return fmt.Sprintf("%s-%s-run%s", name, row.Commit[:min(12, len(row.Commit))], row.ID)
}

// beginBuild marks the run as building; zero tries mean that there is nothing
// to build any more.
func (c *Controller) beginBuild(ctx context.Context, lease store.Lease) (row store.Run, def pipeline.Definition, tries int, err error) {
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		tries = 0
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		if action, _ := run.Next(t.state); action != run.ActBuild {
			return nil
		}
		if t.state.Cancel != "" {
			t.state.Fail(run.Cancelled, t.state.Cancel)
			return t.close()
		}
		t.state.Phase = run.Building
		t.state.BuildTries++
		t.state.Steps = nil
		for _, s := range t.def.Build.Steps {
			t.state.Steps = append(t.state.Steps, run.Step{Name: s.Name, Kind: string(s.Kind), State: "pending"})
		}
		row, def, tries = t.row, t.def, t.state.BuildTries
		return t.close()
	})
	return row, def, tries, err
}

func (c *Controller) keyOfBuild(ctx context.Context, row store.Run, def pipeline.Definition) (release.Digest, error) {
	tree, err := source.TreeDigest(ctx, row.Repository, row.Commit, row.Path)
	if err != nil {
		return "", err
	}
	b, err := release.Canonical(buildKey{Tree: tree, Build: def.Build, Path: path.Dir(row.Path), Engine: buildEngine, Isolation: c.isolation})
	if err != nil {
		return "", err
	}
	return release.DigestOf(b), nil
}

// reuse takes the artifacts of an earlier build of the same inputs, if the
// registry still holds them unaltered.
func (c *Controller) reuse(ctx context.Context, lease store.Lease, row store.Run, key release.Digest) (bool, error) {
	var b store.Build
	var ok bool
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		b, ok, err = tx.Build(row.Project, row.Service, key)
		return err
	})
	if err != nil || !ok {
		return false, err
	}
	var artifacts []release.Artifact
	if err := json.Unmarshal(b.Artifacts, &artifacts); err != nil {
		return false, fmt.Errorf("couldn't read the build of run %s: %w", b.Run, err)
	}
	if err := c.artifacts.Verify(ctx, row.Project, row.Service, artifacts); isAltered(err) {
		return false, nil // it is built again
	} else if err != nil {
		return false, fmt.Errorf("couldn't verify the build of run %s: %w", b.Run, err)
	}
	var def pipeline.Definition
	if err := json.Unmarshal(row.Definition, &def); err != nil {
		return false, fmt.Errorf("couldn't read the definition of run %s: %w", row.ID, err)
	}
	return true, c.makeRelease(ctx, lease, row, def, artifacts, func(t *runTurn) error {
		t.state.Reused = b.Run
		for i := range t.state.Steps {
			t.state.Steps[i].State, t.state.Steps[i].Reason = "reused", "nothing that it depends on changed since run "+b.Run
		}
		return nil
	})
}

func (c *Controller) failBuild(ctx context.Context, lease store.Lease, o run.Outcome, reason string, res *runner.Result) error {
	var steps []run.Step
	if res != nil && len(res.Steps) > 0 {
		var err error
		if steps, err = c.steps(ctx, store.Run{Project: lease.Project, ID: lease.ID}, res); err != nil {
			return err
		}
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		if steps != nil {
			t.state.Steps = steps
		}
		if reason == "" {
			reason = t.state.Cancel
		}
		t.state.Fail(o, reason)
		return t.close()
	})
}
