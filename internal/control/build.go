package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
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
	b, err := release.Canonical(buildKey{Tree: tree, Build: def.Build, Path: path.Dir(row.Path), Engine: rollout.Engine, Isolation: c.isolation})
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

// finishBuild commits what a build made.
func (c *Controller) finishBuild(ctx context.Context, lease store.Lease, row store.Run, def pipeline.Definition, key release.Digest, artifacts []release.Artifact, res *runner.Result) error {
	steps, err := c.steps(ctx, row, res)
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(artifacts)
	if err != nil {
		return fmt.Errorf("couldn't encode the artifacts: %w", err)
	}
	repository, err := source.RepositoryID(ctx, row.Repository)
	if err != nil {
		return err
	}
	digest, err := def.Digest()
	if err != nil {
		return err
	}
	return c.makeRelease(ctx, lease, row, def, artifacts, func(t *runTurn) error {
		t.state.Steps = steps
		at := about{project: row.Project, run: row.ID}
		var subjects []evidence.Subject
		for _, a := range artifacts {
			subjects = append(subjects, evidence.ArtifactSubject(row.Project, row.Service, a))
		}
		p := provenance(row, repository, digest, res)
		if _, err := c.record(t.tx, "build/"+row.ID, at, p, subjects...); err != nil {
			return err
		}
		for _, s := range res.Steps {
			for i, r := range s.Reports {
				result := evidence.TestsPassed
				if r.Failed > 0 {
					result = evidence.TestsFailed
				}
				st := evidence.TestResult{
					Result:        result,
					Configuration: []evidence.Resource{{Name: "step/" + s.Name, Digest: map[string]string{"sha256": digest.Hex()}}},
					Run:           row.ID, Step: s.Name, At: evidence.StampOf(t.tx.Now()),
					Counts: &evidence.TestCounts{Passed: r.Passed, Failed: r.Failed, Skipped: r.Skipped},
				}
				if _, err := c.record(t.tx, fmt.Sprintf("tests/%s/%s/%d", row.ID, s.Name, i), at, st, subjects...); err != nil {
					return err
				}
			}
		}
		return t.tx.InsertBuild(&store.Build{Project: row.Project, Service: row.Service, Key: key, Commit: row.Commit, Run: row.ID, Artifacts: encoded, CreatedAt: t.tx.Now()})
	})
}

func provenance(row store.Run, repository string, definition release.Digest, res *runner.Result) evidence.Provenance {
	p := evidence.Provenance{
		BuildDefinition: evidence.BuildDefinition{
			BuildType:          evidence.BuildType,
			ExternalParameters: evidence.BuildParameters{Project: row.Project, Service: row.Service, Repository: repository, Path: row.Path, Commit: row.Commit, Definition: definition},
			InternalParameters: evidence.InternalParameters{Isolation: string(res.Isolation)},
		},
		RunDetails: evidence.RunDetails{
			Builder:  evidence.Builder{ID: builderID, Version: res.Tools},
			Metadata: evidence.BuildMetadata{InvocationID: row.ID, StartedOn: evidence.StampOf(res.Started), FinishedOn: evidence.StampOf(res.Ended)},
		},
	}
	for _, s := range res.Steps {
		p.BuildDefinition.InternalParameters.Steps = append(p.BuildDefinition.InternalParameters.Steps, s.Name)
		if s.Network {
			p.BuildDefinition.InternalParameters.Network = append(p.BuildDefinition.InternalParameters.Network, s.Name)
		}
		if s.LogDigest != "" {
			p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, evidence.Resource{Name: "log/" + s.Name, Digest: map[string]string{"sha256": s.LogDigest.Hex()}, MediaType: "text/plain"})
		}
	}
	for _, m := range res.Materials {
		r := evidence.Resource{Name: m.Name}
		if m.Commit != "" {
			r.URI, r.Digest = repository, map[string]string{"gitCommit": m.Commit}
		} else {
			r.Digest = map[string]string{"sha256": m.Digest.Hex()}
		}
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, r)
	}
	return p
}

