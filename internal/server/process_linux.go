package server

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

const signalNone = syscall.Signal(0)

// startOf returns when a process started, in clock ticks since boot (proc(5),
// field 22 of stat); 0 if there is none, or it has ended and nobody has waited
// for it yet.
func startOf(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(b, ')') // the name before may hold anything
	if i < 0 {
		return 0
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 20 || string(f[0]) == "Z" {
		return 0
	}
	n, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// detached lets a child outlive us.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
