package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

func (w *world) rehearse(env string) (string, error) {
	return w.front.Rehearse(w.Context(), "default", "shop", env, "before march", bob)
}

// A rehearsal goes back and forward again, leaves everything as it was, and says
// how long it took; the next rollback expects that.
func TestRehearsal(t *testing.T) {
	stories(t, func(w *world) {
		if _, err := w.rehearse("production"); !errors.Is(err, ErrMissing) {
			w.Errorf("of nothing: %v", err)
		}
		v1 := w.first(production)
		if _, err := w.rehearse("production"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no earlier release") || strings.Contains(err.Error(), "--to") {
			w.Errorf("of a first release: %v", err)
		}
		v2 := w.released(production, "v2")
		_, v3 := w.ship(w.definition(production), "v3")
		w.must(w.front.Abort(w.Context(), "default", "3", "", "later", bob))
		w.untilState("3", run.Cancelled)
		r, err := w.rehearse("production")
		w.must(err)
		other := w.promoted(v3) // must not slip in between the two ways
		s := w.untilState(r, run.Succeeded)
		if s.Kind != run.KindRehearse || !strings.Contains(s.Environments[0].Reason, "forward again") || w.runs("production") != v2 {
			w.Errorf("%+v", s)
		}
		shop := strings.Join(w.hosts[0].shop("production").weights(), "\n")
		back, on := strings.Index(shop, v1.Short()+"=10000 "), strings.LastIndex(shop, v2.Short()+"=10000")
		if i := strings.Index(shop, v3.Short()); i >= 0 && i < on {
			w.Errorf("another release came between:\n%s", shop)
		}
		if !strings.Contains(shop, v2.Short()+"=0 "+v1.Short()+"=10000") || on < back {
			w.Errorf("applied:\n%s", shop)
		}
		if qs, err := w.front.Quarantines(w.Context(), "default", "shop"); err != nil || len(qs) != 0 {
			w.Errorf("quarantined: %+v, %v", qs, err)
		}
		st, err := w.front.trusted.Verify(w.leaf(r, evidence.TypeRehearsal).Envelope)
		w.must(err)
		p, err := evidence.Decode[evidence.Rehearsal](st)
		w.must(err)
		if p.Result != evidence.RehearsalSucceeded || p.From != v2 || p.To != v1 || p.Way != warm || p.BackMillis < 0 || p.OnMillis < 0 || len(p.Rollouts) != 2 || len(p.Payloads) != 1 {
			w.Errorf("%+v", p)
		}
		w.golden("rehearsal.txt", w.transcript(r))
		w.must(w.front.Abort(w.Context(), "default", other, "", "later", bob))
		w.until(other, "ended", func(s Status) bool {
			return s.State == run.Cancelled || s.State == run.RolledBack || s.State == run.Failed
		})
	})
}

// A rehearsal whose way back does not start has failed, and users are where they
// were.
func TestRehearsalThatFails(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		v2 := w.released(production, "v2")
		w.pause(2 * time.Hour)
		w.hosts[0].broken[v1] = "exit status 1: its database is gone"
		r, err := w.rehearse("production")
		w.must(err)
		s := w.until(r, "ended", func(s Status) bool { return s.State == run.Failed || s.State == run.RolledBack })
		if !strings.Contains(s.Reason, "its database is gone") || w.runs("production") != v2 {
			w.Errorf("%+v", s)
		}
		st, err := w.front.trusted.Verify(w.leaf(r, evidence.TypeRehearsal).Envelope)
		w.must(err)
		if p, err := evidence.Decode[evidence.Rehearsal](st); err != nil || p.Result != evidence.RehearsalFailed || p.Way != cold {
			w.Errorf("%+v, %v", p, err)
		}
		if qs, err := w.front.Quarantines(w.Context(), "default", "shop"); err != nil || len(qs) != 0 {
			w.Errorf("quarantined: %+v, %v", qs, err)
		}
	})
}

const drilled = `
  - name: production
    ` + target + `
    gates: [{name: rehearsed, within: 24h}]
    approval: {quorum: 1, expires: 2h}
    rollout: {canary: {steps: [{weight: 50, bake: 20s}]}}
    analysis: {warmUp: 0s, bin: 2s, maxExcess: 5, metrics: [http-errors]}
`

