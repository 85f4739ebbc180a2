package simtest

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// fleet is a target that moves traffic by itself: it is asked to start, goes on in
// steps of its own, waits where the plan's pauses are and at one that it has beside
// them, and tells where it stands. It shares the load balancer's way: it is called by
// who holds the lease, and refuses nothing.
type fleet struct {
	mover  rollout.Mover
	keyed  bool // two starts with one key are one
	keys   map[int64]bool
	starts int // of the live rollout's deployment
	rel    int

	known, waiting, stopped, reverting, reverted, done bool
	weight                                             int
	goal                                               int   // where it waits next
	pauses                                             []int // and after that
	step                                               int   // that it has taken
	next                                               time.Duration
	strayed                                            bool  // it was turned by somebody
	outcome                                            int64 // the last wish that was found followed
	last                                               rollout.Ask
}

// drivenAt decides by a source of its own whether a seed's target is driven, so that
// the stories of all others stay what they are. What an environment promises
// beside its rollouts, a driven target has not: those cells are others'.
func (s *sim) drivenAt(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0xd71))
	if r.Float64() > 0.15 || ofEffects(s.focus.fault) && (s.focus.phase == rollout.Pending || s.focus.phase == ended) {
		return
	}
	s.fleet = &fleet{mover: rollout.Mover{Name: "the fleet", Pauses: true}, keyed: r.Float64() < 0.5, keys: map[int64]bool{}}
	s.unfenced, s.worker = true, false
	s.routers, s.target.Hosts = s.routers[:1], s.target.Hosts[:1]
	s.target.Type, s.target.Listen, s.target.Instances = "fleet", ":8080", 1
	s.env = s.draw()
}

// compile makes the plan of the environment for the target.
func (s *sim) compile(previous bool) (rollout.Plan, error) {
	if s.fleet == nil {
		return rollout.Compile(s.env, previous)
	}
	return rollout.CompileDriven(s.env, previous, s.fleet.mover)
}

func (s *sim) compileRollback() rollout.Plan {
	if s.fleet == nil {
		return rollout.CompileRollback(s.env)
	}
	return rollout.CompileDrivenRollback(s.env, s.fleet.mover)
}

// drivable is what a driven target does of an environment.
func (s *sim) drivable(e *pipeline.Environment) {
	if s.fleet != nil {
		e.Rollout.OnFail, e.Rollout.OnDrift, e.Shadow = "", "", nil
	}
}

// begin forgets the deployment before; nobody asked for one yet.
func (f *fleet) begin() {
	f.known, f.waiting, f.stopped, f.reverting, f.reverted, f.done = false, false, false, false, false, false
	f.weight, f.starts, f.step, f.strayed, f.outcome = 0, 0, 0, false, 0
}

// observe is what the adapter reads of the target about a rollout, but for its
// generation.
func (s *sim) observe(r *row) rollout.Observation {
	f, q := s.fleet, s.routers[0]
	if q.down > s.now {
		return rollout.Observation{Missing: 1, Unreachable: "it doesn't answer"}
	}
	s.effect(q)
	k := &s.releases[r.rel]
	o := rollout.Observation{Hosts: 1, CandidateReady: true, OldReady: true}
	switch {
	case !k.promoted:
		o.Failed, o.CandidateReady = "it was not promoted into this environment", false
	case k.altered:
		o.Failed, o.CandidateReady = "its content has another digest", false
	}
	if old := q.find(r.old); r.old >= 0 {
		o.OldSeen, o.OldReady = old != nil, old != nil && old.running(s.now) > 0
	}
	if !f.known || f.rel != r.rel {
		return o
	}
	o.MinWeight, o.MaxWeight = f.weight, f.weight
	if v := q.find(r.rel); v != nil {
		o.CandidateSeen, o.CandidateReady = true, v.running(s.now) >= v.n
		if v.failed != "" {
			o.Failed = v.failed
		}
	}
	o.Driving = rollout.Driving{Known: true, Step: "step " + itoa(f.step), Waiting: f.waiting, Done: f.done, Stopped: f.stopped, Reverted: f.reverted}
	return o
}

