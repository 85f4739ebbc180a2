package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/registry/registrytest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// Open returns an empty store that is closed when the test ends.
type Open func(t *testing.T) *store.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, *store.Store)
	}{
		{"a failed update leaves nothing, in the database and in the caller's rows", failedUpdate},
		{"a view writes nothing and sees one moment", views},
		{"runs are numbered per project and saved by revision", runs},
		{"one rollout is live for a service and environment", rollouts},
		{"only the last event can be replaced", events},
		{"a bin is written once, and the newest are read in order", bins},
		{"environments are added once and saved by revision", environments},
		{"a generation is above those that hosts know of", generations},
		{"effects are pending until they came out, by generation", effects},
		{"releases, builds and promotions stay what they were", releases},
		{"one answer per person and packet", approvals},
		{"a quarantine holds until a person lifts it", quarantines},
		{"statements get one place in the log, in the order of commits", leaves},
		{"the tree only grows", tree},
		{"a person has one opaque name in a project's statements", payloads},
		{"an overtaken generation changes nothing", desired},
		{"an older report of the same boot is refused", observed},
		{"an answer is kept once", answers},
		{"text comes back as it was written", text},

		{"a lease belongs to one worker until it runs out", leases},
		{"several rows are leased at once, and one is given back with its transaction", someLeases},
		{"a paused worker writes nothing when it comes back", pausedWorker},
		{"two workers never hold one row", twoWorkers},
		{"the row that has been due for longest goes first", oldestFirst},
		{"a wake-up between read and save is kept", wakeBeforeSave},
		{"a live rollout is woken by what it is about", wakeLive},
		{"no wake-up is lost in any order of events", wakeProperty},
		{"no wake-up is lost under concurrency", wakeHammer},
		{"numbers rise in the order of commits", commitOrder},
		{"subscribers hear of what was committed, and of nothing else", subscriptions},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
	t.Run("the registry's index", func(t *testing.T) {
		registrytest.TestIndex(t, func(t *testing.T) registry.Index { return open(t) })
	})
}

var key = release.Key{Project: "default", Service: "web", Environment: "prod"}

func digest(s string) release.Digest { return release.DigestOf([]byte(s)) }

func update(t *testing.T, s *store.Store, f func(tx *store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, s *store.Store, f func(tx *store.Tx) error) {
	t.Helper()
	if err := s.View(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, got, sentinel error) {
	t.Helper()
	if !errors.Is(got, sentinel) {
		t.Fatalf("got error %v, want %v", got, sentinel)
	}
}

func at(tx *store.Tx, d time.Duration) *time.Time {
	v := tx.Now().Add(d)
	return &v
}

func failedUpdate(t *testing.T, s *store.Store) {
	boom := errors.New("boom")
	run := store.Run{Project: "default", Service: "web"}
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.InsertRun(&run); err != nil {
			return err
		}
		if run.ID != "1" || run.Revision != 1 || !run.CreatedAt.Equal(tx.Now()) {
			t.Errorf("the run was not filled in: %+v", run)
		}
		return boom
	})
	want(t, err, boom)
	if run.ID != "" || run.Revision != 0 || !run.CreatedAt.IsZero() {
		t.Errorf("a rolled back run kept what the database gave it: %+v", run)
	}
	view(t, s, func(tx *store.Tx) error {
		if all, err := tx.Runs(store.RunFilter{}); err != nil || len(all) != 0 {
			t.Errorf("a rolled back run is there: %v, %v", all, err)
		}
		return nil
	})
	func() {
		defer func() { _ = recover() }()
		_ = s.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.InsertRun(&run); err != nil {
				t.Error(err)
			}
			panic("in the middle")
		})
	}()
	// The writer is free again, and the number was not spent.
	update(t, s, func(tx *store.Tx) error {
		r := store.Run{Project: "default"}
		if err := tx.InsertRun(&r); err != nil {
			return err
		}
		if r.ID != "1" {
			t.Errorf("after two rollbacks the first run is %s", r.ID)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Update(ctx, func(tx *store.Tx) error {
		cancel()
		r := store.Run{Project: "cancelled"}
		_ = tx.InsertRun(&r)
		return nil
	})
	if err == nil {
		t.Error("an update whose context ended was committed")
	}
}

func views(t *testing.T, s *store.Store) {
	err := s.View(t.Context(), func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) })
	if err == nil || !strings.Contains(err.Error(), "use Update") {
		t.Errorf("writing in a view: %v", err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) })
	view(t, s, func(tx *store.Tx) error {
		if tx.Now().Location() != time.UTC || tx.Now() != tx.Now().Truncate(time.Microsecond) {
			t.Errorf("odd time %v", tx.Now())
		}
		before, err := tx.Runs(store.RunFilter{})
		if err != nil {
			return err
		}
		update(t, s, func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) })
		after, err := tx.Runs(store.RunFilter{})
		if len(before) != 1 || len(after) != 1 {
			t.Errorf("a view saw %d runs, then %d", len(before), len(after))
		}
		return err
	})
}

