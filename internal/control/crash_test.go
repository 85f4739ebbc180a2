package control

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

const quickly = `
  - name: production
    ` + target + `
    approval: {quorum: 1}
    rollout: {canary: {steps: [{weight: 50, bake: 10s}]}, retireAfter: 5s}
    analysis: {warmUp: 0s, bin: 2s, maxExcess: 5, metrics: [http-errors]}
    verify: [{name: smoke, http: {path: /, status: 200, timeout: 5m, retries: 0}}]
`

// crashStory ships a good and a bad release over a first one, with an approval
// each, and returns what is to be the same however often the control plane died.
func crashStory(w *world, arm func()) string {
	w.c.leaseTTL = 20 * time.Millisecond
	w.config.LeaseTTL = w.c.leaseTTL
	def := w.definition(quickly)
	w.hosts[0].rps = 400
	w.hosts[0].answer = func(http.ResponseWriter) {}
	ship := func(commit string) (string, release.ID) {
		r, id := w.ship(def, commit)
		s := w.until(r, "waiting", func(s Status) bool { return s.Environments[0].Packet != "" })
		w.must(w.front.Decide(w.Context(), "default", r, "production", s.Environments[0].Packet, true, "", bob))
		return r, id
	}
	r1, v1 := ship("v1")
	w.untilState(r1, run.Succeeded)
	arm()
	r2, v2 := ship("v2")
	w.untilState(r2, run.Succeeded)
	w.pause(10 * time.Second) // v1 is retired
	r3, v3 := w.ship(def, "v3")
	w.hosts[0].bad[v3] = 0.5
	s := w.until(r3, "waiting", func(s Status) bool { return s.Environments[0].Packet != "" })
	w.must(w.front.Decide(w.Context(), "default", r3, "production", s.Environments[0].Packet, true, "", bob))
	w.untilState(r3, run.RolledBack)
	w.pause(2 * time.Second)

	var b strings.Builder
	names := strings.NewReplacer(v1.Short(), "v1", v2.Short(), "v2", v3.Short(), "v3")
	for _, r := range []string{r2, r3} {
		fmt.Fprintf(&b, "run %s: %s\n%s", r, w.status(r).State, w.transcript(r))
	}
	for _, line := range w.hosts[0].shop("production").journal {
		fmt.Fprintf(&b, "applied %d: %s\n", line.generation, names.Replace(line.weights))
	}
	row := w.place("production")
	previous, err := decodeRevision(row.Previous)
	w.must(err)
	fmt.Fprintf(&b, "runs %s, previous %s, retire %v\n", names.Replace(w.runs("production").Short()), names.Replace(previous.Release.Short()), row.RetireAt)
	w.view(func(tx *store.Tx) error {
		rows, err := tx.Rollouts(store.RolloutFilter{})
		for _, x := range rows {
			s, e := rollout.DecodeState(x.State)
			fmt.Fprintf(&b, "%s: %s step %d weight %d verdict %s rollback %q wanted %d %v\n", x.ID, s.Phase, s.Step, s.Weight, s.Verdict, s.Rollback, s.Wanted, e)
			pending, e := tx.PendingEffects(x.Project, x.ID)
			fmt.Fprintf(&b, "%d effects wait %v\n", len(pending), e)
		}
		return err
	})
	return b.String()
}

// The control plane dies before and after each commit and each effect of a good
// and of a bad rollout. Another goes on, and all comes out the same: state,
// evidence, and what hosts applied.
func TestCrashes(t *testing.T) {
	for _, dialect := range []string{store.SQLite, store.Postgres} {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dialect)
			b := w.brittle()
			var points []int // commits that changed more than counters
			first, effects := 0, 0
			want := crashStory(w, func() {
				first = int(b.commits.Load())
				seen := ""
				b.each = func(n int) {
					now := fmt.Sprint(w.changes())
					if now != seen {
						points = append(points, n-first)
					}
					seen = now
				}
				w.target.after = w.counting(&effects)
			})
			w.audit()
			last := int(b.commits.Load()) - first
			for n := 3; n < last; n += 11 { // and some that changed counters only
				points = append(points, n)
			}
			slices.Sort(points)
			points = slices.Compact(points)
			if effects < 6 || len(points) < 20 {
				t.Fatalf("the story has %d effects and %d commits", effects, len(points))
			}
			switch {
			case raceDetector:
				points = every(points, 20)
			case dialect == store.Postgres || testing.Short():
				points = every(points, 4)
			}
			t.Logf("%d commits of %d, and %d effects", len(points), last, effects)
			told, outlived := 0, 0
			check := func(name string, arm func(w *world, b *brittle)) {
				w := newWorld(t, dialect)
				b := w.brittle()
				got := crashStory(w, func() { arm(w, b) })
				told++
				if b.outlived() {
					outlived++
				} else if !b.dead.Load() {
					t.Errorf("%s: it did not die", name)
				}
				if got != want {
					t.Errorf("%s came out otherwise:\n%s", name, difference(got, want))
				}
				w.audit()
			}
			for _, after := range []bool{false, true} {
				for _, n := range points {
					check(fmt.Sprintf("commit %d, persisted %t", n, after), func(_ *world, b *brittle) { b.dieAt, b.after = int(b.commits.Load())+n, after })
				}
				for n := 1; n <= effects; n++ {
					if dialect == store.Postgres && n%3 != 0 || raceDetector && n != 3 {
						continue
					}
					check(fmt.Sprintf("effect %d, done %t", n, after), func(w *world, b *brittle) { w.dieAtEffect(b, n, after) })
				}
			}
			if outlived > told/4 {
				t.Errorf("in %d of %d stories nobody died", outlived, told)
			}
		})
	}
}

func every(points []int, n int) []int {
	var out []int
	for i := 0; i < len(points); i += n {
		out = append(out, points[i])
	}
	return out
}

// changes counts what is not a counter.
func (w *world) changes() [3]int64 {
	var out [3]int64
	w.view(func(tx *store.Tx) error {
		var err error
		if out[0], err = tx.FeedEnd(); err != nil {
			return err
		}
		leaves, err := tx.LeavesOf("default", store.LeafFilter{})
		if err != nil {
			return err
		}
		out[1] = int64(len(leaves))
		rows, err := tx.Rollouts(store.RolloutFilter{})
		for _, r := range rows {
			pending, err := tx.PendingEffects(r.Project, r.ID)
			if err != nil {
				return err
			}
			out[2] += int64(len(pending))
		}
		return err
	})
	return out
}

// difference shows the lines that only one of two texts has.
func difference(got, want string) string {
	var b strings.Builder
	g, n := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, l := range g {
		if !slices.Contains(n, l) {
			b.WriteString("+ " + l + "\n")
		}
	}
	for _, l := range n {
		if !slices.Contains(g, l) {
			b.WriteString("- " + l + "\n")
		}
	}
	if b.Len() == 0 {
		return "the same lines in another order or number:\n" + got
	}
	return b.String()
}
