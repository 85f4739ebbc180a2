package demo

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/server"
	"github.com/sluicehq/sluice/internal/verdict"
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

// Document is the story in numbers: what `sluice demo --json` prints.
type Document struct {
	Releases        []Release `json:"releases"`
	ClientRequests  int64     `json:"clientRequests"`  // that customers sent
	ProxyRequests   int64     `json:"proxyRequests"`   // that the proxy counted
	DroppedRequests int64     `json:"droppedRequests"` // that nobody answered
	Evidence        Evidence  `json:"evidence"`
}

// Release is one version's part. What there was none of is null.
type Release struct {
	Version          string          `json:"version"`
	Release          release.ID      `json:"release"`
	Digest           release.Digest  `json:"digest"` // of its artifact
	State            run.Outcome     `json:"state"`
	Verdict          verdict.Verdict `json:"verdict"`          // in production; "": nothing to compare with
	RequestsToDetect *int64          `json:"requestsToDetect"` // canary requests from first exposure to the fail verdict
	DetectSeconds    *float64        `json:"detectSeconds"`    // from first exposure to the fail verdict
	RollbackMillis   *int64          `json:"rollbackMillis"`   // verdict committed to weight read back as 0
	BadResponses     int64           `json:"badResponses"`     // that customers got
	GoodResponses    int64           `json:"goodResponses"`
}

// Evidence is what the verification of the exported bundle came to.
type Evidence struct {
	Statements int  `json:"statements"`
	Verified   bool `json:"verified"` // all of them, and the log that holds them
}

