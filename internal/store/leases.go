package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

// MaxLease bounds a lease. One that reaches more than twice as far into the
// future was taken before the clock went back, and counts as expired.
const MaxLease = time.Minute

const tooFar = 2 * MaxLease

// Lease is the right to work on a row until it expires. Only the holder of the
// highest epoch may write; see [Tx.Check].
type Lease struct {
	Table   string // runs, rollouts or environments
	Project string
	ID      string // of environments: service/environment
	Owner   string
	Epoch   int64
	Late    time.Duration // since when the row was due, when it was leased
}

// String returns table project/id.
func (l Lease) String() string { return l.Table + " " + l.Project + "/" + l.ID }

type leaseTable struct {
	name string
	key  []string // after project; joined by slashes they are the ID
}

var leaseTables = []leaseTable{
	{"runs", []string{"id"}},
	{"rollouts", []string{"id"}},
	{"environments", []string{"service", "environment"}},
}

func findLeaseTable(name string) (leaseTable, error) {
	for _, t := range leaseTables {
		if t.name == name {
			return t, nil
		}
	}
	return leaseTable{}, fmt.Errorf("table %q has no leases: use runs, rollouts or environments", name)
}

// rowOf returns a table, and the condition for one row of it.
func rowOf(table, project, id string) (name bun.Ident, row any, err error) {
	t, err := findLeaseTable(table)
	if err != nil {
		return "", nil, err
	}
	parts := strings.Split(id, "/")
	if len(parts) != len(t.key) {
		return "", nil, fmt.Errorf("%q is not the ID of a row of %s", id, t.name)
	}
	cond, args := "project = ?", []any{project}
	for i, k := range t.key {
		cond += " AND " + k + " = ?"
		args = append(args, parts[i])
	}
	return bun.Ident(t.name), bun.SafeQuery(cond, args...), nil
}

// id is the SQL expression of the row's ID.
func (t leaseTable) id() bun.Safe { return bun.Safe(strings.Join(t.key, " || '/' || ")) }

// columns lists the whole key's, each behind prefix.
func (t leaseTable) columns(prefix string) bun.Safe {
	out := prefix + "project"
	for _, k := range t.key {
		out += ", " + prefix + k
	}
	return bun.Safe(out)
}

// leaseTime is now, and now+ttl, as SQL of the store's dialect.
func (s *Store) leaseTime(ttl time.Duration) (now, until any) {
	if s.dialect == Postgres {
		// Stable within the statement, unlike clock_timestamp: indexes work.
		return bun.Safe("statement_timestamp()"), bun.SafeQuery("statement_timestamp() + ? * interval '1 microsecond'", ttl.Microseconds())
	}
	t := s.wall()
	return t, t.Add(ttl)
}

func checkTTL(ttl time.Duration) error {
	if ttl <= 0 || ttl > MaxLease {
		return fmt.Errorf("a lease of %v can't be: use more than 0 and at most %v", ttl, MaxLease)
	}
	return nil
}

// Acquire leases at most n due rows of table, those that have been due for
// longest, and raises their epochs. Two callers never get the same row while a
// lease lasts.
func (s *Store) Acquire(ctx context.Context, table, owner string, ttl time.Duration, n int) ([]Lease, error) {
	t, err := findLeaseTable(table)
	if err == nil {
		err = checkTTL(ttl)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't lease a row: %w", err)
	}
	// SQLite's writers queue for the connection; the time is that of our turn.
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("couldn't lease a row of %s: %w", table, err)
	}
	defer func() { _ = conn.Close() }()
	now, until := s.leaseTime(ttl)
	_, far := s.leaseTime(tooFar)
	skip := bun.Safe("")
	if s.dialect == Postgres {
		skip = "FOR UPDATE SKIP LOCKED"
	}
	rows, err := conn.QueryContext(ctx, `WITH due (?) AS MATERIALIZED (
	SELECT ? FROM ?
	WHERE wake_at <= ? AND (lease_until IS NULL OR lease_until <= ? OR lease_until > ?)
	ORDER BY wake_at LIMIT ? ?
)
UPDATE ? AS t SET lease_owner = ?, lease_until = ?, epoch = t.epoch + 1
FROM due WHERE (?) = (?)
RETURNING project, ?, epoch, wake_at, ?`,
		t.columns("due_"), t.columns(""), bun.Ident(t.name), now, now, far, n, skip,
		bun.Ident(t.name), owner, until, t.columns("t."), t.columns("due_"), t.id(), now)
	if err != nil {
		return nil, explain(fmt.Errorf("couldn't lease a row of %s: %w", table, err))
	}
	defer rows.Close()
	var out []Lease
	for rows.Next() {
		l := Lease{Table: table, Owner: owner}
		var due, at instant
		if err := rows.Scan(&l.Project, &l.ID, &l.Epoch, &due, &at); err != nil {
			return nil, fmt.Errorf("couldn't read a lease of %s: %w", table, err)
		}
		l.Late = max(0, at.Sub(due.Time))
		out = append(out, l)
	}
	if err := rows.Err(); err != nil {
		return nil, explain(fmt.Errorf("couldn't lease a row of %s: %w", table, err))
	}
	return out, nil
}

