package store_test

import (
	"database/sql"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

// withoutProject are the tables that are not parted by project, and why.
var withoutProject = map[string]string{
	"meta":             "of the database: its id and the schema's version",
	"goose_db_version": "of the database: which migrations ran",
	"feed":             "one order over all projects, so that a reader of several resumes by one number; project is a column with an index",
	"observed":         "a host serves all projects; its report names the project of each service",
	"tags":             "a repository's name begins with its project",
	"referrers":        "a repository's name begins with its project",
}

// A row belongs to a project by its key: what is asked for in one is never found in
// another.
func TestEveryKeyHasItsProject(t *testing.T) {
	dialects := map[string]struct {
		url    func(*testing.T) string
		driver string
		tables string // each column of each primary key
	}{
		store.SQLite: {
			url:    func(t *testing.T) string { return filepath.Join(t.TempDir(), "sluice.db") },
			driver: "sqlite",
			tables: `SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND c.pk > 0`,
		},
		store.Postgres: {
			url:    func(t *testing.T) string { return storetest.Postgres(t) },
			driver: "pgx",
			tables: `SELECT t.relname, a.attname FROM pg_class t
				JOIN pg_namespace n ON n.oid = t.relnamespace AND n.nspname = 'public'
				LEFT JOIN pg_index i ON i.indrelid = t.oid AND i.indisprimary
				LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY(i.indkey)
				WHERE t.relkind = 'r' AND a.attname IS NOT NULL`,
		},
	}
	count := map[string]string{
		store.SQLite:   `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`,
		store.Postgres: `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`,
	}
	for dialect, d := range dialects {
		t.Run(dialect, func(t *testing.T) {
			url := d.url(t)
			open(t, url)
			db, err := sql.Open(d.driver, url)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			rows, err := db.QueryContext(t.Context(), d.tables)
			if err != nil {
				t.Fatal(err)
			}
			keys := map[string][]string{}
			for rows.Next() {
				var table, column string
				if err := rows.Scan(&table, &column); err != nil {
					t.Fatal(err)
				}
				keys[table] = append(keys[table], column)
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
			var all int
			if err := db.QueryRowContext(t.Context(), count[dialect]).Scan(&all); err != nil || all != len(keys) || all < 20 {
				t.Errorf("%d tables, of which %d have a primary key (%v)", all, len(keys), err)
			}
			for _, table := range slices.Sorted(maps.Keys(keys)) {
				why, excepted := withoutProject[table]
				if has := slices.Contains(keys[table], "project"); has == excepted {
					t.Errorf("table %s has the key (%s); excepted: %t %s", table, strings.Join(keys[table], ", "), excepted, why)
				}
			}
			for table := range withoutProject {
				if keys[table] == nil {
					t.Errorf("table %s is excepted and not there", table)
				}
			}
		})
	}
}