func runs(t *testing.T, s *store.Store) {
	yes, no := true, false
	var stale store.Run
	update(t, s, func(tx *store.Tx) error {
		for _, project := range []string{"default", "default", "other", "default"} {
			r := store.Run{Project: project, Service: "web", Live: true, Kind: "run", Commit: "c0ffee", To: "prod", Actor: "local:ada", State: json.RawMessage(`{"v": 1}`)}
			if err := tx.InsertRun(&r); err != nil {
				return err
			}
		}
		r, err := tx.Run("default", "3")
		if err != nil {
			return err
		}
		stale = r
		if r.State == nil || string(r.State) != `{"v": 1}` || r.Commit != "c0ffee" || r.To != "prod" || r.WakeAt != nil || r.Actor != "local:ada" {
			t.Errorf("read back: %+v", r)
		}
		r.Live, r.Phase = false, "succeeded"
		if err := tx.SaveRun(&r); err != nil {
			return err
		}
		if r.Revision != 2 {
			t.Errorf("revision %d after a save", r.Revision)
		}
		return nil
	})
	view(t, s, func(tx *store.Tx) error {
		for _, c := range []struct {
			f    store.RunFilter
			want string
		}{
			{store.RunFilter{Project: "default"}, "3 2 1"},
			{store.RunFilter{Project: "default", Live: &yes}, "2 1"},
			{store.RunFilter{Project: "default", Live: &no}, "3"},
			{store.RunFilter{Project: "default", Before: "3", Limit: 1}, "2"},
			{store.RunFilter{Project: "default", Service: "api"}, ""},
			{store.RunFilter{Live: &yes}, "2 1 1"},
		} {
			rows, err := tx.Runs(c.f)
			if err != nil {
				return err
			}
			var ids []string
			for _, r := range rows {
				ids = append(ids, r.ID)
			}
			if got := strings.Join(ids, " "); got != c.want {
				t.Errorf("%+v: runs %q, want %q", c.f, got, c.want)
			}
		}
		_, err := tx.Runs(store.RunFilter{Before: "x'; --"})
		if err == nil {
			t.Error("listed runs before nonsense")
		}
		_, err = tx.Run("other", "3")
		want(t, err, store.ErrNotFound)
		return nil
	})
	stale.Phase = "failed"
	want(t, s.Update(t.Context(), func(tx *store.Tx) error { return tx.SaveRun(&stale) }), store.ErrStale)
	gone := store.Run{Project: "default", ID: "99", Revision: 1}
	want(t, s.Update(t.Context(), func(tx *store.Tx) error { return tx.SaveRun(&gone) }), store.ErrNotFound)
	update(t, s, func(tx *store.Tx) error {
		r, err := tx.Run("default", "3")
		if r.Phase != "succeeded" {
			t.Errorf("a stale save changed the run: %+v", r)
		}
		return err
	})
}

