package supervise

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/agent/confine"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/freeport"
	"github.com/sluicehq/sluice/internal/release"
)

// Spec is what the processes of a release are.
type Spec struct {
	Key     release.Key
	Release release.ID
	Dir     string // the unpacked files: the working directory, shared, read only
	Run     string // for sh -c
	Env     map[string]string
	Secrets map[string]release.SecretRef
	Health  wire.Health
	// NoPort says that it listens nowhere: without a path to ask it is well when it
	// has run for Health.Interval, Health.Healthy times.
	NoPort bool
}

// Options say where a supervisor keeps what it knows and whom it tells.
type Options struct {
	Dir string // instances.json, users.json, logs and temporary folders
	// Changed is called after any change of a status. It must not block.
	Changed func()
	// Drain returns when no request is open on the instance any more, or ctx is
	// done. Before it is called the instance has ceased to be ready.
	Drain  func(ctx context.Context, i Instance)
	Logger *slog.Logger
	// Confine starts each service where Hide, and Dir, do not exist for it, but Show
	// and its own release do; see package confine. What runs already stays as it is.
	Confine    bool
	Hide, Show []string
	// Secrets are the folders that services' secrets may lie in; none of Sluice's
	// own folders and files, Own, is one of those.
	Secrets, Own []string
}

// Instance is one process, or the place of one that is to start again.
type Instance struct {
	ID       string
	Serial   string // differs from process to process
	PID      int
	Port     int
	Ready    bool
	Restarts int
	LastExit string
	LogTail  string // only while not ready
}

// Addr is where the instance listens.
func (i Instance) Addr() string { return fmt.Sprintf("127.0.0.1:%d", i.Port) }

// record is what is kept of a process for the next agent.
type record struct {
	identity
	Key      release.Key `json:"key"`
	Release  release.ID  `json:"release"`
	Slot     int         `json:"slot"`
	Serial   string      `json:"serial"`
	Port     int         `json:"port"`
	Ready    bool        `json:"ready"`
	Restarts int         `json:"restarts"`
}

func (r record) name() string { return recordName(r.Key, r.Release, r.Slot) }

func recordName(k release.Key, id release.ID, slot int) string {
	return fmt.Sprintf("%s/%s-%d", k, id.Short(), slot)
}

// file is instances.json.
type file struct {
	Version   int               `json:"version"`
	Mark      string            `json:"mark"`
	Instances map[string]record `json:"instances"`
}

// Supervisor owns the processes of one folder.
type Supervisor struct {
	opt   Options
	probe prober
	users *confine.Users

	ctx    context.Context // done: leave all processes as they are
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex
	file   file
	adopt  map[string]record      // of an earlier agent, not yet asked for
	ports  map[int]*freeport.Port // that instances were given
	broken bool                   // the record could not be written
}

// Open reads the record of an earlier supervisor. What still runs waits to be
// asked for by [Supervisor.Group], or is killed by [Supervisor.Sweep].
func Open(o Options) (*Supervisor, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Drain == nil {
		o.Drain = func(context.Context, Instance) {}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the supervisor's folder: %w", err)
	}
	o.Hide = append([]string{o.Dir}, o.Hide...)
	f, err := readFile(o.Dir)
	if err != nil {
		return nil, err
	}
	users, err := confine.OpenUsers(filepath.Join(o.Dir, "users.json"))
	if err != nil {
		return nil, err
	}
	s := &Supervisor{opt: o, probe: newProber(), users: users, file: f, adopt: make(map[string]record), ports: make(map[int]*freeport.Port)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for name, r := range f.Instances {
		if r.alive() {
			s.adopt[name] = r
		} else {
			killOrphans(r)
			delete(f.Instances, name)
		}
	}
	if err := s.save(); err != nil {
		return nil, err
	}
	s.keepUsers()
	s.wait.Go(s.repair)
	return s, nil
}

// keepUsers has services that run keep their user, before a new one asks for it:
// they may have been started when users were not recorded.
func (s *Supervisor) keepUsers() {
	if !s.opt.Confine {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.adopt)) {
		if _, _, err := s.users.Of(s.adopt[name].Key.String()); err != nil {
			s.opt.Logger.Error("couldn't record the user of a service that runs", "instance", name, "error", err)
		}
	}
}

