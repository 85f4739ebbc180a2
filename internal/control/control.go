package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/check"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/store"
)

// Steered is a target whose traffic Sluice moves: agents' hosts today.
type Steered interface {
	// Apply brings the target to doc, or begins to: what it came to is observed
	// later. It may be repeated, also late and by a worker that lost its lease;
	// false says that a higher generation was applied before, and nothing changed.
	Apply(ctx context.Context, doc wire.Desired) (bool, error)
}

// Driven is a target that moves traffic by itself and reports its own steps
// (ECS native deployments, instance refresh, Argo Rollouts, …); see package
// rollout, "Driven targets". No adapter exists in this build, and no definition
// reaches it. Handles are kept in the rollout's row, so that another control plane
// finds the same deployment again. The next call is made only when the one before
// was answered or can't land any more. Errors are to be tried again, unless they
// are [ErrTargetRefused] or [ErrOutcomeUnknown].
type Driven interface {
	// Start begins a deployment of doc by plan. It may be repeated: one with the
	// same key is the same deployment.
	Start(ctx context.Context, plan rollout.Plan, doc wire.Desired, key string) (handle string, err error)
	// Observe reads what the target does, all of Observation but its Generation.
	// Without a handle it looks for the deployment of key, whose Start may have
	// happened although nobody heard of it.
	Observe(ctx context.Context, handle, key string) (rollout.Observation, error)
	// Continue leads it on if it waits at the weight from, in basis points; it does
	// nothing where it stands elsewhere.
	Continue(ctx context.Context, handle string, from int) error
	// Stop lets no user more come to the candidate; what has stopped stays so.
	Stop(ctx context.Context, handle string) error
	// Revert begins to give all users back to the previous release.
	Revert(ctx context.Context, handle string) error
}

// What a driven target's errors can be beside a mere failure. A refusal fails the
// rollout; an unknown outcome is observed before anything is repeated, and is
// never a verdict.
var (
	ErrTargetRefused  = errors.New("the target refused")
	ErrOutcomeUnknown = errors.New("the outcome is unknown")
)

// Metrics answers queries for custom metrics, at the newest sample's time. An
// error says in words that people understand why there is no answer.
type Metrics interface {
	Ask(ctx context.Context, q Question) ([]Sample, error)
}

// Blobs keeps bulky content, such as logs, by its digest.
type Blobs interface {
	Put(ctx context.Context, r io.Reader) (release.Digest, int64, error)
	Open(ctx context.Context, d release.Digest) (io.ReadCloser, error)
}

// Artifacts keeps what was built.
type Artifacts interface {
	// Publish packs the tree at path inside dir and keeps it.
	Publish(ctx context.Context, project, service, name, dir, path string, tags ...string) (release.Artifact, error)
	// PublishRelease keeps a manifest, whose digest is the release's id.
	PublishRelease(ctx context.Context, m release.Manifest) (release.ID, error)
	// Verify reads artifacts back, every byte. artifact.ErrAltered and
	// artifact.ErrNotFound are findings about them; other errors are not.
	Verify(ctx context.Context, project, service string, artifacts []release.Artifact) error
}

// Config is what a control plane is made of.
type Config struct {
	Store     *store.Store
	Blobs     Blobs
	Keys      *evidence.KeyRing
	Artifacts Artifacts
	Target    Steered
	Metrics   Metrics
	Dir       string // for checkouts, caches and live logs
	Log       *slog.Logger
	LeaseTTL  time.Duration    // default 5 s
	Builds    int              // at once, default 2
	Isolation runner.Isolation // of build steps; default runner.Namespaces
	Checks    Checks           // default: package check, isolated as build steps are
	// Secret returns the value of a reference in a build step's environment.
	Secret func(ctx context.Context, ref string) (string, error)
	// Redact returns what instances on this machine are given for a reference, so that
	// no output of checks is kept with it; default: Secret.
	Redact func(ctx context.Context, ref string) (string, error)
	// Full, if set, is told when the store had no space for a lease or a turn,
	// and may make some: it is tried again.
	Full func()
	// ParseOptions let definitions be checked for what only adapters know.
	ParseOptions []pipeline.Option
}

