package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

type desiredRow struct {
	bun.BaseModel `bun:"table:desired,alias:d"`
	Desired
}

// PutDesired stores what hosts shall run of k if generation is above the stored
// one, and tells whether it did: a worker that was overtaken changes nothing.
func (tx *Tx) PutDesired(k release.Key, generation int64, doc json.RawMessage) (applied bool, err error) {
	if err := tx.writable("store a desired state"); err != nil {
		return false, err
	}
	n, err := affected(tx.db.NewInsert().Model(&desiredRow{Desired: Desired{Key: k, Generation: generation, Document: doc, UpdatedAt: tx.now}}).
		On("CONFLICT (project, service, environment) DO UPDATE").
		Set("generation = excluded.generation, document = excluded.document, updated_at = excluded.updated_at").
		Where("d.generation < excluded.generation").Exec(tx.ctx))
	if err != nil {
		return false, fmt.Errorf("couldn't store the desired state of %s: %w", k, err)
	}
	if n > 0 {
		tx.Notify(TopicDesired)
	}
	return n > 0, nil
}

// Desired returns what hosts shall run of k.
func (tx *Tx) Desired(k release.Key) (Desired, bool, error) {
	var row desiredRow
	ok, err := tx.one(&row, byKey, k.Project, k.Service, k.Environment)
	if err != nil {
		return Desired{}, false, fmt.Errorf("couldn't read the desired state of %s: %w", k, err)
	}
	return row.Desired, ok, nil
}

// overlap is how long before a read a desired state may have been written that
// the read did not show, because its transaction had not ended.
const overlap = MaxLease

// DesiredSince returns what hosts shall run of everything that may have changed
// since a read at that time, by key; of everything if the time is zero or in the
// future (the clock went back).
func (tx *Tx) DesiredSince(at time.Time) ([]Desired, error) {
	var rows []desiredRow
	q := tx.db.NewSelect().Model(&rows).Order("project", "service", "environment")
	if !at.IsZero() && !at.After(tx.now) {
		q = q.Where("updated_at >= ?", at.Add(-overlap))
	}
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the desired states: %w", err)
	}
	out := make([]Desired, len(rows))
	for i := range rows {
		out[i] = rows[i].Desired
	}
	return out, nil
}

// formerBoots bounds the list of a host's former boots, in characters: it holds
// some sixty of an agent's.
const formerBoots = 1000

type observedRow struct {
	bun.BaseModel `bun:"table:observed,alias:o"`
	Observed
}

// PutObserved stores a host's report and fills its time, unless a later one is
// there, of the same boot or of one that took that boot's place; it tells whether
// it did.
func (tx *Tx) PutObserved(o *Observed) (applied bool, err error) {
	if err := tx.writable("store a report"); err != nil {
		return false, err
	}
	restore(tx, o)
	o.At = tx.now
	n, err := affected(tx.db.NewInsert().Model(&observedRow{Observed: *o}).
		On("CONFLICT (host) DO UPDATE").
		Set("former = CASE WHEN o.boot = excluded.boot THEN o.former ELSE substr(o.boot || ' ' || o.former, 1, ?) END", formerBoots).
		Set("boot = excluded.boot, sequence = excluded.sequence, at = excluded.at, report = excluded.report").
		Where("CASE WHEN o.boot = excluded.boot THEN o.sequence < excluded.sequence ELSE replace(o.former, excluded.boot, '') = o.former END").Exec(tx.ctx))
	if err != nil {
		return false, fmt.Errorf("couldn't store the report of host %s: %w", o.Host, err)
	}
	if n > 0 {
		tx.Notify(TopicObserved)
	}
	return n > 0, nil
}

// ObservedHosts returns the last report of every host, by name.
func (tx *Tx) ObservedHosts() ([]Observed, error) {
	var rows []observedRow
	if err := tx.db.NewSelect().Model(&rows).Order("host").Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the hosts' reports: %w", err)
	}
	out := make([]Observed, len(rows))
	for i := range rows {
		out[i] = rows[i].Observed
	}
	return out, nil
}

// ObservedVersions returns the last reports of these hosts, or of all if there are
// none, without what they say: which report it is and when it came.
func (tx *Tx) ObservedVersions(hosts ...string) ([]Observed, error) {
	var rows []observedRow
	q := tx.db.NewSelect().Model(&rows).ExcludeColumn("report").Order("host")
	if len(hosts) > 0 {
		q = q.Where("host IN (?)", bun.List(hosts))
	}
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the hosts' reports: %w", err)
	}
	out := make([]Observed, len(rows))
	for i := range rows {
		out[i] = rows[i].Observed
	}
	return out, nil
}

// Observed returns the last report of one host.
func (tx *Tx) Observed(host string) (Observed, bool, error) {
	var row observedRow
	ok, err := tx.one(&row, "host = ?", host)
	if err != nil {
		return Observed{}, false, fmt.Errorf("couldn't read the report of host %s: %w", host, err)
	}
	return row.Observed, ok, nil
}

type answerRow struct {
	bun.BaseModel `bun:"table:answers,alias:a"`
	Answer
}

// PutAnswer keeps what a command was answered, in the command's transaction, and
// fills its time. The key was used if this is [ErrExists]: answer as
// [Tx.Answer] says if the request is the same.
func (tx *Tx) PutAnswer(a *Answer) error {
	if err := tx.writable("store an answer"); err != nil {
		return err
	}
	restore(tx, a)
	a.At = tx.now
	added, err := tx.insert(&answerRow{Answer: *a})
	if err == nil && !added {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("couldn't store an answer: %w", err)
	}
	return nil
}

// Answer returns what the command with this key was answered.
func (tx *Tx) Answer(project, key string) (Answer, bool, error) {
	var row answerRow
	ok, err := tx.one(&row, `project = ? AND "key" = ?`, project, key)
	if err != nil {
		return Answer{}, false, fmt.Errorf("couldn't read an answer: %w", err)
	}
	return row.Answer, ok, nil
}
