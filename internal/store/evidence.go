package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

type leafRow struct {
	bun.BaseModel `bun:"table:leaves,alias:l"`
	Leaf
}

// AppendLeaf adds a signed statement to its project's log, in the transaction
// that makes it true, and fills its time if it has none. The same ID again is a
// no-op, so that a repeated step says its fact once; another envelope under it is
// [ErrExists].
func (tx *Tx) AppendLeaf(l *Leaf) error {
	if err := tx.writable("add a statement"); err != nil {
		return err
	}
	if l.Project == "" || l.ID == "" || len(l.Envelope) == 0 {
		return errors.New("couldn't add a statement: it needs a project, an ID and an envelope")
	}
	var old leafRow
	ok, err := tx.one(&old, "project = ? AND id = ?", l.Project, l.ID)
	if err != nil {
		return fmt.Errorf("couldn't add statement %s/%s: %w", l.Project, l.ID, err)
	}
	restore(tx, l)
	if ok {
		if !bytes.Equal(old.Envelope, l.Envelope) {
			return fmt.Errorf("couldn't add statement %s/%s: %w", l.Project, l.ID, ErrExists)
		}
		*l = old.Leaf
		return nil
	}
	if l.At.IsZero() {
		l.At = tx.now
	}
	l.Index = nil
	if l.Number, err = tx.next(l.Project, "leaf"); err != nil {
		return err
	}
	if l.Number == 1 {
		if _, err := tx.insert(&logRow{Project: l.Project}); err != nil {
			return fmt.Errorf("couldn't begin the log of %s: %w", l.Project, err)
		}
	}
	if _, err := tx.db.NewInsert().Model(&leafRow{Leaf: *l}).Exec(tx.ctx); err != nil {
		return fmt.Errorf("couldn't add statement %s/%s: %w", l.Project, l.ID, err)
	}
	return nil
}

// LeafFilter narrows [Tx.LeavesOf]. Its zero value means all.
type LeafFilter struct {
	Subject       release.Digest
	Run           string
	Environment   string
	PredicateType string
	Before        int64 // number of a leaf: only those before it
	Limit         int   // only so many, the newest of them
}

// LeavesOf lists statements in the order of commits.
func (tx *Tx) LeavesOf(project string, f LeafFilter) ([]Leaf, error) {
	var rows []leafRow
	q := leavesOf(tx.db.NewSelect().Model(&rows), project, f).Order("number DESC")
	if f.Before > 0 {
		q.Where("number < ?", f.Before)
	}
	if f.Limit > 0 {
		q.Limit(int64(f.Limit))
	}
	out, err := tx.leaves(q, rows0(&rows))
	slices.Reverse(out)
	return out, err
}

// CountLeaves counts statements, whatever the filter's Before and Limit.
func (tx *Tx) CountLeaves(project string, f LeafFilter) (int64, error) {
	n, err := leavesOf(tx.db.NewSelect().Model((*leafRow)(nil)), project, f).Count(tx.ctx)
	if err != nil {
		return 0, fmt.Errorf("couldn't count the statements of %s: %w", project, err)
	}
	return n, nil
}

func leavesOf(q *bun.SelectQuery, project string, f LeafFilter) *bun.SelectQuery {
	q.Where("project = ?", project)
	filter(q, "subject", string(f.Subject))
	filter(q, "run", f.Run)
	filter(q, "environment", f.Environment)
	filter(q, "predicate_type", f.PredicateType)
	return q
}

// LeafRange returns the leaves with from <= Index < to, in order.
func (tx *Tx) LeafRange(project string, from, to int64) ([]Leaf, error) {
	var rows []leafRow
	q := tx.db.NewSelect().Model(&rows).Where("project = ? AND leaf_index >= ? AND leaf_index < ?", project, from, to).Order("leaf_index")
	return tx.leaves(q, rows0(&rows))
}

