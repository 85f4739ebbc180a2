package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/sluicehq/sluice/internal/blob"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// exportBatch is how many statements are read from the store at once.
const exportBatch = 500

// Export writes a project's evidence as one bundle: all of it, or what is about
// one release, with what checks were answered if it shall. What was stated before
// the call is in it.
func (c *Controller) Export(ctx context.Context, w io.Writer, project string, id release.ID, outputs bool) error {
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
		if outputs {
			x.Output = func(d release.Digest, limit int) ([]byte, evidence.Left, error) { return c.output(ctx, d, limit) }
		}
		return evidence.WriteBundle(w, x)
	})
}

// output reads what a check left, or says why it can't be had. Where several
// control planes have folders of their own, it is with the one that made the check.
func (c *Controller) output(ctx context.Context, d release.Digest, limit int) ([]byte, evidence.Left, error) {
	r, err := c.blobs.Open(ctx, d)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, evidence.LeftAbsent, nil
	}
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	err = errors.Join(err, r.Close())
	switch {
	case errors.Is(err, blob.ErrCorrupt):
		return nil, evidence.LeftAltered, nil
	case err != nil:
		return nil, "", fmt.Errorf("couldn't read output %s: %w", d.Short(), err)
	case len(b) > limit:
		return nil, evidence.LeftLarge, nil
	}
	return b, "", nil
}

// Entry returns the statement at an index of a project's log.
func (c *Controller) Entry(ctx context.Context, project string, index int64) (store.Leaf, error) {
	var out store.Leaf
	err := c.store.View(ctx, func(tx *store.Tx) error {
		l, err := tx.LeafRange(project, index, index+1)
		if err == nil && len(l) == 0 {
			err = missing("the log of project %s has no entry %d; `sluice evidence show` lists them", project, index)
		}
		if err == nil {
			out = l[0]
		}
		return err
	})
	return out, err
}

// Output returns what a check left, as an entry of the log names it.
func (c *Controller) Output(ctx context.Context, project string, index int64, name string) (evidence.Output, []byte, error) {
	l, err := c.Entry(ctx, project, index)
	if err != nil {
		return evidence.Output{}, nil, err
	}
	st, err := evidence.Peek(l.Envelope)
	if err != nil {
		return evidence.Output{}, nil, err
	}
	for _, o := range st.Outputs() {
		if o.Name != name {
			continue
		}
		b, left, err := c.output(ctx, o.Digest, evidence.MaxOutput)
		switch left {
		case "":
		case evidence.LeftAbsent:
			err = missing("this control plane doesn't have %s of entry %d: it was erased, or another one made the check", clip(name), index)
		case evidence.LeftLarge:
			err = refuse("%s of entry %d has more than the %d MiB that are shown", clip(name), index, evidence.MaxOutput>>20)
		default:
			err = fmt.Errorf("%s of entry %d was altered where it is kept: it is not what was signed", clip(name), index)
		}
		return o, b, err
	}
	return evidence.Output{}, nil, missing("entry %d names no output %q", index, clip(name))
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

// CountLeaves counts all statements that a filter's Before and Limit choose from.
func (c *Controller) CountLeaves(ctx context.Context, project string, f store.LeafFilter) (n int64, err error) {
	err = c.store.View(ctx, func(tx *store.Tx) error {
		n, err = tx.CountLeaves(project, f)
		return err
	})
	return n, err
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
