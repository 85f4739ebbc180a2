package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

func wakeBeforeSave(t *testing.T, s *store.Store) {
	id := dueRun(t, s)
	l := acquire(t, s, "runs", "w", time.Minute)
	var row store.Run
	view(t, s, func(tx *store.Tx) (err error) { row, err = tx.Run("default", id); return err })
	update(t, s, func(tx *store.Tx) error { return tx.Wake("runs", "default", id, tx.Now()) })
	update(t, s, func(tx *store.Tx) error { // decided before the wake-up: nothing to do
		if err := tx.Check(l); err != nil {
			return err
		}
		row.WakeAt = nil
		return tx.SaveRun(&row)
	})
	if err := s.Release(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	again := acquire(t, s, "runs", "w", time.Minute)
	update(t, s, func(tx *store.Tx) error {
		r, err := tx.Run("default", id)
		if err != nil {
			return err
		}
		r.WakeAt = nil // seen now: it may sleep
		return tx.SaveRun(&r)
	})
	if err := s.Release(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := One(s.Acquire(t.Context(), "runs", "w", time.Minute, 1)); ok || err != nil {
		t.Errorf("a row that was put to sleep is due: %v", err)
	}
}

// wakeProperty: until somebody who read a wake-up saves the row, the row is due
// by then; and once all are handled, it sleeps as long as was said.
func wakeProperty(t *testing.T, s *store.Store) {
	rapid.Check(t, func(rt *rapid.T) {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			row := store.Run{Project: "default"}
			if err := tx.InsertRun(&row); err != nil {
				return err
			}
			type alarm struct {
				at      time.Time
				handled bool
			}
			type copyOf struct {
				row  store.Run
				seen int // alarms there were
			}
			var alarms []*alarm
			var copies []copyOf
			var asked *time.Time // by the last save
			for range rapid.IntRange(1, 12).Draw(rt, "steps") {
				when := tx.Now().Add(time.Duration(rapid.IntRange(-5, 5).Draw(rt, "when")) * time.Second)
				switch rapid.SampledFrom([]string{"read", "wake", "save", "sleep"}).Draw(rt, "step") {
				case "read":
					r, err := tx.Run("default", row.ID)
					if err != nil {
						return err
					}
					copies = append(copies, copyOf{r, len(alarms)})
				case "wake":
					if err := tx.Wake("runs", "default", row.ID, when); err != nil {
						return err
					}
					alarms = append(alarms, &alarm{at: when})
				case "save", "sleep":
					if len(copies) == 0 {
						continue
					}
					c := copies[rapid.IntRange(0, len(copies)-1).Draw(rt, "copy")]
					r := c.row
					if r.WakeAt = &when; rapid.Bool().Draw(rt, "asleep") {
						r.WakeAt = nil
					}
					if err := tx.SaveRun(&r); errors.Is(err, store.ErrStale) {
						continue
					} else if err != nil {
						return err
					}
					asked = r.WakeAt
					for _, a := range alarms[:c.seen] {
						a.handled = true
					}
				}
				now, err := tx.Run("default", row.ID)
				if err != nil {
					return err
				}
				open := 0
				for _, a := range alarms {
					if a.handled {
						continue
					}
					open++
					if now.WakeAt == nil || now.WakeAt.After(a.at) {
						rt.Fatalf("woken at %v, the row sleeps until %v", a.at, now.WakeAt)
					}
				}
				if open == 0 && (asked == nil) != (now.WakeAt == nil) || open == 0 && asked != nil && !asked.Equal(*now.WakeAt) {
					rt.Fatalf("told to sleep until %v, the row sleeps until %v", asked, now.WakeAt)
				}
			}
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// wakeHammer has writers that leave a message and wake a row, and a worker that
// reads, decides and saves in steps of its own. A lost wake-up would leave a
// message unread for ever.
func wakeHammer(t *testing.T, s *store.Store) {
	const writers, messages = 6, 25
	id := dueRun(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 2*machinetest.Patience)
	defer cancel()
	topics, stop := s.Subscribe()
	defer stop()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range messages {
				err := s.Update(ctx, func(tx *store.Tx) error {
					if _, err := tx.AppendEvent("default", "inbox", json.RawMessage(`{}`)); err != nil {
						return err
					}
					return tx.Wake("runs", "default", id, tx.Now())
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	read := 0
	for read < writers*messages && ctx.Err() == nil {
		l, ok, err := One(s.Acquire(ctx, "runs", "w", time.Minute, 1))
		if err != nil {
			t.Fatal(err)
		}
		if !ok { // no poll: only what is notified
			select {
			case <-topics:
			case <-ctx.Done():
			}
			continue
		}
		var row store.Run
		err = s.View(ctx, func(tx *store.Tx) (err error) {
			if row, err = tx.Run("default", id); err != nil {
				return err
			}
			inbox, err := tx.Events("default", "inbox")
			read = len(inbox)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Check(l); err != nil {
				return err
			}
			row.WakeAt = nil
			return tx.SaveRun(&row)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Release(ctx, l); err != nil {
			t.Fatal(err)
		}
	}
	if read != writers*messages {
		t.Errorf("%d of %d messages were read; the row sleeps", read, writers*messages)
	}
	wg.Wait()
}

// next receives a topic.
func next(t *testing.T, topics <-chan string) string {
	t.Helper()
	select {
	case topic, ok := <-topics:
		if !ok {
			t.Fatal("the subscription ended")
		}
		return topic
	case <-time.After(machinetest.Patience):
		t.Fatal("nothing was notified")
		return ""
	}
}

func subscriptions(t *testing.T, s *store.Store) {
	topics, stop := s.Subscribe()
	lazy, stopLazy := s.Subscribe() // receives nothing until the end
	defer stopLazy()
	want(t, s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Notify("feed:default")
		return errRollback
	}), errRollback)
	for _, c := range []struct {
		topic string
		f     func(tx *store.Tx) error
	}{
		{"feed:default", func(tx *store.Tx) error { return tx.AddFeed(&store.Feed{Project: "default"}) }},
		{"work", func(tx *store.Tx) error { return tx.InsertRun(&store.Run{Project: "default"}) }},
		{"work", func(tx *store.Tx) error { return tx.Wake("runs", "default", "1", tx.Now()) }},
		{"desired", func(tx *store.Tx) error {
			_, err := tx.PutDesired(key, 1, json.RawMessage(`{}`))
			return err
		}},
		{"observed", func(tx *store.Tx) error {
			_, err := tx.PutObserved(&store.Observed{Host: "h", Report: json.RawMessage(`{}`)})
			return err
		}},
	} {
		update(t, s, c.f)
		if got := next(t, topics); got != c.topic {
			t.Fatalf("notified of %q, want %q", got, c.topic)
		}
	}
	stop()
	stop()
	if _, ok := <-topics; ok {
		t.Error("a topic came after the end")
	}
	for range 50 {
		update(t, s, func(tx *store.Tx) error { tx.Notify("feed:default"); return nil })
	}
	got := map[string]int{}
	for range 5 { // feed:default may have been on its way when it came again
		select {
		case topic := <-lazy:
			got[topic]++
		case <-time.After(20 * time.Millisecond):
		}
	}
	if len(got) != 4 || got["work"] != 1 || got["feed:default"] > 2 {
		t.Errorf("a slow subscriber got %v", got)
	}
}

func wakeLive(t *testing.T, s *store.Store) {
	add := func(service string, live bool) (id string) {
		update(t, s, func(tx *store.Tx) error {
			o := store.Rollout{Project: "default", Service: service, Environment: "prod", Live: live}
			if o.WakeAt = at(tx, time.Hour); !live {
				o.WakeAt = nil
			}
			err := tx.InsertRollout(&o)
			id = o.ID
			return err
		})
		return id
	}
	one, two := add("one", true), add("two", true)
	add("gone", false)
	update(t, s, func(tx *store.Tx) error {
		for _, service := range []string{"one", "gone", "nobody"} {
			live, err := tx.WakeLive(release.Key{Project: "default", Service: service, Environment: "prod"})
			if err != nil {
				return err
			}
			if live != (service == "one") {
				t.Errorf("%s is live: %t", service, live)
			}
		}
		return nil
	})
	if l := acquire(t, s, "rollouts", "w", time.Minute); l.ID != one || l.Late < 0 || l.Late > time.Minute {
		t.Errorf("woken: %+v", l)
	}
	if l, ok, err := One(s.Acquire(t.Context(), "rollouts", "w", time.Minute, 1)); ok || err != nil {
		t.Errorf("woken beside it: %+v %v", l, err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.WakeAllLive() })
	if d, ok, err := s.NextWake(t.Context(), "rollouts"); err != nil || !ok || d > time.Second {
		t.Fatalf("all were woken, the next in %v: %v %v", d, ok, err)
	}
	for deadline := time.Now().Add(machinetest.Patience); ; time.Sleep(time.Millisecond) { // each comes a little after the one before
		l, ok, err := One(s.Acquire(t.Context(), "rollouts", "w", time.Minute, 1))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("nobody was woken: %v", err)
		}
		if ok {
			if l.ID != two {
				t.Errorf("woken: %+v", l)
			}
			return
		}
	}
}
