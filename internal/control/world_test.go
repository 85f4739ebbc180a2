package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
	"github.com/sluicehq/sluice/internal/target/host"
)

// A world is a control plane over a real database, with hosts at the wire's
// documents and a clock that the test moves. Nothing runs beside the test: it
// leases due rows by itself, one after the other, through the code that the
// loops use, and moves the clock to what is next. So a story of hours takes a
// moment, and is the same each time.
type world struct {
	testing.TB
	store   *store.Store
	clock   *clock
	front   *Controller // answers people and hosts; never faulty
	c       *Controller // takes rows further; a crash replaces it
	config  Config
	target  *steered
	shelf   *shelf
	metrics *signals
	hosts   []*fakeHost
	logged  *logged
	before  []func() // each time that the clock has moved
}

// stories runs a story on each dialect.
func stories(t *testing.T, f func(w *world)) {
	t.Helper()
	for _, dialect := range []string{store.SQLite, store.Postgres} {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dialect)
			f(w)
			w.audit()
		})
	}
}

// clock is the database's: of SQLite by an option, of PostgreSQL by functions
// that come before the built-in ones of these names.
type clock struct {
	micros atomic.Int64
	pg     *pgx.Conn
}

var epoch = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

func (c *clock) now() time.Time { return time.UnixMicro(c.micros.Load()).UTC() }

func (c *clock) set(t testing.TB, at time.Time) {
	c.micros.Store(at.UnixMicro())
	if c.pg == nil {
		return
	}
	if _, err := c.pg.Exec(context.Background(), "SELECT setval('public.test_clock', $1)", at.UnixMicro()); err != nil {
		t.Fatal(err)
	}
}

const pgClock = `
CREATE SEQUENCE public.test_clock;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
	$$ SELECT timestamptz 'epoch' + last_value * interval '1 microsecond' FROM public.test_clock $$;
CREATE FUNCTION public.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
	$$ SELECT timestamptz 'epoch' + last_value * interval '1 microsecond' FROM public.test_clock $$;
`

