package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/server"
)

// janitor is the process that tidies up after the demo, however that ends.
type janitor struct {
	cmd  *exec.Cmd
	pipe io.Closer // its end is the demo's
}

// hire starts the janitor for a folder: program and args are this program and
// the command that calls [Sweep].
func hire(program string, args []string, folder string, complaints io.Writer) (*janitor, error) {
	cmd := exec.Command(program, append(args, folder)...)
	cmd.Stderr = complaints
	// A session of its own: the terminal's Ctrl-C is for the demo, not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("couldn't make a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("couldn't start the process that tidies up: %w", err)
	}
	return &janitor{cmd: cmd, pipe: pipe}, nil
}

// tidy has the janitor do its work and waits for it.
func (j *janitor) tidy() error {
	if err := j.pipe.Close(); err != nil {
		return fmt.Errorf("couldn't end the demo: %w", err)
	}
	if err := j.cmd.Wait(); err != nil {
		return fmt.Errorf("couldn't tidy up: %w", err)
	}
	return nil
}

// Sweep is the janitor's work: it waits until in ends, then ends everything that
// works in the demo's folder and removes it.
func Sweep(ctx context.Context, folder string, in io.Reader) error {
	// Whoever asks all processes to end, as a machine does that shuts down, shall
	// not find the janitor gone before the rest.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	ctx = context.WithoutCancel(ctx)
	_, _ = io.Copy(io.Discard, in) // an error, too, says that the demo has gone
	err := down(ctx, folder)
	// What Down can't know of: an agent that was just being started, and steps of
	// a build without isolation.
	return errors.Join(err, endAllIn(folder), remove(folder))
}

const sweepTries = 3

func down(ctx context.Context, folder string) (err error) {
	for range sweepTries {
		if _, err = server.Folder(folder).Down(ctx); err == nil {
			return nil
		}
	}
	return fmt.Errorf("couldn't end what runs in %s in order: %w", folder, err)
}

// remove deletes the folder; what a process that just ended has still written
// comes with the next try.
func remove(folder string) (err error) {
	for range sweepTries {
		if err = runner.Remove(folder); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%w; remove it by hand", err)
}
