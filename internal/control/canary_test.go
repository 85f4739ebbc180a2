package control

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// first ships a first release and waits for it.
func (w *world) first(environments string) release.ID {
	w.Helper()
	r, id := w.ship(w.definition(environments), "v1")
	w.untilState(r, run.Succeeded)
	return id
}

// A good canary goes to the end on evidence; what ran before stays warm and is
// then retired.
func TestGoodCanary(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		w.pause(time.Minute)
		r, v2 := w.ship(w.definition(production), "v2")
		s := w.untilState(r, run.Succeeded)
		e := s.Environments[0]
		if e.Verdict != verdict.Pass || e.PreviousRelease != v1 || e.Weight != 100 || e.Strategy != "canary" || len(e.Points) == 0 {
			w.Errorf("status: %+v", e)
		}
		w.golden("good-canary.txt", w.transcript(r))
		if w.runs("production") != v2 {
			w.Errorf("%s runs", w.runs("production").Short())
		}

		// The promotion that hosts verify is the one in the log.
		var p store.Promotion
		w.view(func(tx *store.Tx) (err error) {
			p, _, err = tx.Promotion(release.Key{Project: "default", Service: "shop", Environment: "production"}, v2)
			return err
		})
		said, err := w.front.trusted.VerifyPromotion(p.Envelope, p.Key, v2)
		if err != nil || said.Previous != v1 || len(said.Gates) == 0 {
			w.Errorf("promotion: %+v, %v", said, err)
		}

		shop := w.hosts[0].shop("production")
		want := []string{
			v1.Short() + "=0", v1.Short() + "=10000",
			v1.Short() + "=10000 " + v2.Short() + "=0", v1.Short() + "=9000 " + v2.Short() + "=1000",
			v1.Short() + "=5000 " + v2.Short() + "=5000", v1.Short() + "=0 " + v2.Short() + "=10000",
		}
		if got := shop.weights(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			w.Errorf("applied:\n%s\nwanted:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		w.pause(59 * time.Minute)
		if shop.revisions[v1] == nil || w.place("production").RetireAt == nil {
			w.Error("the previous release is gone within the hour")
		}
		w.pause(2 * time.Minute)
		if shop.revisions[v1] != nil || w.place("production").RetireAt != nil {
			w.Error("the previous release was not retired after the hour")
		}
		if rep := w.export(v2); rep.Statements == 0 || rep.Statements >= len(w.leaves(store.LeafFilter{})) {
			w.Errorf("the bundle of one release has %d statements", rep.Statements)
		}
	})
}

// How long users were exposed after the verdict ends where the routers were read at
// 0, not where the candidate's processes were gone too.
func TestRollbackIsTimedToWeightZero(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		r, v2 := w.ship(w.definition(production), "v2")
		w.untilPhase(r, rollout.Baking, 10)
		w.hosts[0].bad[v2] = 0.3
		e := w.env(r)
		const step = 100 * time.Millisecond // between one turn and the next
		for began := w.clock.now(); e.RollbackMillis == nil && w.clock.now().Sub(began) < 5*time.Minute; e = w.env(r) {
			w.clock.set(w, w.clock.now().Add(step))
			w.hosts[0].live(step)
			w.turn()
		}
		if e.RollbackMillis == nil || e.Phase != rollout.RollingBack {
			w.Fatalf("%s is when the weight was read as 0", e.Phase)
		}
		if *e.RollbackMillis != step.Milliseconds() {
			w.Errorf("the weight was read as 0 after %d ms", *e.RollbackMillis)
		}
		w.untilState(r, run.RolledBack)
	})
}

