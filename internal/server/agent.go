package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
)

// LocalHost is the name of the agent that `sluice up` starts.
const LocalHost = "local"

// agentInfo says which process the local agent is, and whom it talks to.
type agentInfo struct {
	Process
	Server string `json:"server"`
}

// localAgent keeps the local agent running: detached, so that it outlives us,
// and started again when it dies.
type localAgent struct {
	folder  Folder
	server  string
	command []string // of this program, that runs an agent
	log     *slog.Logger
}

// agentCheck is how often the local agent is looked after.
const agentCheck = 250 * time.Millisecond

func (l *localAgent) run(ctx context.Context) error {
	tick := time.NewTicker(agentCheck)
	defer tick.Stop()
	for {
		if err := l.ensure(); err != nil {
			l.log.Error("couldn't start the local agent; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ensure starts the agent unless it runs. One that talks to another address is
// asked to hand over: its instances go on and are taken up by the next.
func (l *localAgent) ensure() error {
	info, err := l.folder.findAgent()
	if err != nil {
		return err
	}
	if info.Alive() {
		if info.Server == l.server {
			return nil
		}
		if err := info.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("couldn't ask the agent of %s to end: %w", info.Server, err)
		}
		if !waitGone(info.Process, 15*time.Second) {
			return fmt.Errorf("the agent of %s (process %d) does not end", info.Server, info.PID)
		}
	}
	out, err := os.OpenFile(l.folder.path("agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("couldn't open the agent's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(l.command[0], l.command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("couldn't start the agent: %w", err)
	}
	started := agentInfo{Process: Process{PID: cmd.Process.Pid, Start: startOf(cmd.Process.Pid)}, Server: l.server}
	go func() { _ = cmd.Wait() }() // so that it does not stay as a zombie; how it ended is in its log
	if err := writeJSON(l.folder.agentFile(), started); err != nil {
		return fmt.Errorf("couldn't note the agent's process: %w", err)
	}
	l.log.Info("started the local agent", "pid", started.PID)
	return nil
}

// findAgent returns the local agent as it was noted; or, when we died between
// its start and the note, as the lock of its own folder names it.
func (f Folder) findAgent() (agentInfo, error) {
	var info agentInfo
	if _, err := read(f.agentFile(), &info); err != nil {
		return info, err
	}
	if pid, held := agent.Holder(f.agent()); held && !info.Alive() {
		info = agentInfo{Process: Process{PID: pid, Start: startOf(pid)}}
	}
	return info, nil
}

func waitGone(p Process, d time.Duration) bool {
	for deadline := time.Now().Add(d); p.Alive(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// Down ends everything that a data folder started: the server, then the agent,
// which drains open requests, then the service's instances. It reports what ran.
func (f Folder) Down(ctx context.Context) (found bool, err error) {
	info, running, err := f.Find()
	if err != nil {
		return false, err
	}
	if running {
		found = true
		if err := end(info.Process, "server", 30*time.Second); err != nil {
			return true, err
		}
	}
	a, err := f.findAgent()
	if err != nil {
		return found, err
	}
	if a.Alive() {
		found = true
		if err := end(a.Process, "agent", 30*time.Second); err != nil {
			return true, err
		}
	}
	if err := agent.StopAll(ctx, f.agent()); err != nil {
		return found, fmt.Errorf("couldn't end the instances: %w", err)
	}
	for _, name := range []string{f.agentFile(), f.infoFile()} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return found, fmt.Errorf("couldn't tidy up: %w", err)
		}
	}
	return found, nil
}

func end(p Process, what string, patience time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return nil
	} else if err != nil {
		return fmt.Errorf("couldn't ask the %s (process %d) to end: %w", what, p.PID, err)
	}
	if waitGone(p, patience) {
		return nil
	}
	return fmt.Errorf("the %s (process %d) has not ended within %s; end it by hand and run sluice down again", what, p.PID, patience)
}