// asked makes a wish what the target does, when the call arrives.
func (s *sim) asked(l *letter) {
	f, q := s.fleet, s.routers[0]
	if q.down > s.now {
		return
	}
	r := s.store.rollouts[l.owner]
	if !r.live {
		if l.ask.Kind == rollout.Drive || l.ask.Kind == rollout.Continue {
			s.afterEnd(l)
		}
		return
	}
	s.traffic(q)
	f.last = *l.ask
	switch l.ask.Kind {
	case rollout.Drive:
		if f.keyed && f.keys[l.ask.Key] {
			s.say("the fleet knows key %d", l.ask.Key)
			return
		}
		f.keys[l.ask.Key] = true
		s.deploys(r)
	case rollout.Continue:
		if f.known && f.waiting && f.weight == l.ask.From && !f.stopped && !f.reverting {
			f.waiting = false
			s.onwards()
		}
	case rollout.Stop:
		f.stopped = f.known && !f.done
	case rollout.Revert:
		if f.known && !f.reverting {
			f.reverting, f.waiting, f.done, f.next = true, false, false, s.now+s.dur(10*time.Millisecond, 3*time.Second)
		}
	default:
		s.violated(0, "the fleet is asked to %s", l.ask.Kind)
	}
	s.effect(q)
	s.say("the fleet is asked to %s (key %d, from %d): at %d", l.ask.Kind, l.ask.Key, l.ask.From, f.weight)
}

// afterEnd: a start or a continue that lands when the rollout is over can only be
// one of a worker that a clock's jump let in.
func (s *sim) afterEnd(l *letter) {
	if s.turnedAt == 0 {
		s.violated(4, "the fleet is asked to %s after the end of rollout %d", l.ask.Kind, l.owner)
	}
}

// deploys begins a deployment of a rollout's release.
func (s *sim) deploys(r *row) {
	f, q := s.fleet, s.routers[0]
	starts := f.starts + 1
	f.begin()
	f.starts, f.known, f.rel = starts, true, r.rel
	if starts > 1 && (f.keyed || s.turnedAt == 0 || s.now-s.turnedAt > 4*leaseTTL) {
		s.violated(1, "the fleet has %d deployments of rollout %d", starts, r.id)
	}
	f.pauses = f.pauses[:0]
	for _, p := range r.plan.Steps {
		if p.Kind == rollout.StepDrive {
			f.pauses = append(f.pauses, p.Weight)
		}
	}
	if s.chance(0.3) { // one of its own
		own := f.pauses[0] / 2
		if i := s.rng.IntN(len(f.pauses)); i > 0 {
			own = (f.pauses[i-1] + f.pauses[i]) / 2
		}
		f.pauses = append(f.pauses, own)
		slices.Sort(f.pauses)
	}
	q.revs = slices.DeleteFunc(q.revs, func(v *revision) bool { return v.rel != r.old && v.rel != r.rel })
	for _, v := range q.revs {
		v.candidate = false
	}
	v, k := q.find(r.rel), &s.releases[r.rel]
	if v == nil {
		v = &revision{rel: r.rel, n: 1, pulled: s.now + s.dur(20*time.Millisecond, k.slow)}
		v.ready = v.pulled + s.dur(30*time.Millisecond, k.slow)
		q.revs = append(q.revs, v)
	}
	v.candidate = true
	s.onwards()
}

// onwards aims at the next pause.
func (s *sim) onwards() {
	f := s.fleet
	f.goal = 0
	for _, w := range f.pauses {
		if w > f.weight {
			f.goal = w
			break
		}
	}
	if f.goal == 0 {
		f.goal = rollout.FullWeight
	}
	f.next = s.now + s.dur(10*time.Millisecond, 3*time.Second)
}

// moving reports whether the target does something by itself, at next.
func (f *fleet) moving() bool {
	return f.known && !f.reverted && (f.reverting || !f.stopped && !f.waiting && !f.done)
}

