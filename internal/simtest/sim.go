package simtest

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// Least events and faults of a seed.
const (
	MinEvents = 200
	MinFaults = 3

	patience = 5 * MinEvents // for the seed's own cell of the table
)

// Result is what a seed came to.
type Result struct {
	Seed       uint64
	Events     int
	Faults     int
	Rollouts   int
	Ends       map[rollout.Phase]int
	Coverage   Coverage
	Strategies map[string]int
	Target     string
	Violation  *Violation // nil: all invariants held
	Transcript []string   // only of a run with a transcript
}

// Violation is an invariant that did not hold.
type Violation struct {
	Invariant int // of design.md; 0: it never came to an end, or an error that can't be
	Text      string
}

func (v *Violation) Error() string {
	if v.Invariant == 0 {
		return "no invariant, but: " + v.Text
	}
	return fmt.Sprintf("invariant %d: %s", v.Invariant, v.Text)
}

// sim is one seed's world. Nothing runs beside it: next takes what is due first.
type sim struct {
	rng    *rand.Rand
	now    time.Duration // true time, which no clock shows
	skew   time.Duration // of the database's clock
	jumped bool          // back, and nobody was woken for it
	healed bool          // nothing goes wrong any more

	store    store
	planes   []*plane
	routers  []*router
	tasks    []*task
	letters  []*letter
	releases []kind

	target    pipeline.Target
	unfenced  bool
	fleet     *fleet // a driven target; nil: a steered one
	worker    bool   // nothing is routed to it
	judged    metrics
	warmUp    time.Duration
	env       pipeline.Environment
	rps       float64
	gapUntil  time.Duration
	served    int64 // requests of the live candidate
	disturbed bool  // instances died meanwhile, of which users saw errors

	chaos, person, deploy time.Duration // when each acts next
	turnedAt              time.Duration // the last jump
	rate                  [nFaults]float64
	focus                 cell // what this seed is after

	events, faults int
	cover          Coverage
	tracing        bool
	lines          []string
	strategies     map[string]int
}

// metrics says what is judged.
type metrics struct{ rate, limit bool }

func (m metrics) n() int {
	if m.rate && m.limit {
		return 2
	}
	return 1
}

// kind is a release as it truly is.
type kind struct {
	promoted, altered, broken bool
	errors                    float64
	load                      float64 // what the limit is about; 10 is too much
	slow                      time.Duration
	check                     bool
}

var base = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

// wall is the time of the database's clock.
func (s *sim) wall() time.Time { return base.Add(s.now + s.skew) }

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }

func (s *sim) dur(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(s.rng.Int64N(int64(b-a)))
}

func one[T any](s *sim, of ...T) T { return of[s.rng.IntN(len(of))] }

func itoa(n int) string { return strconv.Itoa(n) }

func (s *sim) say(format string, args ...any) {
	if s.tracing {
		s.lines = append(s.lines, fmt.Sprintf("%5d %9.3fs ", s.events, s.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

// hit decides whether a fault strikes here and now.
func (s *sim) hit(f Fault) bool {
	rate := s.rate[f]
	if f == s.focus.fault && s.phase() == s.focus.phase {
		rate = 0.5
	}
	if s.healed || rate == 0 || !s.chance(rate) {
		return false
	}
	s.strike(f)
	return true
}

func (s *sim) strike(f Fault) {
	s.faults++
	s.cover.add(f, s.phase())
	s.say("! %s", f)
}

func (s *sim) phase() rollout.Phase {
	if r := s.store.live(); r != nil {
		return r.state.Phase
	}
	return ended
}

// Run plays a seed to its end. With transcript it tells all that happened.
func Run(seed uint64, transcript bool) (res Result) {
	s := newSim(seed)
	s.tracing = transcript
	defer func() {
		res = Result{Seed: seed, Events: s.events, Faults: s.faults, Coverage: s.cover, Transcript: s.lines, Rollouts: len(s.store.rollouts), Ends: map[rollout.Phase]int{}, Strategies: s.strategies, Target: "host"}
		if s.unfenced {
			res.Target = "load balancer"
		}
		if s.fleet != nil {
			res.Target = "driven"
			if !s.fleet.keyed {
				res.Target = "driven without keys"
			}
		}
		if s.worker {
			res.Target = "worker"
		}
		for _, r := range s.store.rollouts {
			res.Ends[r.state.Phase]++
		}
		if p := recover(); p != nil {
			v, ok := p.(*Violation)
			if !ok {
				panic(p)
			}
			res.Violation = v
		}
	}()
	for s.events < MinEvents+int(seed%97) || s.faults < MinFaults || !s.struck() && s.events < patience {
		s.next()
		if s.events > 20*MinEvents {
			s.violated(0, "after %d events there were %d faults", s.events, s.faults)
		}
	}
	s.heal()
	return res
}

func newSim(seed uint64) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 0x51)), strategies: map[string]int{}}
	s.store.place.current, s.store.place.previous = -1, -1
	s.store.quarantine = map[int]bool{}
	s.unfenced = s.chance(0.25)
	n := 1 + s.rng.IntN(3)
	if s.unfenced {
		n = 1
	}
	for i := range n {
		r := &router{name: []string{"a", "b", "c"}[i], told: s.now}
		s.routers = append(s.routers, r)
		s.target.Hosts = append(s.target.Hosts, r.name)
	}
	for i := range 1 + s.rng.IntN(3) {
		s.planes = append(s.planes, &plane{id: i})
	}
	for f := range s.rate {
		if s.chance(0.5) {
			s.rate[f] = one(s, 0.01, 0.03, 0.1)
		}
	}
	s.worker = !s.unfenced && s.chance(0.15)
	s.target.Type, s.target.Listen, s.target.Instances = "host", ":8080", one(s, 1, 1, 2, 4)
	if s.unfenced {
		s.target.Type, s.target.Instances = "load-balancer", 1
	}
	if s.worker {
		s.target.Listen = ""
	}
	s.judged = metrics{rate: s.chance(0.7), limit: s.chance(0.4)}
	if s.worker {
		s.judged.rate = false // nobody counts its requests
	}
	s.rps = one(s, 5.0, 100, 1000)
	s.focus = cellOf(seed)
	s.rate[s.focus.fault] = max(s.rate[s.focus.fault], 0.02)
	s.env = s.draw()
	s.drivenAt(seed)
	s.chaos, s.person = s.dur(0, 5*time.Second), s.dur(5*time.Second, time.Minute)
	return s
}

