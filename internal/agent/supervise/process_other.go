//go:build !linux

package supervise

import (
	"errors"
	"os/exec"
	"syscall"
)

// Processes are supervised on Linux only; the rest of the program builds
// everywhere, for its command line.
var errLinux = errors.New("couldn't supervise processes: the agent runs on Linux only")

type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
}

func (identity) alive() bool { return false }

func bootID() string { return "" }

type stat struct {
	session int
	start   uint64
}

func (stat) dead() bool { return true }

func readStat(int) (stat, error) { return stat{}, errLinux }

type process struct{ identity }

func spawn(*exec.Cmd) (*process, error)      { return nil, errLinux }
func adopt(identity) (*process, error)       { return nil, errLinux }
func (*process) wait() (how string, ok bool) { return "", false }
func (*process) forget()                     {}
func (*process) signal(syscall.Signal)       {}
func killSession(int)                        {}
func eachProcess(func(int))                  {}
func marked(string, func(int))               {}
