package store

import (
	"database/sql"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/schema"
)

// sqliteDialect stores times as microseconds since 1970, which sort and compare
// as numbers; bun's own writes text whose digits vary.
type sqliteDialect struct {
	*sqlitedialect.Dialect
	tables *schema.Tables
}

func newSQLiteDialect() *sqliteDialect {
	d := &sqliteDialect{Dialect: sqlitedialect.New()}
	d.tables = schema.NewTables(d)
	return d
}

func (d *sqliteDialect) Tables() *schema.Tables { return d.tables }

func (d *sqliteDialect) OnTable(table *schema.Table) {
	d.Dialect.OnTable(table)
	scanTimesAsUTC(table)
}

func (d *sqliteDialect) AppendTime(b []byte, t time.Time) []byte {
	return strconv.AppendInt(b, t.UnixMicro(), 10)
}

// postgresDialect gives times back in UTC, whatever the session's zone.
type postgresDialect struct {
	*pgdialect.Dialect
	tables *schema.Tables
}

func newPostgresDialect() *postgresDialect {
	d := &postgresDialect{Dialect: pgdialect.New()}
	d.tables = schema.NewTables(d)
	return d
}

func (d *postgresDialect) Tables() *schema.Tables { return d.tables }

func (d *postgresDialect) OnTable(table *schema.Table) {
	d.Dialect.OnTable(table)
	scanTimesAsUTC(table)
}

var timeType = reflect.TypeFor[time.Time]()

func scanTimesAsUTC(table *schema.Table) {
	for _, f := range table.FieldMap {
		switch f.StructField.Type {
		case timeType:
			f.Scan = scanTime
		case reflect.PointerTo(timeType):
			f.Scan = schema.PtrScanner(scanTime)
		}
	}
}

func scanTime(dest reflect.Value, src any) error {
	var i instant
	if err := i.Scan(src); err != nil {
		return err
	}
	dest.Set(reflect.ValueOf(i.Time))
	return nil
}

// instant scans a time of either dialect; NULL is the zero time.
type instant struct{ time.Time }

var _ sql.Scanner = (*instant)(nil)

// Scan reads microseconds since 1970 or a time.
func (i *instant) Scan(src any) error {
	switch src := src.(type) {
	case nil:
		i.Time = time.Time{}
	case int64:
		i.Time = time.UnixMicro(src).UTC()
	case time.Time:
		i.Time = src.UTC()
	default:
		return fmt.Errorf("couldn't read a time from %T", src)
	}
	return nil
}
