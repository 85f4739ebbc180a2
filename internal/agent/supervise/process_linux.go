package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity names one process for good: pids are used again, but not with the same
// start time in the same boot.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // ticks since boot: field 22 of /proc/PID/stat
	Boot  string `json:"boot"`
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// stat is what /proc/PID/stat says.
type stat struct {
	state   byte
	session int
	start   uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads the fields behind the command, which may hold anything, also
// ") R 1": so it begins at the last parenthesis.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, errors.New("no command in /proc/PID/stat")
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, errors.New("too few fields in /proc/PID/stat")
	}
	session, err1 := strconv.Atoi(f[3])
	start, err2 := strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return stat{}, fmt.Errorf("couldn't read /proc/PID/stat: %w", err)
	}
	return stat{state: f[0][0], session: session, start: start}, nil
}

func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// alive says whether the process still runs.
func (id identity) alive() bool {
	if id.PID <= 1 || id.Boot != bootID() {
		return false
	}
	s, err := readStat(id.PID)
	return err == nil && !s.dead() && s.start == id.Start
}

// process is one that runs: a child of ours, or one that an earlier agent began.
type process struct {
	identity
	cmd *exec.Cmd // nil when adopted
	pid *os.File  // pidfd
}

// spawn starts cmd as a session of its own.
func spawn(cmd *exec.Cmd) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p, err := watch(cmd.Process.Pid)
	if err != nil {
		killSession(cmd.Process.Pid)
		_ = cmd.Wait()
		return nil, err
	}
	p.cmd = cmd
	return p, nil
}

// adopt takes up a process of an earlier agent.
func adopt(id identity) (*process, error) {
	p, err := watch(id.PID)
	if err != nil {
		return nil, err
	}
	if p.Start != id.Start { // the pidfd holds another process than the record names
		_ = p.pid.Close()
		return nil, fmt.Errorf("process %d is another one now", id.PID)
	}
	return p, nil
}

func watch(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("couldn't watch process %d: %w", pid, err)
	}
	// The order matters: the pidfd holds the process, so the start time that is
	// read now is of that one.
	s, err := readStat(pid)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("couldn't watch process %d: %w", pid, err)
	}
	return &process{
		identity: identity{PID: pid, Start: s.start, Boot: bootID()},
		pid:      os.NewFile(uintptr(fd), "pidfd"),
	}, nil
}

// wait returns when the process has ended, and how. It ends early, with false,
// when forget was called.
func (p *process) wait() (how string, ended bool) {
	raw, err := p.pid.SyscallConn()
	if err == nil {
		// A pidfd becomes readable when its process ends.
		err = raw.Read(func(fd uintptr) bool {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			return err == nil && n > 0
		})
	}
	if err != nil {
		return "", false
	}
	// Before it is reaped its pid can't be taken by another session.
	killSession(p.PID)
	_ = p.pid.Close()
	if p.cmd == nil {
		return "ended (how is not known: an earlier agent had started it)", true
	}
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.String(), true
}

// forget leaves the process running and ends wait.
func (p *process) forget() { _ = p.pid.Close() }

// signal sends s to the process's group.
func (p *process) signal(s syscall.Signal) {
	if p.alive() {
		_ = syscall.Kill(-p.PID, s)
	}
}

// killSession kills the group that pid leads and whatever else is in its session.
func killSession(pid int) {
	if pid <= 1 {
		return
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	eachProcess(func(other int) {
		if s, err := readStat(other); err == nil && s.session == pid && !s.dead() && other != os.Getpid() {
			_ = syscall.Kill(other, syscall.SIGKILL)
		}
	})
}

func eachProcess(f func(pid int)) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			f(pid)
		}
	}
}

// marked calls f for each process whose environment has the line.
func marked(line string, f func(pid int)) {
	eachProcess(func(pid int) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || pid == os.Getpid() {
			return
		}
		for _, e := range bytes.Split(b, []byte{0}) {
			if string(e) == line {
				f(pid)
				return
			}
		}
	})
}
