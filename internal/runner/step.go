package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/runner/report"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

const defaultTimeout = 30 * time.Minute

var errTimedOut = errors.New("the step was over its time")

// runStep runs one step to its end and fills in its result. Its error is a
// failure of the runner, not of the step.
func (b *build) runStep(ctx context.Context, step pipeline.Step, res *StepResult) (err error) {
	res.Started = b.spec.Now()
	defer func() { res.Ended = b.spec.Now() }()
	fail := func(reason string) { res.State, res.Reason = Failed, b.secrets.Text(reason) }

	var file io.WriteCloser
	if b.spec.OpenLog != nil {
		if file, err = b.spec.OpenLog(step.Name); err != nil {
			fail(logFailed(err))
			return nil
		}
	}
	log := newSink(step.Name, b.secrets, file, b.spec.Log, b.spec.Now, b.spec.MaxLog)
	before := b.stat(step.Reports)

	limit := step.Timeout
	if limit <= 0 {
		limit = defaultTimeout
	}
	stepCtx, cancel := context.WithTimeoutCause(ctx, limit, errTimedOut)
	defer cancel()
	exit, runErr := b.start(stepCtx, step, log)
	res.ExitCode, res.Signal = exit.Code, exit.Signal

	switch {
	case runErr == nil && exit.OK():
		if reason := b.reports(step, before, res); reason != "" {
			fail(reason)
		} else {
			res.State, res.Reason = Succeeded, "exit code 0"
		}
	case runErr == nil:
		fail(b.why(step, exit, &log.clues))
		b.reports(step, before, res) // what there is; the step has failed anyway
	case log.err != nil:
		fail(logFailed(log.err))
	case errors.Is(runErr, errTimedOut):
		res.State = TimedOut
		res.Reason = fmt.Sprintf("it was still running after %s and was killed with everything it had started; make it faster or raise its timeout", limit)
		b.reports(step, before, res)
	case ctx.Err() != nil:
		res.State = Cancelled
		res.Reason = "it was stopped, because " + context.Cause(ctx).Error()
	default:
		err = fmt.Errorf("couldn't run step %s: %w", step.Name, runErr)
		res.Reason = err.Error()
	}

	var notes []string
	if res.State != Succeeded {
		notes = append(notes, string(res.State)+": "+res.Reason)
	}
	logErr := log.close(notes...)
	if file != nil {
		logErr = errors.Join(logErr, file.Close())
	}
	if logErr != nil && err == nil && res.State != Cancelled {
		fail(logFailed(logErr))
	}
	res.LogBytes, res.LogDigest, res.Truncated = log.kept, log.sum(), log.dropped > 0 || logErr != nil
	return err
}

func logFailed(err error) string {
	return fmt.Sprintf("its log couldn't be kept: %v; a build without its log is no evidence: free space in the data folder and run again", err)
}

// start runs the step's script, isolated as the build asks.
func (b *build) start(ctx context.Context, step pipeline.Step, out io.Writer) (sandbox.Exit, error) {
	cfg := sandbox.Config{Script: step.Run, Network: step.Network, Limits: b.spec.Limits, Hidden: b.spec.Hidden}
	if b.spec.Isolation == None {
		cfg.Dir = filepath.Join(b.spec.Checkout, b.spec.Subdir)
		cfg.Env = b.environment(step, b.plainPlaces(step))
		return sandbox.RunPlain(ctx, cfg, out)
	}
	p := b.places(step)
	cfg.Dir = path.Join(workspace, filepath.ToSlash(b.spec.Subdir))
	cfg.Binds = p.binds
	cfg.Env = b.environment(step, p)
	return sandbox.Run(ctx, cfg, out)
}

// places says where a step finds things.
type places struct {
	home, tmp, checkout string
	path                []string
	caches              map[string]string
	certificates        string // SSL_CERT_FILE
	binds               []sandbox.Bind
}

// cachePlace is where a tool looks for its cache, below HOME.
func cachePlace(name string) string {
	switch name {
	case "gomod":
		return "go/pkg/mod"
	case "gobuild":
		return ".cache/go-build"
	case "npm":
		return ".npm"
	default:
		return ".cache/" + name
	}
}