// The gate wants a rehearsal, lately; the packet shows the last one and what is
// wrong with it.
func TestGateWantsARehearsal(t *testing.T) {
	stories(t, func(w *world) {
		open := strings.Replace(strings.Replace(drilled, "    gates: [{name: rehearsed, within: 24h}]\n", "", 1), "    approval: {quorum: 1, expires: 2h}\n", "", 1)
		w.first(open)
		w.released(open, "v2")
		r, _ := w.ship(w.definition(drilled), "v3")
		if s := w.untilState(r, run.Failed); !strings.Contains(s.Reason, "gate rehearsed: no rollback was ever rehearsed in production") || !strings.Contains(s.Reason, "sluice rehearse shop --env production") {
			w.Errorf("%s", s.Reason)
		}
		d, err := w.rehearse("production")
		w.must(err)
		w.untilState(d, run.Succeeded)
		way := w.way("")
		if way.Kind != warm || way.Drill == nil || way.Drill.Run != d || way.Measured == nil || way.Quarantines != w.runs("production") || way.Seconds < 1 || !strings.Contains(way.Sentence, "as the rehearsal of run "+d+" took") || !strings.Contains(way.Sentence, "then quarantined") {
			w.Errorf("%+v", way)
		}
		r, _ = w.ship(w.definition(drilled), "v4")
		_, p := w.packet(r)
		if p.RollbackPlan.Drill == nil || p.RollbackPlan.Drill.Run != d || p.RollbackPlan.OnFail == "" || p.RollbackPlan.Warm != "1h" || !strings.Contains(p.RollbackPlan.Cold, "at most 1m") || len(p.Findings) != 0 {
			w.Errorf("%+v, %q", p.RollbackPlan, p.Findings)
		}
		i := 0
		for _, g := range p.Gates {
			if g.Gate == "rehearsed" && g.Answer == gate.Pass && strings.Contains(g.Reason, "run "+d) {
				i++
			}
		}
		if i != 1 {
			w.Errorf("%+v", p.Gates)
		}
		// Its statement stands for this service and environment and for no other.
		w.must(w.front.store.View(w.Context(), func(tx *store.Tx) error {
			for key, good := range map[release.Key]bool{
				{Project: "default", Service: "shop", Environment: "production"}: true,
				{Project: "default", Service: "shop", Environment: "staging"}:    false,
				{Project: "default", Service: "mail", Environment: "production"}: false,
			} {
				if said, err := w.front.said(tx, key, *p.RollbackPlan.Drill); (err == nil) != good || good && said.Run != d {
					w.Errorf("%s: %+v, %v", key, said, err)
				}
			}
			return nil
		}))
		w.must(w.front.Abort(w.Context(), "default", r, "", "later", bob))
		w.untilState(r, run.Cancelled)
		w.pause(25 * time.Hour)
		r, _ = w.ship(w.definition(drilled), "v5")
		if s := w.untilState(r, run.Failed); !strings.Contains(s.Reason, "is longer ago than 24h") {
			w.Errorf("%s", s.Reason)
		}
	})
}

// An environment that asks for it rehearses by itself: as soon as there is a way
// back, then every so often, never twice at once, and never into a live rollout. One
// that fails is told loudly.
func TestRehearsesByItself(t *testing.T) {
	stories(t, func(w *world) {
		env := strings.Replace(production, "    rollout:", "    rehearse: {every: 1h}\n    rollout:", 1)
		rehearsals := func() (out []Status) {
			runs, err := w.front.Runs(w.Context(), store.RunFilter{Project: "default", Limit: 100})
			w.must(err)
			for _, r := range runs {
				if r.Kind == run.KindRehearse {
					out = append(out, r)
				}
			}
			return out
		}
		next := func() *time.Time {
			way, err := w.front.WayBack(w.Context(), "default", "shop", "production", "")
			w.must(err)
			return way.NextDrill
		}
		v1 := w.first(env)
		w.pause(10 * time.Minute)
		if n := rehearsals(); len(n) != 0 {
			w.Fatalf("of a first release: %+v", n)
		}
		v2 := w.released(env, "v2")
		w.pause(9 * time.Minute)
		if n := rehearsals(); len(n) != 0 {
			w.Errorf("right after a rollout: %+v", n)
		}
		w.pause(9 * time.Minute)
		first := rehearsals()
		if len(first) != 1 || first[0].State != run.Succeeded || first[0].Actor != release.System || w.runs("production") != v2 {
			w.Fatalf("once there was a way back: %+v", first)
		}
		if due := next(); due == nil || !due.After(w.clock.now().Add(40*time.Minute)) {
			w.Errorf("the next one: %v, now it is %s", due, w.clock.now())
		}
		st, err := w.front.trusted.Verify(w.leaf(first[0].Run, evidence.TypeRehearsal).Envelope)
		w.must(err)
		if p, err := evidence.Decode[evidence.Rehearsal](st); err != nil || p.Result != evidence.RehearsalSucceeded {
			w.Errorf("stated: %+v, %v", p, err)
		}

		// Its time comes in a live rollout, and is then when that has ended.
		w.pause(50 * time.Minute)
		r, _ := w.ship(w.definition(env), "v3")
		w.untilPhase(r, rollout.Baking, 10)
		w.must(w.tell(r, rollout.Command{Kind: rollout.Pause, By: "local:bob"}))
		w.pause(9 * time.Minute)
		if due := next(); due == nil || due.After(w.clock.now()) {
			w.Fatalf("the next one is due %v, now it is %s", due, w.clock.now())
		}
		if n := rehearsals(); len(n) != 1 {
			w.Errorf("%d rehearsals in a live rollout", len(n)-1)
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, By: "local:bob", Reason: "later"}))
		w.untilState(r, run.RolledBack)
		w.hosts[0].broken[v1] = "exit status 1: its database is gone"
		w.pause(16 * time.Minute)
		second := rehearsals()
		if len(second) != 2 || second[0].State != run.Failed && second[0].State != run.RolledBack || w.runs("production") != v2 {
			w.Fatalf("after it: %+v", second)
		}
		w.pause(30 * time.Minute)
		if n := rehearsals(); len(n) != 2 {
			w.Errorf("one that failed was tried again %d times within the hour", len(n)-2)
		}
		feed, err := w.front.Feed(w.Context(), "default", second[0].Run, 0, 0)
		w.must(err)
		if !slices.ContainsFunc(feed, func(f store.Feed) bool {
			return f.Kind == "alarm" && strings.Contains(string(f.Data), "a rehearsal of a rollback failed")
		}) {
			w.Error("nobody was told that it failed")
		}
	})
}

