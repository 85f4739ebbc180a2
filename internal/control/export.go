package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// exportBatch is how many statements are read from the store at once.
const exportBatch = 500

// Export writes a project's evidence as one bundle: all of it, or what is about
// one release. What was stated before the call is in it.
func (c *Controller) Export(ctx context.Context, w io.Writer, project string, id release.ID) error {
	if err := c.Integrate(ctx); err != nil {
		return err
	}
	return c.store.View(ctx, func(tx *store.Tx) error {
		_, checkpoint, _, err := tx.LogState(project)
		if errors.Is(err, store.ErrNotFound) || err == nil && len(checkpoint) == 0 {
			return missing("project %s has no evidence yet: nothing was built or promoted", project)
		}
		if err != nil {
			return fmt.Errorf("couldn't read the log of project %s: %w", project, err)
		}
		cp, err := evidence.ParseCheckpoint(checkpoint)
		if err != nil {
			return fmt.Errorf("couldn't read the checkpoint of project %s: %w", project, err)
		}
		entries := c.entries(tx, project, cp.Size)
		if id != "" {
			if entries, err = c.about(tx, project, entries, id); err != nil {
				return err
			}
		}
		earlier, err := tx.Checkpoints(project)
		if err != nil {
			return fmt.Errorf("couldn't read the checkpoints of project %s: %w", project, err)
		}
		x := evidence.Export{Release: id, Checkpoint: checkpoint, Keys: c.keys.Public(), Entries: entries, Nodes: nodes(tx, project)}
		for _, e := range witnessed(earlier) {
			x.Witnessed = append(x.Witnessed, uint64(e.Size))
		}
		x.Payload = func(d release.Digest) (evidence.Blob, error) {
			b, _, err := tx.Payload(project, d)
			return b, err
		}
		return evidence.WriteBundle(w, x)
	})
}

// maxWitnessed bounds the checkpoints that a bundle proves to continue.
const maxWitnessed = 64

// witnessed picks checkpoints that somebody may have kept: the newest of them.
func witnessed(all []store.Checkpoint) []store.Checkpoint {
	return all[max(0, len(all)-maxWitnessed):]
}

func (c *Controller) entries(tx *store.Tx, project string, size uint64) iter.Seq2[evidence.Entry, error] {
	return func(yield func(evidence.Entry, error) bool) {
		for from := uint64(0); from < size; from += exportBatch {
			leaves, err := tx.LeafRange(project, int64(from), int64(min(from+exportBatch, size)))
			if err != nil {
				yield(evidence.Entry{}, fmt.Errorf("couldn't read statements: %w", err))
				return
			}
			for _, l := range leaves {
				if !yield(evidence.Entry{Index: uint64(*l.Index), Envelope: l.Envelope}, nil) {
					return
				}
			}
		}
	}
}

// about keeps the entries about one release.
func (c *Controller) about(tx *store.Tx, project string, all iter.Seq2[evidence.Entry, error], id release.ID) (iter.Seq2[evidence.Entry, error], error) {
	picked, err := evidence.Select(all, id)
	if err != nil {
		return nil, err
	}
	if len(picked) == 0 {
		return nil, missing("project %s has no evidence about release %s", project, id.Short())
	}
	return func(yield func(evidence.Entry, error) bool) {
		for _, i := range picked {
			l, err := tx.LeafRange(project, int64(i), int64(i)+1)
			if err == nil && len(l) != 1 {
				err = store.ErrNotFound
			}
			if err != nil {
				yield(evidence.Entry{}, fmt.Errorf("couldn't read statement %d: %w", i, err))
				return
			}
			if !yield(evidence.Entry{Index: i, Envelope: l[0].Envelope}, nil) {
				return
			}
		}
	}, nil
}

// Leaves lists statements, oldest first.
func (c *Controller) Leaves(ctx context.Context, project string, f store.LeafFilter) ([]store.Leaf, error) {
	var out []store.Leaf
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		if out, err = tx.LeavesOf(project, f); err != nil || len(out) > 0 {
			return err
		}
		// Nothing is said of what is there, which is something else than of what
		// isn't.
		if f.Run != "" {
			if _, err := tx.Run(project, f.Run); errors.Is(err, store.ErrNotFound) {
				return missing("there is no run %q; `sluice runs` lists them", clip(f.Run))
			} else if err != nil {
				return err
			}
		}
		return known(tx, project, "")
	})
	return out, err
}
