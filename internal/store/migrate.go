package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// Contract numbers what a binary needs the schema to be. It rises when a migration
// takes away or changes something that the version before relied on, and with no
// other: because changes expand first, binary N runs on contracts N and N+1.
const Contract = 1

func (s *Store) migrate(ctx context.Context) (err error) {
	if s.dialect == Postgres {
		unlock, err := lockMigrations(ctx, s.writer.DB)
		if err != nil {
			return err
		}
		defer unlock()
	}
	before, err := readContract(ctx, s.writer.DB, s.dialect)
	if err != nil {
		return err
	}
	if before > Contract+1 {
		return fmt.Errorf("couldn't open the database: %w: it has contract %d, this binary knows %d and runs on %d too; use the newer binary", ErrNewer, before, Contract, Contract+1)
	}
	dialect := goose.DialectSQLite3
	if s.dialect == Postgres {
		dialect = goose.DialectPostgres
	}
	files, err := fs.Sub(migrations, "migrations/"+s.dialect)
	if err != nil {
		return fmt.Errorf("couldn't read the migrations: %w", err)
	}
	p, err := goose.NewProvider(dialect, s.writer.DB, files, goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return fmt.Errorf("couldn't read the migrations: %w", err)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("couldn't bring the database's schema up to date: %w", err)
	}
	for _, m := range done {
		s.log.DebugContext(ctx, "migrated the database", "migration", m.Source.Path, "took", m.Duration)
	}
	if before >= Contract {
		return nil // ours, or a newer one's, which we must not lower
	}
	_, err = s.writer.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES ('contract', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", strconv.Itoa(Contract))
	if err != nil {
		return fmt.Errorf("couldn't write the database's contract: %w", err)
	}
	return nil
}

// readContract returns 0 for an empty database.
func readContract(ctx context.Context, db *sql.DB, dialect string) (int, error) {
	q := "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'meta'"
	if dialect == Postgres {
		q = "SELECT count(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('meta')"
	}
	var n int
	if err := db.QueryRowContext(ctx, q).Scan(&n); err != nil {
		return 0, fmt.Errorf("couldn't read the database's contract: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	var text string
	err := db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'contract'").Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("couldn't read the database's contract: %w", err)
	}
	contract, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("couldn't read the database's contract: %q is not a number", text)
	}
	return contract, nil
}
