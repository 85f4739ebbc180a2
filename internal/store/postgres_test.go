package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

// execPostgres changes a database behind the store's back.
func execPostgres(t *testing.T, url, statement string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var out string
	if err := conn.QueryRow(t.Context(), statement).Scan(&out); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatal(err)
	}
	return out
}

// await receives topics until the wanted ones came.
func await(t *testing.T, topics <-chan string, want ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, w := range want {
		missing[w] = true
	}
	deadline := time.After(machinetest.Patience)
	for len(missing) > 0 {
		select {
		case topic := <-topics:
			delete(missing, topic)
		case <-deadline:
			t.Fatalf("never heard of %v", missing)
		}
	}
}

func TestPostgresNotifiesOtherProcesses(t *testing.T) {
	url := storetest.Postgres(t)
	one, two := open(t, url), open(t, url)
	topics, stop := two.Subscribe()
	defer stop()
	feed := func() {
		t.Helper()
		if err := one.Update(t.Context(), func(tx *store.Tx) error { return tx.AddFeed(&store.Feed{Project: "it's ours"}) }); err != nil {
			t.Fatal(err)
		}
	}
	feed()
	await(t, topics, "feed:it's ours")

	// The connection that listens breaks. What may have been missed is told, and
	// later news comes again.
	kill := `SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN sluice'`
	if n := execPostgres(t, url, kill); n != "2" {
		t.Fatalf("killed %s listeners, want 2", n)
	}
	await(t, topics, "work", "desired", "observed", "feed:it's ours")
	feed()
	await(t, topics, "feed:it's ours")
}

func TestPostgresUpdatesRunAgain(t *testing.T) {
	url := storetest.Postgres(t)
	s := open(t, url)
	r := store.Run{Project: "default"}
	attempts := 0
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		attempts++
		if r.ID != "" || r.Revision != 0 {
			t.Errorf("attempt %d begins with what the one before was given: %+v", attempts, r)
		}
		if err := tx.InsertRun(&r); err != nil {
			return err
		}
		if attempts == 1 { // a failover
			execPostgres(t, url, `SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'`)
		}
		return tx.SaveRun(&r)
	})
	if err != nil {
		t.Fatal(err)
	}
	if attempts != 2 || r.ID != "1" || r.Revision != 2 {
		t.Errorf("after %d attempts: %+v", attempts, r)
	}
}

// A process that is stopped in the middle of an Update does not hold up others
// for long, and what it wanted is not half done.
func TestPostgresStoppedProcess(t *testing.T) {
	url := storetest.Postgres(t)
	stopped, living := open(t, url), open(t, url)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	wg.Go(func() {
		err := stopped.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.InsertRun(&store.Run{Project: "default", Service: "stopped"}); err != nil {
				return err
			}
			once.Do(func() { close(inside); <-goOn })
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	started := time.Now()
	if err := living.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default", Service: "living"}) }); err != nil {
		t.Error(err)
	}
	t.Logf("held up for %v", time.Since(started).Round(time.Millisecond))
	close(goOn)
	wg.Wait()
	err := living.View(t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(store.RunFilter{})
		if len(runs) != 2 || runs[0].Service != "stopped" || runs[1].Service != "living" {
			t.Errorf("runs: %+v", runs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPostgresMigratesOnce(t *testing.T) {
	url := storetest.Postgres(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := store.Open(t.Context(), url, store.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	execPostgres(t, url, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`)
	set := func(n int) {
		execPostgres(t, url, fmt.Sprintf(`UPDATE meta SET value = '%d' WHERE key = 'contract'`, n))
	}
	set(store.Contract + 1)
	s, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatalf("the version before refuses the next one's database: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := execPostgres(t, url, `SELECT value FROM meta WHERE key = 'contract'`); got != fmt.Sprint(store.Contract+1) {
		t.Errorf("the older version made the contract %s", got)
	}
	set(store.Contract + 2)
	if _, err := store.Open(t.Context(), url, store.Options{}); !errors.Is(err, store.ErrNewer) {
		t.Fatalf("opened a database of two versions later: %v", err)
	}
}

func TestPostgresRefusals(t *testing.T) {
	url := storetest.Postgres(t)
	s := open(t, url)
	if err := s.Backup(t.Context(), "/nowhere/copy"); err == nil || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("backup: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name := execPostgres(t, url, `SELECT current_database()`)
	execPostgres(t, url, `ALTER DATABASE `+name+` SET default_transaction_read_only = on`)
	standby := open(t, url)
	err := standby.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) })
	if !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("writing to a database that refuses writes: %v", err)
	}
	if err := standby.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Runs(store.RunFilter{}); return err }); err != nil {
		t.Errorf("reading a database that refuses writes: %v", err)
	}
}

// Two processes, each with workers, share one database.
func TestPostgresWorkersOfTwoProcesses(t *testing.T) {
	url := storetest.Postgres(t)
	stores := []*store.Store{open(t, url), open(t, url)}
	const rows = 60
	err := stores[0].Update(t.Context(), func(tx *store.Tx) error {
		for range rows {
			at := tx.Now()
			if err := tx.InsertRun(&store.Run{Project: "default", Work: store.Work{WakeAt: &at}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	got := map[string]string{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			owner := fmt.Sprint("worker ", i)
			for {
				l, ok, err := storetest.One(stores[i%2].Acquire(t.Context(), "runs", owner, time.Minute, 1))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				all := len(got) == rows
				if ok {
					if other, taken := got[l.ID]; taken {
						t.Errorf("%s and %s leased %s", owner, other, l)
					}
					got[l.ID] = owner
				}
				mu.Unlock()
				if all || err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}
