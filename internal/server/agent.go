package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
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
	// Program is which build it runs, and how. Agents that were noted without it can't be
	// taken over from.
	Program string `json:"program,omitempty"`
}

// localAgent keeps the local agent running: detached, so that it outlives us,
// and started again when it dies.
type localAgent struct {
	folder  Folder
	server  string
	command []string // of this program, that runs an agent
	log     *slog.Logger
	program string // which build, with which flags, that was when we started
	tried   bool   // to take over; not known yet to have gone well
}

// agentCheck is how often the local agent is looked after.
const agentCheck = 250 * time.Millisecond

func (l *localAgent) run(ctx context.Context) error {
	var err error
	if l.program, err = buildOf(l.command[0]); err != nil {
		return err
	}
	l.program += ": " + strings.Join(l.command[1:], " ") // other flags are another agent too
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

// buildOf tells one build of a program from another without reading it.
func buildOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("couldn't find this program: %w", err)
	}
	return fmt.Sprintf("%d bytes of %s", info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano)), nil
}

// ensure starts the agent unless it runs. From one that is of another build, or
// talks to another address, the new one takes over without a dropped request. One
// of a build that could not hand over ends, and its instances are taken up.
func (l *localAgent) ensure() error {
	info, err := l.folder.findAgent()
	if err != nil {
		return err
	}
	command := l.command
	switch {
	case !info.Alive():
	case info.Server == l.server && info.Program == l.program:
		if l.tried {
			pid, held := agent.Holder(l.folder.agent())
			l.tried = !held || pid != info.PID
		}
		return nil
	case info.Program != "" && !l.tried:
		l.tried = true
		command = append(slices.Clone(command), "--take-over")
	default:
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
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("couldn't start the agent: %w", err)
	}
	started := agentInfo{Process: Process{PID: cmd.Process.Pid, Start: startOf(cmd.Process.Pid)}, Server: l.server, Program: l.program}
	go func() { _ = cmd.Wait() }() // so that it does not stay as a zombie; how it ended is in its log
	if err := writeJSON(l.folder.agentFile(), started); err != nil {
		return fmt.Errorf("couldn't note the agent's process: %w", err)
	}
	l.log.Info("started the local agent", "pid", started.PID)
	return nil
}

// StartAgain starts a program beside this process, with its output.
func StartAgain(program string, args []string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("couldn't start %s again: %w", program, err)
	}
	go func() { _ = cmd.Wait() }() // so that it does not stay as a zombie; it says itself how it ended
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
		info = agentInfo{Process: Process{PID: pid, Start: startOf(pid)}, Program: "not noted"}
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
