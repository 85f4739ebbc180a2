package store_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/store"
)

func TestDiskFull(t *testing.T) {
	dir := machinetest.SmallDisk(t, "1m")
	s, err := store.Open(t.Context(), filepath.Join(dir, "sluice.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	pad := json.RawMessage(`"` + strings.Repeat("x", 20_000) + `"`)
	committed := 0
	for range 1000 {
		err = s.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.InsertRun(&store.Run{Project: "default"}); err != nil {
				return err
			}
			_, err := tx.AppendEvent("default", "o1", pad)
			return err
		})
		if err != nil {
			break
		}
		committed++
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("after %d commits: %v", committed, err)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(store.RunFilter{})
		if err != nil {
			return err
		}
		events, err := tx.Events("default", "o1")
		if len(runs) != committed || len(events) != committed {
			t.Errorf("%d commits left %d runs and %d events", committed, len(runs), len(events))
		}
		return err
	})
	if err != nil {
		t.Errorf("a full disk can't be read: %v", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) }); err != nil {
		t.Errorf("there is space again: %v", err)
	}
}
