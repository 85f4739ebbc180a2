package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RunPlain runs the script without any isolation, as the caller, in the host's
// cfg.Dir with cfg.Env; binds and limits have no effect. Only for code that is
// trusted like the caller itself. When the script or ctx ends, its process
// group is killed; a process that left the group survives.
func RunPlain(ctx context.Context, cfg Config, out io.Writer) (Exit, error) {
	if ctx.Err() != nil {
		return Exit{}, context.Cause(ctx)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return Exit{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer outR.Close()
	cmd := exec.Command("/bin/sh", "-e", "-c", cfg.Script)
	cmd.Dir, cmd.Env = cfg.Dir, cfg.Env
	cmd.Stdout, cmd.Stderr = outW, outW
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		outW.Close()
		return Exit{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	outW.Close()
	killGroup := func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // an empty group is fine

	copied := make(chan error, 1)
	go func() { copied <- drain(out, outR, killGroup) }()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var waitErr error
	select {
	case waitErr = <-ended:
	case <-ctx.Done():
		killGroup()
		waitErr = <-ended
	}
	killGroup()
	// A process outside the group may hold the pipe: it gets no say in when the
	// step is over.
	_ = outR.SetReadDeadline(time.Now().Add(2 * time.Second))
	copyErr := <-copied

	var failed *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return Exit{Code: -1, Signal: "SIGKILL"}, context.Cause(ctx)
	case copyErr != nil:
		return Exit{Code: -1, Signal: "SIGKILL"}, fmt.Errorf("couldn't keep the output: %w", copyErr)
	case waitErr == nil:
		return Exit{}, nil
	case errors.As(waitErr, &failed):
		ws := failed.Sys().(syscall.WaitStatus)
		if ws.Signaled() {
			return Exit{Code: -1, Signal: unix.SignalName(ws.Signal())}, nil
		}
		return Exit{Code: ws.ExitStatus()}, nil
	default:
		return Exit{}, fmt.Errorf("couldn't wait for the script: %w", waitErr)
	}
}

// drain copies until the last writer is gone. An error of out calls failed once
// and goes on reading, so that nobody inside blocks on a full pipe.
func drain(out io.Writer, in io.Reader, failed func()) error {
	buf := make([]byte, 32<<10)
	var broken error
	for {
		n, err := in.Read(buf)
		if n > 0 && broken == nil {
			if _, broken = out.Write(buf[:n]); broken != nil {
				failed()
			}
		}
		if err != nil {
			return broken
		}
	}
}