// A bad canary is taken back by itself and kept out until a person lifts it; the
// same artifact with other configuration is another release.
func TestBadCanary(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		def := w.definition(production)
		r, v2 := w.ship(def, "v2")
		w.hosts[0].bad[v2] = 0.3
		s := w.untilState(r, run.RolledBack)
		e := s.Environments[0]
		if e.Verdict != verdict.Fail || e.Weight != 0 || e.RollbackMillis == nil || e.DetectSeconds == nil || e.Signals.RequestsToDetect == 0 || !strings.Contains(e.Reason, "the judge failed it") {
			w.Errorf("status: %+v", e)
		}
		w.golden("bad-canary.txt", w.transcript(r))
		if w.runs("production") != v1 {
			w.Errorf("%s runs", w.runs("production").Short())
		}
		shop := w.hosts[0].shop("production")
		if got := shop.weights(); got[len(got)-1] != v1.Short()+"=10000" {
			w.Errorf("applied %q", got)
		}
		x, err := w.front.Explain(w.Context(), "default", r)
		if err != nil || !strings.Contains(strings.Join(x.Can, "\n"), "quarantine lift "+v2.Short()) {
			w.Errorf("explanation: %+v, %v", x, err)
		}

		again, err := w.front.Promote(w.Context(), "default", v2.Short(), "production", bob)
		w.must(err)
		if s := w.untilState(again, run.Failed); !strings.Contains(s.Reason, "quarantined") || !strings.Contains(s.Reason, "quarantine lift") {
			w.Errorf("promoting it again: %q", s.Reason)
		}
		other, v2b := w.ship(def, "v2", setting("production", "LIMIT", "5"))
		if v2b == v2 {
			w.Fatal("other configuration is the same release")
		}
		w.untilState(other, run.Succeeded)

		w.must(w.front.Lift(w.Context(), "default", "shop", v2.Short(), "the database was at fault", bob))
		if err := w.front.Lift(w.Context(), "default", "shop", v2.Short(), "again", bob); err == nil || !strings.Contains(err.Error(), "not quarantined") {
			w.Errorf("lifting twice: %v", err)
		}
		w.hosts[0].bad[v2] = 0
		again, err = w.front.Promote(w.Context(), "default", v2.Short(), "production", bob)
		w.must(err)
		w.untilState(again, run.Succeeded)
		n := 0
		for _, l := range w.leaves(store.LeafFilter{}) {
			if l.PredicateType == evidence.TypeQuarantine {
				n++
			}
		}
		if n != 2 {
			w.Errorf("%d statements about the quarantine, want quarantined and lifted", n)
		}
	})
}

// A check that was not made at each host passes nothing; one that is not
// answered as it must be takes the release back.
func TestChecks(t *testing.T) {
	stories(t, func(w *world) {
		def := w.definition(strings.Replace(production, "    rollout:", "    verify: [{name: smoke, http: {path: /, status: 200, contains: hello, timeout: 5m, retries: 0}}]\n    rollout:", 1))
		h := w.hosts[0]
		h.answer = func(rw http.ResponseWriter) { _, _ = rw.Write([]byte("hello")) }
		h.nowhere = true
		r, v1 := w.ship(def, "v1")
		w.until(r, "checking", func(s Status) bool { return s.Environments[0].Phase == rollout.Checking })
		w.pause(5 * time.Second)
		if e := w.env(r); e.Phase != rollout.Checking {
			w.Errorf("no host said where it answers, and it is %s", e.Phase)
		}
		h.nowhere = false
		w.untilState(r, run.Succeeded)

		h.answer = func(rw http.ResponseWriter) { _, _ = rw.Write([]byte("bye")) }
		r, _ = w.ship(def, "v2")
		s := w.untilState(r, run.RolledBack)
		if !strings.Contains(s.Reason, `answered without "hello"`) || w.runs("production") != v1 {
			w.Errorf("%s", s.Reason)
		}
		h.answer = func(rw http.ResponseWriter) { rw.WriteHeader(503) }
		r, _ = w.ship(def, "v3")
		if s := w.untilState(r, run.RolledBack); !strings.Contains(s.Reason, "answered 503, wanted 200") {
			w.Errorf("%s", s.Reason)
		}
	})
}
