package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

type effectRow struct {
	bun.BaseModel `bun:"table:effects,alias:f"`
	Effect
}

// AddEffect adds a promised effect, in the transaction that wants it. A
// Generation of 0 is filled with the next one.
func (tx *Tx) AddEffect(e *Effect) error {
	if err := tx.writable("add an effect"); err != nil {
		return err
	}
	restore(tx, e)
	if e.Generation == 0 {
		n, err := tx.NextGeneration()
		if err != nil {
			return err
		}
		e.Generation = n
	}
	e.CreatedAt, e.DoneAt, e.Outcome = tx.now, nil, ""
	added, err := tx.insert(&effectRow{Effect: *e})
	if err == nil && !added {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("couldn't add effect %d of %s/%s: %w", e.Generation, e.Project, e.Rollout, err)
	}
	return nil
}

// PendingEffects returns what a rollout promised and did not finish, by generation.
func (tx *Tx) PendingEffects(project, rollout string) ([]Effect, error) {
	var rows []effectRow
	err := tx.db.NewSelect().Model(&rows).Where("project = ? AND rollout = ? AND done_at IS NULL", project, rollout).Order("generation").Scan(tx.ctx)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the pending effects of %s/%s: %w", project, rollout, err)
	}
	out := make([]Effect, len(rows))
	for i := range rows {
		out[i] = rows[i].Effect
	}
	return out, nil
}

// FinishEffect records how an effect came out. The same again is fine; another
// outcome is [ErrExists]: the first stays.
func (tx *Tx) FinishEffect(project, rollout string, generation int64, outcome string) error {
	if err := tx.writable("finish an effect"); err != nil {
		return err
	}
	const where = "project = ? AND rollout = ? AND generation = ?"
	n, err := affected(tx.db.NewUpdate().Model(&effectRow{Effect: Effect{DoneAt: &tx.now, Outcome: outcome}}).Column("done_at", "outcome").
		Where(where+" AND done_at IS NULL", project, rollout, generation).Exec(tx.ctx))
	if err == nil && n == 0 {
		var row effectRow
		ok, e := tx.one(&row, where, project, rollout, generation)
		switch {
		case e != nil:
			err = e
		case !ok:
			err = ErrNotFound
		case row.Outcome != outcome:
			err = fmt.Errorf("%w: it came out as %.200q", ErrExists, row.Outcome)
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't finish effect %d of %s/%s: %w", generation, project, rollout, err)
	}
	return nil
}

type feedRow struct {
	bun.BaseModel `bun:"table:feed,alias:f"`
	Feed
}

// AddFeed adds a line for those who watch, fills its Seq and time, and notifies
// "feed:" and the project.
func (tx *Tx) AddFeed(f *Feed) error {
	if err := tx.writable("add a feed line"); err != nil {
		return err
	}
	if f.Project == "" {
		return errors.New("couldn't add a feed line: it has no project")
	}
	n, err := tx.next("", "feed")
	if err != nil {
		return err
	}
	restore(tx, f)
	f.Seq, f.At = n, tx.now
	if _, err := tx.db.NewInsert().Model(&feedRow{Feed: *f}).Exec(tx.ctx); err != nil {
		return fmt.Errorf("couldn't add a feed line: %w", err)
	}
	tx.Notify("feed:" + f.Project)
	return nil
}

// FeedAfter returns lines behind after, oldest first: of one run, or of the whole
// project if run is empty; of all projects if that is. A limit of 0 means all.
func (tx *Tx) FeedAfter(project, run string, after int64, limit int) ([]Feed, error) {
	var rows []feedRow
	q := tx.db.NewSelect().Model(&rows).Where("seq > ?", after).Order("seq")
	filter(q, "project", project)
	filter(q, "run", run)
	if limit > 0 {
		q.Limit(int64(limit))
	}
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the feed: %w", err)
	}
	out := make([]Feed, len(rows))
	for i := range rows {
		out[i] = rows[i].Feed
	}
	return out, nil
}

// LastFeed returns when the newest line about a run was told; false: none was.
func (tx *Tx) LastFeed(project, run string) (at time.Time, ok bool, err error) {
	var rows []feedRow
	err = tx.db.NewSelect().Model(&rows).Where("project = ? AND run = ?", project, run).Order("seq DESC").Limit(1).Scan(tx.ctx)
	if err != nil {
		return at, false, fmt.Errorf("couldn't read the newest line about run %s/%s: %w", project, run, err)
	}
	if len(rows) == 0 {
		return at, false, nil
	}
	return rows[0].At, true, nil
}

// FeedEnd returns the Seq of the newest line, 0 if there is none: where to start
// for those who only want what comes.
func (tx *Tx) FeedEnd() (seq int64, err error) {
	err = tx.db.QueryRowContext(tx.ctx, "SELECT coalesce(max(seq), 0) FROM feed").Scan(&seq)
	if err != nil {
		return 0, fmt.Errorf("couldn't read the end of the feed: %w", err)
	}
	return seq, nil
}