// killOrphans ends what a dead leader left in its session. In another boot the
// session is another's.
func killOrphans(r record) {
	if r.Boot == bootID() {
		eachProcess(func(pid int) {
			st, err := readStat(pid)
			if err == nil && st.session == r.PID && st.start >= r.Start && pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
	}
}

func path(dir string) string { return filepath.Join(dir, "instances.json") }

func readFile(dir string) (file, error) {
	f := file{Version: 1, Instances: make(map[string]record)}
	b, err := os.ReadFile(path(dir))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return f, fmt.Errorf("couldn't read the record of instances: %w", err)
	default:
		if err := json.Unmarshal(b, &f); err != nil {
			return f, fmt.Errorf("couldn't read the record of instances %s: %w", path(dir), err)
		}
		if f.Version != 1 {
			return f, fmt.Errorf("couldn't read the record of instances %s: version %d is newer than this build", path(dir), f.Version)
		}
	}
	if f.Instances == nil {
		f.Instances = make(map[string]record)
	}
	if f.Mark == "" {
		b := make([]byte, 12)
		_, _ = rand.Read(b)
		f.Mark = hex.EncodeToString(b)
	}
	return f, nil
}

// markLine stands in the environment of each process of the folder.
func (f file) markLine() string { return "SLUICE_AGENT_MARK=" + f.Mark }

// save writes the record. It is not synced: a record matters only as long as its
// processes, and those don't outlive the machine either. s.mu is held, or s is new.
func (s *Supervisor) save() error {
	b, err := json.Marshal(s.file)
	if err == nil {
		tmp := path(s.opt.Dir) + ".new"
		if err = os.WriteFile(tmp, b, 0o600); err == nil {
			err = os.Rename(tmp, path(s.opt.Dir))
		}
	}
	s.broken = err != nil
	if err != nil {
		return fmt.Errorf("couldn't write the record of instances: %w", err)
	}
	return nil
}

// note changes the record. When it can't be written the processes go on; they
// carry the mark, and the write is tried again with the next change and each
// second.
func (s *Supervisor) note(r record, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gone {
		delete(s.file.Instances, r.name())
		s.letGo(r.Port)
	} else {
		s.file.Instances[r.name()] = r
	}
	if err := s.save(); err != nil {
		s.opt.Logger.Error("couldn't record an instance", "instance", r.name(), "error", err)
	}
}

// inherited hands the process of an earlier agent to its slot.
func (s *Supervisor) inherited(name string) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.adopt[name]
	delete(s.adopt, name)
	return r, ok
}

// Left counts the processes of an earlier agent that nobody has asked for yet.
func (s *Supervisor) Left(key release.Key, id release.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.adopt {
		if r.Key == key && r.Release == id {
			n++
		}
	}
	return n
}

// Sweep kills the processes of an earlier agent that nobody asked for since Open.
func (s *Supervisor) Sweep() {
	s.mu.Lock()
	left := s.adopt
	s.adopt = make(map[string]record)
	for name := range left {
		delete(s.file.Instances, name)
	}
	_ = s.save()
	known := make(map[int]bool)
	for _, r := range s.file.Instances {
		known[r.PID] = true
	}
	mark := s.file.markLine()
	s.mu.Unlock()
	for name, r := range left {
		s.opt.Logger.Info("ending an instance that no desired state has", "instance", name, "pid", r.PID)
		if r.alive() {
			killSession(r.PID)
		}
	}
	// A start that died before it was recorded. No start of ours can be under way
	// unrecorded here: see slot.start, which holds mu from start to record.
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.file.Instances {
		known[r.PID] = true
	}
	marked(mark, func(pid int) {
		if st, err := readStat(pid); err == nil && !known[st.session] && !st.dead() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// Close ends all supervision and leaves the processes running.
func (s *Supervisor) Close() {
	s.cancel()
	s.wait.Wait()
	for port := range s.ports {
		s.letGo(port)
	}
}

// StopAll ends all processes that a supervisor recorded in dir, while no one
// supervises them: SIGTERM, then after grace SIGKILL.
func StopAll(ctx context.Context, dir string, grace time.Duration) error {
	f, err := readFile(dir)
	if err != nil {
		return err
	}
	var left []record
	for _, r := range f.Instances {
		if r.alive() {
			_ = syscall.Kill(-r.PID, syscall.SIGTERM)
			left = append(left, r)
		} else {
			killOrphans(r)
		}
	}
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for expired := false; len(left) > 0 && !expired; {
		select {
		case <-poll.C:
		case <-deadline.C:
			expired = true
		case <-ctx.Done():
			expired = true
		}
		var still []record
		for _, r := range left {
			if r.alive() {
				still = append(still, r)
			} else {
				killOrphans(r)
			}
		}
		left = still
	}
	for _, r := range left {
		killSession(r.PID)
	}
	marked(f.markLine(), func(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) })
	if err := os.Remove(path(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("couldn't remove the record of instances: %w", err)
	}
	return nil
}

// repair writes the record again when that failed.
func (s *Supervisor) repair() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		s.mu.Lock()
		if s.broken {
			_ = s.save()
		}
		s.mu.Unlock()
	}
}

// Services get ports below those that the kernel gives to outgoing connections:
// else a busy host would take a service's port between our look and its listen.
const (
	firstPort = 20000
	lastPort  = 32000
)

// freePort finds a port for an instance, which is kept for it until it has ended. s.mu
// is held.
func (s *Supervisor) freePort() (int, error) {
	taken := make(map[int]bool)
	for _, r := range s.file.Instances {
		taken[r.Port] = true
	}
	p, err := freeport.Find(firstPort, lastPort, func(port int) bool { return taken[port] })
	if err != nil {
		return 0, err
	}
	s.ports[p.Number] = p
	return p.Number, nil
}

// letGo gives back the port of an instance that has ended. s.mu is held.
func (s *Supervisor) letGo(port int) {
	s.ports[port].Close()
	delete(s.ports, port)
}

// safeName makes a key usable as a file's name.
func safeName(name string) string { return strings.ReplaceAll(name, "/", ".") }
