//go:build !linux

package confine

import (
	"errors"
	"os/exec"
)

// View is what one service sees.
type View struct {
	Hide     []string
	Show     []string
	Dir      string
	Writable []string
	Key      string
	Users    *Users
}

// Users gives no user: agents run on Linux only.
type Users struct{}

// OpenUsers returns users that are never asked.
func OpenUsers(string) (*Users, error) { return &Users{}, nil }

var errLinux = errors.New("couldn't isolate a service: agents run on Linux only")

// Of fails: agents run on Linux only.
func (*Users) Of(string) (uid, gid int, err error) { return 0, 0, errLinux }

// Command fails: agents run on Linux only.
func Command(View, string, []string) (*exec.Cmd, func(), error) { return nil, nil, errLinux }

// Probe fails: agents run on Linux only.
func Probe(string) error { return errLinux }
