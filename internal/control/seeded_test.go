package control

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// internal/simtest plays ten thousand worlds over a model of this package and of
// the store. These few are over both as they are: processes that die at any commit
// and effect, hosts that vanish, weights that somebody else sets, clocks that jump,
// and people who order whatever comes to mind.
func TestSeededFaults(t *testing.T) {
	n := uint64(24)
	switch {
	case raceDetector:
		n = 1
	case testing.Short():
		n = 4
	}
	for seed := range n {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, store.SQLite)
			(&mischief{world: w, rng: rand.New(rand.NewPCG(seed, 0x52))}).story()
			w.audit()
		})
	}
}

type mischief struct {
	*world
	rng    *rand.Rand
	run    string // the live one; empty: nothing goes wrong
	until  time.Time
	struck int
	moves  int // of the clock, since it shall end
}

var seededRollouts = []string{
	"{canary: {steps: [{weight: 10, bake: 10s}, {weight: 50, bake: 10s}]}, retireAfter: 5s, timeout: 1m, rollbackTimeout: 20s}",
	"{all-at-once: {bake: 10s}, retireAfter: 5s}",
	"{canary: {steps: [{weight: 50, bake: 20s}]}, onNoData: extend, retireAfter: 1h}",
}

func (m *mischief) story() {
	w := m.world
	w.addHost("b")
	for _, h := range w.hosts {
		h.rps, h.answer = 400, func(http.ResponseWriter) {}
	}
	def := func() string {
		return `
  - name: production
    target: {type: host, hosts: [local, b], listen: 127.0.0.1:9001, run: ./app, health: {http: /healthz}}
    rollout: ` + seededRollouts[m.rng.IntN(len(seededRollouts))] + `
    analysis: {warmUp: 0s, bin: 2s, maxExcess: 5, metrics: [http-errors]}
`
	}
	w.first(def())
	w.before = append(w.before, m.strike)
	bad := map[release.ID]bool{}
	for i := range 3 {
		r, id := w.ship(w.definition(def()), fmt.Sprintf("v%d", i+2))
		if m.rng.IntN(3) == 0 {
			bad[id] = true
			for _, h := range w.hosts {
				h.bad[id] = 0.5
			}
		}
		m.run, m.until = r, w.clock.now().Add(5*time.Minute)
		w.until(r, "at its end", func(s Status) bool {
			return slices.Contains([]run.Outcome{run.Succeeded, run.Failed, run.RolledBack, run.RollbackFailed, run.Cancelled, run.Superseded}, s.State)
		})
		m.run, m.moves = "", 0
		m.mend()
		w.pause(10 * time.Second)
		if s := w.status(r); bad[id] && s.State == run.Succeeded {
			w.Errorf("release v%d fails every second request and has succeeded", i+2)
		}
	}
	if m.struck < 1 {
		w.Error("nothing went wrong")
	}
	if !w.quiet() {
		w.Error("a rollout is live in the end")
	}
	for _, h := range w.hosts {
		s := h.shop("production")
		for _, r := range s.doc.Revisions {
			if want := map[bool]int{true: wire.FullWeight}[r.Release == w.runs("production")]; r.Weight != want {
				w.Errorf("in the end %s was told to give %d to release %s", h.name, r.Weight, r.Release.Short())
			}
		}
	}
}

// mend ends what goes wrong.
func (m *mischief) mend() {
	for _, h := range m.hosts {
		h.down = false
	}
}

// strike is asked each time that the clock has moved.
func (m *mischief) strike() {
	if m.run == "" {
		return
	}
	if m.clock.now().After(m.until) {
		m.moves++
	}
	if m.moves > 3000 {
		e := m.env(m.run)
		text := ""
		for _, h := range m.hosts {
			s := h.shop("production")
			text += fmt.Sprintf("\n%s (next report %v) has generation %d, refused %d, down %t:", h.name, h.next.Sub(m.clock.now()), s.doc.Generation, h.refused[s.doc.Key], h.down)
			for id, r := range s.revisions {
				text += fmt.Sprintf(" %s=%d (ready in %v)", id.Short(), r.weight, r.ready.Sub(m.clock.now()))
			}
		}
		m.Fatalf("it doesn't end although nothing goes wrong: %s, %s%s\n%s", e.Phase, e.WaitingFor, text, m.logged.String()[max(0, len(m.logged.String())-1500):])
	}
	if m.clock.now().After(m.until) { // long enough: it shall end
		m.mend()
		_ = m.tell(m.run, rollout.Command{Kind: rollout.Resume})
		_ = m.tell(m.run, rollout.Command{Kind: rollout.Abort, Reason: "long enough"})
		return
	}
	if m.rng.IntN(6) != 0 {
		return
	}
	m.struck++
	h := m.hosts[m.rng.IntN(len(m.hosts))]
	brittle := func() *brittle {
		if b, ok := m.c.store.(*brittle); ok && !b.dead.Load() {
			return b
		}
		return m.world.brittle()
	}
	switch m.rng.IntN(7) {
	case 0, 1:
		b := brittle()
		b.dieAt, b.after = int(b.commits.Load())+1+m.rng.IntN(6), m.rng.IntN(2) == 0
	case 2:
		m.target.before, m.target.after = nil, nil
		m.dieAtEffect(brittle(), 1, m.rng.IntN(2) == 0)
	case 3:
		h.down = !h.down
	case 4:
		if s := h.services[release.Key{Project: release.DefaultProject, Service: "shop", Environment: "production"}]; s != nil {
			for _, r := range s.doc.Revisions {
				if r.Candidate {
					s.revisions[r.Release].weight = []int{0, 500, 5000, wire.FullWeight}[m.rng.IntN(4)]
					h.next = m.clock.now()
				}
			}
		}
	case 5:
		m.jump([]time.Duration{-time.Hour, -10 * time.Second, 10 * time.Second, time.Hour}[m.rng.IntN(4)])
	case 6:
		kind := []rollout.CommandKind{rollout.Pause, rollout.Resume, rollout.Resume, rollout.Advance, rollout.Abort}[m.rng.IntN(5)]
		_ = m.tell(m.run, rollout.Command{Kind: kind, Reason: "because"}) // refused as often as not
	}
}
