package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/machinetest"
)

func holds(t *testing.T, dir string, pid int) {
	t.Helper()
	machinetest.Until(t, fmt.Sprintf("process %d holds the folder and takes successors", pid), func() bool {
		now, held := agent.Holder(dir)
		_, err := os.Stat(filepath.Join(dir, "agent.sock"))
		return held && now == pid && err == nil
	})
}

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
	ensure := func(l *localAgent) agentInfo {
		t.Helper()
		if err := l.ensure(); err != nil {
			t.Fatal(err)
		}
		info, err := dir.findAgent()
		if err != nil {
			t.Fatal(err)
		}
		holds(t, dir.agent(), info.PID)
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
	info, err := dir.findAgent()
	if err != nil || !l.tried {
		t.Fatalf("%+v, %v, tried %v", info, err, l.tried)
	}
	if !waitGone(info.Process, machinetest.Patience) {
		t.Errorf("%+v does not end, though nobody hands over to it", info)
	}
	last := ensure(l)
	if last.PID == third.PID || last.Program != "c" {
		t.Errorf("%+v", last)
	}
}