// Extend makes the lease last for ttl from now. It fails with [ErrFenced] when
// another worker took the row or the lease was given back.
func (s *Store) Extend(ctx context.Context, l Lease, ttl time.Duration) error {
	if err := checkTTL(ttl); err != nil {
		return fmt.Errorf("couldn't extend the lease of %s: %w", l, err)
	}
	if _, err := s.setLease(ctx, l, "lease_until = ?", ttl); err != nil {
		return fmt.Errorf("couldn't extend the lease of %s: %w", l, err)
	}
	return nil
}

const givenBack = "lease_owner = '', lease_until = NULL"

// Release gives the row back and leaves its wake_at as it is. It fails with
// [ErrFenced] when there was nothing to give back any more. Most often that is so
// (see [Tx.GiveBack]), so it reads first, beside the writers.
func (s *Store) Release(ctx context.Context, l Lease) error {
	err := s.View(ctx, func(tx *Tx) error { return tx.Check(l) })
	if errors.Is(err, ErrFenced) {
		return fmt.Errorf("couldn't give back the lease of %s: %w", l, err)
	}
	wake, err := s.setLease(ctx, l, givenBack, 0)
	if err != nil {
		return fmt.Errorf("couldn't give back the lease of %s: %w", l, err)
	}
	if !wake.IsZero() {
		s.hub.notify(TopicWork) // it may be due again, for any worker
	}
	return nil
}

// setLease changes the lease if it is the row's, and returns the row's alarm. A
// placeholder in set is now+ttl.
func (s *Store) setLease(ctx context.Context, l Lease, set string, ttl time.Duration) (wake instant, err error) {
	table, row, err := rowOf(l.Table, l.Project, l.ID)
	if err != nil {
		return wake, err
	}
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return wake, err
	}
	defer func() { _ = conn.Close() }()
	args := []any{table}
	if ttl > 0 {
		_, until := s.leaseTime(ttl)
		args = append(args, until)
	}
	args = append(args, row, l.Owner, l.Epoch)
	err = conn.QueryRowContext(ctx, "UPDATE ? SET "+set+" WHERE ? AND lease_owner = ? AND epoch = ? AND lease_until IS NOT NULL RETURNING wake_at", args...).Scan(&wake)
	if noRows(err) {
		return wake, ErrFenced
	}
	return wake, explain(err)
}

// GiveBack gives the row back when the transaction commits, and leaves its wake_at
// as it is. The caller has checked that the lease is its own.
func (tx *Tx) GiveBack(l Lease) error {
	if err := tx.writable("give back a lease"); err != nil {
		return err
	}
	table, row, err := rowOf(l.Table, l.Project, l.ID)
	if err != nil {
		return fmt.Errorf("couldn't give back a lease: %w", err)
	}
	if _, err := tx.db.ExecContext(tx.ctx, "UPDATE ? SET "+givenBack+" WHERE ? AND lease_owner = ? AND epoch = ?", table, row, l.Owner, l.Epoch); err != nil {
		return fmt.Errorf("couldn't give back the lease of %s: %w", l, err)
	}
	tx.Notify(TopicWork)
	return nil
}

