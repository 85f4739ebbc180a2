package compattest

import (
	"bufio"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	_ "modernc.org/sqlite" // the driver
)

// dump writes a SQLite database as statements that make it again: tables with
// their rows, then indexes. It sees one moment of a database that is in use, with
// whatever is leased just then, as a kill -9 would leave it.
func dump(ctx context.Context, path string, out io.Writer) error {
	db, err := open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	rows, err := tx.QueryContext(ctx, "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type IN ('table', 'index') AND name NOT LIKE 'sqlite_%' ORDER BY type DESC, rowid")
	if err != nil {
		return err
	}
	defer rows.Close()
	var made [][3]string
	for rows.Next() {
		var m [3]string
		if err := rows.Scan(&m[0], &m[1], &m[2]); err != nil {
			return err
		}
		made = append(made, m)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	for _, m := range made {
		fmt.Fprintf(w, "%s;\n", m[2])
		if m[0] != "table" {
			continue
		}
		if err := dumpRows(ctx, tx, m[1], w); err != nil {
			return err
		}
	}
	return w.Flush()
}

func dumpRows(ctx context.Context, tx *sql.Tx, table string, w io.Writer) error {
	rows, err := tx.QueryContext(ctx, `SELECT * FROM "`+table+`" ORDER BY rowid`)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		words := make([]string, len(values))
		for i, v := range values {
			words[i] = literal(v)
		}
		fmt.Fprintf(w, "INSERT INTO \"%s\" VALUES (%s);\n", table, strings.Join(words, ", "))
	}
	return rows.Err()
}

func literal(v any) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	switch v := v.(type) {
	case nil:
		return "NULL"
	case string:
		return quote(v)
	case []byte:
		if utf8.Valid(v) && !strings.ContainsRune(string(v), 0) {
			return "CAST(" + quote(string(v)) + " AS BLOB)"
		}
		return "X'" + hex.EncodeToString(v) + "'"
	case time.Time: // of a column that is declared so, which is text in SQLite
		return quote(v.UTC().Format(time.DateTime))
	}
	return fmt.Sprint(v)
}

// load makes the database again.
func load(ctx context.Context, script, path string, more ...string) error {
	f, err := os.Open(script)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)")
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, s := range append([]string{string(b)}, more...) {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("couldn't make the database: %w", err)
		}
	}
	return tx.Commit()
}

func open(path string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
}
