package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/supervise"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

// Config says who the agent is and whom it works for.
type Config struct {
	Server  string // base URL of the control plane and of its registry
	Token   string
	Host    string // the name that desired states use
	Address string // to listen on where a desired state names only a port; default 127.0.0.1
	DataDir string
	Version string // of the build, for reports

	// TrustKeys are the public keys that may sign promotions. TrustFile names a PEM
	// file of more of them, read at start; it may hold several.
	TrustKeys []evidence.PublicKey
	TrustFile string

	// Isolation of services: Namespaces, which is the default and gives way with a
	// warning where the host forbids it, or None, for code that is trusted with the
	// files of whoever runs the agent.
	Isolation string
	// Hide are folders and files that do not exist for services, besides DataDir.
	// Show are paths in hidden or private folders that do.
	Hide, Show []string
	// Own are files with the agent's own credentials: hidden too, and no secret of
	// a service, whatever its release says.
	Own []string
	// Secrets are folders whose files releases may name as secrets, besides the
	// folder secrets in DataDir. Services don't see the folders themselves.
	Secrets []string

	// TakeOver takes everything over from the agent that works in DataDir, if one
	// does, without a dropped request: that one ends. See handover.
	TakeOver bool
	// StopOnExit ends all instances, after draining, when Run ends. Otherwise they
	// go on and the next Run takes them up.
	StopOnExit bool
	// DrainOnExit is how long open requests get when Run ends; default 10 s.
	DrainOnExit time.Duration
	// TLSCA names the authorities of the server's certificate; empty: the system's.
	// TLSCert and TLSKey are the agent's own, of its host's name: then it needs no
	// Token. All are PEM files.
	TLSCA, TLSCert, TLSKey string
	// InsecureServer allows a token to be sent without TLS to another machine.
	InsecureServer bool

	Logger    *slog.Logger
	Transport http.RoundTripper // to the control plane and the registry; nil: a default
	Proxy     proxy.Options     // bounds; Name and Logger are set per service

	Verifier Verifier // nil: by TrustKeys and TrustFile
	Fetcher  Fetcher  // nil: the control plane's registry
}

// ErrLocked reports that another agent works in the same folder.
var ErrLocked = errors.New("another agent uses this data folder")

// Values of Config.Isolation.
const (
	Namespaces = "namespaces"
	None       = "none"
)

// Folders and files below DataDir.
const (
	lockFile    = "agent.lock"
	journalFile = "journal.jsonl"
	desiredDir  = "desired"
	releasesDir = "releases"
	superviseIn = "instances"
)

// JournalPath returns where the agent of a data folder keeps its journal.
func JournalPath(dataDir string) string { return filepath.Join(dataDir, journalFile) }

func (c *Config) fill() error {
	if c.Address == "" {
		c.Address = "127.0.0.1"
	}
	if c.DrainOnExit <= 0 {
		c.DrainOnExit = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch c.Isolation {
	case "":
		c.Isolation = Namespaces
	case Namespaces, None:
	default:
		return fmt.Errorf("couldn't start the agent: isolation %.80q is neither namespaces nor none", c.Isolation)
	}
	if c.Host == "" || c.DataDir == "" {
		return errors.New("couldn't start the agent: Host and DataDir must be set")
	}
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("couldn't start the agent: server %.200q is not an http or https URL", c.Server)
	}
	if u.Scheme == "http" && !c.InsecureServer && !loopback(u.Hostname()) {
		return fmt.Errorf("couldn't start the agent: %s is another machine, and its token would go there in plain text: use https", c.Server)
	}
	c.Server = strings.TrimRight(c.Server, "/")
	if c.Verifier == nil {
		if c.Verifier, err = trust(c.TrustKeys, c.TrustFile); err != nil {
			return err
		}
	}
	if c.Transport == nil {
		if c.Transport, err = c.transport(); err != nil {
			return err
		}
	}
	if c.Fetcher == nil {
		c.Fetcher = registryFetcher{server: c.Server, token: c.Token, transport: c.Transport}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// agent is the loop's state. Fields below loop's line are owned by its goroutine.
type agent struct {
	cfg   Config
	boot  string
	sup   *supervise.Supervisor
	store *store
	jrnl  *journal.Journal
	http  *http.Client
	ctx   context.Context // of the present life: until the end, or until a handover
	tasks sync.WaitGroup
	doors sync.WaitGroup // what serves listeners, across a handover that fails
	lock  *os.File

	asked  chan *link    // by the next agent
	before chan struct{} // closed when no agent before us has open requests

	calls   chan func() // run by the loop
	changed chan struct{}
	kick    chan struct{} // report soon
	urgent  chan struct{} // report now

	services map[release.Key]*service
	sequence uint64
	contact  contact
	scrapes  map[string]wire.Scrape
	isolated string        // what is said of the isolation of services
	resuming int           // first verifications of the persisted state that are still open
	known    chan struct{} // closed when none is: what runs here was taken up
	held     bool          // nothing is swept yet
	due      bool          // and it is to be then
}

// Run works until ctx is done. It returns an error when it can't start, never
// because of the control plane, and nil after an orderly end.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.fill(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("couldn't make the agent's data folder: %w", err)
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("couldn't find the agent's data folder: %w", err)
	}
	cfg.DataDir = dir
	if err := cfg.secrets(); err != nil {
		return err
	}
	var before *predecessor
	file, err := lock(filepath.Join(dir, lockFile))
	if errors.Is(err, ErrLocked) && cfg.TakeOver {
		if before, err = succeed(dir, cfg.Version); err == nil {
			file = before.lock
		}
	}
	if err != nil {
		return err
	}
	defer file.Close()

	// The reserve of a full disk is made anew, before anything is written.
	makeReserve(dir)
	jrnl, err := journal.Open(JournalPath(dir))
	if err != nil {
		return err
	}
	defer jrnl.Close()
	st, err := openStore(filepath.Join(dir, releasesDir), cfg.Fetcher)
	if err != nil {
		return err
	}
	a := &agent{
		cfg: cfg, boot: newBoot(), store: st, jrnl: jrnl, lock: file,
		http:     &http.Client{Transport: cfg.Transport},
		calls:    make(chan func()),
		changed:  make(chan struct{}, 1),
		kick:     make(chan struct{}, 1),
		urgent:   make(chan struct{}, 1),
		asked:    make(chan *link, 1),
		known:    make(chan struct{}),
		services: make(map[release.Key]*service),
		scrapes:  make(map[string]wire.Scrape),
	}
	a.isolated = a.cfg.isolation()
	err = a.run(ctx, before)
	if err == nil && cfg.StopOnExit && a.lock != nil {
		err = supervise.StopAll(context.WithoutCancel(ctx), filepath.Join(dir, superviseIn), 10*time.Second)
	}
	return err
}

