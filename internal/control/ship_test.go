package control

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/store"
)

// steered is the host target with a hand on it.
type steered struct {
	inner         Steered
	news          bool // a host should look
	before, after func(context.Context, wire.Desired) error
}

func (s *steered) Apply(ctx context.Context, doc wire.Desired) (bool, error) {
	if s.before != nil {
		if err := s.before(ctx, doc); err != nil {
			return false, err
		}
	}
	ok, err := s.inner.Apply(ctx, doc)
	s.news = true
	if err == nil && s.after != nil {
		err = s.after(ctx, doc)
	}
	return ok, err
}

// shelf holds every artifact, unless it is said to be bad.
type shelf struct{ bad map[release.Digest]error }

func (s *shelf) Publish(_ context.Context, _, _, name, dir, path string, _ ...string) (release.Artifact, error) {
	b, err := os.ReadFile(filepath.Join(dir, path, "app"))
	if err != nil {
		return release.Artifact{}, err
	}
	return release.Artifact{Name: name, Type: "files", Digest: release.DigestOf(b), Size: int64(len(b))}, nil
}

func (s *shelf) PublishRelease(_ context.Context, m release.Manifest) (release.ID, error) {
	return m.ID()
}

func (s *shelf) Verify(_ context.Context, _, _ string, as []release.Artifact) error {
	for _, a := range as {
		if err := s.bad[a.Digest]; err != nil {
			return err
		}
	}
	return nil
}

// signals answers queries by what they begin with.
type signals struct {
	answer func(query string) ([]Sample, error)
	asked  []string
}

func (s *signals) Ask(_ context.Context, q Question) ([]Sample, error) {
	s.asked = append(s.asked, q.Query)
	if s.answer == nil {
		return nil, nil
	}
	return s.answer(q.Query)
}

// definition reads a definition whose environments are given in YAML.
func (w *world) definition(environments string) pipeline.Definition {
	w.Helper()
	src := []byte("version: 1\nservice: shop\nowner: team-shop\nbuild:\n" +
		"  steps: [{name: unit, kind: unit, run: 'go test', reports: [{format: go-test, path: unit.json}]}]\n" +
		"  artifact: {type: files, path: out}\nenvironments:\n" + environments)
	def, problems := pipeline.Parse("sluice.yaml", src, w.config.ParseOptions...)
	if problems.Failed() {
		w.Fatal(problems.Render(src, false))
	}
	return def
}

const target = `target: {type: host, listen: 127.0.0.1:9001, run: ./app, health: {http: /healthz}}`

// production is one environment with a canary of two steps.
const production = `
  - name: production
    ` + target + `
    rollout: {canary: {steps: [{weight: 10, bake: 1m}, {weight: 50, bake: 1m}]}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [http-errors]}
`

// change of what a release is made of.
type change func(*release.Manifest)

func setting(env, key, value string) change {
	return func(m *release.Manifest) {
		m.Environments[env] = release.Config{Run: m.Environments[env].Run, Env: map[string]string{key: value}}
	}
}

const alice, bob release.Actor = "local:alice", "local:bob"

// ship starts a run at the moment that its build has ended, with all that a
// build leaves behind, and returns the run and the release.
func (w *world) ship(def pipeline.Definition, commit string, changes ...change) (string, release.ID) {
	w.Helper()
	hash := fmt.Sprintf("%-40s", commit)
	hash = strings.ReplaceAll(hash, " ", "0")
	m := release.Manifest{
		Version: 1, Project: release.DefaultProject, Service: def.Service, Repository: "git:shop", Path: "sluice.yaml", Commit: hash,
		Artifacts:    []release.Artifact{{Name: "main", Type: "files", Digest: release.DigestOf([]byte(commit)), Size: 1000}},
		Environments: map[string]release.Config{}, Engine: rollout.Engine,
	}
	var envs []run.Environment
	for _, e := range def.Environments {
		m.Environments[e.Name] = config(e)
		envs = append(envs, run.Environment{Name: e.Name})
	}
	for _, f := range changes {
		f(&m)
	}
	var err error
	if m.Definition, err = def.Digest(); err != nil {
		w.Fatal(err)
	}
	body, err := m.Canonical()
	if err != nil {
		w.Fatal(err)
	}
	id := release.DigestOf(body)
	var runID string
	err = w.store.Update(w.Context(), func(tx *store.Tx) error {
		if err := w.front.supersede(tx, m.Project, def.Service, "/repo", m.Commit, nil); err != nil {
			return err
		}
		row := store.Run{Project: m.Project, Kind: run.KindRun, Service: def.Service, Repository: "/repo", Path: m.Path, Commit: m.Commit, Actor: alice}
		runID, err = w.front.insertRun(tx, row, def, run.State{Phase: run.Promoting, Release: id, Artifacts: m.Artifacts, Environments: envs})
		if err != nil {
			return err
		}
		row.ID = runID
		at := about{project: m.Project, run: runID}
		subjects := []evidence.Subject{evidence.ArtifactSubject(m.Project, m.Service, m.Artifacts[0])}
		res := &runner.Result{Isolation: runner.Namespaces, Started: tx.Now(), Ended: tx.Now(), Steps: []runner.StepResult{{Name: "unit"}}}
		if _, err := w.front.record(tx, "build/"+runID, at, provenance(row, m.Repository, m.Definition, res), subjects...); err != nil {
			return err
		}
		tests := evidence.TestResult{
			Result: evidence.TestsPassed, Configuration: []evidence.Resource{{Name: "step/unit", Digest: map[string]string{"sha256": m.Definition.Hex()}}},
			Run: runID, Step: "unit", At: evidence.StampOf(tx.Now()), Counts: &evidence.TestCounts{Passed: 7},
		}
		if _, err := w.front.record(tx, "tests/"+runID+"/unit/0", at, tests, subjects...); err != nil {
			return err
		}
		if err := tx.InsertRelease(&store.Release{Project: m.Project, ID: id, Service: m.Service, Commit: m.Commit, Run: runID, Manifest: body, CreatedAt: tx.Now()}); err != nil {
			return err
		}
		ev, err := w.front.event(tx, at, alice, "")
		if err != nil {
			return err
		}
		_, err = w.front.record(tx, "release/"+runID, at, evidence.Release{Event: ev, Service: m.Service, Commit: m.Commit, Definition: m.Definition, Engine: m.Engine}, evidence.Subjects(m, id)...)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return runID, id
}
