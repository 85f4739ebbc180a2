package sandbox

import (
	"errors"
	"fmt"
	"regexp"
)

// ErrSetup wraps every failure that came before the script started.
var ErrSetup = errors.New("couldn't set up the sandbox")

// ErrForbidden reports that the host does not allow sandboxes. The error's text
// has the command that allows them.
var ErrForbidden = errors.New("this host forbids the namespaces that isolate build steps")

// Who the step is inside, and where it lives.
const (
	UID  = 1000
	GID  = 1000
	User = "build"
	Home = "/home/build"
)

// Config is one script and all that it may see.
type Config struct {
	Script  string   // run by /bin/sh -e -c
	Dir     string   // working folder, inside
	Env     []string // the whole environment; PATH included
	Binds   []Bind   // in order, on top of the system's folders
	Hidden  []string // host folders covered where they would be visible
	Network bool     // share the host's network
	Limits  Limits
}

// Bind shows a host path inside.
type Bind struct {
	Source   string // on the host, absolute
	Target   string // inside, absolute
	Writable bool
}

// Limits are what one step may use. A zero field takes the default.
type Limits struct {
	Processes uint64 // default 4096
	Files     uint64 // open at once in one process, default 65536
	FileBytes uint64 // of one file, default 16 GiB
}

func (l Limits) withDefaults() Limits {
	if l.Processes == 0 {
		l.Processes = 4096
	}
	if l.Files == 0 {
		l.Files = 65536
	}
	if l.FileBytes == 0 {
		l.FileBytes = 16 << 30
	}
	return l
}

// Exit is how the script ended.
type Exit struct {
	Code   int    // 0 to 255; -1 when it ended by a signal
	Signal string // such as SIGSEGV; empty when it ended by itself
}

// OK reports whether the script succeeded.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == "" }

// String says how the script ended, for people.
func (e Exit) String() string {
	if e.Signal != "" {
		return "killed by " + e.Signal
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

var shown = regexp.MustCompile(`^/(usr|bin|sbin|lib[^/]*|nix/store|etc/ssl/certs|etc/pki/tls/certs)(/|$)`)

// Shown reports whether a host path is visible inside every sandbox, in place.
func Shown(path string) bool { return shown.MatchString(path) }
