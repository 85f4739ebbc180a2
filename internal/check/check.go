package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

// Bounds of what is kept of a check, in bytes.
const (
	maxOutput = 1 << 20
	maxBody   = 1 << 20 // of an answer that is searched
	keptBody  = 4 << 10 // of an answer that is kept
	maxShot   = 8 << 20
)

// pause lies between two tries.
const pause = 250 * time.Millisecond

// Config is how checks are run.
type Config struct {
	Dir       string           // for what they need while they run; emptied after
	Hidden    []string         // host folders that commands and browsers must not see
	Isolation runner.Isolation // default runner.Namespaces
}

// Runner runs checks. It is safe for concurrent use.
type Runner struct{ cfg Config }

// New returns a Runner.
func New(cfg Config) *Runner {
	if cfg.Isolation == "" {
		cfg.Isolation = runner.Namespaces
	}
	return &Runner{cfg: cfg}
}

// Request is one check to be made at one address.
type Request struct {
	Check   pipeline.Check
	Address string // host:port where the version answers; empty: nowhere, a worker
	release.Key
	Release release.ID
	Commit  string
	// Files unpacks the release's artifact into a folder that is not there yet.
	// Only commands need it.
	Files func(ctx context.Context, dir string) error
	// Redact are secrets that must not be kept, wherever a check meets them.
	Redact []string

	// What takes them out: of a text, and of the beginning of one. They come before
	// anything is cut, as a part of a secret would not be known any more.
	hide, hideIn func(string) string
}

func (q Request) url() string {
	if q.Address == "" {
		return ""
	}
	return "http://" + q.Address
}

// Outcome is what a check came to.
type Outcome struct {
	OK     bool
	Reason string // why not; one sentence
	Tries  int
	Output []byte // of the last try: what was answered or printed, without secrets
	Shot   []byte // PNG of the page, of a browser
}

// Ready reports why a check could not be run here; the error says what to do.
func (r *Runner) Ready(ctx context.Context, c pipeline.Check) error {
	if c.Browser != nil {
		if _, err := Chromium(); err != nil {
			return err
		}
	}
	if c.HTTP == nil && r.cfg.Isolation == runner.Namespaces {
		if err := sandbox.Probe(ctx); err != nil {
			return fmt.Errorf("checks by %s are isolated as build steps are: %w", c.Kind(), err)
		}
	}
	return nil
}

// Here reports what this machine lacks for a check, without starting anything: it
// is for `lint`.
func Here(c pipeline.Check) error {
	if c.Browser == nil {
		return nil
	}
	_, err := Chromium()
	return err
}

// Run makes a check, with its retries.
func (r *Runner) Run(ctx context.Context, q Request) (Outcome, error) {
	var try func(context.Context, Request) (Outcome, error)
	switch {
	case q.Check.HTTP != nil:
		try = r.http
	case q.Check.Command != nil:
		try = r.command
	case q.Check.Browser != nil:
		try = r.browser
	default:
		return Outcome{}, fmt.Errorf("check %s asks nothing that this build knows", q.Check.Name)
	}
	q.hide, q.hideIn = runner.Redactor(q.Redact), runner.BeginningRedactor(q.Redact)
	for n := 1; ; n++ {
		out, err := try(ctx, q)
		if ctx.Err() != nil {
			return Outcome{}, context.Cause(ctx) // a shutdown says nothing of the version
		}
		if err != nil {
			return Outcome{}, fmt.Errorf("couldn't make check %s: %w", q.Check.Name, err)
		}
		out.Tries, out.Reason, out.Output = n, oneLine(q.hide(out.Reason)), []byte(q.hide(string(out.Output)))
		if out.OK || n > q.Check.Retries() {
			return out, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Outcome{}, context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// folder makes a folder for one try, and returns what removes it.
func (r *Runner) folder() (string, func(), error) {
	if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("couldn't make the folder of checks: %w", err)
	}
	dir, err := os.MkdirTemp(r.cfg.Dir, "check-")
	if err != nil {
		return "", nil, fmt.Errorf("couldn't make the folder of a check: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, fmt.Errorf("couldn't find the folder of a check: %w", err)
	}
	return dir, func() { _ = runner.Remove(dir) }, nil // what stays is removed at the next start
}

// Sweep removes what checks left behind when the process died.
func (r *Runner) Sweep() error {
	left, err := filepath.Glob(filepath.Join(r.cfg.Dir, "check-*"))
	if err != nil {
		return fmt.Errorf("couldn't list the folders of checks: %w", err)
	}
	for _, dir := range left {
		err = errors.Join(err, runner.Remove(dir))
	}
	return err
}

const maxReason = 600

// oneLine bounds a reason, which may hold what the version answered.
func oneLine(s string) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "\uFFFD")
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "") + "…"
}
