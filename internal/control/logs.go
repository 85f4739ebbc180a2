package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// logs are the files that running steps write, already redacted. When a step
// has ended its log is a blob, and evidence names its digest.
type logs struct{ dir string }

func (l logs) path(project, runID, step string) string {
	return filepath.Join(l.dir, "logs", project, runID, step+".log")
}

// folder makes the folder for the logs of a run.
func (l logs) folder(project, runID string) (string, error) {
	dir := filepath.Dir(l.path(project, runID, "x"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("couldn't make the folder for logs: %w", err)
	}
	return dir, nil
}

// StepLog is what a step has written from an offset on.
type StepLog struct {
	Text string `json:"text"`
	Next int64  `json:"next"` // offset to go on from
	Done bool   `json:"done"` // the step has ended and all was read
}

// maxLogRead bounds one answer, in bytes.
const maxLogRead = 256 << 10

// Log returns what a step of a run has written from offset on; what a check of a
// rollout was answered, where step is ENVIRONMENT.CHECK.
func (c *Controller) Log(ctx context.Context, project, runID, step string, offset int64) (StepLog, error) {
	if strings.Contains(step, ".") {
		return c.checkLog(ctx, project, runID, step, offset)
	}
	out := StepLog{Next: offset}
	var found *run.Step
	var names []string
	err := c.store.View(ctx, func(tx *store.Tx) error {
		t, err := c.readRun(tx, project, runID)
		if err != nil {
			return err
		}
		for i := range t.state.Steps {
			names = append(names, t.state.Steps[i].Name)
			if t.state.Steps[i].Name == step {
				found = &t.state.Steps[i]
			}
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	if found == nil {
		return out, missing("run %s has no step %q; it has %s", runID, step, strings.Join(names, ", "))
	}
	if offset < 0 {
		return out, invalid("offset %d is negative", offset)
	}
	r, err := c.openLog(ctx, project, runID, *found)
	if errors.Is(err, fs.ErrNotExist) {
		out.Done = found.Ended != nil || found.State == "reused" || found.State == "skipped" || found.State == "cancelled"
		return out, nil // it has written nothing yet
	}
	if err != nil {
		return out, fmt.Errorf("couldn't open the log of step %s: %w", step, err)
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, offset); err != nil && !errors.Is(err, io.EOF) {
		return out, fmt.Errorf("couldn't read the log of step %s: %w", step, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxLogRead))
	if err != nil {
		return out, fmt.Errorf("couldn't read the log of step %s: %w", step, err)
	}
	out.Text, out.Next = string(b), offset+int64(len(b))
	out.Done = found.Ended != nil && len(b) < maxLogRead
	return out, nil
}

func (c *Controller) openLog(ctx context.Context, project, runID string, s run.Step) (io.ReadCloser, error) {
	if s.Log != "" {
		return c.blobs.Open(ctx, s.Log)
	}
	return os.Open(c.logs.path(project, runID, s.Name))
}

// keepLog makes the log of an ended step a blob.
func (c *Controller) keepLog(ctx context.Context, path string) (release.Digest, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("couldn't open a log: %w", err)
	}
	defer f.Close()
	d, _, err := c.blobs.Put(ctx, f)
	if err != nil {
		return "", fmt.Errorf("couldn't keep a log: %w", err)
	}
	return d, nil
}
