//go:build !linux

package confine

import (
	"errors"
	"os"
	"os/exec"
)

// View is what one service sees.
type View struct {
	Hide     []string
	Show     []string
	Dir      string
	Writable []string
	Key      string
}

var errLinux = errors.New("couldn't isolate a service: agents run on Linux only")

// User returns the uid and gid that a service runs as.
func User(string) (uid, gid int) { return os.Geteuid(), os.Getegid() }

// Command fails: agents run on Linux only.
func Command(View, string, []string) (*exec.Cmd, func(), error) { return nil, nil, errLinux }

// Probe fails: agents run on Linux only.
func Probe(string) error { return errLinux }
