package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// initMain is pid 1 of the sandbox: without rights, closed to the step's eyes,
// there only to start it, reap orphans and say how it ended. It does not return
// once the script was started.
func initMain() error {
	if err := unix.CloseRange(configFd, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("couldn't close descriptors: %w", err)
	}
	// The step has the same uid: it must not read or trace this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("couldn't hide pid 1: %w", err)
	}
	p, err := readPayload()
	if err != nil {
		return err
	}
	// Caught and dropped, not ignored: a child would inherit "ignored".
	signal.Notify(make(chan os.Signal, 1))
	go func() {
		// The caller never writes; the end of the pipe is the end of the caller.
		var b [1]byte
		for {
			if n, err := unix.Read(lifelineFd, b[:]); n <= 0 && !errors.Is(err, unix.EINTR) {
				os.Exit(1)
			}
		}
	}()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-e", "-c", p.Script}, &syscall.ProcAttr{
		Dir: p.Dir, Env: p.Env, Files: []uintptr{null.Fd(), 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("couldn't start /bin/sh in %s: %w", p.Dir, err)
	}
	tell(status{Started: true})
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("couldn't wait for the step: %w", err)
		case got == pid && ws.Exited():
			tell(status{Ended: true, Code: ws.ExitStatus()})
			os.Exit(0)
		case got == pid && ws.Signaled():
			tell(status{Ended: true, Code: -1, Signal: unix.SignalName(ws.Signal())})
			os.Exit(0)
		}
	}
}
