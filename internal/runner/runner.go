package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/runner/report"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

// ErrInterrupted reports that the context ended before the build did. It says
// nothing about the commit.
var ErrInterrupted = errors.New("the build was interrupted")

// ErrBadSpec reports steps that can't be run as they are.
var ErrBadSpec = errors.New("the build can't be run")

// ErrForbidden reports that the host does not allow sandboxes; the error's text
// has the command that allows them.
var ErrForbidden = sandbox.ErrForbidden

// Isolation says how steps are kept apart from the host.
type Isolation string

// The ways of isolation. The zero value of a [Spec] means Namespaces.
const (
	Namespaces Isolation = "namespaces"
	None       Isolation = "none" // only for trusted code
)

// Spec is one build.
type Spec struct {
	Project  string // both name the caches
	Service  string
	Commit   string // full hash, given to the steps as SLUICE_COMMIT
	Checkout string // folder with the commit's files; the runner hands it to the steps' user
	Subdir   string // of the checkout: where the definition is, where steps run
	Scratch  string // folder for the build's HOME and /tmp; emptied at the end
	Caches   string // folder that keeps caches between builds
	Steps    []pipeline.Step
	Outputs  []string // artifact paths: not a modification of the commit to git

	Isolation Isolation
	Parallel  int            // steps at once; default: the number of CPUs
	ReadOnly  []string       // more host folders that steps may read, at the same path
	Hidden    []string       // host folders that must not be visible, such as the data folder
	Limits    sandbox.Limits // of each step

	// Secret returns the value of a reference in a step's env. Its values are
	// redacted like those in Redact.
	Secret func(ctx context.Context, ref string) (string, error)
	Redact []string

	// Log, where set, is called for each line as it comes, by several
	// goroutines at once; while it blocks, its step blocks.
	Log func(step string, line Line)
	// OpenLog, where set, gives the place of a step's whole log. A log that
	// can't be opened, written or closed fails the step.
	OpenLog func(step string) (io.WriteCloser, error)
	// Done, where set, is called when a step has ended, by several goroutines at
	// once.
	Done func(StepResult)
	// MaxLog bounds each log; default 10 MiB.
	MaxLog int64

	Now func() time.Time // default time.Now
}

// State is how far a step or build came.
type State string

// The states of a step; a build is succeeded or failed.
const (
	Succeeded State = "succeeded"
	Failed    State = "failed"
	TimedOut  State = "timed-out"
	Cancelled State = "cancelled" // it ran when another step failed, or when the build was interrupted
	Skipped   State = "skipped"   // it never ran
)

// Result is what happened.
type Result struct {
	State     State             `json:"state"`
	Reason    string            `json:"reason"`
	Isolation Isolation         `json:"isolation"`
	Started   time.Time         `json:"started"`
	Ended     time.Time         `json:"ended"`
	Steps     []StepResult      `json:"steps"`     // in the order of the spec
	Tools     map[string]string `json:"tools"`     // name → version, as seen inside
	Materials []Material        `json:"materials"` // before any step ran
}

// Material is an input of the build.
type Material struct {
	Name   string         `json:"name"` // commit, or a lock file's path
	Commit string         `json:"commit,omitempty"`
	Digest release.Digest `json:"digest,omitempty"`
}

// StepResult is what happened to one step.
type StepResult struct {
	Name      string         `json:"name"`
	Kind      pipeline.Kind  `json:"kind"`
	State     State          `json:"state"`
	Reason    string         `json:"reason"` // one or two sentences: what, why, what to do
	ExitCode  int            `json:"exitCode"`
	Signal    string         `json:"signal,omitempty"`
	Started   time.Time      `json:"started,omitzero"`
	Ended     time.Time      `json:"ended,omitzero"`
	Network   bool           `json:"network"`
	Caches    []string       `json:"caches,omitempty"`
	LogBytes  int64          `json:"logBytes"`
	LogDigest release.Digest `json:"logDigest,omitempty"` // of the log as kept
	Truncated bool           `json:"truncated"`           // the log is not complete
	Reports   []Report       `json:"reports,omitempty"`
}

// Report is a parsed report.
type Report struct {
	report.Summary
	Path   string         `json:"path"`
	Digest release.Digest `json:"digest"` // of the file
}

// Probe reports whether this host can isolate steps; else the error says which
// command allows it.
func Probe(ctx context.Context) error { return sandbox.Probe(ctx) }