// UnintegratedLeaves returns at most limit leaves without an index, in the order
// of commits, which is the order in which they shall get one. 0 means all.
func (tx *Tx) UnintegratedLeaves(project string, limit int) ([]Leaf, error) {
	var rows []leafRow
	q := tx.db.NewSelect().Model(&rows).Where("project = ? AND leaf_index IS NULL", project).Order("number")
	if limit > 0 {
		q.Limit(int64(limit))
	}
	return tx.leaves(q, rows0(&rows))
}

func rows0(rows *[]leafRow) func() []leafRow { return func() []leafRow { return *rows } }

func (tx *Tx) leaves(q *bun.SelectQuery, rows func() []leafRow) ([]Leaf, error) {
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the log: %w", err)
	}
	out := make([]Leaf, len(rows()))
	for i, row := range rows() {
		out[i] = row.Leaf
	}
	return out, nil
}

// LeafProjects lists the projects that have a log.
func (tx *Tx) LeafProjects() ([]string, error) {
	var out []string
	if err := tx.db.NewSelect().Model((*logRow)(nil)).Column("project").Order("project").Scan(tx.ctx, &out); err != nil {
		return nil, fmt.Errorf("couldn't list the logs: %w", err)
	}
	return out, nil
}

// SetLeafIndex gives a leaf its place, once. The same again is fine; another
// place, or one that is taken, is [ErrExists].
func (tx *Tx) SetLeafIndex(project, id string, index int64) error {
	if err := tx.writable("place a statement"); err != nil {
		return err
	}
	var taken, mine leafRow
	ok, err := tx.one(&taken, "project = ? AND leaf_index = ?", project, index)
	switch {
	case err != nil:
	case ok && taken.ID == id:
		return nil
	case ok:
		err = fmt.Errorf("%w: %s has that index", ErrExists, taken.ID)
	default:
		var n int64
		n, err = affected(tx.db.NewUpdate().Model(&leafRow{Leaf: Leaf{Index: &index}}).Column("leaf_index").
			Where("project = ? AND id = ? AND leaf_index IS NULL", project, id).Exec(tx.ctx))
		if err == nil && n == 0 {
			err = ErrExists
			if ok, e := tx.one(&mine, "project = ? AND id = ?", project, id); e != nil {
				err = e
			} else if !ok {
				err = ErrNotFound
			}
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't give statement %s/%s index %d: %w", project, id, index, err)
	}
	return nil
}

type logRow struct {
	bun.BaseModel `bun:"table:logs,alias:g"`
	Project       string
	Size          int64
	Checkpoint    []byte
	State         []byte
}

// LogState returns a log's integrated size, its last signed checkpoint and the
// sequencer's own state; zero values for a log that has none yet.
func (tx *Tx) LogState(project string) (size int64, checkpoint, state []byte, err error) {
	var row logRow
	if _, err := tx.one(&row, "project = ?", project); err != nil {
		return 0, nil, nil, fmt.Errorf("couldn't read the state of log %s: %w", project, err)
	}
	return row.Size, row.Checkpoint, row.State, nil
}

// NodeID names a node of a log's Merkle tree; it converts to and from
// compact.NodeID of transparency-dev/merkle.
type NodeID struct {
	Level uint
	Index uint64
}

// Node is a complete subtree's hash.
type Node struct {
	NodeID
	Hash []byte
}

type nodeRow struct {
	bun.BaseModel `bun:"table:nodes,alias:n"`
	Project       string
	Level         int64
	Position      int64
	Hash          []byte
}

// nodeBatch is how many nodes one statement carries.
const nodeBatch = 500

// PutNodes stores nodes. A node never changes: the same again is fine, another
// hash is [ErrExists].
func (tx *Tx) PutNodes(project string, nodes []Node) error {
	if err := tx.writable("store tree nodes"); err != nil {
		return err
	}
	for batch := range slices.Chunk(nodes, nodeBatch) {
		rows := make([]nodeRow, len(batch))
		for i, n := range batch {
			rows[i] = nodeRow{Project: project, Level: int64(n.Level), Position: int64(n.Index), Hash: n.Hash}
		}
		n, err := affected(tx.db.NewInsert().Model(&rows).On("CONFLICT (project, level, position) DO UPDATE").
			Set("hash = excluded.hash").Where("n.hash = excluded.hash").Exec(tx.ctx))
		if err == nil && n != int64(len(batch)) {
			err = fmt.Errorf("%w: the tree would change", ErrExists)
		}
		if err != nil {
			return fmt.Errorf("couldn't store nodes of log %s: %w", project, err)
		}
	}
	return nil
}

// Nodes returns nodes in the order of ids; [ErrNotFound] if one is missing.
func (tx *Tx) Nodes(project string, ids []NodeID) ([]Node, error) {
	found := make(map[NodeID][]byte, len(ids))
	for batch := range slices.Chunk(ids, nodeBatch) {
		var tuples strings.Builder
		for i, id := range batch {
			if i > 0 {
				tuples.WriteByte(',')
			}
			fmt.Fprintf(&tuples, "(%d,%d)", id.Level, id.Index)
		}
		var rows []nodeRow
		err := tx.db.NewSelect().Model(&rows).Where("project = ?", project).
			Where("(level, position) IN (VALUES ?)", bun.Safe(tuples.String())).Scan(tx.ctx)
		if err != nil {
			return nil, fmt.Errorf("couldn't read nodes of log %s: %w", project, err)
		}
		for _, row := range rows {
			found[NodeID{uint(row.Level), uint64(row.Position)}] = row.Hash
		}
	}
	out := make([]Node, len(ids))
	for i, id := range ids {
		hash, ok := found[id]
		if !ok {
			return nil, fmt.Errorf("couldn't read node %d/%d of log %s: %w", id.Level, id.Index, project, ErrNotFound)
		}
		out[i] = Node{NodeID: id, Hash: hash}
	}
	return out, nil
}

// Checkpoint is a signed head of a project's log.
type Checkpoint struct {
	Project string
	Size    int64
	Note    []byte // signed note
	At      time.Time
}

type checkpointRow struct {
	bun.BaseModel `bun:"table:checkpoints,alias:c"`
	Checkpoint
}

// PutCheckpoint makes size and note the log's head and keeps the sequencer's
// state with it. A log never shrinks: a smaller size is [ErrStale]. The newest
// note of one size stays.
func (tx *Tx) PutCheckpoint(project string, size int64, note, state []byte) error {
	if err := tx.writable("store a checkpoint"); err != nil {
		return err
	}
	n, err := affected(tx.db.NewInsert().Model(&logRow{Project: project, Size: size, Checkpoint: note, State: state}).
		On("CONFLICT (project) DO UPDATE").Set("size = excluded.size, checkpoint = excluded.checkpoint, state = excluded.state").
		Where("g.size <= excluded.size").Exec(tx.ctx))
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: the log is larger than %d", ErrStale, size)
	}
	if err == nil {
		_, err = tx.db.NewInsert().Model(&checkpointRow{Checkpoint: Checkpoint{Project: project, Size: size, Note: note, At: tx.now}}).
			On("CONFLICT (project, size) DO UPDATE").Set("note = excluded.note, at = excluded.at").Exec(tx.ctx)
	}
	if err != nil {
		return fmt.Errorf("couldn't store a checkpoint of log %s: %w", project, err)
	}
	return nil
}

// Checkpoints lists a log's heads by size.
func (tx *Tx) Checkpoints(project string) ([]Checkpoint, error) {
	var rows []checkpointRow
	if err := tx.db.NewSelect().Model(&rows).Where("project = ?", project).Order("size").Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the checkpoints of log %s: %w", project, err)
	}
	out := make([]Checkpoint, len(rows))
	for i := range rows {
		out[i] = rows[i].Checkpoint
	}
	return out, nil
}