// run lives until the end, or until another agent has taken over.
func (a *agent) run(ctx context.Context, before *predecessor) error {
	if before != nil {
		defer before.close()
		a.boot, a.sequence = before.state.Boot, before.state.Sequence
		a.contact.at.Store(before.state.Contact)
	}
	for first := true; ; first = false {
		next, err := a.live(ctx, first, before)
		if err != nil {
			return err
		}
		if next == nil {
			break
		}
		if a.handOver(ctx, next) {
			a.lock = nil // it is the other's
			break
		}
		before = nil
		a.thaw()
	}
	a.doors.Wait()
	return nil
}

// live works until ctx is done, and then drains; or until another agent wants to
// take over, and then only the proxies go on.
func (a *agent) live(ctx context.Context, first bool, before *predecessor) (next *link, err error) {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.ctx = inner
	a.held, a.due = before != nil || !first, !first
	a.before = make(chan struct{})
	if before != nil {
		a.before = before.gone
	} else {
		close(a.before)
	}
	a.sup, err = supervise.Open(supervise.Options{
		Confine: a.isolated == Namespaces,
		Hide:    slices.Concat(a.cfg.Hide, a.cfg.own(), a.cfg.Secrets),
		Own:     a.cfg.own(),
		Secrets: a.cfg.Secrets,
		Show:    a.cfg.Show,
		Dir:     filepath.Join(a.cfg.DataDir, superviseIn),
		Changed: func() { nudge(a.changed) },
		Drain:   a.drain,
		Logger:  a.cfg.Logger,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	defer func() {
		cancel()
		a.sup.Close()
		a.tasks.Wait()
	}()
	if first {
		if err := a.resume(); err != nil {
			return nil, err
		}
	}
	if before != nil {
		if err := a.takeOver(ctx, before); err != nil {
			return nil, fmt.Errorf("couldn't take over from the agent of this folder: %w", err)
		}
		a.tasks.Go(func() { a.follow(before) })
	}
	if stop, err := a.await(); err != nil {
		a.cfg.Logger.Error("the next agent can't take over without a gap", "error", err)
	} else {
		defer stop()
	}
	if a.held {
		a.tasks.Go(a.release)
	}
	a.tasks.Go(a.stream)
	a.tasks.Go(a.report)
	a.tasks.Go(a.scrape)
	if next := a.loop(ctx); next != nil {
		return next, nil
	}
	a.shutdown()
	return nil, nil
}

// sweep ends the instances that no state has, once nobody needs them any more.
func (a *agent) sweep() {
	select {
	case <-a.known:
	default:
		close(a.known)
	}
	if a.due = a.held; !a.held {
		a.sup.Sweep()
	}
}

// release lets sweep go on when the agent before us has no open request, or had
// time enough for it.
func (a *agent) release() {
	t := time.NewTimer(sweepAfter)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.before:
		if a.due { // those of our own that were stopping, after a handover that failed
			a.pause(a.cfg.DrainOnExit)
		}
	case <-a.ctx.Done():
	}
	a.do(a.ctx, func() {
		if a.held = false; a.due {
			a.sweep()
		}
	})
}

// StopAll ends all instances that an agent of the data folder left running. It
// refuses while an agent is at work there: end that first, it drains.
func StopAll(ctx context.Context, dataDir string) error {
	if _, err := os.Stat(dataDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	file, err := lock(filepath.Join(dataDir, lockFile))
	if err != nil {
		return err
	}
	defer file.Close()
	return supervise.StopAll(ctx, filepath.Join(dataDir, superviseIn), 10*time.Second)
}

// Holder returns the process that works in a data folder; false if none does.
func Holder(dataDir string) (pid int, held bool) {
	f, err := os.OpenFile(filepath.Join(dataDir, lockFile), os.O_RDWR, 0o600)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return 0, false
	}
	pid = notedPID(f)
	return pid, pid > 0
}

// lockIn is how long a lock is waited for whose agent is gone: a process that it was
// starting when it was killed has it until it becomes another program, and who asks
// for the [Holder] for a moment.
const lockIn = 5 * time.Second

// lock makes sure that one agent at a time uses a folder. The kernel takes the
// lock back when the process dies, however it does.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't lock the data folder: %w", err)
	}
	for deadline := time.Now().Add(lockIn); ; time.Sleep(10 * time.Millisecond) {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			writePID(f)
			return f, nil
		}
		pid := notedPID(f)
		gone := pid <= 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		if !gone || time.Now().After(deadline) {
			_ = f.Close()
			who := "another process"
			if pid > 0 {
				who = fmt.Sprintf("process %d", pid)
			}
			return nil, fmt.Errorf("%w: %s holds %s", ErrLocked, who, path)
		}
	}
}