// Check fails with [ErrFenced] unless l is the row's lease now. On PostgreSQL it
// locks the row, so that it stays so until the transaction ends; on SQLite
// nobody else writes meanwhile.
func (tx *Tx) Check(l Lease) error {
	table, row, err := rowOf(l.Table, l.Project, l.ID)
	if err != nil {
		return fmt.Errorf("couldn't check a lease: %w", err)
	}
	q := "SELECT lease_owner, epoch, lease_until FROM ? WHERE ?"
	if tx.write && tx.s.dialect == Postgres {
		q += " FOR UPDATE"
	}
	var owner string
	var epoch int64
	var until instant
	err = tx.db.QueryRowContext(tx.ctx, q, table, row).Scan(&owner, &epoch, &until)
	switch {
	case noRows(err):
		return fmt.Errorf("couldn't find %s: %w", l, ErrNotFound)
	case err != nil:
		return fmt.Errorf("couldn't check the lease of %s: %w", l, err)
	case epoch != l.Epoch || owner != l.Owner || until.IsZero():
		return fmt.Errorf("%w: %s is at epoch %d, held by %q; ours was %d", ErrFenced, l, epoch, owner, l.Epoch)
	case !until.After(tx.now):
		return fmt.Errorf("%w: that of %s expired %v ago", ErrFenced, l, tx.now.Sub(until.Time))
	}
	return nil
}

// sooner makes a row due at a time, given twice, unless it is due earlier.
const sooner = "wake_at = CASE WHEN wake_at IS NULL OR wake_at > ? THEN ? ELSE wake_at END, wakes = wakes + 1"

// Wake makes the row due at the given time, or leaves it if it is due earlier.
// No save loses it; see the package's documentation. A row that is not there has
// nobody to wake.
func (tx *Tx) Wake(table, project, id string, at time.Time) error {
	return tx.setWake(table, project, id, bun.SafeQuery(sooner, at, at), bun.Safe("TRUE"))
}

// WakeRuns lets the live runs of a service, except one, be due at a time: what
// they wait for may be there.
func (tx *Tx) WakeRuns(project, service, except string, at time.Time) error {
	if err := tx.writable("wake runs"); err != nil {
		return err
	}
	_, err := tx.db.ExecContext(tx.ctx, "UPDATE runs SET "+sooner+" WHERE project = ? AND service = ? AND live AND id <> ?",
		at, at, project, service, except)
	if err != nil {
		return fmt.Errorf("couldn't wake the runs of %s: %w", service, err)
	}
	tx.Notify(TopicWork)
	return nil
}

// WakeLive wakes the live rollout of k, and says whether there is one.
func (tx *Tx) WakeLive(k release.Key) (live bool, err error) {
	if err := tx.writable("set an alarm"); err != nil {
		return false, err
	}
	n, err := affected(tx.db.NewUpdate().Table("rollouts").Set("wake_at = CASE WHEN wake_at IS NULL OR wake_at > ? THEN ? ELSE wake_at END, wakes = wakes + 1", tx.now, tx.now).
		Where(byKey+" AND live", k.Project, k.Service, k.Environment).Exec(tx.ctx))
	if err != nil {
		return false, fmt.Errorf("couldn't wake the live rollout of %s: %w", k, err)
	}
	if n > 0 {
		tx.Notify(TopicWork)
	}
	return n > 0, nil
}

// WakeAllLive wakes every live rollout, each a little after the one before, so
// that thousands don't come at once and are late: a few are due now, ten thousand
// within a hundred seconds. What is due earlier stays so.
func (tx *Tx) WakeAllLive() error {
	if err := tx.writable("set alarms"); err != nil {
		return err
	}
	at := "? + r.place % 10000 * 10000" // microseconds
	if tx.s.dialect == Postgres {
		at = "?::timestamptz + r.place % 10000 * interval '10 milliseconds'"
	}
	_, err := tx.db.ExecContext(tx.ctx, `UPDATE rollouts AS t SET wake_at = `+at+`, wakes = t.wakes + 1
FROM (SELECT project, id, row_number() OVER (ORDER BY number) - 1 AS place FROM rollouts WHERE live) AS r
WHERE t.project = r.project AND t.id = r.id AND t.wake_at > `+at, tx.now, tx.now)
	if err != nil {
		return fmt.Errorf("couldn't wake the live rollouts: %w", err)
	}
	tx.Notify(TopicWork)
	return nil
}

// Sleep puts a row that is due before the given time off until then. A row that
// is asleep stays asleep. It takes precedence over wake-ups before that time.
func (tx *Tx) Sleep(table, project, id string, until time.Time) error {
	return tx.setWake(table, project, id, bun.SafeQuery("wake_at = ?", until), bun.SafeQuery("wake_at < ?", until))
}