// drives takes the target's own next step.
func (s *sim) drives() {
	f, q := s.fleet, s.routers[0]
	s.events++
	f.next = s.now + s.dur(10*time.Millisecond, 3*time.Second)
	s.traffic(q)
	s.effect(q)
	v := q.find(f.rel)
	switch {
	case f.reverting:
		if f.weight = f.weight / 2; f.weight < 100 || s.chance(0.5) {
			f.weight, f.reverted = 0, true
			q.revs = slices.DeleteFunc(q.revs, func(x *revision) bool { return x.rel == f.rel && x.candidate })
		}
	case v == nil || v.running(s.now) == 0: // it is not healthy: it goes no further
		f.next = s.now + time.Second
	case f.weight >= f.goal || s.chance(0.6):
		f.weight = max(f.weight, f.goal)
		f.step++
		f.done = f.weight == rollout.FullWeight
		f.waiting = !f.done
	default:
		f.weight += (f.goal - f.weight) / 2
	}
	s.effect(q)
	s.say("the fleet is at %d (waiting %t, done %t, reverted %t)", f.weight, f.waiting, f.done, f.reverted)
	s.notice()
}

// notice wakes the live rollout: the adapter is told of changes, most of the time.
func (s *sim) notice() {
	if l := s.store.live(); l != nil && s.chance(0.9) {
		s.store.wake(&l.alarm, s.wall())
		s.notify()
	}
}

// strays lets somebody else turn the target: further, back, or to a stop.
func (s *sim) strays() {
	f, q := s.fleet, s.routers[0]
	if !f.known || f.reverting {
		return
	}
	s.traffic(q)
	f.strayed = true
	if s.chance(0.2) {
		f.stopped = true
	} else {
		f.weight = one(s, 0, 100, 500, 2500, 5000, rollout.FullWeight)
		f.done = f.weight == rollout.FullWeight
		f.waiting = !f.done && s.chance(0.5)
	}
	s.effect(q)
	s.say("somebody sets the fleet to %d (stopped %t)", f.weight, f.stopped)
	s.notice()
}

// fleetShares are the weights of a driven target's releases.
func (s *sim) fleetShares(q *router) {
	f := s.fleet
	for _, v := range q.revs {
		switch {
		case f.known && v.rel == f.rel:
			v.weight = f.weight
		case v.rel == s.store.place.current:
			v.weight = rollout.FullWeight - f.weight
		default:
			v.weight = 0
		}
	}
}

// ask calls the target for a wish that was promised, if it is not found followed.
// No call before it can land any more: see call.
func (s *sim) ask(t *task, e effect) (sent bool) {
	o := s.observe(s.store.rollouts[e.owner])
	if o.Missing > 0 {
		s.failed(t) // unknown: it is observed again
		return false
	}
	if e.ask.Followed(o) {
		s.fleet.outcome = e.gen
		t.pc = atOutcome
		return false
	}
	return true
}

// checkDriven holds a driven target to the invariants, after each event.
func (s *sim) checkDriven() {
	f, l := s.fleet, s.store.live()
	if l == nil || f.strayed || s.turnedAt > 0 || !f.known || f.rel != l.rel {
		return
	}
	if st := &l.state; st.Phase != rollout.RollingBack && f.weight > l.plan.Steps[st.Step].Weight {
		s.violated(1, "the fleet gives %d at a step of %d", f.weight, l.plan.Steps[st.Step].Weight)
	}
	if k := &s.releases[f.rel]; f.weight > 0 && (!k.promoted || k.altered) {
		s.violated(2, "the fleet gives %d to release %d, which was not promoted or is altered", f.weight, f.rel)
	}
}

// checkTold holds a decision to what the target told in the same turn: further than
// it may be is held, in every phase.
func (s *sim) checkTold(t *turn, r *row) {
	st := &r.state
	if t.told.Hosts == 0 || st.Phase == rollout.RollingBack || st.Phase == rollout.Pending || st.Phase.Terminal() {
		return
	}
	if t.told.MaxWeight > r.plan.Steps[st.Step].Weight && st.Held.Cause != rollout.CauseDrift {
		s.violated(10, "the fleet tells %d at a step of %d, and it is %s (held %q)", t.told.MaxWeight, r.plan.Steps[st.Step].Weight, st.Phase, st.Held.Cause)
	}
}
