package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/internal/crashpoint"
	"github.com/uptrace/bun"
)

// Dialects.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// Options are what Open can be told. The zero value is fine.
type Options struct {
	Logger  *slog.Logger     // default: slog.Default()
	Now     func() time.Time // SQLite only, whose clock it is; default: time.Now
	Address string           // SQLite only: where this process answers, for those who find the database locked
}

// Store is an open database. It is safe for concurrent use.
type Store struct {
	dialect string
	path    string // SQLite only
	log     *slog.Logger
	clock   func() time.Time // SQLite: the clock; PostgreSQL: nil, the server's

	writer *bun.DB // SQLite: a single connection, so writers queue here
	reader *bun.DB
	pg     *listener // PostgreSQL only
	lock   *fileLock // SQLite only
	hub    *hub
	jumps  jumps
	closed atomic.Bool
}

// Open opens the database at url and brings its schema up to date. A path or
// "sqlite:PATH" is SQLite, in a file that is made if it is not there;
// "postgres://…" is PostgreSQL.
//
// A SQLite database belongs to one process at a time: a second Open fails with a
// [LockedError] that names the first.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Store{log: o.Logger, hub: newHub()}
	var err error
	switch scheme, rest, _ := strings.Cut(url, ":"); {
	case scheme == "postgres" || scheme == "postgresql":
		err = s.openPostgres(ctx, url)
	case scheme == "sqlite":
		err = s.openSQLite(ctx, rest, o)
	case strings.Contains(url, "://"):
		return nil, fmt.Errorf("couldn't open the database: %q is neither a path, sqlite:PATH nor postgres://…", scheme+"://…")
	default:
		err = s.openSQLite(ctx, url, o)
	}
	if err != nil {
		return nil, errors.Join(explain(err), s.Close())
	}
	return s, nil
}

// Close ends all subscriptions and closes the database. Transactions that are
// open fail. Closing again does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.hub.close()
	var errs []error
	if s.pg != nil {
		s.pg.close()
	}
	if s.reader != nil && s.reader != s.writer {
		errs = append(errs, s.reader.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.release())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("couldn't close the database: %w", err)
	}
	return nil
}

// Dialect returns [SQLite] or [Postgres].
func (s *Store) Dialect() string { return s.dialect }

// Tx is one transaction. Its writing methods fail in a View.
type Tx struct {
	ctx    context.Context
	s      *Store
	db     bun.Tx
	now    time.Time
	began  time.Time // our own clock, when it was now
	write  bool
	topics map[string]struct{}
	undo   []func() // gives rows back as they were, if this does not commit
}

// Now returns the transaction's one time, in UTC and whole microseconds: the
// database's clock on PostgreSQL.
func (tx *Tx) Now() time.Time { return tx.now }

// Notify wakes those who subscribed, once the transaction is committed.
func (tx *Tx) Notify(topic string) {
	if tx.write {
		tx.topics[topic] = struct{}{}
	}
}

// View runs f on one consistent snapshot.
func (s *Store) View(ctx context.Context, f func(tx *Tx) error) error {
	err := s.view(ctx, f)
	for attempt := 1; attempt < maxAttempts && isTransient(err) && ctx.Err() == nil; attempt++ {
		err = s.view(ctx, f)
	}
	return explain(err)
}

func (s *Store) view(ctx context.Context, f func(tx *Tx) error) error {
	var opts *sql.TxOptions
	if s.dialect == Postgres {
		opts = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	db, err := s.reader.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("couldn't begin to read: %w", err)
	}
	defer func() { _ = db.Rollback() }()
	tx := &Tx{ctx: ctx, s: s, db: db}
	if tx.now, err = s.begin(ctx, db, false); err != nil {
		return err
	}
	return f(tx)
}

// maxAttempts bounds how often a transaction is run.
const maxAttempts = 10

