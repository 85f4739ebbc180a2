package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/store"
)

// dueRun adds a run that is due now and returns its ID.
func dueRun(t *testing.T, s *store.Store) string {
	t.Helper()
	r := store.Run{Project: "default", Service: "web", Live: true}
	update(t, s, func(tx *store.Tx) error {
		r.WakeAt = at(tx, 0)
		return tx.InsertRun(&r)
	})
	return r.ID
}

// One is the lease of an Acquire of one row, if there was one to get.
func One(got []store.Lease, err error) (l store.Lease, ok bool, _ error) {
	if len(got) == 0 {
		return l, false, err
	}
	return got[0], true, err
}

// acquire waits until a row can be leased.
func acquire(t *testing.T, s *store.Store, table, owner string, ttl time.Duration) store.Lease {
	t.Helper()
	for deadline := time.Now().Add(machinetest.Patience); ; {
		l, ok, err := One(s.Acquire(t.Context(), table, owner, ttl, 1))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return l
		}
		if time.Now().After(deadline) {
			t.Fatal("no row became due")
		}
		time.Sleep(time.Millisecond)
	}
}

func leases(t *testing.T, s *store.Store) {
	for _, table := range []string{"runs", "rollouts", "environments"} {
		if _, ok, err := One(s.Acquire(t.Context(), table, "w", time.Second, 1)); ok || err != nil {
			t.Fatalf("leased a row of empty %s: %v", table, err)
		}
		if _, ok, err := s.NextWake(t.Context(), table); ok || err != nil {
			t.Fatalf("an alarm in empty %s: %v", table, err)
		}
	}
	if _, _, err := One(s.Acquire(t.Context(), "leaves", "w", time.Second, 1)); err == nil {
		t.Error("leased a row of a table without leases")
	}
	if _, _, err := One(s.Acquire(t.Context(), "runs", "w", time.Hour, 1)); err == nil {
		t.Error("leased a row for an hour")
	}
	update(t, s, func(tx *store.Tx) error {
		env := store.Environment{Key: key}
		env.WakeAt = at(tx, 0)
		if err := tx.PutEnvironment(&env); err != nil {
			return err
		}
		o := store.Rollout{Project: "default", Live: true}
		o.WakeAt = at(tx, time.Hour)
		if err := tx.InsertRollout(&o); err != nil {
			return err
		}
		// Nobody is there to be woken, and that is no error.
		return tx.Wake("runs", "default", "77", tx.Now())
	})
	env := acquire(t, s, "environments", "one", time.Minute)
	if env.ID != "web/prod" || env.Epoch != 1 || env.Owner != "one" {
		t.Errorf("lease: %+v", env)
	}
	if d, ok, err := s.NextWake(t.Context(), "rollouts"); err != nil || !ok || d < 59*time.Minute || d > time.Hour {
		t.Errorf("next alarm of a row that sleeps for an hour: %v %v %v", d, ok, err)
	}
	if d, ok, err := s.NextWake(t.Context(), "environments"); err != nil || !ok || d < 10*time.Second || d > time.Minute {
		t.Errorf("next alarm of a row leased for a minute: %v %v %v", d, ok, err)
	}
	if err := s.Extend(t.Context(), env, 30*time.Second); err != nil {
		t.Error(err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.Check(env) })
	if _, ok, err := One(s.Acquire(t.Context(), "environments", "two", time.Second, 1)); ok || err != nil {
		t.Fatalf("two hold one row: %v", err)
	}
	if err := s.Release(t.Context(), env); err != nil {
		t.Error(err)
	}
	// Given back: it is due still, and the old lease is worth nothing.
	want(t, s.Release(t.Context(), env), store.ErrFenced)
	want(t, s.Extend(t.Context(), env, time.Second), store.ErrFenced)
	want(t, s.Update(t.Context(), func(tx *store.Tx) error { return tx.Check(env) }), store.ErrFenced)
	if d, ok, err := s.NextWake(t.Context(), "environments"); err != nil || !ok || d != 0 {
		t.Errorf("next alarm of a due row: %v %v %v", d, ok, err)
	}
	update(t, s, func(tx *store.Tx) error {
		return tx.Sleep("environments", "default", "web/prod", tx.Now().Add(time.Hour))
	})
	if _, ok, err := One(s.Acquire(t.Context(), "environments", "two", time.Second, 1)); ok || err != nil {
		t.Fatalf("leased a row that sleeps: %v", err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.Wake("environments", "default", "web/prod", tx.Now()) })
	if l := acquire(t, s, "environments", "two", time.Second); l.Epoch != 2 {
		t.Errorf("the second lease has epoch %d", l.Epoch)
	}
	want(t, s.Update(t.Context(), func(tx *store.Tx) error {
		return tx.Check(store.Lease{Table: "runs", Project: "default", ID: "77"})
	}), store.ErrNotFound)
}