// makeRelease writes the release of artifacts and this definition's
// configuration, and lets the run go on to promote it.
func (c *Controller) makeRelease(ctx context.Context, lease store.Lease, row store.Run, def pipeline.Definition, artifacts []release.Artifact, more func(*runTurn) error) error {
	repository, err := source.RepositoryID(ctx, row.Repository)
	if err != nil {
		return err
	}
	m := release.Manifest{
		Version: 1, Project: row.Project, Service: row.Service, Repository: repository, Path: row.Path, Commit: row.Commit,
		Artifacts: artifacts, Environments: map[string]release.Config{}, Engine: rollout.Engine,
	}
	if m.Definition, err = def.Digest(); err != nil {
		return err
	}
	for _, e := range def.Environments {
		m.Environments[e.Name] = config(e)
	}
	id, err := c.artifacts.PublishRelease(ctx, m)
	if err != nil {
		return err
	}
	body, err := m.Canonical()
	if err != nil {
		return err
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		if action, _ := run.Next(t.state); action != run.ActBuild {
			return nil
		}
		if err := more(t); err != nil {
			return err
		}
		t.state.Artifacts, t.state.Release = artifacts, id
		t.state.Phase = run.Promoting
		if err := tx.InsertRelease(&store.Release{Project: row.Project, ID: id, Service: row.Service, Commit: row.Commit, Run: row.ID, Manifest: body, CreatedAt: tx.Now()}); err != nil {
			return fmt.Errorf("couldn't write the release: %w", err)
		}
		at := about{project: row.Project, run: row.ID}
		ev, err := c.event(tx, at, row.Actor, "")
		if err != nil {
			return err
		}
		_, err = c.record(tx, "release/"+row.ID, at, evidence.Release{Event: ev, Service: row.Service, Commit: row.Commit, Definition: m.Definition, Engine: m.Engine}, evidence.Subjects(m, id)...)
		if err != nil {
			return err
		}
		if err := t.tell("", "release", map[string]string{"release": string(id)}); err != nil {
			return err
		}
		t.wakeIn(0)
		return t.close()
	})
}

// config is what a definition says of one environment's command and values.
func config(e pipeline.Environment) release.Config {
	out := release.Config{Run: e.Target.Run}
	for k, v := range e.Target.Env {
		if v.Secret == "" {
			if out.Env == nil {
				out.Env = map[string]string{}
			}
			out.Env[k] = v.Plain
			continue
		}
		if out.Secrets == nil {
			out.Secrets = map[string]release.SecretRef{}
		}
		out.Secrets[k] = release.SecretRef{Ref: v.Secret, Version: secretVersion(v.Secret)}
	}
	return out
}

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
	for _, e := range targets {
		envs = append(envs, run.Environment{Name: e})
	}
	var id string
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if err := c.supersede(tx, q.Project, def.Service, commit.Hash); err != nil {
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

// supersede ends older runs of a service that wait and have exposed nobody in
// the environment that they wait for. A live rollout is never replaced.
func (c *Controller) supersede(tx *store.Tx, project, service, commit string) error {
	live := true
	rows, err := tx.Runs(store.RunFilter{Project: project, Service: service, Live: &live})
	if err != nil {
		return fmt.Errorf("couldn't look for older runs: %w", err)
	}
	for _, r := range rows {
		if r.Kind != run.KindRun || r.Commit == commit {
			continue
		}
		t, err := c.runTurnOf(tx, r)
		if err != nil {
			return err
		}
		action, i := run.Next(t.state)
		if action != run.ActPromote || t.state.Environments[i].State != run.Waiting {
			continue
		}
		if err := t.stop(&t.state.Environments[i], run.Superseded, fmt.Sprintf("commit %s is newer", commit[:min(12, len(commit))])); err != nil {
			return err
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