// notedPID is whose lock it is said to be; 0 if that is not said.
func notedPID(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid
}

// writePID says whose lock it is.
func writePID(f *os.File) {
	_ = f.Truncate(0)
	_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
}

func newBoot() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// do has the loop run f and waits for it. It returns false when the agent ends.
func (a *agent) do(ctx context.Context, f func()) bool {
	done := make(chan struct{})
	select {
	case a.calls <- func() { f(); close(done) }:
		<-done
		return true
	case <-ctx.Done():
	case <-a.ctx.Done():
	}
	return false
}

// loop owns the state until ctx is done, or another agent takes over, which is
// returned. It waits for the one before us to have ended, so that what is open
// there is not cut off.
func (a *agent) loop(ctx context.Context) (next *link) {
	retry := time.NewTicker(time.Second) // listeners that failed, contact that was lost
	defer retry.Stop()
	var patience <-chan time.Time
	var before chan struct{}
	a.settleAll()
	for {
		select {
		case <-ctx.Done():
			if next != nil {
				_ = next.conn.Close()
			}
			return nil
		case f := <-a.calls:
			f()
		case <-a.changed:
			a.settleAll()
		case <-retry.C:
			a.settleAll()
		case next = <-a.asked:
			before, patience = a.before, time.After(waitForLast)
		case <-before:
			return next
		case <-patience:
			return next
		}
	}
}

func (a *agent) settleAll() {
	for _, s := range a.services {
		a.settle(s)
	}
}

// drain is called by the supervisor before it ends an instance that has ceased to
// be ready. The loop takes it out of the table first.
func (a *agent) drain(ctx context.Context, i supervise.Instance) {
	var servers []*proxy.Server
	// Even when there is no time to drain it has to leave the table.
	if !a.do(a.ctx, func() {
		a.settleAll()
		for _, s := range a.services {
			servers = append(servers, s.proxy, s.preview)
		}
	}) {
		return
	}
	for _, s := range servers {
		if cut := s.Drained(ctx, proxy.Instance{ID: i.Serial, Addr: i.Addr()}); cut > 0 {
			a.cfg.Logger.Warn("requests were still open when their time to drain was up", "instance", i.ID, "requests", cut)
		}
	}
	select {
	case <-a.before: // whose requests we can't see
	case <-ctx.Done():
	}
}

// shutdown lets open requests end. The loop has ended; its state is ours.
func (a *agent) shutdown() {
	ctx, cancel := context.WithTimeout(a.ctx, a.cfg.DrainOnExit)
	defer cancel()
	var wait sync.WaitGroup
	for _, s := range a.services {
		for _, p := range []*proxy.Server{s.proxy, s.preview} {
			wait.Go(func() {
				if err := p.Shutdown(ctx); err != nil {
					a.cfg.Logger.Warn("couldn't drain", "service", s.key.String(), "error", err)
				}
			})
		}
	}
	wait.Wait()
}
