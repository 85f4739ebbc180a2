package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// about says where in the record a statement belongs, for lists of evidence.
type about struct {
	project     string
	run         string
	environment string
}

// record signs a statement and inserts it as a leaf of the project's log into
// the transaction. id makes it idempotent: the same fact is recorded once, also
// when a transaction is run again.
func (c *Controller) record(tx *store.Tx, id string, at about, p evidence.Predicate, subjects ...evidence.Subject) (evidence.Signed, error) {
	signed, err := c.keys.State(p, subjects...)
	if err != nil {
		return evidence.Signed{}, err
	}
	leaf := store.Leaf{
		Project: at.project, ID: id, Envelope: signed.Envelope, PredicateType: p.PredicateType(),
		Subject: subjects[0].Digest, Run: at.run, Environment: at.environment, At: tx.Now(),
	}
	if err := tx.AppendLeaf(&leaf); err != nil {
		return evidence.Signed{}, fmt.Errorf("couldn't record %s: %w", p.PredicateType(), err)
	}
	return signed, nil
}

// event fills what each of our predicates says: when, who, where. A person is
// named by an opaque id, and what a person typed becomes a payload.
func (c *Controller) event(tx *store.Tx, at about, by release.Actor, typed string) (evidence.Event, error) {
	e := evidence.Event{At: evidence.StampOf(tx.Now()), Run: at.run, Environment: at.environment}
	var err error
	if e.Actor, err = c.actor(tx, at.project, by); err != nil {
		return evidence.Event{}, err
	}
	if typed != "" {
		com, blob := evidence.Commit(evidence.NewSalt(), "reason", "text/plain", []byte(typed))
		if err := tx.PutPayload(at.project, com.Digest, blob); err != nil {
			return evidence.Event{}, fmt.Errorf("couldn't keep the reason: %w", err)
		}
		e.Payloads = []evidence.Commitment{com}
	}
	return e, nil
}

// actor returns the opaque id of a person: always the same one in a project.
func (c *Controller) actor(tx *store.Tx, project string, by release.Actor) (evidence.ActorID, error) {
	if by == "" {
		by = release.System
	}
	id, blob := evidence.Opaque(evidence.NewSalt(), by)
	if blob == nil {
		return id, nil
	}
	kept, err := tx.Actor(project, by, release.Digest(id), blob)
	if err != nil {
		return "", fmt.Errorf("couldn't name the actor: %w", err)
	}
	return evidence.ActorID(kept), nil
}

// sequence integrates new leaves into the Merkle tree of each project and signs
// a checkpoint, until ctx ends. One transaction gives leaves their indexes and
// stores the nodes and the checkpoint; if we die before it commits, nothing has
// happened, and the leaves are still there to be integrated.
func (c *Controller) sequence(ctx context.Context) error {
	topics, stop := c.store.Subscribe()
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case t := <-topics:
			if t == store.TopicDesired || t == store.TopicObserved {
				continue // no statement comes with these
			}
			// Let what arrives together be integrated together.
			timer.Reset(sequenceDelay)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
		}
		if err := c.Integrate(ctx); err != nil && ctx.Err() == nil {
			c.log.Error("couldn't integrate the evidence log; trying again", "error", err)
		}
		timer.Reset(time.Second)
	}
}

// sequenceDelay gathers leaves that arrive together; a leaf is integrated
// within a second in any case.
const sequenceDelay = 100 * time.Millisecond

// integrateBatch bounds one transaction of the sequencer.
const integrateBatch = 512

// Integrate takes all leaves that wait into the tree.
func (c *Controller) Integrate(ctx context.Context) error {
	var projects []string
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		projects, err = tx.LeafProjects()
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't list the logs: %w", err)
	}
	for _, p := range projects {
		for more := true; more; {
			var waiting []store.Leaf
			err := c.store.View(ctx, func(tx *store.Tx) (err error) {
				waiting, err = tx.UnintegratedLeaves(p, 1)
				return err
			})
			if err != nil {
				return fmt.Errorf("couldn't look for new leaves of project %s: %w", p, err)
			}
			if len(waiting) == 0 {
				break
			}
			err = c.store.Update(ctx, func(tx *store.Tx) error {
				n, err := c.integrate(tx, p)
				more = n == integrateBatch
				return err
			})
			if err != nil {
				return fmt.Errorf("couldn't integrate leaves of project %s: %w", p, err)
			}
		}
	}
	return nil
}

func (c *Controller) integrate(tx *store.Tx, project string) (int, error) {
	leaves, err := tx.UnintegratedLeaves(project, integrateBatch)
	if err != nil || len(leaves) == 0 {
		return 0, err
	}
	tree, err := c.tree(tx, project)
	if err != nil {
		return 0, err
	}
	envelopes := make([][]byte, len(leaves))
	for i, l := range leaves {
		envelopes[i] = l.Envelope
	}
	next, nodes, err := evidence.Integrate(tree, envelopes)
	if err != nil {
		return 0, err
	}
	for i, l := range leaves {
		if err := tx.SetLeafIndex(project, l.ID, int64(tree.Size)+int64(i)); err != nil {
			return 0, err
		}
	}
	stored := make([]store.Node, len(nodes))
	for i, n := range nodes {
		stored[i] = store.Node{NodeID: store.NodeID(n.NodeID), Hash: n.Hash[:]}
	}
	if err := tx.PutNodes(project, stored); err != nil {
		return 0, err
	}
	id, err := tx.LogID(project)
	if err != nil {
		return 0, err
	}
	origin, err := evidence.Origin(project, id)
	if err != nil {
		return 0, err
	}
	cp, err := next.Checkpoint(origin)
	if err != nil {
		return 0, err
	}
	note, err := c.keys.SignCheckpoint(cp)
	if err != nil {
		return 0, err
	}
	state, err := release.Canonical(next)
	if err != nil {
		return 0, err
	}
	return len(leaves), tx.PutCheckpoint(project, int64(next.Size), note, state)
}

// tree reads the state of a project's tree.
func (c *Controller) tree(tx *store.Tx, project string) (evidence.TreeState, error) {
	size, _, _, err := tx.LogState(project)
	if errors.Is(err, store.ErrNotFound) {
		return evidence.TreeState{}, nil
	}
	if err != nil {
		return evidence.TreeState{}, fmt.Errorf("couldn't read the log of project %s: %w", project, err)
	}
	return evidence.StateAt(uint64(size), nodes(tx, project))
}

func nodes(tx *store.Tx, project string) evidence.Nodes {
	return func(ids []evidence.NodeID) ([]evidence.Hash, error) {
		want := make([]store.NodeID, len(ids))
		for i, id := range ids {
			want[i] = store.NodeID(id)
		}
		got, err := tx.Nodes(project, want)
		if err != nil {
			return nil, err
		}
		out := make([]evidence.Hash, len(got))
		for i, n := range got {
			if len(n.Hash) != len(out[i]) {
				return nil, fmt.Errorf("node %d/%d of project %s is damaged", n.Level, n.Index, project)
			}
			copy(out[i][:], n.Hash)
		}
		return out, nil
	}
}
