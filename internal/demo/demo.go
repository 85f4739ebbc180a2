package demo

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/freeport"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/server"
)

// Options are what `sluice demo` can be told.
type Options struct {
	Addr    string  // of the web page; port 0 picks a free one
	BadRate float64 // percent of customers that v3 fails, see [MaxBadRate]
	Once    bool    // end when the story is told
	Version string  // of this program

	Story   io.Writer // where it is told
	Moving  bool      // Story is a terminal: its last line may move
	Colours bool

	// Janitor is the command line, without the program, that calls [Sweep] with
	// the folder as its last argument.
	Janitor []string
	// Told, where set, gets the document when the story is told, before the demo
	// goes on to stay up.
	Told func(Document) error
}

// MaxBadRate bounds Options.BadRate. With more, v3's own tests would find it.
const MaxBadRate = 99

// story is one demo under way.
type story struct {
	Options
	account
	folder     string
	repository string
	ports      ports
	versions   []version
	runs       map[string]string // by version
	stable     string            // version that has production's traffic
	server     server.Running
	api        *api
	load       *load
	doc        Document
	kept       []*freeport.Port // that no other demo takes
}

// Run tells the story, and returns when it is over: with Once after its end, else
// when ctx ends. Whatever it returns, nothing of it is left on the machine.
func Run(ctx context.Context, o Options) (err error) {
	if err := needs(); err != nil {
		return err
	}
	s := &story{Options: o, runs: map[string]string{}, account: account{w: o.Story, moving: o.Moving, colours: o.Colours, began: time.Now()}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if parentGone(ctx.Done()) {
			cancel()
		}
	}()
	defer func() { cancel(); <-watched }()

	if s.folder, err = newFolder(); err != nil {
		return err
	}
	self, err := program()
	if err != nil {
		return err
	}
	// The janitor is there before the first file is.
	j, err := hire(self, o.Janitor, s.folder, o.Story)
	if err != nil {
		return err
	}
	defer func() {
		if e := j.tidy(); e != nil {
			err = errors.Join(err, e)
			return
		}
		s.print("")
		s.print("Tidied up: no process, port or file is left.")
	}()
	if err := os.Mkdir(s.folder, 0o700); err != nil {
		return fmt.Errorf("couldn't make a temporary folder: %w", err)
	}
	return s.withServer(ctx, self, s.tell)
}

// needs says what this machine lacks for a demo, before anything of it is made.
func needs() error {
	for _, tool := range []struct{ name, why, from string }{
		{"git", "its example is a Git repository", "https://git-scm.com/downloads, or apt-get install git"},
		{"go", "its example is a Go service, which is built from its source", "https://go.dev/dl"},
	} {
		if _, err := exec.LookPath(tool.name); err != nil {
			return fmt.Errorf("the demo needs %s, as %s, and no folder of PATH has it; install it (%s) or add its folder to PATH, then try again", tool.name, tool.why, tool.from)
		}
	}
	return nil
}

// program is the file of this program, to be started again.
func program() (string, error) {
	p, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("couldn't find this program: %w", err)
	}
	return p, nil
}

// command is what a user types for this program.
func command() string {
	self, err := program()
	if found, e := exec.LookPath("sluice"); err != nil || e == nil && found == self {
		return "sluice"
	}
	return self
}

// newFolder picks a name for the demo's folder that nobody else has.
func newFolder() (string, error) {
	tmp, err := filepath.EvalSymlinks(os.TempDir())
	if err == nil {
		tmp, err = filepath.Abs(tmp)
	}
	if err != nil {
		return "", fmt.Errorf("couldn't find the folder for temporary files: %w", err)
	}
	return filepath.Join(tmp, "sluice-demo-"+strings.ToLower(crand.Text()[:12])), nil
}

// withServer runs f while a server runs.
func (s *story) withServer(ctx context.Context, self string, f func(context.Context) error) error {
	log, err := os.OpenFile(filepath.Join(s.folder, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("couldn't write a log: %w", err)
	}
	defer log.Close()
	o := server.Options{
		Dir: s.folder, Addr: s.Addr, Program: self, Version: s.Version, Isolation: runner.Namespaces,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	s.print("Sluice: one service, three versions, real traffic. It takes about a minute.")
	s.act("A server, an agent and a Git repository")
	if err := runner.Probe(ctx); errors.Is(err, runner.ErrForbidden) {
		o.Isolation = runner.None
		s.say("This machine forbids namespaces: build steps run without isolation, as all of this is our own code.")
	} else if err != nil {
		return fmt.Errorf("couldn't find out whether build steps can be isolated: %w", err)
	}
	ready := make(chan server.Running, 1)
	o.Ready = func(r server.Running) { ready <- r }
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(serving, o) }()
	select {
	case s.server = <-ready:
	case err := <-ended:
		return errors.Join(err, ctx.Err())
	}
	// The server is needed to the end: without it f is over.
	telling, quit := context.WithCancelCause(ctx)
	defer quit(nil)
	told := make(chan error, 1)
	go func() { told <- f(telling) }()
	select {
	case err := <-told:
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrIncomplete) {
			s.confess(log.Name())
		}
		stop()
		if e := <-ended; e != nil && !errors.Is(e, context.Canceled) {
			err = errors.Join(err, fmt.Errorf("the server did not end well: %w", e))
		}
		return err
	case err := <-ended:
		quit(err)
		<-told
		return errors.Join(ctx.Err(), err)
	}
}

// confess shows the end of the server's log, which will be removed.
func (s *story) confess(path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, l := range lines[max(0, len(lines)-10):] {
		if l != "" {
			s.print(indent + "server: " + l)
		}
	}
}

func (s *story) address() string { return "127.0.0.1:" + strconv.Itoa(s.ports.production) }

// prepare makes the repository.
func (s *story) prepare(ctx context.Context) (err error) {
	if s.ports.dev, err = s.freePort(); err != nil {
		return err
	}
	if s.ports.production, err = s.freePort(); err != nil {
		return err
	}
	s.repository = filepath.Join(s.folder, "shop")
	if s.versions, err = makeRepository(ctx, s.repository, s.ports, s.BadRate); err != nil {
		return err
	}
	s.say("%s — open it now:", s.server.URL)
	s.print(indent + s.paint(bold, s.login()))
	s.aside("Everything lives in %s and goes when this ends.", s.folder)
	s.say("The service is examples/shop, with a commit for each version:")
	for _, v := range s.versions[:slow] {
		s.print(fmt.Sprintf("%s%s  %s  %s", indent, v.Name, s.paint(dim, v.Commit[:8]), v.Subject))
	}
	s.aside("In its sluice.yaml the ports 9001 (dev) and 9002 (production) are replaced by the free ports %d and %d.", s.ports.dev, s.ports.production)
	return nil
}

// loginLife is how long a log-in link works.
const loginLife = 24 * time.Hour

func (s *story) login() string {
	return s.server.URL + "/login?code=" + s.server.Access.Code(time.Now(), loginLife)
}

// Ports are taken from below those that agents give to instances, and from which
// the system serves outgoing connections: a whole build lies between now and the
// agent's listening, in which none of them may take one.
const (
	lowestPort  = 16000
	highestPort = 20000
)

// freePort finds a port that nobody else is given until this process has ended.
func (s *story) freePort() (int, error) {
	p, err := freeport.Find(lowestPort, highestPort, func(int) bool { return false })
	if err != nil {
		return 0, err
	}
	s.kept = append(s.kept, p)
	return p.Number, nil
}
