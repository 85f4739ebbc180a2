package faults

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// smallDisk is one of some megabytes; fill takes all of it that is left,
// and free gives it back.
func smallDisk(t *testing.T, size string) (dir string, fill func(), free func()) {
	t.Helper()
	dir = machinetest.SmallDisk(t, size)
	ballast := filepath.Join(dir, "ballast")
	fill = func() {
		t.Helper()
		f, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, block := range []int{1 << 20, 4096, 1} {
			for err == nil {
				_, err = f.Write(make([]byte, block))
			}
			if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, io.ErrShortWrite) {
				t.Fatal(err)
			}
			err = nil
		}
	}
	free = func() {
		t.Helper()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	return dir, fill, free
}

// The disk is full: users notice nothing, who asks for something reads why it
// can't be, and when there is space again all goes on without a hand.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir, fill, free := smallDisk(t, "192m")
	p := planeAt(t, filepath.Join(dir, "data"))
	p.up()
	s := newShop(t)
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()

	// In the middle of a canary.
	s.rollout = oneStep
	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	p.Wait(run, "baking", bakingAt(10))
	fill()
	machinetest.Until(t, "the reserve is given up", func() bool {
		_, err := os.Stat(filepath.Join(p.dir, "reserve"))
		return errors.Is(err, os.ErrNotExist)
	})
	fill()
	s.Write("ballast", strings.Repeat("it needs space of its own\n", 1<<18))
	s.ship(behaviour{Version: "no space"})
	out, code := p.sluice("run", "--repo", s.Dir)
	if code == 0 {
		t.Errorf("a run on a full disk ended with 0: %s", out)
	}
	says(t, out, "space", "free")
	moreOf(t, load, 400) // it stays full for a while, and users notice nothing
	if out, code := p.sluice("status", run); code != 0 {
		t.Errorf("status on a full disk ended with %d: %s", code, out)
	}
	free()
	end := p.WaitState(run, "succeeded")
	if production(end).Verdict != "pass" {
		t.Errorf("it succeeded with the verdict %q", production(end).Verdict)
	}

	// While a step writes its log.
	s.rollout = atOnce
	s.yaml = definition
	s.replace("mkdir -p out && cp", "while head -c 65536 /dev/zero >>probe; do sleep 0.1; done 2>/dev/null; head -c 8000000 /dev/zero | tr \"\\0\" x; mkdir -p out && cp")
	s.ship(behaviour{Version: "v2"})
	run = p.Run(s.Dir)
	p.Wait(run, "building", inBuild)
	fill()
	moreOf(t, load, 600) // that takes three seconds at least: the step finds it full, and comes to write
	free()
	if s := p.Wait(run, "at its end", servertest.Ended); s.State == "failed" {
		says(t, s.Reason, "no space left on device", "free space")
	} else if s.State != "succeeded" {
		t.Errorf("it ended as %s: %s", s.State, s.Reason)
	}
	s.yaml = definition
	s.ship(behaviour{Version: "v3"})
	p.WaitState(p.Run(s.Dir), "succeeded")

	// A server that starts on a full disk.
	p.kill()
	fill()
	out, code = p.sluice("up", "--addr", porttest.Free(t))
	if code != 1 {
		t.Errorf("up on a full disk ended with %d: %s", code, out)
	}
	t.Logf("up on a full disk says: %s", out)
	free()
	p.up()
	if got := load.Stop(); got.Dropped+got.Bad > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}
	p.whole(t)
	for _, pattern := range []string{".new-*", "spool/*", "work/*/*", "agent/*.new", "agent/desired/*.new"} {
		machinetest.Until(t, "no half-written file is left of "+pattern, func() bool {
			half, _ := filepath.Glob(filepath.Join(p.dir, pattern)) // one may be written just now
			return len(half) == 0
		})
	}
}

// A bad canary on a full disk: it is taken back all the same, nobody has to find
// space first.
func TestBadCanaryOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir, fill, free := smallDisk(t, "192m")
	p := planeAt(t, filepath.Join(dir, "data"))
	p.up()
	s := newShop(t)
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	s.rollout = oneStep
	s.ship(behaviour{Version: "v1", Bad: 80})
	run := p.Run(s.Dir)
	p.Wait(run, "baking", inPhase("baking"))
	fill()
	end := p.WaitState(run, "rolled-back")
	if e := production(end); e.Weight != 0 || e.Verdict != "fail" {
		t.Errorf("rolled back at %g %% with the verdict %q", e.Weight, e.Verdict)
	}
	before := load.Settled()
	moreOf(t, load, 50)
	if got := load.Stop(); got.Dropped > 0 || got.Bad > before.Bad {
		t.Errorf("%d requests were dropped, %d answered badly after the way back: %v", got.Dropped, got.Bad-before.Bad, got.Errors)
	}
	free() // the evidence of it is whole, and in its log as soon as there is space
	p.whole(t)
}
