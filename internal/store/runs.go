package store

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/uptrace/bun"
)

type runRow struct {
	bun.BaseModel `bun:"table:runs,alias:r"`
	Run
	Number int64
}

// kept are the columns that a save leaves alone.
var kept = []string{"project", "id", "number", "service", "environment", "created_at", "lease_owner", "lease_until", "epoch", "wakes"}

// saveAt sets wake_at to the row's, unless somebody woke it since it was read.
func saveAt(q *bun.UpdateQuery, w Work) *bun.UpdateQuery {
	if w.WakeAt == nil {
		return q.Value("wake_at", "CASE WHEN wakes = ? THEN NULL ELSE wake_at END", w.Wakes)
	}
	return q.Value("wake_at", "CASE WHEN wakes = ? OR wake_at IS NULL OR wake_at > ? THEN ? ELSE wake_at END", w.Wakes, *w.WakeAt, *w.WakeAt)
}

// saved tells a save that hit nothing apart: gone, or changed.
func (tx *Tx) saved(n int64, err error, what, project, id string, exists func() (bool, error)) error {
	if err == nil && n > 0 {
		return nil
	}
	if err == nil {
		err = ErrStale
		if found, e := exists(); e != nil {
			err = e
		} else if !found {
			err = ErrNotFound
		}
	}
	return fmt.Errorf("couldn't save %s %s/%s: %w", what, project, id, err)
}

// InsertRun adds a run and fills its ID, Revision and times.
func (tx *Tx) InsertRun(r *Run) error {
	if err := tx.writable("add a run"); err != nil {
		return err
	}
	n, err := tx.next(r.Project, "run")
	if err != nil {
		return err
	}
	restore(tx, r)
	r.ID, r.Revision, r.CreatedAt, r.UpdatedAt = strconv.FormatInt(n, 10), 1, tx.now, tx.now
	r.Work = Work{WakeAt: micros(r.WakeAt)}
	if _, err := tx.db.NewInsert().Model(&runRow{Run: *r, Number: n}).Exec(tx.ctx); err != nil {
		return fmt.Errorf("couldn't add run %s/%s: %w", r.Project, r.ID, err)
	}
	tx.Notify(TopicWork)
	return nil
}

// SaveRun writes r if nobody changed it since it was read, and raises its
// Revision. WakeAt nil puts it to sleep; the lease stays as it is.
func (tx *Tx) SaveRun(r *Run) error {
	if err := tx.writable("save a run"); err != nil {
		return err
	}
	row := runRow{Run: *r}
	row.Revision, row.UpdatedAt = r.Revision+1, tx.now
	q := tx.db.NewUpdate().Model(&row).ExcludeColumn(slices.DeleteFunc(slices.Clone(kept), func(c string) bool { return c == "environment" })...).
		Where("project = ? AND id = ? AND revision = ?", r.Project, r.ID, r.Revision)
	n, err := affected(saveAt(q, r.Work).Exec(tx.ctx))
	if err := tx.saved(n, err, "run", r.Project, r.ID, func() (bool, error) {
		return tx.db.NewSelect().Model((*runRow)(nil)).Where("project = ? AND id = ?", r.Project, r.ID).Exists(tx.ctx)
	}); err != nil {
		return err
	}
	restore(tx, r)
	r.Revision, r.UpdatedAt = row.Revision, row.UpdatedAt
	tx.Notify(TopicWork)
	return nil
}

// Run returns a run, or [ErrNotFound].
func (tx *Tx) Run(project, id string) (Run, error) {
	var row runRow
	ok, err := tx.one(&row, "project = ? AND id = ?", project, id)
	if err == nil && !ok {
		err = ErrNotFound
	}
	if err != nil {
		return Run{}, fmt.Errorf("couldn't read run %s/%.40s: %w", project, id, err)
	}
	return row.Run, nil
}

// RunFilter narrows [Tx.Runs]. Its zero value means all.
type RunFilter struct {
	Project string
	Service string
	Live    *bool
	Before  string // an ID: only those with a lower number
	Limit   int
}

// Runs lists runs, newest first.
func (tx *Tx) Runs(f RunFilter) ([]Run, error) {
	var rows []runRow
	q := tx.db.NewSelect().Model(&rows).OrderExpr("number DESC, project")
	filter(q, "project", f.Project)
	filter(q, "service", f.Service)
	if f.Live != nil {
		whereLive(q, *f.Live)
	}
	if f.Before != "" {
		n, err := strconv.ParseInt(f.Before, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("couldn't list runs before %.40q: that is not the number of a run", f.Before)
		}
		q.Where("number < ?", n)
	}
	if f.Limit > 0 {
		q.Limit(int64(f.Limit))
	}
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't list runs: %w", err)
	}
	out := make([]Run, len(rows))
	for i := range rows {
		out[i] = rows[i].Run
	}
	return out, nil
}

// whereLive is written so that both planners use the partial indexes.
func whereLive(q *bun.SelectQuery, live bool) {
	if live {
		q.Where("live")
	} else {
		q.Where("NOT live")
	}
}

// micros returns a copy of t in UTC and whole microseconds, as it will be read.
func micros(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC().Truncate(time.Microsecond)
	return &u
}
