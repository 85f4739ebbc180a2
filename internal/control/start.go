package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/source"
	"github.com/sluicehq/sluice/internal/store"
)

// Request starts a run of a commit.
type Request struct {
	Project    string
	Repository string // folder of a local Git repository
	Path       string // of the definition inside it
	Ref        string // commit, branch or tag
	To         string // last environment; empty: all
	By         release.Actor
}

// Problems is a definition that cannot be used.
type Problems struct {
	Text string
	List pipeline.Problems
}

func (p *Problems) Error() string { return p.Text }

// Start resolves a commit, checks its definition and starts a run. Older runs
// of the service that have exposed nobody yet are superseded.
func (c *Controller) Start(ctx context.Context, q Request) (string, error) {
	commit, err := source.Resolve(ctx, q.Repository, q.Ref)
	if err != nil {
		return "", invalid("%s", err)
	}
	src, err := source.ReadFile(ctx, q.Repository, commit.Hash, q.Path)
	if err != nil {
		return "", invalid("%s", err)
	}
	def, problems := pipeline.Parse(q.Path, src, c.parse...)
	if problems.Failed() {
		return "", &Problems{Text: problems.Render(src, false), List: problems}
	}
	if c.isolation == runner.Namespaces {
		if err := c.probe(ctx); err != nil {
			return "", refuse("%s", err)
		}
	}
	var envs []run.Environment
	targets, err := environmentsTo(def, q.To)
	if err != nil {
		return "", invalid("%s", err)
	}
	if err := c.readyFor(ctx, def, targets); err != nil {
		return "", err
	}
	for _, e := range targets {
		envs = append(envs, run.Environment{Name: e})
	}
	newer, err := c.newerCommits(ctx, q, def.Service, commit.Hash)
	if err != nil {
		return "", err
	}
	var id string
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if err := c.supersede(tx, q.Project, def.Service, q.Repository, commit.Hash, newer); err != nil {
			return err
		}
		id, err = c.insertRun(tx, store.Run{
			Project: q.Project, Kind: run.KindRun, Service: def.Service, Repository: q.Repository, Path: q.Path, Ref: q.Ref, Commit: commit.Hash, To: q.To, Actor: q.By,
		}, def, run.State{Phase: run.Queued, Environments: envs})
		return err
	})
	return id, err
}

// environmentsTo lists the environments on the way to one, in promotion order;
// to all of them for "".
func environmentsTo(d pipeline.Definition, to string) ([]string, error) {
	if to != "" {
		return pipeline.Path(d, to)
	}
	var out []string
	for _, e := range d.Environments {
		way, err := pipeline.Path(d, e.Name)
		if err != nil {
			return nil, err
		}
		for _, name := range way {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// newerCommits are those of waiting runs that hold all that commit does, and so
// are not older than it.
func (c *Controller) newerCommits(ctx context.Context, q Request, service, commit string) (map[string]bool, error) {
	live := true
	var rows []store.Run
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.Runs(store.RunFilter{Project: q.Project, Service: service, Live: &live})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't look for older runs: %w", err)
	}
	newer := map[string]bool{}
	for _, r := range rows {
		if r.Commit == commit || r.Repository != q.Repository {
			continue
		}
		// A history that can't be compared (another branch, gone) is decided by
		// who asked last.
		if missing, err := source.Commits(ctx, q.Repository, r.Commit, commit, 1); err == nil && len(missing) == 0 {
			newer[r.Commit] = true
		}
	}
	return newer, ctx.Err()
}

// supersede ends older runs of a service that wait: for a place to build, for a
// person, or for their turn. A live rollout is never replaced, nor a build that
// has begun, nor one of another repository.
func (c *Controller) supersede(tx *store.Tx, project, service, repository, commit string, newer map[string]bool) error {
	live := true
	rows, err := tx.Runs(store.RunFilter{Project: project, Service: service, Live: &live})
	if err != nil {
		return fmt.Errorf("couldn't look for older runs: %w", err)
	}
	for _, r := range rows {
		if r.Kind != run.KindRun || r.Commit == commit || newer[r.Commit] {
			continue
		}
		t, err := c.runTurnOf(tx, r)
		if err != nil {
			return err
		}
		why := fmt.Sprintf("commit %s is newer", commit[:min(12, len(commit))])
		switch action, i := run.Next(t.state); {
		case action == run.ActBuild && t.state.Phase == run.Queued && t.state.BuildTries == 0 && r.Repository == repository:
			t.state.Fail(run.Superseded, why)
		case action == run.ActPromote && t.state.Environments[i].State == run.Waiting:
			if err := t.stop(&t.state.Environments[i], run.Superseded, why); err != nil {
				return err
			}
		default:
			continue
		}
		if err := t.close(); err != nil {
			return err
		}
	}
	return nil
}

// probe remembers a successful probe of the host's isolation.
func (c *Controller) probe(ctx context.Context) error {
	if c.probed.Load() {
		return nil
	}
	if err := runner.Probe(ctx); err != nil {
		return err
	}
	c.probed.Store(true)
	return nil
}
