package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sluicehq/sluice/internal/store"
)

// checkLog returns what a check of a run's rollout was answered or printed the
// last time, at every address. step is ENVIRONMENT.CHECK: no name has a dot.
func (c *Controller) checkLog(ctx context.Context, project, runID, step string, offset int64) (StepLog, error) {
	env, name, _ := strings.Cut(step, ".")
	var found []Checked
	err := c.store.View(ctx, func(tx *store.Tx) error {
		if _, err := c.readRun(tx, project, runID); err != nil {
			return err
		}
		rows, err := tx.Rollouts(store.RolloutFilter{Project: project, Run: runID, Environment: env, Limit: 1})
		if err != nil || len(rows) == 0 {
			return err
		}
		t, err := c.turnOf(tx, rows[0])
		if err != nil {
			return err
		}
		for _, k := range t.watch.Checks {
			if k.Name != name {
				continue
			}
			if len(found) > 0 && found[0].Step != k.Step {
				found = nil // it was asked again at a later step
			}
			found = append(found, k)
		}
		return nil
	})
	if err != nil {
		return StepLog{}, err
	}
	if len(found) == 0 {
		return StepLog{}, missing("run %s made no check %q in %s yet", runID, name, env)
	}
	var b strings.Builder
	for _, k := range found {
		outcome := "passed"
		if !k.OK {
			outcome = "failed: " + k.Reason
		}
		fmt.Fprintf(&b, "[sluice] %s %s %s", k.Kind, k.Name, outcome)
		if k.Address != "" {
			fmt.Fprintf(&b, ", asked at %s", k.Address)
		}
		fmt.Fprintf(&b, ", try %d\n", k.Tries)
		if k.Shot != "" {
			fmt.Fprintf(&b, "[sluice] its screenshot is blob %s\n", k.Shot)
		}
		if k.Output == "" {
			continue
		}
		r, err := c.blobs.Open(ctx, k.Output)
		if err != nil {
			return StepLog{}, fmt.Errorf("couldn't open the output of check %s: %w", name, err)
		}
		_, err = io.Copy(&b, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return StepLog{}, fmt.Errorf("couldn't read the output of check %s: %w", name, err)
		}
	}
	text := b.String()
	if offset < 0 {
		return StepLog{}, invalid("offset %d is negative", offset)
	}
	text = text[min(offset, int64(len(text))):]
	part := text[:min(len(text), maxLogRead)]
	return StepLog{Text: part, Next: offset + int64(len(part)), Done: len(part) == len(text)}, nil
}