// someLeases takes several rows at once, the longest due first, and gives one back
// with the transaction that it was for.
func someLeases(t *testing.T, s *store.Store) {
	var ids []string
	for range 3 {
		ids = append(ids, dueRun(t, s))
	}
	two, err := s.Acquire(t.Context(), "runs", "w", time.Minute, 2)
	if err != nil || len(two) != 2 || two[0].ID == two[1].ID {
		t.Fatalf("leased %+v, %v", two, err)
	}
	rest, err := s.Acquire(t.Context(), "runs", "w", time.Minute, 16)
	if err != nil || len(rest) != 1 || rest[0].ID != ids[2] || rest[0].Epoch != 1 {
		t.Fatalf("of %v were leased %+v, then %+v, %v", ids, two, rest, err)
	}
	give := func(undone error) error {
		return s.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.Check(rest[0]); err != nil {
				return err
			}
			return errors.Join(tx.GiveBack(rest[0]), undone)
		})
	}
	want(t, give(errRollback), errRollback)
	view(t, s, func(tx *store.Tx) error { return tx.Check(rest[0]) })
	if err := give(nil); err != nil {
		t.Fatal(err)
	}
	want(t, give(nil), store.ErrFenced)
	want(t, s.Release(t.Context(), rest[0]), store.ErrFenced)
	if l := acquire(t, s, "runs", "other", time.Minute); l.ID != ids[2] || l.Epoch != 2 {
		t.Errorf("given back, it was leased as %+v", l)
	}
}

// pausedWorker stops a worker across its lease while another takes the row.
func pausedWorker(t *testing.T, s *store.Store) {
	id := dueRun(t, s)
	paused := acquire(t, s, "runs", "paused", 20*time.Millisecond)
	var row store.Run
	view(t, s, func(tx *store.Tx) (err error) { row, err = tx.Run("default", id); return err })
	// It sleeps; its lease runs out, and another worker rolls back.
	other := acquire(t, s, "runs", "other", time.Minute)
	if other.ID != id || other.Epoch != paused.Epoch+1 {
		t.Fatalf("leases: %+v, then %+v", paused, other)
	}
	update(t, s, func(tx *store.Tx) error {
		if err := tx.Check(other); err != nil {
			return err
		}
		r, err := tx.Run("default", id)
		if err != nil {
			return err
		}
		r.Phase = "rolling-back"
		return tx.SaveRun(&r)
	})
	// It wakes, and goes on as if nothing had been.
	row.Phase = "shifting"
	want(t, s.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.Check(paused); err != nil {
			return err
		}
		return tx.SaveRun(&row)
	}), store.ErrFenced)
	want(t, s.Extend(t.Context(), paused, time.Second), store.ErrFenced)
	want(t, s.Release(t.Context(), paused), store.ErrFenced)
	// Even one that forgot to check its lease overwrites nothing.
	want(t, s.Update(t.Context(), func(tx *store.Tx) error { return tx.SaveRun(&row) }), store.ErrStale)
	update(t, s, func(tx *store.Tx) error {
		r, err := tx.Run("default", id)
		if r.Phase != "rolling-back" || r.Epoch != other.Epoch || r.LeaseOwner != "other" {
			t.Errorf("the run: %+v", r)
		}
		if err != nil {
			return err
		}
		return tx.Check(other)
	})
	// A lease that ran out and that nobody took is no right to write either, but
	// its holder may have it back.
	short := dueRun(t, s)
	lapsed := acquire(t, s, "runs", "slow", 5*time.Millisecond)
	if lapsed.ID != short {
		t.Fatalf("leased %s", lapsed)
	}
	for deadline := time.Now().Add(machinetest.Patience); ; {
		err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Check(lapsed) })
		if errors.Is(err, store.ErrFenced) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a lease of 5 ms lasts: %v", err)
		}
	}
	if err := s.Extend(t.Context(), lapsed, time.Minute); err != nil {
		t.Error(err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.Check(lapsed) })
}

