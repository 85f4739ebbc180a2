package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"
)

// Bin is one closed bin of a rollout's counts, as it was judged. Number 0 is
// what was known of the stable version before the exposure.
type Bin struct {
	Project string
	Rollout string
	Seq     int64
	At      time.Time
	Data    json.RawMessage
}

type binRow struct {
	bun.BaseModel `bun:"table:bins,alias:b"`
	Bin
}

// AppendBin adds a bin; a number that is there already fails with [ErrExists].
// Bins are never changed: what was judged can be judged again.
func (tx *Tx) AppendBin(project, rollout string, seq int64, data json.RawMessage) error {
	if err := tx.writable("add a bin"); err != nil {
		return err
	}
	row := binRow{Bin: Bin{Project: project, Rollout: rollout, Seq: seq, At: tx.now, Data: data}}
	if _, err := tx.db.NewInsert().Model(&row).Exec(tx.ctx); err != nil {
		if isUnique(err) {
			err = fmt.Errorf("%w: %w", ErrExists, err)
		}
		return fmt.Errorf("couldn't add bin %d to rollout %s/%s: %w", seq, project, rollout, err)
	}
	return nil
}

// Bins returns the newest bins of a rollout in order, at most last of them; 0
// means all. Number 0 is among them only if it is wanted so far back.
func (tx *Tx) Bins(project, rollout string, last int) ([]Bin, error) {
	var rows []binRow
	q := tx.db.NewSelect().Model(&rows).Where("project = ? AND rollout = ?", project, rollout).Order("seq DESC")
	if last > 0 {
		q.Limit(int64(last))
	}
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the bins of rollout %s/%.40s: %w", project, rollout, err)
	}
	out := make([]Bin, len(rows))
	for i := range rows {
		out[i] = rows[i].Bin
	}
	slices.Reverse(out)
	return out, nil
}
