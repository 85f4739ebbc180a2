package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/runner"
)

// command runs a command line in a fresh copy of the artifact, as a build of one
// step: the same isolation, timeout, bounds and redaction.
func (r *Runner) command(ctx context.Context, q Request) (Outcome, error) {
	if q.Files == nil {
		return Outcome{}, errors.New("there is no artifact to run it in")
	}
	dir, clean, err := r.folder()
	if err != nil {
		return Outcome{}, err
	}
	defer clean()
	files := filepath.Join(dir, "files")
	if err := q.Files(ctx, files); err != nil {
		return Outcome{}, fmt.Errorf("couldn't unpack the artifact: %w", err)
	}
	k := q.Check.Command
	var log kept
	res, err := runner.Run(ctx, runner.Spec{
		Project: q.Project, Service: q.Service, Commit: q.Commit,
		Checkout: files, Scratch: filepath.Join(dir, "scratch"), Caches: filepath.Join(dir, "caches"),
		Steps: []pipeline.Step{{
			Name: q.Check.Name, Kind: "custom", Run: k.Run, Timeout: k.Timeout, Network: true,
			Env: map[string]pipeline.Value{
				"SLUICE_URL": {Plain: q.url()}, "SLUICE_RELEASE": {Plain: string(q.Release)},
				"SLUICE_ENVIRONMENT": {Plain: q.Environment}, "SLUICE_CHECK": {Plain: q.Check.Name},
			},
		}},
		Isolation: r.cfg.Isolation, Hidden: r.cfg.Hidden, Redact: q.Redact, MaxLog: maxOutput,
		OpenLog: func(string) (io.WriteCloser, error) { return &log, nil },
	})
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{OK: res.State == runner.Succeeded, Output: log.Bytes()}
	if !out.OK {
		s := res.Steps[0]
		out.Reason = fmt.Sprintf("`%s` failed: %s", q.Check.What(), s.Reason)
		if last := lastLine(out.Output); last != "" {
			out.Reason += fmt.Sprintf("; it printed last: %s", last)
		}
	}
	return out, nil
}

// kept is a log in memory; the runner bounds it.
type kept struct{ bytes.Buffer }

// Close implements io.Closer.
func (*kept) Close() error { return nil }

// lastLine is the last line of a log that the command itself printed.
func lastLine(log []byte) string {
	lines := strings.Split(string(log), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(lines[i]); line != "" && !strings.HasPrefix(line, "[sluice] ") {
			return line[:min(len(line), 200)]
		}
	}
	return ""
}