func TestFindings(t *testing.T) {
	for want, d := range map[string]*Drill{
		"no rollback of shop was ever rehearsed": nil,
		"failed: it never got ready":             {Run: "3", Environment: "staging", Reason: "it never got ready", At: epoch},
		"the way back is slower":                 {Run: "3", Environment: "staging", Succeeded: true, BackMillis: 9000, OnMillis: 1000, At: epoch},
		"is longer ago than 2160h":               {Run: "3", Environment: "staging", Succeeded: true, BackMillis: 1900, OnMillis: 1000, At: epoch.Add(-91 * 24 * time.Hour)},
		"":                                       {Run: "3", Environment: "staging", Succeeded: true, BackMillis: 1900, OnMillis: 1000, At: epoch.Add(-89 * 24 * time.Hour)},
	} {
		if got := strings.Join(findingsOf("shop", "staging", d, drillDue, epoch), "\n"); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%+v: %q", d, got)
		}
	}
}

// What was deleted, never ran, or is no release at all is refused before anything
// moves; what hosts still run needs no registry.
func TestRollbackToWhatIsGone(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		v2 := w.released(production, "v2")
		v3 := w.released(production, "v3")
		_, v4 := w.ship(w.definition(production), "v4")
		w.must(w.front.Abort(w.Context(), "default", "4", "", "later", bob))
		w.untilState("4", run.Cancelled)
		w.shelf.bad[release.DigestOf([]byte("v1"))] = fmt.Errorf("%w: nobody has it", artifact.ErrNotFound)
		w.shelf.bad[release.DigestOf([]byte("v2"))] = fmt.Errorf("%w: nobody has it", artifact.ErrNotFound)
		applied := len(w.hosts[0].shop("production").journal)
		for to, says := range map[string]string{
			v1.Short(): "the registry has it no more", v3.Short(): "runs in production already", v4.Short(): "never ran in production",
			"feedfeed": "there is no release", "000": "at least the first four characters", "schema!": "names no release",
		} {
			if _, err := w.back(to); err == nil || !strings.Contains(err.Error(), says) {
				w.Errorf("to %s: %v, want %q", to, err, says)
			}
		}
		if way := w.way(v1.Short()); way.Kind != impossible || !strings.Contains(way.Sentence, "can't be brought back") {
			w.Errorf("%+v", way)
		}
		w.hosts[0].down = true
		w.pause(10 * time.Second)
		if way := w.way(v1.Short()); !strings.Contains(way.Sentence, "Hosts that say nothing now (local) may keep it: ask again when they report") {
			w.Errorf("%+v", way)
		}
		w.hosts[0].down = false
		w.pause(10 * time.Second)
		if got := len(w.hosts[0].shop("production").journal); got != applied {
			w.Error("something moved")
		}
		// v2 still runs at weight 0: it needs no registry.
		r, err := w.back("")
		w.must(err)
		w.untilState(r, run.Succeeded)
		if w.runs("production") != v2 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
	})
}

