package store

import (
	"fmt"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

type environmentRow struct {
	bun.BaseModel `bun:"table:environments,alias:v"`
	Environment
}

const byKey = "project = ? AND service = ? AND environment = ?"

// Environment returns what is known of k; false if nothing was ever there.
func (tx *Tx) Environment(k release.Key) (Environment, bool, error) {
	var row environmentRow
	ok, err := tx.one(&row, byKey, k.Project, k.Service, k.Environment)
	if err != nil {
		return Environment{}, false, fmt.Errorf("couldn't read environment %s: %w", k, err)
	}
	return row.Environment, ok, nil
}

// PutEnvironment adds e if its Revision is 0, and otherwise writes it if nobody
// changed it since it was read. It raises Revision; WakeAt nil puts it to sleep;
// the lease stays as it is.
func (tx *Tx) PutEnvironment(e *Environment) error {
	if err := tx.writable("save an environment"); err != nil {
		return err
	}
	row := environmentRow{Environment: *e}
	row.Revision, row.UpdatedAt, row.RetireAt = e.Revision+1, tx.now, micros(e.RetireAt)
	if e.Revision == 0 {
		row.Work = Work{WakeAt: micros(e.WakeAt)}
		added, err := tx.insert(&row)
		if err == nil && !added {
			err = ErrStale
		}
		if err != nil {
			return fmt.Errorf("couldn't add environment %s: %w", e.Key, err)
		}
		restore(tx, e)
		*e = row.Environment
	} else {
		q := tx.db.NewUpdate().Model(&row).ExcludeColumn("project", "service", "environment", "lease_owner", "lease_until", "epoch", "wakes").
			Where(byKey+" AND revision = ?", e.Project, e.Service, e.Key.Environment, e.Revision)
		n, err := affected(saveAt(q, e.Work).Exec(tx.ctx))
		if err := tx.saved(n, err, "environment", e.Project, e.Service+"/"+e.Key.Environment, func() (bool, error) {
			_, ok, err := tx.Environment(e.Key)
			return ok, err
		}); err != nil {
			return err
		}
		restore(tx, e)
		e.Revision, e.UpdatedAt, e.RetireAt = row.Revision, row.UpdatedAt, row.RetireAt
	}
	tx.Notify(TopicWork)
	return nil
}

// Environments lists a project's environments by service and name; all projects'
// if project is empty.
func (tx *Tx) Environments(project string) ([]Environment, error) {
	var rows []environmentRow
	q := tx.db.NewSelect().Model(&rows).Order("project", "service", "environment")
	filter(q, "project", project)
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't list environments: %w", err)
	}
	out := make([]Environment, len(rows))
	for i := range rows {
		out[i] = rows[i].Environment
	}
	return out, nil
}
