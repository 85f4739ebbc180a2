package store

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// What callers branch on.
var (
	ErrNotFound = errors.New("no such row")
	ErrStale    = errors.New("somebody else changed it meanwhile")
	ErrFenced   = errors.New("the lease was lost")
	ErrLive     = errors.New("another rollout is live")
	ErrExists   = errors.New("it is there already, and differs")
	ErrLocked   = errors.New("the database is in use")
	ErrNewer    = errors.New("the database was written by a newer version")
	ErrFull     = errors.New("the disk is full")
	ErrReadOnly = errors.New("the database can't be written")
	ErrUnknown  = errors.New("it is unknown whether the transaction was committed")
)

// LockedError says who has the database open. It is an [ErrLocked].
type LockedError struct {
	Path    string
	PID     int       // 0 if the holder has not said
	Started time.Time // when it opened the database
	Address string    // where it answers, if it said
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%v: another process has %s open", ErrLocked, e.Path)
	}
	s := fmt.Sprintf("%v: process %d has %s open since %s", ErrLocked, e.PID, e.Path, e.Started.Format(time.RFC3339))
	if e.Address != "" {
		s += " and answers at " + e.Address
	}
	return s + "; use that one or stop it first"
}

// Unwrap makes it an ErrLocked.
func (e *LockedError) Unwrap() error { return ErrLocked }

// SQLSTATEs of PostgreSQL.
const (
	pgUnique            = "23505"
	pgSerialization     = "40001"
	pgDeadlock          = "40P01"
	pgIdleInTx          = "25P03"
	pgReadOnly          = "25006"
	pgDiskFull          = "53100"
	pgAdminShutdown     = "57P01"
	pgCrashShutdown     = "57P02"
	pgCannotConnect     = "57P03"
	pgCompletionUnknown = "40003"
)

// explain adds the sentinel that a driver's error stands for.
func explain(err error) error {
	if err == nil || errors.Is(err, ErrFull) || errors.Is(err, ErrReadOnly) {
		return err
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			return fmt.Errorf("%w: free some space; nothing of this change was kept: %w", ErrFull, err)
		case sqlite3.SQLITE_READONLY:
			return fmt.Errorf("%w: check the permissions of the file and its folder: %w", ErrReadOnly, err)
		}
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case pgDiskFull:
			return fmt.Errorf("%w: free some space on the PostgreSQL server; nothing of this change was kept: %w", ErrFull, err)
		case pgReadOnly:
			return fmt.Errorf("%w: is it a standby? connect to the primary: %w", ErrReadOnly, err)
		}
	}
	return err
}

// isUnique reports a violated unique index.
func isUnique(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == pgUnique
}

// isTransient reports an error before the commit after which the same
// transaction may succeed.
func isTransient(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case pgSerialization, pgDeadlock, pgIdleInTx, pgAdminShutdown, pgCrashShutdown, pgCannotConnect:
			return true
		}
		return false
	}
	return errors.Is(err, driver.ErrBadConn) || pgconn.SafeToRetry(err)
}

func noRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }
