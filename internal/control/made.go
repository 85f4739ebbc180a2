package control

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/source"
	"github.com/sluicehq/sluice/internal/store"
)

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