// memory is a folder that no disk is waited for, where there is one.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sluice-control-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openStore(t testing.TB, dialect string) (*store.Store, *clock) {
	t.Helper()
	ctx := context.Background()
	c := &clock{}
	at := filepath.Join(memory(t), "sluice.db")
	o := store.Options{Now: c.now, Logger: slog.New(slog.DiscardHandler)}
	if dialect == store.Postgres {
		at = storetest.Postgres(t)
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		if c.pg, err = pgx.Connect(ctx, at); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.pg.Close(context.Background()) })
		for _, q := range []string{pgClock, "ALTER DATABASE " + strings.TrimPrefix(u.Path, "/") + " SET search_path = public, pg_catalog"} {
			if _, err := c.pg.Exec(ctx, q); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.set(t, epoch)
	st, err := store.Open(ctx, at, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st, c
}

var keys = sync.OnceValues(func() (*evidence.KeyRing, error) {
	var all []*evidence.Key
	for _, p := range evidence.Purposes() {
		k, err := evidence.Generate(p)
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	return evidence.NewKeyRing(all...)
})

func newWorld(t testing.TB, dialect string) *world {
	t.Helper()
	w := &world{TB: t, logged: &logged{}, shelf: &shelf{bad: map[release.Digest]error{}}, metrics: &signals{}}
	w.store, w.clock = openStore(t, dialect)
	ring, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	w.target = &steered{inner: host.New(w.store)}
	w.config = Config{
		Store: w.store, Blobs: memBlobs{m: &sync.Map{}}, Keys: ring, Artifacts: w.shelf, Target: w.target, Metrics: w.metrics,
		Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(w.logged, nil)), Isolation: runner.None,
		ParseOptions: []pipeline.Option{pipeline.WithGateCheck(gate.Check)},
	}
	w.front, w.c = w.controller(), w.controller()
	w.addHost("local")
	return w
}

func (w *world) controller() *Controller {
	w.Helper()
	c, err := New(w.config)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// logged keeps what the control plane said.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

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

func (s *signals) Ask(_ context.Context, query string) ([]Sample, error) {
	s.asked = append(s.asked, query)
	if s.answer == nil {
		return nil, nil
	}
	return s.answer(query)
}

type memBlobs struct{ m *sync.Map }

func (b memBlobs) Put(_ context.Context, r io.Reader) (release.Digest, int64, error) {
	all, err := io.ReadAll(r)
	d := release.DigestOf(all)
	b.m.Store(d, all)
	return d, int64(len(all)), err
}

func (b memBlobs) Open(_ context.Context, d release.Digest) (io.ReadCloser, error) {
	all, ok := b.m.Load(d)
	if !ok {
		return nil, os.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(all.([]byte))), nil
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

func artifactOf(commit string) change {
	return func(m *release.Manifest) { m.Artifacts[0].Digest = release.DigestOf([]byte(commit)) }
}

func setting(env, key, value string) change {
	return func(m *release.Manifest) { m.Environments[env] = release.Config{Env: map[string]string{key: value}} }
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
		if err := w.front.supersede(tx, m.Project, def.Service, m.Commit); err != nil {
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

// settle does what is due now, until nothing is.
func (w *world) settle() {
	w.Helper()
	for range 2000 {
		if !w.turn() {
			return
		}
	}
	w.Fatalf("rows are due again and again\n%s", w.logged)
}

// turn lets each host and each kind of row have one turn.
func (w *world) turn() bool {
	w.Helper()
	worked := false
	news := w.target.news
	w.target.news = false
	for _, h := range w.hosts {
		worked = h.poll(news) || worked
	}
	c := w.c
	for _, x := range []struct {
		table  string
		handle func(context.Context, store.Lease) error
	}{{"runs", c.stepRun}, {"rollouts", c.stepRollout}, {"environments", c.stepPlace}} {
		lease, ok, err := c.store.Acquire(w.Context(), x.table, c.owner, c.leaseTTL)
		if err != nil {
			w.Fatal(err)
		}
		if ok {
			worked = true
			c.hold(w.Context(), lease, x.handle)
		}
		if b, ok := c.store.(*brittle); ok && b.dead {
			w.revive()
			return true
		}
	}
	c.background.Wait()
	if b, ok := c.store.(*brittle); ok && b.dead {
		w.revive()
		return true
	}
	return worked
}

// pass lets time pass until something is due, at most most, and does it.
func (w *world) pass(most time.Duration) {
	w.Helper()
	d := min(most, time.Second)
	for _, table := range tables {
		if next, ok, err := w.store.NextWake(w.Context(), table); err != nil {
			w.Fatal(err)
		} else if ok {
			d = min(d, next)
		}
	}
	for _, h := range w.hosts {
		if !h.down && d > 0 {
			d = min(d, h.next.Sub(w.clock.now()))
		}
	}
	w.move(max(d, time.Millisecond))
}

// pause lets d pass.
func (w *world) pause(d time.Duration) {
	w.Helper()
	w.settle()
	for end := w.clock.now().Add(d); w.clock.now().Before(end); {
		if !w.quiet() {
			w.pass(end.Sub(w.clock.now()))
			continue
		}
		// Nobody looks at reports now: leap to what is due.
		leap := end.Sub(w.clock.now())
		for _, table := range tables {
			if next, ok, err := w.store.NextWake(w.Context(), table); err != nil {
				w.Fatal(err)
			} else if ok {
				leap = min(leap, max(next, time.Millisecond))
			}
		}
		w.move(leap)
	}
}

var tables = []string{"runs", "rollouts", "environments"}

// move lets d pass and does what is due then.
func (w *world) move(d time.Duration) {
	w.Helper()
	w.clock.set(w, w.clock.now().Add(d))
	for _, h := range w.hosts {
		h.live(d)
	}
	for _, f := range w.before {
		f()
	}
	w.settle()
}

// jump moves the wall clock, and nothing else. What sleeps too long then is
// woken by the store.
func (w *world) jump(d time.Duration) {
	w.Helper()
	w.clock.set(w, w.clock.now().Add(d))
	for _, h := range w.hosts {
		h.next = h.next.Add(d)
		for _, s := range h.services {
			for _, r := range s.revisions {
				r.ready = r.ready.Add(d)
			}
		}
	}
	if d > 0 {
		return
	}
	err := w.store.Update(w.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(store.RunFilter{})
		if err != nil {
			return err
		}
		for _, r := range runs {
			if r.Live {
				if err := tx.Wake("runs", r.Project, r.ID, tx.Now()); err != nil {
					return err
				}
			}
		}
		rollouts, err := tx.Rollouts(store.RolloutFilter{})
		if err != nil {
			return err
		}
		for _, r := range rollouts {
			if r.Live {
				if err := tx.Wake("rollouts", r.Project, r.ID, tx.Now()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

// until lets time pass until a run is as wanted, and returns it.
func (w *world) until(runID, what string, ok func(Status) bool) Status {
	w.Helper()
	w.settle()
	for end := w.clock.now().Add(12 * time.Hour); ; {
		s := w.status(runID)
		if ok(s) {
			return s
		}
		if w.clock.now().After(end) || (slices.Contains([]run.Outcome{run.Succeeded, run.Failed, run.RolledBack, run.RollbackFailed, run.Cancelled, run.Superseded}, s.State) && w.quiet()) {
			b, _ := json.MarshalIndent(s, "", " ")
			w.Fatalf("run %s is not %s: %s\n%s", runID, what, b, w.logged)
		}
		w.pass(time.Second)
	}
}

// quiet reports that no rollout is live.
func (w *world) quiet() bool {
	live := true
	n := 0
	w.view(func(tx *store.Tx) error {
		rows, err := tx.Rollouts(store.RolloutFilter{Live: &live})
		n = len(rows)
		return err
	})
	return n == 0
}

func (w *world) untilState(runID string, o run.Outcome) Status {
	w.Helper()
	return w.until(runID, string(o), func(s Status) bool { return s.State == o })
}

// untilPhase waits for the last environment's rollout to be in a phase, at a weight.
func (w *world) untilPhase(runID string, p rollout.Phase, weight float64) EnvironmentStatus {
	w.Helper()
	s := w.until(runID, fmt.Sprintf("%s at %g %%", p, weight), func(s Status) bool {
		e := s.Environments[len(s.Environments)-1]
		return e.Phase == p && e.Weight == weight
	})
	return s.Environments[len(s.Environments)-1]
}

func (w *world) status(runID string) Status {
	w.Helper()
	s, err := w.front.Status(w.Context(), release.DefaultProject, runID, true)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// env is the status of a run's only, or last, environment.
func (w *world) env(runID string) EnvironmentStatus {
	w.Helper()
	s := w.status(runID)
	return s.Environments[len(s.Environments)-1]
}

func (w *world) view(f func(*store.Tx) error) {
	w.Helper()
	if err := w.store.View(w.Context(), f); err != nil {
		w.Fatal(err)
	}
}

func (w *world) place(env string) store.Environment {
	w.Helper()
	var row store.Environment
	w.view(func(tx *store.Tx) (err error) {
		row, _, err = tx.Environment(release.Key{Project: release.DefaultProject, Service: "shop", Environment: env})
		return err
	})
	return row
}

// runs is what runs of service shop in an environment, by its row.
func (w *world) runs(env string) release.ID {
	w.Helper()
	r, err := decodeRevision(w.place(env).Current)
	if err != nil {
		w.Fatal(err)
	}
	if r == nil {
		return ""
	}
	return r.Release
}

// tell hands a rollout a command.
func (w *world) tell(runID string, cmd rollout.Command, revision ...int64) error {
	cmd.By = alice
	x := Command{Command: cmd}
	if len(revision) > 0 {
		x.Revision = revision[0]
	}
	return w.front.Rollout(w.Context(), release.DefaultProject, runID, x)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// leaves are the statements of a run, in order.
func (w *world) leaves(f store.LeafFilter) []store.Leaf {
	w.Helper()
	ls, err := w.front.Leaves(w.Context(), release.DefaultProject, f)
	w.must(err)
	return ls
}

// said writes a statement in one line, without what differs from time to time.
func (w *world) said(l store.Leaf) string {
	w.Helper()
	st, err := w.front.trusted.Verify(l.Envelope)
	w.must(err)
	var p map[string]any
	w.must(json.Unmarshal(st.Predicate, &p))
	name := strings.TrimPrefix(strings.TrimPrefix(l.PredicateType, "https://sluice.dev/"), "https://")
	line := []string{name}
	for _, k := range []string{"gate", "outcome", "result", "kind", "stage", "cause", "change", "command", "flag", "set", "phase", "from", "to", "step", "weight", "verdict", "decision", "what"} {
		v, ok := p[k]
		if !ok {
			continue
		}
		s := fmt.Sprint(v)
		if f, isNumber := v.(float64); isNumber && f == math.Trunc(f) {
			s = fmt.Sprintf("%d", int64(f))
		}
		if strings.HasPrefix(s, "sha256:") {
			s = "sha256:…"
		}
		if strings.HasPrefix(s, "rollout o") {
			s = "rollout …"
		}
		line = append(line, k+"="+s)
	}
	return strings.Join(line, " ")
}

// transcript are all statements of a run.
func (w *world) transcript(runID string) string {
	w.Helper()
	var b strings.Builder
	for _, l := range w.leaves(store.LeafFilter{Run: runID}) {
		fmt.Fprintln(&b, w.said(l))
	}
	return b.String()
}

// golden compares with testdata, or writes it under SLUICE_UPDATE.
func (w *world) golden(name, got string) {
	w.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("SLUICE_UPDATE") != "" {
		w.must(os.MkdirAll("testdata", 0o755))
		w.must(os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	w.must(err)
	if string(want) != got {
		w.Errorf("%s (SLUICE_UPDATE=1 writes it anew):\n%s\nwanted:\n%s", name, got, want)
	}
}

// audit holds what must be true after every story: replaying the events of a
// rollout rebuilds its state, each of its facts has its statement and no
// statement is without its fact, nobody applied a generation twice or backwards,
// and the whole log verifies offline.
func (w *world) audit() {
	w.Helper()
	if w.Failed() {
		return
	}
	leaves := w.leaves(store.LeafFilter{})
	stated := map[string]int{}
	for _, l := range leaves {
		if strings.HasPrefix(l.ID, "rollout/") {
			stated[l.ID[:strings.LastIndex(l.ID, "/")]]++
		}
	}
	w.view(func(tx *store.Tx) error {
		rows, err := tx.Rollouts(store.RolloutFilter{})
		if err != nil {
			return err
		}
		for _, row := range rows {
			t, err := w.front.openTurn(tx, row.Project, row.ID)
			if err != nil {
				return err
			}
			events, err := tx.Events(row.Project, row.ID)
			if err != nil {
				return err
			}
			s := rollout.New(t.plan.Plan)
			for _, x := range events {
				var e rollout.Event
				if err := json.Unmarshal(x.Data, &e); err != nil {
					return err
				}
				before := s
				if s, _, err = rollout.Step(t.plan.Plan, s, e); err != nil {
					return fmt.Errorf("event %d of %s: %w", x.Seq, row.ID, err)
				}
				for i, f := range rollout.Facts(before, s, e) {
					id := fmt.Sprintf("rollout/%s/%d/%d", row.ID, x.Seq, i)
					if stated[id] == 0 {
						w.Errorf("fact %+v of %s has no statement %s", f, row.ID, id)
					}
					delete(stated, id)
				}
			}
			if s != t.state {
				w.Errorf("replay of %s:\n%+v\nstored:\n%+v", row.ID, s, t.state)
			}
		}
		return nil
	})
	for id := range stated {
		w.Errorf("statement %s has no fact", id)
	}
	for _, h := range w.hosts {
		for key, s := range h.services {
			for i := 1; i < len(s.journal); i++ {
				if s.journal[i].generation <= s.journal[i-1].generation {
					w.Errorf("%s applied %d after %d of %s", h.name, s.journal[i].generation, s.journal[i-1].generation, key)
				}
			}
		}
	}
	if len(leaves) == 0 {
		return
	}
	rep := w.export("")
	if rep.Statements != len(leaves) {
		w.Errorf("the bundle has %d statements of %d", rep.Statements, len(leaves))
	}
}

// export writes a bundle and verifies it.
func (w *world) export(id release.ID) evidence.Report {
	w.Helper()
	var b bytes.Buffer
	w.must(w.front.Export(w.Context(), &b, release.DefaultProject, id))
	rep, err := evidence.Verify(&b, evidence.VerifyOptions{})
	if err != nil || !rep.OK {
		w.Errorf("the exported evidence does not verify: %+v, %v", rep, err)
	}
	return rep
}