// Run executes the steps. A build that fails is a Result and no error; an error
// means that there is no verdict, and wraps [ErrInterrupted] when ctx ended.
// The Result is filled as far as the build came in either case.
func Run(ctx context.Context, spec Spec) (Result, error) {
	if spec.Now == nil {
		spec.Now = time.Now
	}
	if spec.Isolation == "" {
		spec.Isolation = Namespaces
	}
	if spec.Parallel <= 0 {
		spec.Parallel = runtime.NumCPU()
	}
	if spec.MaxLog <= 0 {
		spec.MaxLog = maxLog
	}
	res := Result{Isolation: spec.Isolation, Started: spec.Now(), Steps: make([]StepResult, len(spec.Steps))}
	for i, s := range spec.Steps {
		res.Steps[i] = StepResult{Name: s.Name, Kind: s.Kind, Network: s.Network, Caches: s.Cache}
	}
	b, err := prepare(ctx, spec)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrInterrupted, context.Cause(ctx))
		}
		res.Ended = spec.Now()
		return res, err
	}
	defer b.clean()
	res.Materials = b.materials

	err = b.runAll(ctx, res.Steps)
	if err == nil && ctx.Err() == nil {
		res.State, res.Reason = verdict(res.Steps)
		if res.State == Succeeded {
			res.Tools = b.tools(ctx)
		}
	}
	if ctx.Err() != nil && res.State == "" {
		err = fmt.Errorf("%w: %w", ErrInterrupted, context.Cause(ctx))
	}
	res.Ended = spec.Now()
	return res, err
}

// verdict sums the steps up: only a build whose every step succeeded did.
func verdict(steps []StepResult) (State, string) {
	for _, s := range steps {
		if s.State == Failed || s.State == TimedOut {
			return Failed, fmt.Sprintf("step %s: %s", s.Name, s.Reason)
		}
	}
	for _, s := range steps {
		if s.State != Succeeded {
			return Failed, fmt.Sprintf("step %s is %s: %s", s.Name, s.State, s.Reason)
		}
	}
	return Succeeded, fmt.Sprintf("all %d steps succeeded", len(steps))
}

// stopped is why steps are cancelled: another step failed.
type stopped struct{ step string }

func (s stopped) Error() string { return fmt.Sprintf("step %s failed", s.step) }

// runAll runs the steps by their needs. Its error is a failure of the runner.
func (b *build) runAll(parent context.Context, results []StepResult) error {
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	index := map[string]int{}
	done := make([]chan struct{}, len(results))
	for i, r := range results {
		index[r.Name], done[i] = i, make(chan struct{})
	}
	slots := make(chan struct{}, b.spec.Parallel)
	errs := make([]error, len(results))
	var all sync.WaitGroup
	for i, step := range b.spec.Steps {
		all.Go(func() {
			defer close(done[i])
			for _, need := range step.Needs {
				<-done[index[need]] // always closes: there is no cycle
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
			}
			if ctx.Err() != nil {
				results[i].State = Skipped
				results[i].Reason = "it was not started, because " + context.Cause(ctx).Error()
				return
			}
			errs[i] = b.runStep(ctx, step, &results[i])
			if b.spec.Done != nil && errs[i] == nil {
				b.spec.Done(results[i])
			}
			switch {
			case errs[i] != nil:
				stop(fmt.Errorf("step %s could not be run", step.Name))
			case results[i].State == Failed || results[i].State == TimedOut:
				stop(stopped{step.Name})
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// check refuses what the pipeline package should have refused before: the
// runner must not hang on a cycle or leave its folders by a name.
func check(spec Spec) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrBadSpec}, args...)...)
	}
	for _, n := range []string{spec.Project, spec.Service} {
		if err := release.CheckName(n); err != nil {
			return bad("project or service: %w", err)
		}
	}
	for what, dir := range map[string]string{"checkout": spec.Checkout, "scratch": spec.Scratch, "caches": spec.Caches} {
		if !filepath.IsAbs(dir) {
			return bad("the %s folder %q is not an absolute path", what, dir)
		}
	}
	if spec.Subdir != "" && !filepath.IsLocal(spec.Subdir) {
		return bad("the folder %q is not inside the checkout", spec.Subdir)
	}
	if spec.Isolation != Namespaces && spec.Isolation != None {
		return bad("unknown isolation %q", spec.Isolation)
	}
	if len(spec.Steps) == 0 {
		return bad("there is no step")
	}
	needs := map[string][]string{}
	for _, s := range spec.Steps {
		if err := release.CheckName(s.Name); err != nil {
			return bad("step: %w", err)
		}
		if _, twice := needs[s.Name]; twice {
			return bad("two steps are called %s", s.Name)
		}
		needs[s.Name] = s.Needs
		for _, c := range s.Cache {
			if err := release.CheckName(c); err != nil {
				return bad("cache of step %s: %w", s.Name, err)
			}
		}
		for _, r := range s.Reports {
			if !filepath.IsLocal(r.Path) {
				return bad("step %s: the report %q is not inside the checkout", s.Name, r.Path)
			}
		}
	}
	const visiting, visited = 1, 2
	seen := map[string]int{}
	var visit func(string) error
	visit = func(name string) error {
		switch seen[name] {
		case visiting:
			return bad("step %s needs itself", name)
		case visited:
			return nil
		}
		seen[name] = visiting
		for _, n := range needs[name] {
			if _, ok := needs[n]; !ok {
				return bad("step %s needs %s, which does not exist", name, n)
			}
			if err := visit(n); err != nil {
				return err
			}
		}
		seen[name] = visited
		return nil
	}
	for _, s := range spec.Steps {
		if err := visit(s.Name); err != nil {
			return err
		}
	}
	return nil
}
