package store

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"
)

var errView = errors.New("a View can't write; use Update")

// writable refuses to write in a View, before the database does it less clearly.
func (tx *Tx) writable(what string) error {
	if !tx.write {
		return fmt.Errorf("couldn't %s: %w", what, errView)
	}
	return nil
}

// restore gives *p its present value back if the transaction fails.
func restore[T any](tx *Tx, p *T) {
	old := *p
	tx.undo = append(tx.undo, func() { *p = old })
}

// next returns the next number of a counter. The lock of writers makes it rise
// in the order of commits, and without gaps but for those that rolled back.
func (tx *Tx) next(project, name string) (int64, error) {
	var n int64
	err := tx.db.QueryRowContext(tx.ctx, `INSERT INTO counters (project, name, value) VALUES (?, ?, 1)
ON CONFLICT (project, name) DO UPDATE SET value = counters.value + 1 RETURNING value`, project, name).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("couldn't take the next number of %s: %w", name, err)
	}
	return n, nil
}

// NextGeneration returns a number above all others that were ever committed.
func (tx *Tx) NextGeneration() (int64, error) {
	if err := tx.writable("take a generation"); err != nil {
		return 0, err
	}
	return tx.next("", "generation")
}

// ReachGeneration lets the next generation be above seen, which a host says that it
// was told, and says whether it would not have been: in a database from a backup.
func (tx *Tx) ReachGeneration(seen int64) (raised bool, err error) {
	if err := tx.writable("raise the generation"); err != nil {
		return false, err
	}
	var last int64
	err = tx.db.QueryRowContext(tx.ctx, `SELECT value FROM counters WHERE project = '' AND name = 'generation'`).Scan(&last)
	if err == nil && last >= seen { // nothing is written: hosts report each second
		return false, nil
	}
	if err == nil || errors.Is(err, sql.ErrNoRows) {
		_, err = tx.db.ExecContext(tx.ctx, `INSERT INTO counters (project, name, value) VALUES ('', 'generation', ?)
ON CONFLICT (project, name) DO UPDATE SET value = excluded.value WHERE counters.value < excluded.value`, seen)
	}
	if err != nil {
		return false, fmt.Errorf("couldn't raise the generation to %d: %w", seen, err)
	}
	return true, nil
}

func affected(r sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// insert adds a row unless one with its key is there; then it returns false.
func (tx *Tx) insert(model any) (bool, error) {
	n, err := affected(tx.db.NewInsert().Model(model).On("CONFLICT DO NOTHING").Exec(tx.ctx))
	return n > 0, err
}

// one reads a single row into model by a condition; false if there is none.
func (tx *Tx) one(model any, where string, args ...any) (bool, error) {
	err := tx.db.NewSelect().Model(model).Where(where, args...).Limit(1).Scan(tx.ctx)
	if noRows(err) {
		return false, nil
	}
	return err == nil, err
}

// filter adds a condition for each field that is set.
func filter(q *bun.SelectQuery, column, value string) {
	if value != "" {
		q.Where("? = ?", bun.Ident(column), value)
	}
}
