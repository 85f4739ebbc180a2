package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
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

	"github.com/sluicehq/sluice/internal/blob"
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
	blobs   string // folder of config.Blobs
	target  *steered
	shelf   *shelf
	metrics *signals
	hosts   []*fakeHost
	logged  *logged
	before  []func() // each time that the clock has moved
	reach   reach
}

// stories runs a story on each dialect. In a story one thing happens after the
// other, so that the race detector has little to find there, and makes it several
// times slower: under it a sixteenth of them run, each on one dialect. scripts/test.sh
// runs them all in a call without it.
func stories(t *testing.T, f func(w *world)) {
	t.Helper()
	t.Parallel() // beside other stories: each has a world of its own
	dialects := []string{store.SQLite, store.Postgres}
	if raceDetector {
		h := fnv.New32a()
		_, _ = h.Write([]byte(t.Name()))
		if h.Sum32()%16 != 0 {
			return
		}
		dialects = dialects[h.Sum32()/8%2:][:1]
	}
	for _, dialect := range dialects {
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
	w.blobs = filepath.Join(t.TempDir(), "blobs")
	blobs, err := blob.Open(w.blobs, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.config = Config{
		Store: w.store, Blobs: blobs, Keys: ring, Artifacts: w.shelf, Target: w.target, Metrics: w.metrics,
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
		leases, err := c.store.Acquire(w.Context(), x.table, c.owner, c.leaseTTL, 1)
		if err != nil {
			w.Fatal(err)
		}
		for _, lease := range leases {
			worked = true
			c.hold(w.Context(), lease, x.handle)
		}
		if b, ok := c.store.(*brittle); ok && b.dead.Load() {
			w.revive()
			return true
		}
	}
	c.background.Wait()
	if b, ok := c.store.(*brittle); ok && b.dead.Load() {
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
	if err := w.front.lookAtHosts(w.Context(), &w.reach); err != nil {
		w.Fatal(err)
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