func rollouts(t *testing.T, s *store.Store) {
	set, wave := "set", 2
	first := store.Rollout{Project: key.Project, Service: key.Service, Environment: key.Environment, Run: "1", Live: true, SetID: &set, Wave: &wave}
	update(t, s, func(tx *store.Tx) error {
		if err := tx.InsertRollout(&first); err != nil {
			return err
		}
		second := store.Rollout{Project: key.Project, Service: key.Service, Environment: key.Environment, Live: true}
		err := tx.InsertRollout(&second)
		want(t, err, store.ErrLive)
		if !strings.Contains(err.Error(), first.ID) {
			t.Errorf("%v: doesn't name %s", err, first.ID)
		}
		// The transaction is usable still.
		staging := store.Rollout{Project: key.Project, Service: key.Service, Environment: "staging", Live: true}
		return tx.InsertRollout(&staging)
	})
	update(t, s, func(tx *store.Tx) error {
		got, ok, err := tx.LiveRollout(key)
		if err != nil || !ok || got.ID != "o1" || *got.SetID != "set" || *got.Wave != 2 {
			t.Errorf("live rollout: %+v %v %v", got, ok, err)
		}
		got.Live = false
		if err := tx.SaveRollout(&got); err != nil {
			return err
		}
		next := store.Rollout{Project: key.Project, Service: key.Service, Environment: key.Environment, Run: "2", Live: true}
		return tx.InsertRollout(&next)
	})
	// Bringing a dead one back to life beside a live one is refused too.
	want(t, s.Update(t.Context(), func(tx *store.Tx) error {
		r, err := tx.Rollout(key.Project, "o1")
		if err != nil {
			return err
		}
		r.Live = true
		return tx.SaveRollout(&r)
	}), store.ErrLive)
	view(t, s, func(tx *store.Tx) error {
		all, err := tx.Rollouts(store.RolloutFilter{Project: key.Project, Service: key.Service})
		if err != nil || len(all) != 3 || all[0].ID != "o3" {
			t.Errorf("rollouts: %+v %v", all, err)
		}
		yes := true
		for _, f := range []store.RolloutFilter{{Run: "2"}, {Environment: "staging"}, {Limit: 1}, {Environment: "prod", Live: &yes}} {
			if some, err := tx.Rollouts(f); err != nil || len(some) != 1 {
				t.Errorf("%+v: %d rollouts, %v", f, len(some), err)
			}
		}
		_, err = tx.Rollout("other", "o1")
		want(t, err, store.ErrNotFound)
		return nil
	})
}

func events(t *testing.T, s *store.Store) {
	update(t, s, func(tx *store.Tx) error {
		for i, data := range []string{`{"n":1}`, `{"n":2}`} {
			seq, err := tx.AppendEvent("default", "o1", json.RawMessage(data))
			if err != nil {
				return err
			}
			if seq != int64(i+1) {
				t.Errorf("event %d has number %d", i+1, seq)
			}
		}
		if _, err := tx.AppendEvent("other", "o1", json.RawMessage(`{}`)); err != nil {
			return err
		}
		want(t, tx.ReplaceEvent("default", "o1", 1, json.RawMessage(`{}`)), store.ErrStale)
		want(t, tx.ReplaceEvent("default", "o1", 3, json.RawMessage(`{}`)), store.ErrStale)
		return tx.ReplaceEvent("default", "o1", 2, json.RawMessage(`{"n":3}`))
	})
	view(t, s, func(tx *store.Tx) error {
		all, err := tx.Events("default", "o1")
		if err != nil || len(all) != 2 || string(all[0].Data) != `{"n":1}` || string(all[1].Data) != `{"n":3}` {
			t.Errorf("events: %+v %v", all, err)
		}
		return nil
	})
}

func bins(t *testing.T, s *store.Store) {
	update(t, s, func(tx *store.Tx) error {
		for i := range int64(5) {
			if err := tx.AppendBin("default", "o1", i, json.RawMessage(`{"n":1}`)); err != nil {
				return err
			}
		}
		return tx.AppendBin("other", "o1", 0, json.RawMessage(`{}`))
	})
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		return tx.AppendBin("default", "o1", 4, json.RawMessage(`{"n":2}`))
	})
	want(t, err, store.ErrExists)
	view(t, s, func(tx *store.Tx) error {
		all, err := tx.Bins("default", "o1", 0)
		if err != nil || len(all) != 5 || all[0].Seq != 0 || all[4].Seq != 4 || string(all[4].Data) != `{"n":1}` || all[4].At.IsZero() {
			t.Errorf("bins: %+v %v", all, err)
		}
		some, err := tx.Bins("default", "o1", 2)
		if err != nil || len(some) != 2 || some[0].Seq != 3 || some[1].Seq != 4 {
			t.Errorf("the newest two: %+v %v", some, err)
		}
		return nil
	})
}

