package store

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// A store whose clock goes back by an hour wakes what would sleep an hour too
// long, and does not honour leases from the future.
func TestClockJumps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice.db")
	var offset atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	s, err := Open(t.Context(), path, Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	s.jumps.on = true // as with the system's clock
	sleep := func(s *Store, d time.Duration) {
		t.Helper()
		err := s.Update(t.Context(), func(tx *Tx) error {
			r, err := tx.Run("default", "1")
			if err != nil {
				return err
			}
			at := tx.Now().Add(d)
			r.WakeAt = &at
			return tx.SaveRun(&r)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = s.Update(t.Context(), func(tx *Tx) error {
		at := tx.Now()
		return tx.InsertRun(&Run{Project: "default", Work: Work{WakeAt: &at}})
	})
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.Acquire(t.Context(), "runs", "before", time.Minute, 1)
	if err != nil || len(before) != 1 {
		t.Fatal(before, err)
	}
	sleep(s, 10*time.Minute)

	offset.Store(int64(-time.Hour))
	if d, ok, err := s.NextWake(t.Context(), "runs"); d != 0 || !ok || err != nil {
		t.Fatalf("after the clock went back: next alarm in %v, %v, %v", d, ok, err)
	}
	after, err := s.Acquire(t.Context(), "runs", "after", time.Minute, 1)
	if err != nil || len(after) != 1 || after[0].Epoch != before[0].Epoch+1 {
		t.Fatalf("after the clock went back: %+v %v", after, err)
	}
	sleep(s, 10*time.Minute)
	if err := s.Release(t.Context(), after[0]); err != nil {
		t.Fatal(err)
	}
	if d, ok, err := s.NextWake(t.Context(), "runs"); d < 5*time.Minute || !ok || err != nil {
		t.Fatalf("a row that was put to sleep after the jump: next alarm in %v, %v, %v", d, ok, err)
	}

	offset.Store(int64(time.Hour))
	if d, ok, err := s.NextWake(t.Context(), "runs"); d != 0 || !ok || err != nil {
		t.Fatalf("after the clock went forward: next alarm in %v, %v, %v", d, ok, err)
	}
	sleep(s, 10*time.Minute)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	// Nobody ran while it went back.
	offset.Store(0)
	if s, err = Open(t.Context(), path, Options{Now: now}); err != nil {
		t.Fatal(err)
	}
	if d, ok, err := s.NextWake(t.Context(), "runs"); d != 0 || !ok || err != nil {
		t.Fatalf("opened after the clock went back: next alarm in %v, %v, %v", d, ok, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The settings that a commit's durability hangs on.
func TestSettings(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "sluice.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		for name, db := range map[string]interface {
			Scan(...any) error
		}{"writer": s.writer.QueryRowContext(t.Context(), "PRAGMA "+pragma), "reader": s.reader.QueryRowContext(t.Context(), "PRAGMA "+pragma)} {
			var got string
			if err := db.Scan(&got); err != nil || got != want {
				t.Errorf("%s of the %s is %s, want %s, %v", pragma, name, got, want, err)
			}
		}
	}
}
