package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// Leaves come from many writers while several sequencers integrate them: each
// gets one place, and the log verifies.
func TestIntegrateTogether(t *testing.T) {
	for _, dialect := range []string{store.SQLite, store.Postgres} {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dialect)
			const writers, each = 4, 25
			var wg sync.WaitGroup
			fail := make(chan error, writers*each+100)
			done := make(chan struct{})
			for i := range writers {
				wg.Go(func() {
					for j := range each {
						err := w.store.Update(t.Context(), func(tx *store.Tx) error {
							at := about{project: "default", run: fmt.Sprint(i)}
							ev, err := w.front.event(tx, at, alice, "why")
							if err != nil {
								return err
							}
							id := release.DigestOf([]byte(fmt.Sprint(i, j)))
							_, err = w.front.record(tx, fmt.Sprintf("lift/%d/%d", i, j), at, evidence.Quarantine{Event: ev, Change: evidence.Lifted}, evidence.ReleaseSubject("default", "shop", id))
							return err
						})
						if err != nil {
							fail <- err
						}
					}
				})
			}
			var sequencers sync.WaitGroup
			for range 2 {
				sequencers.Go(func() {
					for {
						if err := w.front.Integrate(t.Context()); err != nil {
							fail <- err
						}
						select {
						case <-done:
							return
						default:
						}
					}
				})
			}
			wg.Wait()
			close(done)
			sequencers.Wait()
			close(fail)
			for err := range fail {
				t.Error(err)
			}
			rep := w.export("")
			if rep.Statements != writers*each || rep.Payloads != writers*each+1 { // and who alice is
				t.Errorf("%+v", rep)
			}
			for _, l := range w.leaves(store.LeafFilter{}) {
				if l.Index == nil {
					t.Errorf("%s has no place", l.ID)
				}
			}
		})
	}
}

// repository makes a Git repository with one commit.
func repository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "-m", "one"}} {
		out, err := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=T", "-c", "user.email=t@example.test", "-c", "commit.gpgsign=false"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

const slowBuild = `version: 1
service: shop
owner: team-shop
build:
  steps:
    - {name: package, kind: package, run: '%s'}
  artifact: {type: files, path: out}
environments:
  - name: dev
    target: {type: host, listen: 127.0.0.1:9001, run: ./app, health: {http: /healthz}}
    rollout: all-at-once
`

// loops runs a whole control plane and a host beside the test, on real time.
func (w *world) loops(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			w.clock.micros.Store(time.Now().UnixMicro())
			w.hosts[0].live(5 * time.Millisecond)
			w.hosts[0].poll(true)
		}
	})
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