// The way back leads to all that the release before had: its address, too.
func TestRollbackToTheSettingsBefore(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		moved := strings.Replace(strings.Replace(production, "127.0.0.1:9001", "127.0.0.1:9100", 1), "run: ./app", "instances: 3, run: ./app", 1)
		w.released(moved, "v2")
		w.pause(2 * time.Second)
		if d := w.hosts[0].shop("production").doc; d.Listen != "127.0.0.1:9100" {
			w.Fatalf("it listens on %s", d.Listen)
		}
		r, err := w.back("")
		w.must(err)
		w.untilState(r, run.Succeeded)
		w.pause(10 * time.Second)
		d := w.hosts[0].shop("production").doc
		if d.Listen != "127.0.0.1:9001" || len(d.Revisions) != 1 || d.Revisions[0].Release != v1 || d.Revisions[0].Instances != 1 {
			w.Errorf("%+v", d)
		}
	})
}

// A fix of the configuration alone is another release: the quarantine of the one
// before does not hold it up, and nothing is built.
func TestFixOfConfigurationAlone(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r2, v2 := w.ship(w.definition(production), "v2", setting("production", "POOL", "1"))
		w.untilPhase(r2, rollout.Baking, 10)
		w.must(w.tell(r2, rollout.Command{Kind: rollout.Abort, Reason: "the pool is too small"}))
		w.untilState(r2, run.RolledBack)
		r3, v3 := w.ship(w.definition(production), "v2", setting("production", "POOL", "8"))
		s := w.untilState(r3, run.Succeeded)
		if v2 == v3 || s.Digest != w.status(r2).Digest || w.runs("production") != v3 {
			w.Errorf("%+v", s)
		}
		w.golden("config-fix.txt", w.transcript(r3))
	})
}

// A broken stable never holds up its own fix: neither unwell, nor quarantined,
// nor with its artifact gone.
func TestBrokenStableLetsItsFixIn(t *testing.T) {
	gone := fmt.Errorf("%w: nobody has it", artifact.ErrNotFound)
	for name, breakIt := range map[string]func(w *world, v1 release.ID){
		"its artifact is gone and it crashes": func(w *world, v1 release.ID) {
			w.shelf.bad[release.DigestOf([]byte("v1"))] = gone
			w.hosts[0].broken[v1] = "crash loop"
		},
		"it serves errors": func(w *world, v1 release.ID) { w.hosts[0].bad[v1] = 0.6 },
		"it is quarantined and its artifact is gone": func(w *world, v1 release.ID) {
			w.shelf.bad[release.DigestOf([]byte("v1"))] = gone
			w.must(w.store.Update(w.Context(), func(tx *store.Tx) error {
				return tx.PutQuarantine(&store.Quarantine{Project: "default", Service: "shop", Release: v1, Reason: "it leaks", At: tx.Now()})
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, store.SQLite)
			v1 := w.first(production)
			breakIt(w, v1)
			w.pause(10 * time.Second)
			r, v2 := w.ship(w.definition(production), "v2")
			s := w.until(r, "in", func(s Status) bool { return s.State == run.Succeeded || s.State == run.Failed })
			if w.runs("production") != v2 {
				w.Errorf("the fix did not get in: %+v", s)
			}
			w.audit()
		})
	}
}

// Where nothing is wrong with the stable, a way back that can't be proven keeps
// the rollout from starting: the reason is told, and what may come again is
// waited for.
func TestWayBackIsProvenFirst(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		w.hosts[0].down = true
		w.pause(10 * time.Second)
		d := release.DigestOf([]byte("v1"))
		w.shelf.bad[d] = errors.New("connection refused")
		r, _ := w.ship(w.definition(production), "v2")
		w.pause(time.Minute)
		if e := w.env(r); e.State != run.Waiting || !strings.Contains(e.WaitingFor, "gate way-back: release "+v1.Short()) || !strings.Contains(e.WaitingFor, "the registry can't be asked") {
			w.Errorf("%+v", e)
		}
		delete(w.shelf.bad, d)
		w.hosts[0].down = false
		w.untilState(r, run.Succeeded)

		w.hosts[0].down = true
		w.pause(10 * time.Second)
		w.shelf.bad[release.DigestOf([]byte("v2"))] = fmt.Errorf("%w: nobody has it", artifact.ErrNotFound)
		r, _ = w.ship(w.definition(production), "v3")
		if s := w.untilState(r, run.Failed); !strings.Contains(s.Reason, "gate way-back") || !strings.Contains(s.Reason, "could not be brought back: not every host runs or keeps it") {
			w.Errorf("%s", s.Reason)
		}
		if got := w.said(w.leaves(store.LeafFilter{Run: r, PredicateType: evidence.TypeGateDecision})[1]); got != "gate-decision/v1 gate=way-back outcome=fail" {
			w.Error(got)
		}
	})
}