func (tx *Tx) setWake(table, project, id string, set, where any) error {
	if err := tx.writable("set an alarm"); err != nil {
		return err
	}
	name, row, err := rowOf(table, project, id)
	if err != nil {
		return fmt.Errorf("couldn't set an alarm: %w", err)
	}
	if _, err := tx.db.ExecContext(tx.ctx, "UPDATE ? SET ? WHERE ? AND ?", name, set, row, where); err != nil {
		return fmt.Errorf("couldn't set an alarm for %s %s/%s: %w", table, project, id, err)
	}
	tx.Notify(TopicWork)
	return nil
}

// NextWake returns how long it takes until a row of table can be acquired, 0 if
// one can be now, and false if all are asleep. It is a duration, and not a time,
// because the database's clock need not be the caller's.
func (s *Store) NextWake(ctx context.Context, table string) (time.Duration, bool, error) {
	t, err := findLeaseTable(table)
	if err != nil {
		return 0, false, fmt.Errorf("couldn't look for the next alarm: %w", err)
	}
	now, _ := s.leaseTime(0)
	asked := time.Now()
	_, far := s.leaseTime(tooFar)
	later := bun.Safe("max(wake_at, lease_until)")
	if s.dialect == Postgres {
		later = "greatest(wake_at, lease_until)"
	}
	var at, free, leased instant
	err = s.reader.QueryRowContext(ctx, `SELECT ?,
	(SELECT wake_at FROM ? WHERE wake_at IS NOT NULL AND (lease_until IS NULL OR lease_until <= ? OR lease_until > ?) ORDER BY wake_at LIMIT 1),
	(SELECT min(?) FROM ? WHERE wake_at IS NOT NULL AND lease_until > ? AND lease_until <= ?)`,
		now, bun.Ident(t.name), now, far, later, bun.Ident(t.name), now, far).Scan(&at, &free, &leased)
	if err != nil {
		return 0, false, explain(fmt.Errorf("couldn't look for the next alarm of %s: %w", table, err))
	}
	if s.afterJump(ctx, at.Time, asked) {
		return 0, true, nil
	}
	next := free
	if next.IsZero() || (!leased.IsZero() && leased.Before(next.Time)) {
		next = leased
	}
	if next.IsZero() {
		return 0, false, nil
	}
	return max(0, next.Sub(at.Time)), true, nil
}

// jumpThreshold is how far a clock may slip without being noticed.
const jumpThreshold = 5 * time.Second

// jumps compares the database's clock with this process's monotonic one.
type jumps struct {
	on   bool
	mu   sync.Mutex
	wall time.Time // the database's
	mono time.Time // ours, at that moment
	owed bool      // everything is to be woken
}

// back reports that the clock went back and nobody was woken for it yet. The
// caller wakes everything, or says by owe that it couldn't.
func (j *jumps) back(wall, mono time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.wall.IsZero() {
		j.wall, j.mono = wall, mono
	}
	// Small slips add up against the first reading.
	if slip := mono.Sub(j.mono) - wall.Sub(j.wall); slip.Abs() > jumpThreshold {
		j.wall, j.mono = wall, mono
		j.owed = j.owed || slip > 0
	}
	owed := j.owed
	j.owed = false
	return owed
}

func (j *jumps) owe() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.owed = true
}

// afterJump wakes everything that sleeps when the clock went back: it would
// sleep for that much too long. When it went forward, things are due too early,
// which is harmless. mono is our own clock when the database's said wall: what
// was done since may have taken long.
func (s *Store) afterJump(ctx context.Context, wall, mono time.Time) bool {
	if !s.jumps.on || !s.jumps.back(wall, mono) {
		return false
	}
	s.log.WarnContext(ctx, "the clock went back; waking everything that sleeps", "now", wall)
	if err := s.Update(ctx, func(tx *Tx) error { return tx.wakeAll() }); err != nil {
		s.jumps.owe()
		if ctx.Err() == nil {
			s.log.ErrorContext(ctx, "couldn't wake everything after the clock went back; trying again", "error", err)
		}
		return false
	}
	return true
}

// wakeAll makes everything due that has an alarm.
func (tx *Tx) wakeAll() error {
	for _, t := range leaseTables {
		if _, err := tx.db.ExecContext(tx.ctx, "UPDATE ? SET wake_at = ?, wakes = wakes + 1 WHERE wake_at > ?", bun.Ident(t.name), tx.now, tx.now); err != nil {
			return fmt.Errorf("couldn't wake the rows of %s: %w", t.name, err)
		}
	}
	tx.Notify(TopicWork)
	return nil
}
