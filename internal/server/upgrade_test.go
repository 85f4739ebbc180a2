package server

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/machinetest"
)

// A newer `up` has its own agent take over from the one that it finds; and it does
// nothing to one of its own build. An agent that does not hand over ends first.
func TestUpUpgradesItsAgent(t *testing.T) {
	dir := Folder(t.TempDir())
	t.Setenv("SLUICE_TEST_AGENT", dir.agent())
	t.Cleanup(func() {
		if _, err := dir.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	noted := func() (info agentInfo) {
		t.Helper()
		if _, err := read(dir.agentFile(), &info); err != nil {
			t.Fatal(err)
		}
		return info
	}
	ensure := func(l *localAgent) (info agentInfo) {
		t.Helper()
		machinetest.Until(t, "the agent holds the folder and takes successors", func() bool {
			err := l.ensure() // again and again, as run does
			info = noted()
			now, held := agent.Holder(dir.agent())
			_, missing := os.Stat(filepath.Join(dir.agent(), "agent.sock"))
			return err == nil && held && now == info.PID && missing == nil
		})
		return info
	}
	up := func(program, server string) *localAgent {
		return &localAgent{folder: dir, server: server, command: []string{os.Args[0]}, log: slog.New(slog.DiscardHandler), program: program}
	}
	first := ensure(up("a", "http://127.0.0.1:1"))
	if again := ensure(up("a", "http://127.0.0.1:1")); again != first {
		t.Errorf("an agent of the same build was replaced: %+v, %+v", first, again)
	}
	second := ensure(up("b", "http://127.0.0.1:1"))
	if second.PID == first.PID || !waitGone(first.Process, machinetest.Patience) {
		t.Errorf("the old agent %d stays beside %d", first.PID, second.PID)
	}
	third := ensure(up("b", "http://127.0.0.1:2"))
	if third.PID == second.PID || third.Server != "http://127.0.0.1:2" {
		t.Errorf("an agent of another server stays: %+v", third)
	}
	if !waitGone(second.Process, machinetest.Patience) {
		t.Error("the agent of the other server stays")
	}

	// One that can't hand over: tried once, then it ends.
	if err := os.Remove(filepath.Join(dir.agent(), "agent.sock")); err != nil {
		t.Fatal(err)
	}
	l := up("c", "http://127.0.0.1:2")
	if err := l.ensure(); err != nil {
		t.Fatal(err)
	}
	successor := noted() // it may have ended by now
	if !l.tried || successor.PID == third.PID {
		t.Fatalf("%+v, tried %v", successor, l.tried)
	}
	if !waitGone(successor.Process, machinetest.Patience) {
		t.Errorf("%+v does not end, though nobody hands over to it", successor)
	}
	last := ensure(l)
	if last.PID == third.PID || last.Program != "c" {
		t.Errorf("%+v", last)
	}
}
