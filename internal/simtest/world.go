package simtest

import (
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// fetch lets an agent read what it shall run.
func (s *sim) fetch(r *router) {
	r.look = s.now + time.Second
	d := s.store.desired
	if d.Generation <= r.doc.Generation {
		return
	}
	s.events++
	switch {
	case s.hit(desiredLost):
	case s.hit(desiredLate):
		s.letters = append(s.letters, &letter{at: s.now + s.dur(time.Millisecond, 20*time.Second), router: r, doc: &d})
	default:
		s.offer(r, d)
	}
}

// tell lets an agent report.
func (s *sim) tell(r *router) {
	s.events++
	r.tell = s.now + time.Second
	if r.astray > s.now {
		r.tell = min(r.tell, r.astray)
	}
	for _, v := range r.revs {
		for _, at := range []time.Duration{v.pulled, v.ready} {
			if at > s.now {
				r.tell = min(r.tell, at)
			}
		}
	}
	o := s.report(r)
	if s.hit(reportLost) {
		return
	}
	if s.hit(reportLate) {
		s.letters = append(s.letters, &letter{at: s.now + s.dur(time.Second, 20*time.Second), router: r, report: &o})
		return
	}
	s.receive(r, o)
	if s.hit(reportTwice) {
		s.receive(r, o)
	}
}

func (s *sim) arrive(i int, l *letter) {
	s.events++
	s.letters = slices.Delete(s.letters, i, i+1)
	switch {
	case l.report != nil:
		s.receive(l.router, *l.report)
	case l.ask != nil:
		s.asked(l)
	case s.unfenced:
		if l.router.down <= s.now {
			s.take(l.router, *l.doc)
		}
	default:
		s.say("generation %d arrives late at %s, which has %d", l.doc.Generation, l.router.name, l.router.doc.Generation)
		s.offer(l.router, *l.doc)
	}
}

// mischief is what happens to the world.
func (s *sim) mischief() {
	s.chaos = s.now + s.dur(100*time.Millisecond, 10*time.Second)
	r := one(s, s.routers...)
	f := one(s, ofWorld...)
	if s.phase() == s.focus.phase && s.chance(0.5) {
		f = s.focus.fault
	}
	if s.rate[f] == 0 {
		return
	}
	live := s.store.live()
	s.events++
	s.disturbed = s.disturbed || f == instanceDies || f == routerRestart || f == candidateFails
	switch f {
	case driftFault:
		if len(r.revs) == 0 {
			return
		}
		s.strike(f)
		if s.fleet != nil {
			s.strays()
		} else {
			s.drifts(r)
		}
	case metricGap:
		s.strike(f)
		s.gapUntil = s.now + s.dur(time.Second, 30*time.Second)
	case clockForward:
		s.strike(f)
		s.skew += one(s, 3*time.Second, 20*time.Second, time.Hour)
		s.turnedAt = s.now
	case clockBack:
		s.strike(f)
		s.skew -= one(s, 3*time.Second, 20*time.Second, time.Hour)
		s.jumped, s.turnedAt = true, s.now
	case routerDown:
		s.strike(f)
		r.down = s.now + s.dur(time.Second, 20*time.Second)
		s.say("%s is unreachable", r.name)
	case routerRestart:
		s.strike(f)
		s.traffic(r)
		r.boot, r.seq, r.drift, r.strange, r.tell = r.boot+1, 0, nil, false, s.now+time.Second
		for _, v := range r.revs {
			v.copies, v.badCopies = 0, 0
			v.requests, v.bad, v.have, v.ready, v.served = 0, 0, 0, s.now+s.dur(0, s.releases[v.rel].slow), false
		}
		s.effect(r)
	case wrongAddress:
		s.strike(f)
		r.astray, r.tell, r.twin = s.now+s.dur(time.Second, 40*time.Second), s.now, ""
		if len(s.routers) > 1 && s.chance(0.5) {
			r.twin = s.routers[0].name
			if r == s.routers[0] {
				r.twin = s.routers[1].name
			}
		}
		s.say("%s says that it answers at a wrong address", r.name)
	case instanceDies:
		if len(r.revs) == 0 {
			return
		}
		s.strike(f)
		v := one(s, r.revs...)
		s.traffic(r)
		v.have, v.ready, r.tell = s.rng.IntN(v.n+1), s.now+s.dur(time.Second, 40*time.Second), s.now
		s.say("release %d dies on %s", v.rel, r.name)
	case candidateFails:
		if live == nil || live.state.Phase == rollout.Pending {
			return
		}
		if v := r.find(live.rel); v != nil {
			s.strike(f)
			v.failed, r.tell = "crash loop", s.now
		}
	case commandStale:
		if l := s.store.last(); l != nil {
			s.strike(f)
			s.order(one(s, rollout.Advance, rollout.Pause, rollout.Resume, rollout.GiveUp, rollout.Abort), l.revision-1)
		}
	case commandTwice:
		if l := s.store.last(); l != nil {
			s.strike(f)
			k := one(s, rollout.Advance, rollout.Pause, rollout.Resume, rollout.Abort)
			s.order(k, l.revision)
			s.order(k, l.revision)
		}
	case secondStart:
		if live == nil {
			return
		}
		s.strike(f)
		if plan, err := s.compile(s.store.place.current >= 0); err == nil {
			_ = s.insert(s.release(), plan) // the store refuses it
		}
	default:
	}
}

// order gives a command to a plane that lives.
func (s *sim) order(k rollout.CommandKind, revision int64) {
	c := &rollout.Command{Kind: k, By: "local:ana", Full: k == rollout.Advance && s.chance(0.2)}
	if s.chance(0.6) {
		c.Reason = "because"
		c.Override = k == rollout.Advance && s.chance(0.5)
	}
	for _, p := range s.planes {
		if !p.dead {
			s.tasks = append(s.tasks, &task{plane: p.id, at: s.now + s.latency(), pc: atCommand, row: len(s.store.rollouts) - 1, cmd: c, seen: revision})
			return
		}
	}
}

// speak is a person at work, who looks at what there is.
func (s *sim) speak() {
	s.person = s.now + s.dur(2*time.Second, 40*time.Second)
	l := s.store.last()
	if l == nil {
		return
	}
	s.events++
	st := &l.state
	k := one(s, rollout.Advance, rollout.Advance, rollout.Pause, rollout.Resume, rollout.Abort, rollout.GiveUp)
	switch {
	case s.healed && !l.live:
		return
	case s.healed && s.fleet != nil && st.Held.Cause == rollout.CauseDrift:
		k = rollout.Abort // nobody but itself puts it back
	case s.healed && st.Phase != rollout.RollingBack && st.Frozen != "" && s.chance(0.5):
		k = rollout.Abort
	case st.Paused.On && (s.healed || s.chance(0.7)), st.Held.Cause == rollout.CauseDrift && l.plan.OnDrift != "" && (s.healed || s.chance(0.5)):
		k = rollout.Resume
	case s.healed && st.Phase == rollout.RollingBack:
		return
	case s.healed && st.Held.On && st.Held.Cause != rollout.CauseDrift:
		s.tasks = append(s.tasks, &task{plane: 0, at: s.now, pc: atCommand, row: l.id, cmd: &rollout.Command{Kind: rollout.Advance, By: "local:ana", Override: true, Reason: "time to end"}, seen: l.revision})
		return
	case s.healed:
		return
	case k == rollout.Pause && s.chance(0.7), k == rollout.Abort && s.chance(0.8):
		return
	}
	s.order(k, l.revision)
}

// ship starts the next rollout when nothing is live, and sometimes takes back the
// last one.
func (s *sim) ship() {
	s.deploy = s.now + s.dur(100*time.Millisecond, 5*time.Second)
	st := &s.store
	if live := st.live(); live != nil {
		if live.state.Frozen != "" && live.plan.OnFail == pipeline.RollForward {
			s.order(rollout.Supersede, live.revision) // the next release is the mended one
		}
		if live.state.Phase == rollout.Pending && s.chance(0.2) && !s.healed {
			s.events++
			s.order(rollout.Supersede, live.revision)
		}
		return
	}
	if s.healed {
		s.deploy = s.now + 24*time.Hour
		return
	}
	s.events++
	p := &st.place
	if p.previous >= 0 && !st.quarantine[p.previous] && s.chance(0.2) {
		s.start(p.previous, s.compileRollback())
		return
	}
	if s.chance(0.5) {
		s.env = s.draw()
	}
	plan, err := s.compile(p.current >= 0)
	if err != nil {
		s.violated(0, "couldn't compile: %v", err)
	}
	if l := st.last(); l != nil && l.state.Phase == rollout.Superseded && l.state.Exposed {
		plan = plan.Replacing()
	}
	rel := s.release()
	s.start(rel, plan)
	if s.hit(forgedRelease) {
		k := &s.releases[rel]
		k.promoted, k.altered = s.chance(0.5), true
	}
	// Who wrote it may die then, or not hear that it is written.
	if s.hit(crashAfterCommit) {
		s.crash(s.rng.IntN(len(s.planes)))
	}
	if s.hit(answerOfCommit) && s.insert(rel, plan) == nil {
		s.violated(8, "a rollout that is written already is written again")
	}
}

func (s *sim) start(rel int, plan rollout.Plan) {
	if err := s.insert(rel, plan); err != nil {
		s.violated(8, "nothing is live, but %v", err)
	}
	s.strategies[plan.Strategy]++
	s.served, s.disturbed = 0, false
	if s.fleet != nil {
		s.fleet.begin()
	}
	for _, r := range s.routers {
		r.read = -1
		for _, v := range r.revs {
			s.disturbed = s.disturbed || v.failed != "" || v.ready > s.now
		}
	}
}

// shape is what a strategy needs beside its name. What its target can't do is
// replaced by the nearest, as the definition's rules say.
func (s *sim) shape(r *pipeline.Rollout, bake func() time.Duration) {
	n := s.target.Total()
	switch {
	case s.worker && (r.Strategy == pipeline.BlueGreen || r.Strategy == pipeline.Immutable):
		r.Strategy = pipeline.Rolling
	case s.unfenced && r.Strategy == pipeline.Rolling:
		r.Strategy = pipeline.Canary
	}
	switch r.Strategy {
	case pipeline.Rolling:
		r.Batches = &pipeline.Batches{Batch: pipeline.Amount{Count: 1 + s.rng.IntN(n)}, Additional: s.chance(0.5)}
	case pipeline.Linear:
		for w := 25.0; w < 100; w += 25 {
			r.Steps = append(r.Steps, pipeline.CanaryStep{Weight: w, Bake: bake()})
		}
	case pipeline.TrafficSplitting:
		r.Steps = []pipeline.CanaryStep{{Weight: 20, Bake: bake()}}
	case pipeline.Canary:
		for i := range 1 + s.rng.IntN(3) {
			r.Steps = append(r.Steps, pipeline.CanaryStep{Weight: float64(5 + 25*i), Bake: bake()})
		}
	}
	if s.worker && r.Stepped() {
		if _, err := pipeline.WorkerCounts(r.Steps, n); err != nil {
			r.Strategy, r.Steps = pipeline.AllAtOnce, nil
		}
	}
}

// draw makes an environment with a strategy.
func (s *sim) draw() pipeline.Environment {
	bake := func() time.Duration {
		if s.judged.rate || s.judged.limit {
			return one(s, 4*time.Second, 8*time.Second, 20*time.Second)
		}
		return one(s, 0, time.Second, 8*time.Second)
	}
	e := pipeline.Environment{Name: "production", Target: s.target}
	r := &e.Rollout
	*r = pipeline.Rollout{
		Strategy:        one(s, pipeline.Strategies...),
		OnInconclusive:  one(s, rollout.Extend, rollout.HoldThere),
		OnNoData:        one(s, rollout.Extend, rollout.HoldThere),
		Timeout:         one(s, 20*time.Second, 2*time.Minute, 30*time.Minute),
		RollbackTimeout: one(s, 5*time.Second, 30*time.Second, 5*time.Minute),
		RetireAfter:     one(s, time.Second, 20*time.Second, time.Hour),
	}
	r.Bake = bake()
	if s.focus.phase == ended || s.focus.phase == rollout.Pending {
		r.RetireAfter = time.Second
	}
	s.shape(r, bake)
	if !s.worker && r.Strategy != pipeline.Rolling && r.Strategy != pipeline.Immutable && s.chance(0.25) {
		e.Shadow = &pipeline.Shadow{Share: one(s, 10.0, 50, 100), Bake: bake()}
	}
	r.OnFail = one(s, "", "", "", pipeline.Freeze, pipeline.RollForward)
	r.OnDrift = one(s, "", "", "", pipeline.DriftHold)
	s.drivable(&e)
	if s.judged.rate {
		e.Analysis.Metrics = append(e.Analysis.Metrics, pipeline.Metric{Name: "http-errors", Kind: pipeline.HTTPErrors})
	}
	if s.judged.limit {
		e.Analysis.Metrics = append(e.Analysis.Metrics, pipeline.Metric{Name: "load", Kind: pipeline.Limit})
	}
	for i := range e.Analysis.Metrics {
		if s.fleet == nil { // another's deployment can't be left standing half-way
			e.Analysis.Metrics[i].OnFail = one(s, "", "", "", pipeline.Pause, pipeline.Freeze, pipeline.GoBack)
		}
	}
	e.Analysis.MaxExtend = s.rng.IntN(3)
	s.warmUp = one(s, 0, 2*time.Second)
	if s.focus.phase == rollout.Checking || s.chance(0.5) {
		e.Verify = []pipeline.Check{{Name: "smoke"}}
	}
	if s.chance(0.2) {
		e.Hooks.BeforeTraffic = []pipeline.Check{{Name: "before"}}
	}
	if s.chance(0.2) {
		e.Hooks.AfterStep = []pipeline.Check{{Name: "step"}}
	}
	if s.chance(0.1) {
		e.Hooks.AfterTraffic = []pipeline.Check{{Name: "after"}}
	}
	return e
}
