package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
)

// Advisory locks. They count per database, so the numbers only need to differ
// from each other.
const (
	writersLock   = "7309452001" // held by every Update, until its end
	migrationLock = "7309452002"
)

// idleInTx is how long a transaction may wait for its process. A process that is
// stopped in the middle of an Update would otherwise hold up all writers.
const idleInTx = 3 * time.Second

const channel = "sluice"

func (s *Store) openPostgres(ctx context.Context, url string) error {
	s.dialect = Postgres
	s.jumps.on = true
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("couldn't read the database's address: %w", err)
	}
	// bun writes values into the statement; caching each one would fill the
	// server with statements that never come again.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.RuntimeParams["application_name"] = "sluice"
	config.RuntimeParams["timezone"] = "UTC"
	config.RuntimeParams["synchronous_commit"] = "on"
	config.RuntimeParams["standard_conforming_strings"] = "on"
	config.RuntimeParams["idle_in_transaction_session_timeout"] = fmt.Sprint(idleInTx.Milliseconds())
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(24)
	db.SetMaxIdleConns(24)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s.writer = bun.NewDB(db, newPostgresDialect())
	s.reader = s.writer
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("couldn't reach PostgreSQL at %s:%d, database %s: %w", config.Host, config.Port, config.Database, err)
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	s.pg = &listener{config: config, hub: s.hub, log: s.log, id: rand.Text()[:12], done: make(chan struct{})}
	return s.pg.start(ctx)
}

// lockMigrations lets one process at a time migrate, on a session of its own.
func lockMigrations(ctx context.Context, db *sql.DB) (func(), error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("couldn't connect to migrate: %w", err)
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock("+migrationLock+")"); err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't lock the schema: %w", err), conn.Close())
	}
	return func() {
		// Without the answer the session is dropped, and the lock with it.
		ctx := context.WithoutCancel(ctx)
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock("+migrationLock+")"); err != nil {
			_ = conn.Raw(func(any) error { return errors.New("drop it") })
		}
		_ = conn.Close()
	}, nil
}

// surelyRolledBack reports that a failed COMMIT did not commit. Anything else,
// and the end of the session above all, can follow a commit that took place.
func surelyRolledBack(err error) bool {
	if errors.Is(err, sql.ErrTxDone) || errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	e, answered := errors.AsType[*pgconn.PgError](err)
	if !answered {
		return false
	}
	switch {
	case e.Code == pgCompletionUnknown:
		return false
	case strings.HasPrefix(e.Code, "40"), strings.HasPrefix(e.Code, "23"), e.Code == pgIdleInTx:
		return true // rolled back by conflict, by a constraint, or before COMMIT came
	}
	return false
}

// listener tells other processes what this one commits, and hears of theirs.
type listener struct {
	config *pgx.ConnConfig
	hub    *hub
	log    *slog.Logger
	id     string // tells our own notifications from others'
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
}

// announce sends tx's topics when it commits.
func (l *listener) announce(tx *Tx) error {
	for topic := range tx.topics {
		if _, err := tx.db.ExecContext(tx.ctx, "SELECT pg_notify(?, ?)", channel, l.id+" "+topic); err != nil {
			return fmt.Errorf("couldn't notify: %w", err)
		}
	}
	return nil
}

// start returns once the first connection listens.
func (l *listener) start(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		close(l.done)
		return err
	}
	var run context.Context
	run, l.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(l.done)
		l.listen(run, conn)
	}()
	return nil
}

func (l *listener) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, l.config.Copy())
	if err != nil {
		return nil, fmt.Errorf("couldn't connect to listen: %w", err)
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return nil, errors.Join(fmt.Errorf("couldn't listen: %w", err), conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

// listen receives until ctx ends, and connects again when the connection breaks.
func (l *listener) listen(ctx context.Context, conn *pgx.Conn) {
	for {
		err := l.receive(ctx, conn)
		closing, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = conn.Close(closing)
		stop()
		if ctx.Err() != nil {
			return
		}
		l.log.Warn("lost the connection that listens to PostgreSQL; connecting again", "error", err)
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
			if conn, err = l.connect(ctx); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		l.hub.all() // whatever was said meanwhile
	}
}

// keepAlive is how often a silent connection is asked whether it is there.
const keepAlive = 30 * time.Second

func (l *listener) receive(ctx context.Context, conn *pgx.Conn) error {
	for {
		wait, cancel := context.WithTimeout(ctx, keepAlive)
		n, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			if id, topic, ok := strings.Cut(n.Payload, " "); ok && id != l.id {
				l.hub.notify(topic)
			}
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) && !conn.IsClosed():
			ping, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func (l *listener) close() {
	l.once.Do(func() {
		if l.cancel != nil {
			l.cancel()
		}
		<-l.done
	})
}