// Missing lists what did not happen that the demo is there to show; nothing if
// all of it did.
func (d Document) Missing() []string {
	var out []string
	want := func(ok bool, format string, args ...any) {
		if !ok {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	if len(d.Releases) != 3 {
		return []string{fmt.Sprintf("%d of 3 versions were shipped", len(d.Releases))}
	}
	v1, v2, v3 := d.Releases[0], d.Releases[1], d.Releases[2]
	want(v1.State == run.Succeeded, "v1 did not succeed: it is %s", v1.State)
	want(v2.State == run.Succeeded && v2.Verdict == verdict.Pass, "v2 did not succeed on evidence: it is %s with verdict %q", v2.State, v2.Verdict)
	want(v3.State == run.RolledBack && v3.Verdict == verdict.Fail, "v3 was not taken back on evidence: it is %s with verdict %q", v3.State, v3.Verdict)
	want(d.DroppedRequests == 0, "%s requests were dropped", number(d.DroppedRequests))
	want(d.ClientRequests == d.ProxyRequests, "customers sent %s requests, and the proxy counted %s", number(d.ClientRequests), number(d.ProxyRequests))
	want(d.Evidence.Verified, "the evidence does not verify")
	return out
}

// ErrIncomplete reports a story that was told to its end, but in which something
// did not happen.
var ErrIncomplete = errors.New("the demo did not go as it should")

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

func (s *story) tell(ctx context.Context) (err error) {
	s.api = newAPI(s.server.URL, s.server.Token)
	defer s.api.close()
	defer s.settle()
	defer func() {
		if s.load != nil {
			s.load.end()
		}
	}()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.first(ctx); err != nil {
		return err
	}
	s.act("Customers come")
	s.load = startLoad(ctx, s.address())
	s.say("%d requests a second, prices and orders, from now on without a break. Each one is counted here by its answer, and by the proxy.", loadRate)
	if err := s.better(ctx); err != nil {
		return err
	}
	if err := s.bad(ctx); err != nil {
		return err
	}
	if err := s.count(ctx); err != nil {
		return err
	}
	if err := s.prove(ctx); err != nil {
		return err
	}
	return s.close(ctx)
}

func (s *story) address() string { return "127.0.0.1:" + strconv.Itoa(s.ports.production) }

// prepare makes the repository.
func (s *story) prepare(ctx context.Context) (err error) {
	if s.ports.dev, err = freePort(); err != nil {
		return err
	}
	if s.ports.production, err = freePort(s.ports.dev); err != nil {
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

// Ports are taken from below those that outgoing connections get, so that none
// takes one between now and the agent's listening.
const (
	lowestPort  = 20000
	highestPort = 32000
)

// freePort finds a port of the loopback address that nobody listens on.
func freePort(not ...int) (int, error) {
	for range 1000 {
		p := lowestPort + rand.IntN(highestPort-lowestPort)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p))
		if err != nil || len(not) > 0 && p == not[0] {
			if err == nil {
				_ = l.Close()
			}
			continue
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("couldn't try a port: %w", err)
		}
		return p, nil
	}
	return 0, fmt.Errorf("couldn't find a free port from %d to %d", lowestPort, highestPort)
}

// push starts the run of a version, unless it was started before.
func (s *story) push(ctx context.Context, v version) (id string, err error) {
	if id = s.runs[v.Name]; id != "" {
		return id, nil
	}
	if id, err = s.api.start(ctx, s.repository, v.Commit); err == nil {
		s.runs[v.Name] = id
	}
	return id, err
}

// ship runs one version to its end, and notes what came of it. Exposed, where
// set, is called when the version has its first traffic in production.
func (s *story) ship(ctx context.Context, v version, exposed func() error) (control.Status, error) {
	id, err := s.push(ctx, v)
	if err != nil {
		return control.Status{}, err
	}
	var failed error
	told := map[string]bool{}
	once := func(key string, f func()) {
		if !told[key] {
			told[key] = true
			f()
		}
	}
	show := func(st control.Status) {
		if st.Release == "" {
			if len(st.Steps) > 0 {
				s.move("building", building(st, time.Now()))
			}
			return
		}
		once("built", func() {
			s.say("%s", built(st))
			s.aside("release %s, artifact %s", st.Release.Short(), st.Digest.Short())
		})
		dev, production := environment(st, "dev"), environment(st, "production")
		if dev.State == run.Succeeded {
			once("dev", func() { s.say("dev: all at once; its smoke check was answered.") })
		}
		if production.Signals != nil && exposed != nil {
			once("exposed", func() { failed = exposed() })
		}
		if production.Signals != nil && s.load != nil && !ended(st.State) {
			s.move(fmt.Sprintf("%v %v", production.Weight, production.Verdict), traffic(v.Name, s.stable, production))
		}
	}
	st, err := s.api.follow(ctx, id, show)
	if err != nil {
		return st, fmt.Errorf("couldn't follow the release of %s: %w", v.Name, err)
	}
	if failed != nil {
		return st, failed
	}
	if !ended(st.State) {
		s.say("%s waits for a person: %s. Nobody is there, so it is taken back.", v.Name, strings.TrimSuffix(held(st), "."))
		if err := s.api.abort(ctx, id, "the demo has no person to ask"); err != nil {
			return st, err
		}
		if st, err = s.api.follow(ctx, id, show); err != nil {
			return st, fmt.Errorf("couldn't follow the rollback of %s: %w", v.Name, err)
		}
	}
	s.note(v, st)
	if st.State == run.Succeeded {
		s.stable = v.Name
	}
	return st, nil
}

// note takes a release into the document.
func (s *story) note(v version, st control.Status) {
	production := environment(st, "production")
	r := Release{Version: v.Name, Release: st.Release, Digest: st.Digest, State: st.State, Verdict: production.Verdict}
	if production.Verdict == verdict.Fail {
		r.DetectSeconds, r.RollbackMillis = production.DetectSeconds, production.RollbackMillis
		if g := production.Signals; g != nil {
			r.RequestsToDetect = &g.RequestsToDetect
		}
	}
	s.doc.Releases = append(s.doc.Releases, r)
}

func (s *story) first(ctx context.Context) error {
	s.act("v1, the first release")
	s.aside("Builds from nothing: the Go standard library is compiled once, too.")
	st, err := s.ship(ctx, s.versions[good], nil)
	if err != nil {
		return err
	}
	if st.State != run.Succeeded {
		return fmt.Errorf("the first release is %s: %s", st.State, st.Reason)
	}
	s.say("production: the same bytes, promoted by digest. There is nothing yet to compare with or to go back to, so v1 takes all traffic at once.")
	return nil
}

func (s *story) better(ctx context.Context) error {
	s.act("v2, a good change: " + s.versions[better].Subject)
	st, err := s.ship(ctx, s.versions[better], func() error {
		s.say("Its first customers. Meanwhile v3 is pushed, too: it builds, passes dev and waits, as one rollout at a time is live in an environment.")
		_, err := s.push(ctx, s.versions[bad])
		return err
	})
	if err != nil {
		return err
	}
	s.outcome(st)
	return nil
}

func (s *story) bad(ctx context.Context) error {
	s.act("v3, a bad change: " + s.versions[bad].Subject)
	if s.BadRate > 0 {
		s.say("Its tests pass, and so does dev. But %s of 100 customers get an error.", strconv.FormatFloat(s.BadRate, 'f', -1, 64))
	} else {
		s.say("This time without its flaw: --bad-rate is 0, so nothing is to be found.")
	}
	st, err := s.ship(ctx, s.versions[bad], nil)
	if err != nil {
		return err
	}
	s.outcome(st)
	return nil
}

// outcome tells how a canary ended.
func (s *story) outcome(st control.Status) {
	p := environment(st, "production")
	said := false
	for _, m := range p.Metrics {
		if m.Sentence == "" {
			continue
		}
		said = true
		colour := ""
		switch m.Verdict {
		case verdict.Pass:
			colour = green
		case verdict.Fail:
			colour = red
		}
		s.verdict(colour, string(m.Verdict), m.Sentence)
	}
	if !said && st.Reason != "" {
		s.say("%s", st.Reason)
	}
	r := s.doc.Releases[len(s.doc.Releases)-1]
	switch {
	case r.State == run.Succeeded:
		s.say("%s has all traffic. What it replaced stays warm, for a fast way back.", r.Version)
	case r.RequestsToDetect != nil && r.RollbackMillis != nil && r.DetectSeconds != nil:
		s.say("Found after %s canary requests, %.1f s after the first. %d ms after the verdict no request went to %s any more; nobody was asked, nobody was needed.",
			number(*r.RequestsToDetect), *r.DetectSeconds, *r.RollbackMillis, r.Version)
	default:
		s.say("%s is %s: %s", r.Version, r.State, st.Reason)
	}
}

// agree bounds how long the proxy's last report is waited for.
const agree = 5 * time.Second

// count ends the load and compares the client's count with the proxy's.
func (s *story) count(ctx context.Context) error {
	s.act("What customers saw")
	c := s.load.end()
	s.load = nil
	d := &s.doc
	d.ClientRequests, d.DroppedRequests = c.Requests(), c.Dropped
	for i := range d.Releases {
		a := c.Versions[d.Releases[i].Version]
		d.Releases[i].GoodResponses, d.Releases[i].BadResponses = a.Good, a.Bad
	}
	for deadline := time.Now().Add(agree); ; {
		n, err := s.api.proxied(ctx, "production")
		if err != nil {
			return fmt.Errorf("couldn't read what the proxy counted: %w", err)
		}
		d.ProxyRequests = n
		if n == d.ClientRequests || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statusEvery):
		}
	}
	bad := int64(0)
	for _, r := range d.Releases {
		bad += r.BadResponses
	}
	s.say("They sent %s requests, and the proxy counted %s. Dropped: %s. Answered with an error: %s (%.2f %%).",
		number(d.ClientRequests), number(d.ProxyRequests), number(d.DroppedRequests), number(bad), 100*float64(bad)/float64(max(1, d.ClientRequests)))
	return nil
}

// prove exports the evidence and verifies it from the file alone.
func (s *story) prove(ctx context.Context) error {
	s.act("Evidence")
	path := filepath.Join(s.folder, "evidence.json")
	if err := s.api.export(ctx, path); err != nil {
		return fmt.Errorf("couldn't export the evidence: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("couldn't read the evidence: %w", err)
	}
	defer f.Close()
	r, err := evidence.Verify(f, evidence.VerifyOptions{Project: project, Whole: true})
	if err != nil {
		return err
	}
	s.doc.Evidence = Evidence{Statements: r.Statements, Verified: r.OK && r.Verified == r.Statements && r.Statements > 0}
	if s.doc.Evidence.Verified {
		s.verdict(green, "verified", fmt.Sprintf("%s signed statements, offline, from the exported file alone; it proves to be %s. Among them: builds, tests, gates, promotions, every step of every rollout, verdicts with their numbers, the rollback.", number(int64(r.Statements)), r.Completeness))
		return nil
	}
	s.verdict(red, "not verified", fmt.Sprintf("%d of %d statements verify.", r.Verified, r.Statements))
	for _, x := range r.Findings[:min(5, len(r.Findings))] {
		s.say("%s: %s", x.Kind, x.Message)
	}
	return nil
}

// close sums up, and stays.
func (s *story) close(ctx context.Context) error {
	s.table(s.doc)
	missing := s.doc.Missing()
	s.print("")
	if len(missing) == 0 {
		s.print(indent + s.paint(green, "All of it happened") + fmt.Sprintf(", in %.0f s.", time.Since(s.began).Seconds()))
	}
	for _, m := range missing {
		s.verdict(red, "Not as it should be", m+".")
	}
	if s.Told != nil {
		if err := s.Told(s.doc); err != nil {
			return err
		}
	}
	if !s.Once {
		s.load = startLoad(ctx, s.address())
		s.print("")
		s.print(indent + "The customers go on, and so does the web page:")
		s.print(indent + s.paint(bold, s.login()))
		s.print(indent + "Ship v4, which is slow, and watch it:")
		s.print(indent + s.paint(bold, fmt.Sprintf("%s run --data %s \\", command(), s.folder)))
		s.print(indent + s.paint(bold, fmt.Sprintf("  --repo %s --ref %s", s.repository, SlowBranch)))
		s.print(indent + "Ctrl-C ends all of it.")
		<-ctx.Done()
		return nil
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", ErrIncomplete, strings.Join(missing, "; "))
	}
	return nil
}