// The loops themselves, on a real repository and a real build: it is built, and
// built again from nothing that changed; a person ends a build; a shutdown ends
// none, and leaves nothing running.
func TestLoops(t *testing.T) {
	w := newWorld(t, store.SQLite)
	leaks := goleak.IgnoreCurrent()
	w.hosts[0].startIn = 0
	w.clock.micros.Store(time.Now().UnixMicro())
	stop := w.loops(t)
	defer stop()
	start := func(repo string) string {
		t.Helper()
		id, err := w.front.Start(t.Context(), Request{Project: "default", Repository: repo, Path: "sluice.yaml", Ref: "HEAD", By: alice})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	is := func(id string, o run.Outcome) func() bool {
		return func() bool { return w.status(id).State == o }
	}
	quick := repository(t, map[string]string{"sluice.yaml": fmt.Sprintf(slowBuild, "mkdir out && echo one > out/app")})
	r1 := start(quick)
	machinetest.Until(t, "released", is(r1, run.Succeeded))
	log, err := w.front.Log(t.Context(), "default", r1, "package", 0)
	if err != nil || !log.Done {
		t.Errorf("%+v, %v", log, err)
	}
	if _, err := w.front.Log(t.Context(), "default", r1, "nothing", 0); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	r2 := start(quick)
	machinetest.Until(t, "released again", is(r2, run.Succeeded))
	if s := w.status(r2); s.ReusedFrom != r1 || s.Digest != w.status(r1).Digest || s.Steps[0].State != "reused" {
		t.Errorf("%+v", s)
	}

	slow := repository(t, map[string]string{"sluice.yaml": fmt.Sprintf(slowBuild, "echo begun; sleep 60")})
	r3 := start(slow)
	building := func(id string) func() bool {
		return func() bool { s := w.status(id); return len(s.Steps) == 1 && s.Steps[0].State == "running" }
	}
	machinetest.Until(t, "building", building(r3))
	if err := w.front.Abort(t.Context(), "default", r3, "", "wrong branch", alice); err != nil {
		t.Fatal(err)
	}
	machinetest.Until(t, "cancelled", is(r3, run.Cancelled))
	if s := w.status(r3); !strings.Contains(s.Reason, "wrong branch by local:alice") {
		t.Errorf("%s", s.Reason)
	}

	// With every place to build taken, a run waits without a lease, and can be
	// aborted; when one is free it builds, without having been tried in vain.
	for range cap(w.c.builds) {
		w.c.builds <- struct{}{}
	}
	waits := start(slow)
	fresh := repository(t, map[string]string{"sluice.yaml": fmt.Sprintf(slowBuild, "mkdir out && echo two > out/app")})
	goesOn := start(fresh)
	if err := w.front.Abort(t.Context(), "default", waits, "", "no patience", alice); err != nil {
		t.Fatal(err)
	}
	machinetest.Until(t, "cancelled while it waited", is(waits, run.Cancelled))
	if s := w.status(goesOn); s.State != run.Running || len(s.Steps) != 0 {
		t.Errorf("without a place to build it is %s with steps %+v", s.State, s.Steps)
	}
	for range cap(w.c.builds) {
		<-w.c.builds
	}
	machinetest.Until(t, "built when there was a place", is(goesOn, run.Succeeded))

	r4 := start(slow)
	machinetest.Until(t, "building", building(r4))
	if err := w.tell(r4, rollout.Command{Kind: rollout.Pause}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "still building") {
		t.Errorf("pausing a build: %v", err)
	}
	stop()
	if s := w.status(r4); s.State != run.Running || s.Reason != "" {
		t.Errorf("a shutdown made it %s: %s", s.State, s.Reason)
	}
	goleak.VerifyNone(t, leaks, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))

	// Definitions that cannot be used, and commits that are not there.
	broken := repository(t, map[string]string{"sluice.yaml": "version: 1\nservice: shop\nwhat: else\n"})
	var bad *Problems
	if _, err := w.front.Start(t.Context(), Request{Project: "default", Repository: broken, Path: "sluice.yaml", Ref: "HEAD"}); !errors.As(err, &bad) || len(bad.List) < 2 || !strings.Contains(bad.Text, "sluice.yaml:3") {
		t.Errorf("%v", err)
	}
	for _, q := range []Request{
		{Repository: quick, Path: "sluice.yaml", Ref: "nowhere"}, {Repository: quick, Path: "other.yaml", Ref: "HEAD"},
		{Repository: t.TempDir(), Path: "sluice.yaml", Ref: "HEAD"}, {Repository: quick, Path: "sluice.yaml", Ref: "HEAD", To: "moon"},
	} {
		q.Project = "default"
		if _, err := w.front.Start(t.Context(), q); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// A row that cannot be taken further sleeps for a moment and does not starve
// the others.
func TestBrokenRow(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, "baking", 10)
		well, calls := w.c, 0
		w.c = w.controller()
		w.c.store = failing{w.store, &calls}
		w.pause(5 * time.Second)
		if calls == 0 || calls > 12 {
			w.Errorf("%d turns within 5 s", calls)
		}
		if !strings.Contains(w.logged.String(), "couldn't take a row further") {
			w.Error("nobody was told")
		}
		w.c = well
		w.untilState(r, run.Succeeded)
	})
}

// failing is a store whose snapshots cannot be read.
type failing struct {
	storage
	calls *int
}

func (f failing) View(context.Context, func(*store.Tx) error) error {
	*f.calls++
	return errors.New("disk read error")
}
