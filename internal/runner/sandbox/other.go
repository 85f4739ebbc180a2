//go:build !linux

package sandbox

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
)

// MaybeRun does nothing: only Linux has sandboxes.
func MaybeRun() {}

// Owner returns the uid and gid of who may write what a step writes.
func Owner() (uid, gid int) { return os.Geteuid(), os.Getegid() }

// Run always fails: only Linux has sandboxes.
func Run(context.Context, Config, io.Writer) (Exit, error) { return Exit{}, unsupported() }

// Probe always fails: only Linux has sandboxes.
func Probe(context.Context) error { return unsupported() }

func unsupported() error {
	return fmt.Errorf("%w: %s has none; run the server on Linux, or use --isolation=none, only for code that you trust", ErrForbidden, runtime.GOOS)
}
