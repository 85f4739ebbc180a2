package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

type rolloutRow struct {
	bun.BaseModel `bun:"table:rollouts,alias:o"`
	Rollout
	Number int64
}

// InsertRollout adds a rollout and fills its ID, Revision and times. It fails
// with [ErrLive] if r is live and another is for the same key.
func (tx *Tx) InsertRollout(r *Rollout) error {
	if err := tx.writable("add a rollout"); err != nil {
		return err
	}
	key := release.Key{Project: r.Project, Service: r.Service, Environment: r.Environment}
	if r.Live {
		// Asked first, so that the transaction stays usable; the index holds it.
		if live, ok, err := tx.LiveRollout(key); err != nil {
			return err
		} else if ok {
			return fmt.Errorf("couldn't add a rollout of %s: %w: %s", key, ErrLive, live.ID)
		}
	}
	n, err := tx.next(r.Project, "rollout")
	if err != nil {
		return err
	}
	restore(tx, r)
	r.ID, r.Revision, r.CreatedAt, r.UpdatedAt = "o"+strconv.FormatInt(n, 10), 1, tx.now, tx.now
	r.Work = Work{WakeAt: micros(r.WakeAt)}
	if _, err := tx.db.NewInsert().Model(&rolloutRow{Rollout: *r, Number: n}).Exec(tx.ctx); err != nil {
		return fmt.Errorf("couldn't add rollout %s/%s: %w", r.Project, r.ID, err)
	}
	tx.Notify(TopicWork)
	return nil
}

// SaveRollout writes r if nobody changed it since it was read, and raises its
// Revision. WakeAt nil puts it to sleep; the lease stays as it is.
func (tx *Tx) SaveRollout(r *Rollout) error {
	if err := tx.writable("save a rollout"); err != nil {
		return err
	}
	row := rolloutRow{Rollout: *r}
	row.Revision, row.UpdatedAt = r.Revision+1, tx.now
	q := tx.db.NewUpdate().Model(&row).ExcludeColumn(kept...).
		Where("project = ? AND id = ? AND revision = ?", r.Project, r.ID, r.Revision)
	n, err := affected(saveAt(q, r.Work).Exec(tx.ctx))
	if err != nil && isUnique(err) {
		err = fmt.Errorf("%w: %w", ErrLive, err)
	}
	if err := tx.saved(n, err, "rollout", r.Project, r.ID, func() (bool, error) {
		return tx.db.NewSelect().Model((*rolloutRow)(nil)).Where("project = ? AND id = ?", r.Project, r.ID).Exists(tx.ctx)
	}); err != nil {
		return err
	}
	restore(tx, r)
	r.Revision, r.UpdatedAt = row.Revision, row.UpdatedAt
	tx.Notify(TopicWork)
	return nil
}

// Rollout returns a rollout, or [ErrNotFound].
func (tx *Tx) Rollout(project, id string) (Rollout, error) {
	var row rolloutRow
	ok, err := tx.one(&row, "project = ? AND id = ?", project, id)
	if err == nil && !ok {
		err = ErrNotFound
	}
	if err != nil {
		return Rollout{}, fmt.Errorf("couldn't read rollout %s/%.40s: %w", project, id, err)
	}
	return row.Rollout, nil
}

// LiveRollout returns the one rollout of k that has not ended, if there is one.
func (tx *Tx) LiveRollout(k release.Key) (Rollout, bool, error) {
	var row rolloutRow
	ok, err := tx.one(&row, "project = ? AND service = ? AND environment = ? AND live", k.Project, k.Service, k.Environment)
	if err != nil {
		return Rollout{}, false, fmt.Errorf("couldn't read the live rollout of %s: %w", k, err)
	}
	return row.Rollout, ok, nil
}

// RolloutFilter narrows [Tx.Rollouts]. Its zero value means all.
type RolloutFilter struct {
	Project     string
	Service     string
	Environment string
	Run         string
	Release     release.ID
	Phase       string
	Live        *bool
	Limit       int
}

// Rollouts lists rollouts, newest first.
func (tx *Tx) Rollouts(f RolloutFilter) ([]Rollout, error) {
	var rows []rolloutRow
	q := tx.db.NewSelect().Model(&rows).OrderExpr("number DESC, project")
	filter(q, "project", f.Project)
	filter(q, "service", f.Service)
	filter(q, "environment", f.Environment)
	filter(q, "run", f.Run)
	filter(q, "release", string(f.Release))
	filter(q, "phase", f.Phase)
	if f.Live != nil {
		whereLive(q, *f.Live)
	}
	if f.Limit > 0 {
		q.Limit(int64(f.Limit))
	}
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't list rollouts: %w", err)
	}
	out := make([]Rollout, len(rows))
	for i := range rows {
		out[i] = rows[i].Rollout
	}
	return out, nil
}

type eventRow struct {
	bun.BaseModel `bun:"table:events,alias:e"`
	Event
}

// AppendEvent adds an event to a rollout's log and returns its number, from 1.
func (tx *Tx) AppendEvent(project, rollout string, data json.RawMessage) (int64, error) {
	if err := tx.writable("add an event"); err != nil {
		return 0, err
	}
	last, err := tx.lastEvent(project, rollout)
	if err != nil {
		return 0, err
	}
	row := eventRow{Event: Event{Project: project, Rollout: rollout, Seq: last + 1, At: tx.now, Data: data}}
	if _, err := tx.db.NewInsert().Model(&row).Exec(tx.ctx); err != nil {
		return 0, fmt.Errorf("couldn't add an event to rollout %s/%s: %w", project, rollout, err)
	}
	return row.Seq, nil
}

func (tx *Tx) lastEvent(project, rollout string) (last int64, err error) {
	err = tx.db.QueryRowContext(tx.ctx, "SELECT coalesce(max(seq), 0) FROM events WHERE project = ? AND rollout = ?", project, rollout).Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("couldn't read the last event of rollout %s/%s: %w", project, rollout, err)
	}
	return last, nil
}

// ReplaceEvent writes a rollout's last event anew, so that a thousand ticks can
// be one. Any other is history and fails with [ErrStale].
func (tx *Tx) ReplaceEvent(project, rollout string, seq int64, data json.RawMessage) error {
	if err := tx.writable("replace an event"); err != nil {
		return err
	}
	last, err := tx.lastEvent(project, rollout)
	if err != nil {
		return err
	}
	if seq < 1 || seq != last {
		return fmt.Errorf("couldn't replace event %d of rollout %s/%s, whose last is %d: %w", seq, project, rollout, last, ErrStale)
	}
	_, err = tx.db.NewUpdate().Model(&eventRow{Event: Event{At: tx.now, Data: data}}).Column("at", "data").
		Where("project = ? AND rollout = ? AND seq = ?", project, rollout, seq).Exec(tx.ctx)
	if err != nil {
		return fmt.Errorf("couldn't replace event %d of rollout %s/%s: %w", seq, project, rollout, err)
	}
	return nil
}

// Events returns a rollout's log in order.
func (tx *Tx) Events(project, rollout string) ([]Event, error) {
	var rows []eventRow
	err := tx.db.NewSelect().Model(&rows).Where("project = ? AND rollout = ?", project, rollout).Order("seq").Scan(tx.ctx)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the events of rollout %s/%s: %w", project, rollout, err)
	}
	out := make([]Event, len(rows))
	for i := range rows {
		out[i] = rows[i].Event
	}
	return slices.Clip(out), nil
}
