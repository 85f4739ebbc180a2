package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/store"
	"go.uber.org/goleak"
)

// TestMain is also the process that is killed; see [TestKilledProcess].
func TestMain(m *testing.M) {
	if path := os.Getenv("STORE_TEST_WRITE"); path != "" {
		writeForEver(path)
	}
	goleak.VerifyTestMain(m)
}

// writeForEver adds runs, each with an event and a feed line, and prints the ID of
// each one that was committed. It holds a lease, too.
func writeForEver(path string) {
	ctx := context.Background()
	s, err := store.Open(ctx, path, store.Options{Address: "127.0.0.1:4242"})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		r := store.Run{Project: "default"}
		err := s.Update(ctx, func(tx *store.Tx) error {
			now := tx.Now()
			r.WakeAt = &now
			if err := tx.InsertRun(&r); err != nil {
				return err
			}
			if _, err := tx.AppendEvent("default", r.ID, json.RawMessage(`{"pad":"`+strings.Repeat("x", 3000)+`"}`)); err != nil {
				return err
			}
			return tx.AddFeed(&store.Feed{Project: "default", Run: r.ID})
		})
		if err == nil && i == 0 {
			_, err = s.Acquire(ctx, "runs", "the dead", time.Minute, 1)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(r.ID)
	}
}

// A process is killed in the middle of writing. All that it said was committed
// is there, nothing is there by half, and its lease holds nobody up.
func TestKilledProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice.db")
	for round := range 3 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "STORE_TEST_WRITE="+path)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var last string
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			last = lines.Text()
			if n == 0 {
				// It is at work: nobody else gets in, and is told who is there.
				_, err := store.Open(t.Context(), path, store.Options{})
				var locked *store.LockedError
				if !errors.Is(err, store.ErrLocked) || !errors.As(err, &locked) {
					t.Errorf("opened a database that is in use: %v", err)
				} else if locked.PID != child.Process.Pid || locked.Address != "127.0.0.1:4242" || !strings.Contains(err.Error(), fmt.Sprint(child.Process.Pid)) {
					t.Errorf("told %q, want process %d", err, child.Process.Pid)
				}
			}
			if n == 20+17*round {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = child.Wait()

		s := open(t, path)
		err = s.View(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Run("default", last); err != nil {
				t.Errorf("the last committed run: %v", err)
			}
			runs, err := tx.Runs(store.RunFilter{})
			if err != nil {
				return err
			}
			feed, err := tx.FeedAfter("default", "", 0, 0)
			if err != nil {
				return err
			}
			if len(runs) != len(feed) || fmt.Sprint(len(runs)) != runs[0].ID {
				t.Errorf("%d runs, the newest is %s, %d feed lines", len(runs), runs[0].ID, len(feed))
			}
			for _, r := range runs {
				if events, err := tx.Events("default", r.ID); err != nil || len(events) != 1 {
					t.Errorf("run %s has %d events, %v", r.ID, len(events), err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Acquire(t.Context(), "runs", "the living", time.Minute, 1)
		if err != nil || len(got) != 1 || got[0].ID != "1" || got[0].Epoch != int64(2*round+2) {
			t.Fatalf("the dead process's row: %+v %v", got, err)
		}
		if err := s.Release(t.Context(), got[0]); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a folder", "it's 100%?#.db")
	first := open(t, path)
	_, err := store.Open(t.Context(), "sqlite:"+path, store.Options{})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Fatalf("second open: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	for _, f := range []string{path, path + "-wal", path + ".lock"} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info.Mode(), err)
		}
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text.db"), []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"mysql://localhost/x":                          "neither",
		"postgres://127.0.0.1:1/x?connect_timeout=1":   "couldn't reach PostgreSQL",
		"postgres://%zz":                               "address",
		"sqlite:" + filepath.Join(dir, "text.db"):      "not a database",
		filepath.Join(dir, "text.db", "below", "a.db"): "folder",
		dir: "database",
	} {
		s, err := store.Open(t.Context(), url, store.Options{})
		if err == nil {
			t.Errorf("opened %q: %v", url, s.Close())
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v doesn't say %q", url, err, want)
		}
	}
}

// exec changes a closed SQLite database behind the store's back.
func execSQLite(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice.db")
	reopen := func() error {
		s, err := store.Open(t.Context(), path, store.Options{})
		if err != nil {
			return err
		}
		err = s.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) })
		return errors.Join(err, s.Close())
	}
	for range 2 { // from nothing, and again
		if err := reopen(); err != nil {
			t.Fatal(err)
		}
	}
	// The next version was here: its migration, its contract.
	execSQLite(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)`)
	execSQLite(t, path, fmt.Sprintf(`UPDATE meta SET value = '%d' WHERE key = 'contract'`, store.Contract+1))
	if err := reopen(); err != nil {
		t.Fatalf("the version before refuses the next one's database: %v", err)
	}
	execSQLite(t, path, fmt.Sprintf(`UPDATE meta SET value = '%d' WHERE key = 'contract' AND value = '%d'`, store.Contract+2, store.Contract+1))
	err := reopen()
	if !errors.Is(err, store.ErrNewer) {
		t.Fatalf("opened a database of two versions later: %v (or the older one lowered its contract)", err)
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "sluice.db"))
	add := func() error {
		return s.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) })
	}
	if err := add(); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "it's a copy.db")
	if err := s.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(t.Context(), copied); !errors.Is(err, os.ErrExist) {
		t.Errorf("a backup over another: %v", err)
	}
	if err := add(); err != nil {
		t.Fatal(err)
	}
	old := open(t, copied)
	err := old.View(t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(store.RunFilter{})
		if len(runs) != 1 {
			t.Errorf("the backup has %d runs", len(runs))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
