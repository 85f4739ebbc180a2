package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/uptrace/bun"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver
)

// busyTimeout is for a shell or a backup that has the file locked; our own
// writers queue in the pool.
const busyTimeout = 10 * time.Second

func (s *Store) openSQLite(ctx context.Context, path string, o Options) error {
	s.dialect = SQLite
	s.clock = o.Now
	if s.clock == nil {
		s.clock = time.Now
		s.jumps.on = true
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("couldn't open the database: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("couldn't make the database's folder: %w", err)
	}
	s.path = path
	if s.lock, err = lockFile(path, lockInfo{PID: os.Getpid(), Started: time.Now().UTC(), Address: o.Address}, lockWait); err != nil {
		return err
	}
	// SQLite would make it readable to everybody; its WAL takes after it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("couldn't open the database %s: %w: %w", path, ErrReadOnly, err)
	}
	if err != nil {
		return fmt.Errorf("couldn't open the database %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("couldn't open the database %s: %w", path, err)
	}

	writer, err := sql.Open("sqlite", sqliteDSN(path, "_txlock=immediate"))
	if err != nil {
		return fmt.Errorf("couldn't open the database %s: %w", path, err)
	}
	// One writer, and it stays: the first to come is the first to write, and
	// nobody meets SQLITE_BUSY.
	writer.SetMaxOpenConns(1)
	s.writer = bun.NewDB(writer, newSQLiteDialect())
	if err := s.migrate(ctx); err != nil {
		return err
	}
	reader, err := sql.Open("sqlite", sqliteDSN(path, "_pragma=query_only(1)"))
	if err != nil {
		return fmt.Errorf("couldn't open the database %s: %w", path, err)
	}
	n := max(4, runtime.GOMAXPROCS(0))
	reader.SetMaxOpenConns(n)
	reader.SetMaxIdleConns(n)
	s.reader = bun.NewDB(reader, newSQLiteDialect())
	return s.adopt(ctx)
}

func sqliteDSN(path, more string) string {
	u := url.URL{Scheme: "file", Path: path, OmitHost: true}
	return fmt.Sprintf("%s?_pragma=busy_timeout(%d)&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=foreign_keys(1)&%s",
		u.String(), busyTimeout.Milliseconds(), more)
}

// adopt takes over from the process that had the database before. It is dead, or
// the file's lock would not be ours, so its leases are worth nothing. And if the
// clock is behind what it wrote last, its alarms would ring too late.
func (s *Store) adopt(ctx context.Context) error {
	return s.Update(ctx, func(tx *Tx) error {
		var last instant
		if err := tx.db.QueryRowContext(ctx, "SELECT max(at) FROM (SELECT max(updated_at) AS at FROM runs UNION ALL SELECT max(updated_at) FROM rollouts UNION ALL SELECT max(updated_at) FROM environments)").Scan(&last); err != nil {
			return fmt.Errorf("couldn't take over the database: %w", err)
		}
		for _, t := range leaseTables {
			if _, err := tx.db.ExecContext(ctx, "UPDATE ? SET lease_owner = '', lease_until = NULL WHERE lease_until IS NOT NULL", bun.Ident(t.name)); err != nil {
				return fmt.Errorf("couldn't take over the leases of %s: %w", t.name, err)
			}
		}
		if last.Sub(tx.now) > jumpThreshold {
			s.log.WarnContext(ctx, "the clock is behind what was last written; waking everything that sleeps", "last", last.Time, "now", tx.now)
			return tx.wakeAll()
		}
		return nil
	})
}

// Backup writes a consistent copy of a SQLite database to path, which must not
// exist. Writers go on meanwhile.
func (s *Store) Backup(ctx context.Context, path string) error {
	if s.dialect != SQLite {
		return errors.New("couldn't back up: PostgreSQL is backed up with its own tools (pg_dump, or a base backup and its WAL)")
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("couldn't back up to %s: %w", path, os.ErrExist)
	}
	// A folder of its own, so that nobody reads a half-written copy and no other
	// file is overwritten.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".backup-*")
	if err != nil {
		return fmt.Errorf("couldn't back up: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	tmp := filepath.Join(dir, "copy")
	// A connection of its own: the writers' would hold them up, and the readers'
	// may write nothing at all.
	db, err := sql.Open("sqlite", sqliteDSN(s.path, ""))
	if err != nil {
		return fmt.Errorf("couldn't back up: %w", err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", tmp); err != nil {
		return explain(fmt.Errorf("couldn't back up to %s: %w", path, err))
	}
	if err := syncPath(tmp); err != nil {
		return fmt.Errorf("couldn't back up: %w", err)
	}
	if err := os.Chmod(tmp, 0o600); err != nil {
		return fmt.Errorf("couldn't back up: %w", err)
	}
	if err := os.Link(tmp, path); err != nil { // unlike a rename, fails if path is there
		return fmt.Errorf("couldn't back up: %w", err)
	}
	if err := syncPath(filepath.Dir(path)); err != nil {
		return fmt.Errorf("couldn't back up: %w", err)
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// fileLock keeps other processes off a SQLite database. The kernel gives it back
// when the process ends, however it ends.
type fileLock struct{ f *os.File }

type lockInfo struct {
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Address string    `json:"address,omitempty"`
}

// lockWait is how long a lock is waited for whose process has ended: one that it
// was just starting has the file open until it becomes another program.
const lockWait = 2 * time.Second

func lockFile(path string, info lockInfo, wait time.Duration) (*fileLock, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("couldn't lock the database: %w: %w", ErrReadOnly, err)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't lock the database: %w", err)
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		held := &LockedError{Path: path}
		var first lockInfo
		// Whoever holds the lock may be writing this very file: then we cannot say.
		if json.NewDecoder(io.NewSectionReader(f, 0, 4096)).Decode(&first) == nil {
			held.PID, held.Started, held.Address = first.PID, first.Started, first.Address
		}
		if gone := held.PID > 0 && errors.Is(unix.Kill(held.PID, 0), unix.ESRCH); !gone || time.Now().After(deadline) {
			return nil, errors.Join(held, f.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't lock the database: %w", err), f.Close())
	}
	l := &fileLock{f: f}
	if err := l.write(info); err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't write the database's lock: %w", err), f.Close())
	}
	return l, nil
}

func (l *fileLock) write(info lockInfo) error {
	b, err := json.Marshal(info)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err = l.f.WriteAt(b, 0)
	return err
}

// release leaves the file: removing it would let two processes lock two files of
// one name.
func (l *fileLock) release() error { return l.f.Close() }