// places lays out the sandbox of a step.
func (b *build) places(step pipeline.Step) places {
	p := places{home: sandbox.Home, tmp: "/tmp", checkout: workspace, caches: map[string]string{}}
	add := func(source, target string, writable bool) {
		p.binds = append(p.binds, sandbox.Bind{Source: source, Target: target, Writable: writable})
	}
	add(b.tmp(step.Name), p.tmp, true)
	add(b.home(), p.home, true)
	add(b.spec.Checkout, workspace, true)
	for _, name := range step.Cache {
		p.caches[name] = path.Join(p.home, cachePlace(name))
		add(b.cache(name), p.caches[name], true)
	}
	if p.caches["gomod"] == "" && b.declared("gomod") {
		p.caches["gomod"] = path.Join(p.home, cachePlace("gomod"))
		add(b.cache("gomod"), p.caches["gomod"], false)
	}
	if b.goroot != "" {
		root := b.goroot
		if !sandbox.Shown(root) {
			root = "/opt/go"
			add(b.goroot, root, false)
		}
		p.path = append(p.path, root+"/bin")
	}
	p.path = append(p.path, p.home+"/go/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	for _, dir := range b.spec.ReadOnly {
		add(dir, dir, false)
	}
	if step.Network {
		if file := os.Getenv("SSL_CERT_FILE"); file != "" {
			p.certificates = file
			if real, err := filepath.EvalSymlinks(file); err == nil && !sandbox.Shown(file) {
				p.certificates = "/etc/ssl/host.pem"
				add(real, p.certificates, false)
			}
		}
		for _, proxy := range strings.FieldsFunc(b.hostGo["GOPROXY"], func(r rune) bool { return r == ',' || r == '|' }) {
			if dir, ok := strings.CutPrefix(proxy, "file://"); ok && filepath.IsAbs(dir) && !sandbox.Shown(dir) {
				add(dir, dir, false)
			}
		}
	}
	return p
}

// plainPlaces are the host's own paths.
func (b *build) plainPlaces(step pipeline.Step) places {
	p := places{home: b.home(), tmp: b.tmp(step.Name), checkout: b.spec.Checkout, caches: map[string]string{}, certificates: os.Getenv("SSL_CERT_FILE")}
	for _, name := range step.Cache {
		p.caches[name] = b.cache(name)
	}
	if b.declared("gomod") {
		p.caches["gomod"] = b.cache("gomod")
	}
	if b.goroot != "" {
		p.path = append(p.path, filepath.Join(b.goroot, "bin"))
	}
	p.path = append(p.path, filepath.SplitList(os.Getenv("PATH"))...)
	return p
}

// declared reports whether any step of the build declares the cache.
func (b *build) declared(cache string) bool {
	return slices.ContainsFunc(b.spec.Steps, func(s pipeline.Step) bool { return slices.Contains(s.Cache, cache) })
}

// environment is all that a step gets. Nothing of the caller's passes but how
// to reach the network, where the step may.
func (b *build) environment(step pipeline.Step, p places) []string {
	env := map[string]string{
		"PATH": strings.Join(p.path, ":"), "HOME": p.home, "TMPDIR": p.tmp, "USER": sandbox.User, "LOGNAME": sandbox.User,
		"SHELL": "/bin/sh", "LANG": "C.UTF-8", "TERM": "dumb", "CI": "true",
		"SLUICE_COMMIT": b.spec.Commit, "SLUICE_SERVICE": b.spec.Service, "SLUICE_STEP": step.Name, "SLUICE_CHECKOUT": p.checkout,
	}
	for name, dir := range p.caches {
		env["SLUICE_CACHE_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = dir
		switch name {
		case "gomod":
			env["GOMODCACHE"] = dir
		case "gobuild":
			env["GOCACHE"] = dir
		case "npm":
			env["npm_config_cache"] = dir
		}
	}
	if step.Network {
		for _, key := range networkEnv {
			if v := os.Getenv(key); v != "" {
				env[key] = v
			}
		}
		if p.certificates != "" {
			env["SSL_CERT_FILE"] = p.certificates
		}
		for key, v := range b.hostGo {
			if v != "" {
				env[key] = v
			}
		}
	} else {
		env["GOPROXY"] = "off" // a quick, clear error instead of a time-out
	}
	maps.Copy(env, b.env[step.Name])
	list := make([]string, 0, len(env))
	for _, key := range slices.Sorted(maps.Keys(env)) {
		list = append(list, key+"="+env[key])
	}
	return list
}

// why explains a script that failed.
func (b *build) why(step pipeline.Step, exit sandbox.Exit, c *clues) string {
	reason := exit.String()
	switch {
	case exit.Code == 127:
		reason += ": a command was not found; steps find those under /usr of the machine that builds, and its Go"
	case exit.Code == 126:
		reason += ": a file could not be executed; is its executable bit committed?"
	case exit.Signal == "SIGKILL" || exit.Code == 137:
		reason += ", usually for want of memory"
	default:
		reason += "; its log says why"
	}
	if c.network && !step.Network && b.spec.Isolation == Namespaces {
		reason += ". It tried to reach the network, which a step has only with `network: true`"
	}
	if c.readOnly && b.spec.Isolation == Namespaces {
		reason += ". It tried to write where it must not: a step writes in its checkout, $HOME, $TMPDIR and the caches that it declares (`cache:`)"
	}
	return reason
}

// stat remembers the declared reports before the step runs.
func (b *build) stat(reports []pipeline.Report) map[string]os.FileInfo {
	before := map[string]os.FileInfo{}
	root, err := os.OpenRoot(filepath.Join(b.spec.Checkout, b.spec.Subdir))
	if err != nil {
		return before
	}
	defer root.Close()
	for _, r := range reports {
		if info, err := root.Stat(r.Path); err == nil {
			before[r.Path] = info
		}
	}
	return before
}

// reports reads the step's reports and returns why they are no evidence, or
// nothing.
func (b *build) reports(step pipeline.Step, before map[string]os.FileInfo, res *StepResult) string {
	var bad []string
	for _, decl := range step.Reports {
		r, err := b.readReport(decl, before[decl.Path])
		if err != nil {
			bad = append(bad, fmt.Sprintf("report %s: %v", decl.Path, err))
			continue
		}
		res.Reports = append(res.Reports, r)
		switch {
		case r.Failed > 0:
			text := fmt.Sprintf("report %s shows failures although the step ended well: %s", decl.Path, r.Summary)
			if len(r.Tests) > 0 && r.Tests[0].Outcome == report.Failed {
				text += fmt.Sprintf(" (first: %s)", strings.TrimSpace(r.Tests[0].Package+" "+r.Tests[0].Name))
			}
			bad = append(bad, text)
		case !r.Passes():
			bad = append(bad, fmt.Sprintf("report %s proves nothing: %s; missing evidence is never a pass", decl.Path, r.Summary))
		}
	}
	return strings.Join(bad, "; ")
}

// readReport reads a file that untrusted code wrote: never through a link out
// of the checkout, never from a pipe or device.
func (b *build) readReport(decl pipeline.Report, before os.FileInfo) (Report, error) {
	root, err := os.OpenRoot(filepath.Join(b.spec.Checkout, b.spec.Subdir))
	if err != nil {
		return Report{}, err
	}
	defer root.Close()
	f, err := root.OpenFile(decl.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Report{}, errors.New("it is missing; the step must write it, or not declare it")
	}
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Report{}, err
	}
	if !info.Mode().IsRegular() {
		return Report{}, errors.New("it is not a regular file")
	}
	if before != nil && os.SameFile(before, info) && before.ModTime().Equal(info.ModTime()) && before.Size() == info.Size() {
		return Report{}, errors.New("it was there before the step and the step did not write it")
	}
	sum := sha256.New()
	summary, err := report.Parse(decl.Format, io.TeeReader(f, sum))
	if err != nil {
		return Report{}, err
	}
	if _, err := io.Copy(sum, io.LimitReader(f, report.MaxBytes)); err != nil {
		return Report{}, err
	}
	for i := range summary.Tests {
		t := &summary.Tests[i]
		t.Name, t.Package, t.Output = b.secrets.Text(t.Name), b.secrets.Text(t.Package), b.secrets.Text(t.Output)
	}
	return Report{Summary: summary, Path: decl.Path, Digest: release.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))}, nil
}
