package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/server/servertest"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

// share gives a second control plane what all of one installation have in common
// beside the database: keys, token, and the storage of artifacts and logs.
func share(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"token", "registry.key", "keys", "registry", "blobs"} {
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// Two control planes on one PostgreSQL: whichever dies, the other goes on.
func TestTwoControlPlanesOnPostgres(t *testing.T) {
	t.Parallel()
	database := storetest.Postgres(t)
	one, s := newPlane(t, "--no-agent", "--database", database), newShop(t)
	two := planeAt(t, filepath.Join(t.TempDir(), "data"), "--no-agent", "--database", database)
	share(t, one.dir, two.dir)
	two.up()
	h := newHost(t, one, balancer(t, one, two), "local", "127.0.0.1")
	s.first(one)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()

	// A good one, whose control plane dies while it bakes, and does not come back.
	s.rollout = oneStep
	s.ship(behaviour{Version: "v1"})
	seen, killed, hit := one.killWhen(one.Run(s.Dir), bakingAt(10))
	if !hit {
		t.Fatalf("it did not bake: %s", servertest.Show(seen))
	}
	took := two.recovered(seen, killed)
	inTime(t, took)
	if end := two.WaitState(seen.Run, "succeeded"); production(end).Verdict != "pass" {
		t.Errorf("it ended with the verdict %q", production(end).Verdict)
	}
	if got := load.Counts(); got.Dropped+got.Bad > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}

	// A bad one with both there again; the other dies while it bakes.
	one.up()
	seen, killed = two.caught(t, s, behaviour{Version: "v2", Bad: 80}, inPhase("baking"))
	one.recovered(seen, killed)
	end := one.WaitState(seen.Run, "rolled-back")
	if e := production(end); e.Weight != 0 || e.Verdict != "fail" {
		t.Errorf("rolled back at %g %% with the verdict %q", e.Weight, e.Verdict)
	}

	// One that is paused across its lease, and wakes up when the other has taken the
	// release back: what it wanted to do still has no effect.
	two.up()
	s.rollout = aLongBake
	s.ship(behaviour{Version: "v3"})
	run := two.Run(s.Dir)
	baking := two.Wait(run, "baking", bakingAt(10))
	if err := two.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if out, code := one.sluice("abort", run, "--env", "production", "--reason", "orders are lost"); code != 0 {
		t.Errorf("abort ended with %d: %s", code, out)
	}
	one.WaitState(run, "rolled-back")
	if err := two.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// It gets all the time to do what it still wants: it alone takes the next one to its end.
	one.kill()
	s.rollout = atOnce
	s.ship(behaviour{Version: "v4"})
	two.WaitState(two.Run(s.Dir), "succeeded")
	if w := h.weightsAsked(baking.Release); w[len(w)-1] != 0 {
		t.Errorf("the host was asked for the weights %v", w)
	}
	if e := production(two.WaitState(run, "rolled-back")); e.Weight != 0 {
		t.Errorf("after the pause the weight is %g %%", e.Weight)
	}
	if got := load.Stop(); got.Dropped > 0 {
		t.Errorf("%d of %d requests were dropped: %v", got.Dropped, got.All, got.Errors)
	}
	appliedOnce(t, h.dir)
	if rep, err := evidence.Verify(bytes.NewReader(two.Bundle()), evidence.VerifyOptions{}); err != nil || !rep.OK {
		t.Errorf("the evidence does not verify: %+v, %v", rep, err)
	}
	t.Logf("the other went on %s after the kill", took.Round(time.Millisecond))
}