// release makes another one.
func (s *sim) release() int {
	k := kind{promoted: true, errors: 0.001, load: 1, slow: one(s, 100*time.Millisecond, time.Second, 5*time.Second), check: true}
	if s.chance(0.3) {
		switch s.rng.IntN(4) {
		case 0:
			k.errors = 0.5
		case 1:
			k.load = 20
		case 2:
			k.check = false
		case 3:
			k.broken = true
		}
	}
	s.releases = append(s.releases, k)
	return len(s.releases) - 1
}

// notify wakes the planes, most of the time.
func (s *sim) notify() {
	for _, p := range s.planes {
		if !s.healed && s.rng.IntN(16) == 0 {
			continue // lost: the poll is the safety net
		}
		p.poll = min(p.poll, s.now+s.dur(100*time.Microsecond, 3*time.Millisecond))
	}
	for _, r := range s.routers {
		if r.doc.Generation < s.store.desired.Generation {
			r.look = min(r.look, s.now+s.dur(100*time.Microsecond, 10*time.Millisecond))
		}
	}
}

// next takes what is due first, and holds the world to the invariants.
func (s *sim) next() {
	var (
		at = time.Duration(1 << 62)
		do func()
	)
	due := func(t time.Duration, f func()) {
		if t < at {
			at, do = t, f
		}
	}
	for _, p := range s.planes {
		due(p.poll, func() { s.poll(p) })
	}
	for i, t := range s.tasks {
		due(t.at, func() { s.work(i, t) })
	}
	for i, l := range s.letters {
		due(l.at, func() { s.arrive(i, l) })
	}
	for _, r := range s.routers {
		if s.unfenced {
			break
		}
		due(max(r.look, r.down), func() { s.fetch(r) })
		due(max(r.tell, r.down), func() { s.tell(r) })
	}
	if s.fleet != nil && s.fleet.moving() {
		due(max(s.fleet.next, s.routers[0].down), s.drives)
	}
	due(s.deploy, s.ship)
	if !s.healed {
		due(s.chaos, s.mischief)
	}
	due(s.person, s.speak)
	s.now = max(s.now, at)
	do()
	s.checkWorld()
}

// heal ends all mischief. Everything must then come to its end.
func (s *sim) heal() {
	s.healed = true
	s.say("from here on nothing goes wrong")
	s.gapUntil = s.now
	for _, r := range s.routers {
		r.down, r.astray, r.tell = min(r.down, s.now), min(r.astray, s.now), min(r.tell, s.now)
		for _, v := range r.revs {
			v.ready = min(v.ready, s.now+time.Second)
			if l := s.store.live(); !s.releases[v.rel].broken && v.verified && (l == nil || l.rel != v.rel) {
				v.failed = "" // somebody mended what others rely on
			}
		}
	}
	s.person = s.now + 10*time.Second
	end, events := s.now+2*time.Hour, s.events
	for s.store.live() != nil || s.unsettled() {
		s.next()
		if s.now > end || s.events > events+20_000 {
			r := s.store.last()
			s.violated(0, "it doesn't come to an end although nothing goes wrong: rollout %d is %s at step %d, weight %d, held %q, generation %d seen %+v", r.id, r.state.Phase, r.state.Step, r.state.Weight, r.state.Held.Reason, r.state.Wanted, r.state.Seen)
		}
	}
	s.checkEnd()
}

// unsettled reports that routers are not yet as the last word wants them.
func (s *sim) unsettled() bool {
	for _, e := range s.store.effects {
		if e.owner < 0 || s.store.rollouts[e.owner].live { // nobody carries out what an ended rollout promised
			return true
		}
	}
	if len(s.tasks) > 0 {
		return true
	}
	for _, r := range s.routers {
		if !s.unfenced && r.doc.Generation < s.store.desired.Generation {
			return true
		}
	}
	return false
}