// Update runs f in one write transaction and commits it if f returns nil. Once
// it returns nil, all of it is on disk, and what f notified is on its way. On
// PostgreSQL f may run again; see the package's documentation.
func (s *Store) Update(ctx context.Context, f func(tx *Tx) error) error {
	for attempt := 1; ; attempt++ {
		tx, err := s.update(ctx, f)
		if err == nil {
			s.publish(tx)
			s.afterJump(ctx, tx.now, tx.began)
			return nil
		}
		if tx != nil {
			for i := len(tx.undo) - 1; i >= 0; i-- {
				tx.undo[i]()
			}
		}
		if errors.Is(err, ErrUnknown) {
			s.publish(tx) // in case it was committed; hearing of nothing is harmless
		}
		if attempt == maxAttempts || errors.Is(err, ErrUnknown) || !isTransient(err) {
			return explain(err)
		}
		s.log.DebugContext(ctx, "running a transaction again", "attempt", attempt, "error", err)
		select {
		case <-ctx.Done():
			return explain(err)
		case <-time.After(time.Duration(1+rand.IntN(10*attempt)) * time.Millisecond):
		}
	}
}

// update runs f once. The Tx is nil if it never began.
func (s *Store) update(ctx context.Context, f func(tx *Tx) error) (*Tx, error) {
	var opts *sql.TxOptions
	if s.dialect == Postgres {
		opts = &sql.TxOptions{Isolation: sql.LevelReadCommitted} // whatever the database's default is
	}
	db, err := s.writer.BeginTx(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("couldn't begin to write: %w", err)
	}
	defer func() { _ = db.Rollback() }() // says so, and does nothing, after a commit
	tx := &Tx{ctx: ctx, s: s, db: db, write: true, topics: map[string]struct{}{}}
	if tx.now, err = s.begin(ctx, db, true); err != nil {
		return tx, err
	}
	tx.began = time.Now()
	if err := f(tx); err != nil {
		return tx, err
	}
	if s.dialect == Postgres {
		if err := s.pg.announce(tx); err != nil {
			return tx, err
		}
	}
	crashpoint.Here(crashpoint.BeforeCommit)
	// If we die before this returns, it is all there or nothing is. Whoever
	// comes next reads the rows and finds out.
	if err := ctx.Err(); err != nil {
		return tx, fmt.Errorf("didn't commit: %w", context.Cause(ctx))
	}
	if err := db.Commit(); err != nil {
		err = fmt.Errorf("couldn't commit: %w", err)
		if s.dialect == Postgres && !surelyRolledBack(err) {
			err = fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		return tx, err
	}
	crashpoint.Here(crashpoint.AfterCommit)
	return tx, nil
}

// begin takes the writers' lock where there is one and returns the time.
func (s *Store) begin(ctx context.Context, db bun.IDB, write bool) (time.Time, error) {
	if s.dialect == SQLite {
		return s.wall(), nil
	}
	// The time is read when the lock is held, so that it agrees with the order
	// of commits.
	q := "SELECT clock_timestamp()"
	if write {
		q = "WITH l AS MATERIALIZED (SELECT pg_advisory_xact_lock(" + writersLock + ")) SELECT clock_timestamp() FROM l"
	}
	var now instant
	if err := db.QueryRowContext(ctx, q).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("couldn't ask the database for the time: %w", err)
	}
	return now.Time, nil
}

// wall returns SQLite's time.
func (s *Store) wall() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }

// publish tells this process's subscribers what tx notified.
func (s *Store) publish(tx *Tx) {
	for topic := range tx.topics {
		s.hub.notify(topic)
	}
}

// Subscribe returns a channel of notified topics and a function that ends the
// subscription. A topic that is notified again before it was received comes
// once; nothing is lost and writers never wait. After a broken connection to
// PostgreSQL every known topic comes. The channel is closed when the
// subscription or the store ends.
//
// Topics: "work" (a row's wake_at changed), "feed:PROJECT", "desired", "observed".
func (s *Store) Subscribe() (<-chan string, func()) { return s.hub.subscribe() }

// Topics of [Store.Subscribe], beside "feed:" and a project.
const (
	TopicWork     = "work"
	TopicDesired  = "desired"
	TopicObserved = "observed"
)
