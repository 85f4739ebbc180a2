package faults

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// A second server on the folder refuses and says who has it; the first does not
// notice. After a power cut the folder is free.
func TestTwoServersOnOneFolder(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	other := porttest.Free(t)
	out, code := p.sluice("up", "--addr", other)
	if code != 1 {
		t.Errorf("the second server ended with %d", code)
	}
	says(t, out, fmt.Sprintf("process %d", p.cmd.Process.Pid), strings.TrimPrefix(p.URL, "http://"), "sluice down", "--data")
	if strings.Count(strings.TrimSpace(out), "\n") > 0 {
		t.Errorf("it says more than one line: %s", out)
	}
	if !running(p.cmd.Process.Pid) {
		t.Error("the first server is gone")
	}
	if out, code := p.sluice("runs"); code != 0 {
		t.Errorf("the first server does not answer any more: %d %s", code, out)
	}
	p.kill()
	p.up()
}

// The server's own port is taken: it says so and what to do, and starts nothing.
func TestServerPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := planeAt(t, filepath.Join(t.TempDir(), "data"))
	out, code := p.sluice("up", "--addr", l.Addr().String())
	if code != 1 {
		t.Errorf("it ended with %d", code)
	}
	says(t, out, l.Addr().String(), "address already in use", "--addr")
	if left := left(p.dir); len(left) > 0 {
		t.Errorf("it left processes: %v", left)
	}
	for _, name := range []string{"server.json", "agent.json"} {
		if _, err := os.Stat(filepath.Join(p.dir, name)); err == nil {
			t.Errorf("it left %s", name)
		}
	}
	// The folder is none the worse for it.
	p.up()
}

// The service's port is taken: nobody is exposed, the reason names the address,
// and once the port is free the same commit goes through.
func TestServicePortTaken(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.ship(behaviour{Version: "v1"})
	out, code := p.sluice("run", "--repo", s.Dir)
	if code != 1 {
		t.Errorf("run ended with %d, not 1 (failed before exposure): %s", code, out)
	}
	says(t, out, "couldn't listen on "+s.addr, "address already in use", "no user was exposed")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if out, code := p.sluice("run", "--repo", s.Dir); code != 0 {
		t.Errorf("with the port free the same commit ends with %d: %s", code, out)
	}

	// A version that moves to a taken port leaves the one that runs alone.
	was := s.addr
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	load := servertest.StartLoad(was, 1)
	defer load.Stop()
	s.addr = taken.Addr().String()
	s.ship(behaviour{Version: "v2"})
	end := p.WaitState(p.Run(s.Dir), "failed")
	says(t, end.Reason, "couldn't listen on "+s.addr, "no user was exposed")
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	// What goes on is reached where it was, also when the other port becomes free.
	moreOf(t, load, 150) // 100 a second at most, and the agent tries a listener again each second
	got := load.Stop()
	if got.Dropped+got.Bad > 0 {
		t.Errorf("the running version dropped %d and failed %d of %d requests: %v", got.Dropped, got.Bad, got.All, got.Errors)
	}
	s.addr = was
	s.ship(behaviour{Version: "v3"})
	p.WaitState(p.Run(s.Dir), "succeeded")
	p.whole(t)
}