// storage is what the loops need of [store.Store], which alone implements it
// outside of tests: those let it fail before and after any commit.
type storage interface {
	View(ctx context.Context, f func(tx *store.Tx) error) error
	Update(ctx context.Context, f func(tx *store.Tx) error) error
	Subscribe() (topics <-chan string, end func())
	Acquire(ctx context.Context, table, owner string, ttl time.Duration, n int) ([]store.Lease, error)
	Extend(ctx context.Context, l store.Lease, ttl time.Duration) error
	Release(ctx context.Context, l store.Lease) error
	NextWake(ctx context.Context, table string) (time.Duration, bool, error)
}

var _ storage = (*store.Store)(nil)

// Controller is one control plane. Any number of them can share a store.
type Controller struct {
	store     storage
	blobs     Blobs
	keys      *evidence.KeyRing
	trusted   *evidence.KeySet
	artifacts Artifacts
	checks    Checks
	target    Steered
	metrics   Metrics
	dir       string
	log       *slog.Logger
	leaseTTL  time.Duration
	owner     string
	isolation runner.Isolation
	secret    func(ctx context.Context, ref string) (string, error)
	redact    func(ctx context.Context, ref string) (string, error)
	addresses addresses
	parse     []pipeline.Option
	full      func()
	probed    atomic.Bool

	ctx        context.Context // of what runs beside the loops
	stop       context.CancelFunc
	background sync.WaitGroup
	checking   sync.Map // checks that run here
	proven     proven
	builds     chan struct{}
	logs       logs
	forecasts  forecasts
	reports    reports
}

// New returns a control plane that does nothing until [Controller.Run].
func New(cfg Config) (*Controller, error) {
	trusted, err := evidence.NewKeySet(cfg.Keys.Public()...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the signing keys: %w", err)
	}
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = 5 * time.Second
	}
	if cfg.Isolation == "" {
		cfg.Isolation = runner.Namespaces
	}
	if cfg.Builds == 0 {
		cfg.Builds = 2
	}
	if cfg.Full == nil {
		cfg.Full = func() {}
	}
	if cfg.Redact == nil {
		cfg.Redact = cfg.Secret
	}
	if cfg.Checks == nil {
		cfg.Checks = check.New(check.Config{Dir: filepath.Join(cfg.Dir, "checks"), Hidden: []string{cfg.Dir}, Isolation: cfg.Isolation})
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Controller{
		checks: cfg.Checks,
		full:   cfg.Full,
		store:  cfg.Store, blobs: cfg.Blobs, keys: cfg.Keys, trusted: trusted, artifacts: cfg.Artifacts,
		target: cfg.Target, metrics: cfg.Metrics, dir: cfg.Dir, log: cfg.Log, leaseTTL: cfg.LeaseTTL, owner: newOwner(),
		ctx: ctx, stop: stop, builds: make(chan struct{}, cfg.Builds), logs: logs{dir: cfg.Dir},
		isolation: cfg.Isolation, secret: cfg.Secret, redact: cfg.Redact, parse: cfg.ParseOptions,
	}, nil
}

// maxRows bounds how many rows of a kind are taken further at once.
const maxRows = 16

// Run takes rows further until ctx ends, and returns when everything that it
// started has stopped. What was under way goes on from the store: a shutdown is
// never a verdict.
func (c *Controller) Run(ctx context.Context) error {
	defer c.background.Wait()
	defer c.stop()
	if s, ok := c.checks.(interface{ Sweep() error }); ok {
		if err := s.Sweep(); err != nil { // what a process that died left; it only takes space
			c.log.Warn("couldn't remove what checks left behind", "error", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.work(ctx, "runs", maxRows, c.stepRun) })
	g.Go(func() error { return c.work(ctx, "rollouts", maxRows, c.stepRollout) })
	g.Go(func() error { return c.work(ctx, "environments", maxRows, c.stepPlace) })
	g.Go(func() error { return c.sequence(ctx) })
	g.Go(func() error { return c.watchHosts(ctx) })
	return g.Wait()
}