func environments(t *testing.T, s *store.Store) {
	env := store.Environment{Key: key, Current: json.RawMessage(`{"weight":10000}`)}
	update(t, s, func(tx *store.Tx) error {
		if _, ok, err := tx.Environment(key); ok || err != nil {
			t.Errorf("an environment out of nothing: %v", err)
		}
		env.RetireAt, env.WakeAt = at(tx, time.Hour), at(tx, time.Hour)
		return tx.PutEnvironment(&env)
	})
	twin := store.Environment{Key: key}
	want(t, s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutEnvironment(&twin) }), store.ErrStale)
	stale := env
	update(t, s, func(tx *store.Tx) error {
		env.Previous, env.Current, env.RetireAt = env.Current, nil, nil
		return tx.PutEnvironment(&env)
	})
	want(t, s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutEnvironment(&stale) }), store.ErrStale)
	view(t, s, func(tx *store.Tx) error {
		got, ok, err := tx.Environment(key)
		if err != nil || !ok || got.Revision != 2 || got.Current != nil || string(got.Previous) != `{"weight":10000}` || got.RetireAt != nil || got.WakeAt == nil || got.Key != key {
			t.Errorf("environment: %+v %v", got, err)
		}
		for project, n := range map[string]int{"default": 1, "": 1, "other": 0} {
			if all, err := tx.Environments(project); err != nil || len(all) != n {
				t.Errorf("environments of %q: %v %v", project, all, err)
			}
		}
		return nil
	})
}

// Hosts may know of orders that a database from a backup has forgotten.
func generations(t *testing.T, s *store.Store) {
	update(t, s, func(tx *store.Tx) error {
		for _, c := range []struct {
			seen   int64
			raised bool
			next   int64
		}{{5, true, 6}, {6, false, 7}, {3, false, 8}, {100, true, 101}} {
			raised, err := tx.ReachGeneration(c.seen)
			if err != nil {
				return err
			}
			if next, err := tx.NextGeneration(); err != nil || raised != c.raised || next != c.next {
				t.Errorf("after %d: raised %t, next %d, %v", c.seen, raised, next, err)
			}
		}
		return nil
	})
}

func effects(t *testing.T, s *store.Store) {
	update(t, s, func(tx *store.Tx) error {
		g, err := tx.NextGeneration()
		if err != nil {
			return err
		}
		for _, e := range []*store.Effect{{Project: "default", Rollout: "o1", Kind: "apply"}, {Project: "default", Rollout: "o1", Generation: g, Kind: "check", Data: json.RawMessage(`1`)}, {Project: "default", Rollout: "o2"}} {
			if err := tx.AddEffect(e); err != nil {
				return err
			}
		}
		want(t, tx.AddEffect(&store.Effect{Project: "default", Rollout: "o1", Generation: g}), store.ErrExists)
		return nil
	})
	update(t, s, func(tx *store.Tx) error {
		pending, err := tx.PendingEffects("default", "o1")
		if err != nil {
			return err
		}
		if len(pending) != 2 || pending[0].Kind != "check" || pending[0].Generation >= pending[1].Generation {
			t.Fatalf("pending: %+v", pending)
		}
		g := pending[0].Generation
		want(t, tx.FinishEffect("default", "o1", 999, "done"), store.ErrNotFound)
		if err := tx.FinishEffect("default", "o1", g, "done"); err != nil {
			return err
		}
		want(t, tx.FinishEffect("default", "o1", g, "refused"), store.ErrExists)
		return tx.FinishEffect("default", "o1", g, "done") // again, after a crash
	})
	view(t, s, func(tx *store.Tx) error {
		if pending, err := tx.PendingEffects("default", "o1"); err != nil || len(pending) != 1 || pending[0].Kind != "apply" {
			t.Errorf("pending: %+v %v", pending, err)
		}
		return nil
	})
}

func text(t *testing.T, s *store.Store) {
	for _, v := range []string{"it's ?0 and ?", `back\slash "quoted" \u0000 ü 漢 🚀`, "$1 %s --; /* */", "a\nb\tc\x01", "' OR '1'='1"} {
		doc, err := json.Marshal(map[string]string{"v": v})
		if err != nil {
			t.Fatal(err)
		}
		update(t, s, func(tx *store.Tx) error {
			r := store.Run{Project: "default", Ref: v, State: doc}
			if err := tx.InsertRun(&r); err != nil {
				return err
			}
			got, err := tx.Run("default", r.ID)
			if got.Ref != v || string(got.State) != string(doc) {
				t.Errorf("%q came back as %q, %s as %s", v, got.Ref, doc, got.State)
			}
			return err
		})
	}
	// What neither dialect can hold is refused and not shortened.
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default", Ref: "a\x00b"}) }); err == nil {
		t.Error("a NUL byte went in")
	}
}