func twoWorkers(t *testing.T, s *store.Store) {
	const rows, workers = 40, 8
	for range rows {
		dueRun(t, s)
	}
	var mu sync.Mutex
	held, done := map[string]string{}, map[string]int{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			owner := fmt.Sprint("worker ", w)
			for {
				l, ok, err := One(s.Acquire(t.Context(), "runs", owner, time.Minute, 1))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if len(done) == rows {
					mu.Unlock()
					return
				}
				if !ok {
					mu.Unlock()
					continue
				}
				if other, taken := held[l.ID]; taken {
					t.Errorf("%s and %s hold %s", other, owner, l)
				}
				held[l.ID] = owner
				mu.Unlock()
				err = s.Update(t.Context(), func(tx *store.Tx) error {
					if err := tx.Check(l); err != nil {
						return err
					}
					r, err := tx.Run(l.Project, l.ID)
					if err != nil {
						return err
					}
					r.WakeAt = nil
					return tx.SaveRun(&r)
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				delete(held, l.ID)
				done[l.ID]++
				mu.Unlock()
				if err := s.Release(t.Context(), l); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for id, n := range done {
		if n != 1 {
			t.Errorf("run %s was worked on %d times", id, n)
		}
	}
}

func oldestFirst(t *testing.T, s *store.Store) {
	update(t, s, func(tx *store.Tx) error {
		for _, ago := range []int{2, 3, 1} {
			r := store.Run{Project: "default", Service: fmt.Sprint(ago)}
			r.WakeAt = at(tx, -time.Duration(ago)*time.Minute)
			if err := tx.InsertRun(&r); err != nil {
				return err
			}
		}
		return nil
	})
	for _, id := range []string{"2", "1", "3"} {
		if l := acquire(t, s, "runs", "w", time.Minute); l.ID != id {
			t.Errorf("leased run %s, want %s", l.ID, id)
		}
	}
}

func commitOrder(t *testing.T, s *store.Store) {
	const writers, each = 6, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					g, err := tx.NextGeneration()
					if err != nil {
						return err
					}
					if i%5 == 4 {
						return errRollback
					}
					f := store.Feed{Project: "default", Run: fmt.Sprint(w), Data: json.RawMessage(fmt.Sprint(g))}
					return tx.AddFeed(&f)
				})
				if err != nil && !errors.Is(err, errRollback) {
					t.Error(err)
				}
			}
		})
	}
	// Someone watches meanwhile: whatever comes is behind what came.
	const total = writers * each * 4 / 5
	var seen []store.Feed
	var last, generation int64
	for deadline := time.Now().Add(machinetest.Patience); len(seen) < total; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d feed lines came", len(seen), total)
		}
		view(t, s, func(tx *store.Tx) error {
			more, err := tx.FeedAfter("default", "", last, 7)
			for _, f := range more {
				var g int64
				if err := json.Unmarshal(f.Data, &g); err != nil {
					return err
				}
				if f.Seq != last+1 || g <= generation {
					t.Errorf("line %d of generation %d came behind line %d of generation %d", f.Seq, g, last, generation)
				}
				last, generation = f.Seq, g
			}
			seen = append(seen, more...)
			return err
		})
	}
	wg.Wait()
	view(t, s, func(tx *store.Tx) error {
		if one, err := tx.FeedAfter("default", "0", 0, 0); err != nil || len(one) != each*4/5 {
			t.Errorf("a run's feed has %d lines, %v", len(one), err)
		}
		if none, err := tx.FeedAfter("other", "", 0, 0); err != nil || len(none) != 0 {
			t.Errorf("another project's feed has %d lines, %v", len(none), err)
		}
		if end, err := tx.FeedEnd(); err != nil || end != total {
			t.Errorf("the feed ends at %d, %v", end, err)
		}
		return nil
	})
}

var errRollback = errors.New("rolled back on purpose")
