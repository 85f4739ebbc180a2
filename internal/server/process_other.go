//go:build !linux

package server

import "syscall"

const signalNone = syscall.Signal(0)

func startOf(int) uint64 { return 0 }

func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
