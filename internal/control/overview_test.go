package control

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// A rollout that a newer version started is told in its place, and takes nothing
// from the others.
func TestOverviewWithANewerRollout(t *testing.T) {
	w := newWorld(t, store.SQLite) // without the audit, which reads every rollout with this version
	both := production + strings.Replace(strings.Replace(production, "name: production", "name: staging", 1), ":9001", ":9002", 1)
	r, v1 := w.ship(w.definition(both), "v1")
	w.untilState(r, run.Succeeded)
	w.must(w.store.Update(w.Context(), func(tx *store.Tx) error {
		row := store.Rollout{Project: "default", Run: r, Service: "shop", Environment: "staging", Release: v1, Phase: string(rollout.Baking), Engine: rollout.Engine + 1, Live: true}
		if err := tx.InsertRollout(&row); err != nil {
			return err
		}
		return tx.Sleep("rollouts", "default", row.ID, tx.Now().Add(time.Hour))
	}))
	cells, err := w.front.Overview(w.Context(), "default")
	w.must(err)
	if len(cells) != 2 || cells[0].Release != v1 || cells[0].State != run.Succeeded || cells[1].State != run.Running || !strings.Contains(cells[1].WaitingFor, "newer sluice") {
		w.Errorf("%+v", cells)
	}
	w.must(w.store.Update(w.Context(), func(tx *store.Tx) error {
		row, _, err := tx.LiveRollout(release.Key{Project: "default", Service: "shop", Environment: "staging"})
		if err != nil {
			return err
		}
		row.Live, row.Phase = false, string(rollout.Cancelled)
		return tx.SaveRollout(&row)
	}))
	cells, err = w.front.Overview(w.Context(), "default")
	w.must(err)
	if len(cells) != 2 || cells[1].State != run.Succeeded {
		w.Errorf("%+v", cells)
	}
}

// An abort and an advance that arrive together end in an abort, whoever is first.
func TestAbortAndAdvanceTogether(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		for _, commit := range []string{"v2", "v3", "v4"} {
			r, _ := w.ship(w.definition(production), commit)
			w.untilPhase(r, rollout.Baking, 10)
			saw := w.env(r).Revision
			var both sync.WaitGroup
			var aborted, advanced error
			both.Go(func() { aborted = w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "no"}, saw) })
			both.Go(func() {
				advanced = w.tell(r, rollout.Command{Kind: rollout.Advance, Override: true, Reason: "yes"}, saw)
			})
			both.Wait()
			if aborted != nil || advanced != nil && !errors.Is(advanced, store.ErrStale) && !errors.Is(advanced, ErrRefused) {
				w.Errorf("abort %v, advance %v", aborted, advanced)
			}
			w.untilState(r, run.RolledBack)
			if w.runs("production") != v1 {
				w.Errorf("%s runs", w.runs("production").Short())
			}
		}
	})
}

// A rollback that is stuck is told everywhere, goes on being tried, ends by
// give-up, and what comes then is not held up by it.
func TestStuckRollbackIsLoudAndLetsTheFixIn(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, _ := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.hosts[0].down = true
		w.pause(10 * time.Second)
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "bad prices"}))
		s := w.until(r, "stuck", func(s Status) bool { return s.Environments[0].Stuck })
		x := w.explained(r)
		if s.State != run.RollingBack || run.ExitCode(s.State) != 5 || !strings.Contains(x.Now, "stuck") || !strings.Contains(x.When, "again every") {
			w.Errorf("%s, exit code %d: %+v", s.State, run.ExitCode(s.State), x)
		}
		var said []string
		for _, c := range x.Choices {
			said = append(said, c.Command+" "+c.Text)
		}
		if all := strings.Join(said, "\n"); !strings.Contains(all, "mend what is missing") || !strings.Contains(all, "give-up ") {
			w.Errorf("what can be done: %s", all)
		}
		feed, err := w.front.Feed(w.Context(), "default", r, 0, 1000)
		w.must(err)
		alarm := false
		for _, f := range feed {
			alarm = alarm || f.Kind == "alarm" && strings.Contains(string(f.Data), "stuck")
		}
		cells, err := w.front.Overview(w.Context(), "default")
		w.must(err)
		if !alarm || !cells[0].Stuck {
			w.Errorf("alarm %t, overview %+v", alarm, cells)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.GiveUp, Reason: "the host is gone"}))
		w.untilState(r, run.RollbackFailed)
		w.hosts[0].down = false
		w.pause(10 * time.Second)
		fix, v3 := w.ship(w.definition(production), "v3")
		w.untilState(fix, run.Succeeded)
		if w.runs("production") != v3 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
	})
}
