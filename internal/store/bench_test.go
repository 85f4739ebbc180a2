package store_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

// Benchmarks run on real files; with SLUICE_PG_FSYNC=1 the PostgreSQL server
// syncs too.
func benchStores(b *testing.B, f func(b *testing.B, s *store.Store)) {
	b.Run("sqlite", func(b *testing.B) {
		f(b, open(b, filepath.Join(b.TempDir(), "sluice.db")))
	})
	b.Run("postgres", func(b *testing.B) { f(b, open(b, storetest.Postgres(b))) })
}

func BenchmarkUpdate(b *testing.B) {
	benchStores(b, func(b *testing.B, s *store.Store) {
		r := store.Run{Project: "default"}
		if err := s.Update(b.Context(), func(tx *store.Tx) error { return tx.InsertRun(&r) }); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := s.Update(b.Context(), func(tx *store.Tx) error { return tx.SaveRun(&r) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkAcquire leases one of 10 000 rows, of which a tenth is due, and gives
// it back.
func BenchmarkAcquire(b *testing.B) {
	benchStores(b, func(b *testing.B, s *store.Store) {
		err := s.Update(b.Context(), func(tx *store.Tx) error {
			for i := range 10_000 {
				at := tx.Now().Add(time.Hour)
				if i%10 == 0 {
					at = tx.Now().Add(-time.Duration(i) * time.Millisecond)
				}
				o := store.Rollout{Project: "default", Service: fmt.Sprint("s", i), Live: true, Work: store.Work{WakeAt: &at}}
				if err := tx.InsertRollout(&o); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for b.Loop() {
			l, ok, err := storetest.One(s.Acquire(b.Context(), "rollouts", "w", time.Minute, 1))
			if err != nil || !ok {
				b.Fatal(ok, err)
			}
			if err := s.Release(b.Context(), l); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOpen is a start on an empty folder, with all migrations.
func BenchmarkOpen(b *testing.B) {
	for i := 0; b.Loop(); i++ {
		s, err := store.Open(b.Context(), filepath.Join(b.TempDir(), fmt.Sprint(i, ".db")), store.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
