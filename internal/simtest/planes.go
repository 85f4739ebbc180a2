package simtest

import (
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/target/host"
)

// plane is one control plane's process.
type plane struct {
	id   int
	poll time.Duration // when it looks for work, or begins again after a crash
	dead bool

	silent []bool // which hosts were, at its last look
}

// task is something that a process is in the middle of: a turn on a leased row,
// a person's command, or checks. A crash ends all tasks of its process.
type task struct {
	plane   int
	at      time.Duration
	pc      point
	row     int // of rollouts; -1: the environment
	leased  bool
	lease   lease
	paused  bool // it was stopped for longer than its lease may last
	pending []effect
	again   bool // the effects after the commit
	ask     answer
	sentTo  time.Duration // a call to a load balancer is answered by then, or never
	until   time.Duration // in our own time the lease is ours at least until then
	cmd     *rollout.Command
	seen    int64 // revision that the person looked at
	check   effect
	ok      bool
}

// point is where a task stands between two things that can be seen from outside:
// it dies at points only. See control's "order of every change".
type point int

const (
	atAct     point = iota // read what is promised
	atEffect               // carry out the first of pending
	atAnswer               // of a load balancer
	atOutcome              // keep how it came out
	atAsk                  // the metric provider
	atCommit               // decide
	atRelease
	atRequest // checks: the requests
	atChecked // checks: the commit
	atCommand // a command's commit
)

func (s *sim) latency() time.Duration { return s.dur(200*time.Microsecond, 20*time.Millisecond) }

// poll lets a plane look for work.
func (s *sim) poll(p *plane) {
	if p.dead {
		p.dead = false
		s.say("plane %d begins again", p.id)
	}
	if s.jumped { // store.afterJump: what sleeps would sleep too long
		s.jumped = false
		for _, r := range s.store.rollouts {
			if !r.wake.IsZero() {
				s.store.wake(&r.alarm, s.wall())
			}
		}
		if !s.store.place.wake.IsZero() {
			s.store.wake(&s.store.place.alarm, s.wall())
		}
	}
	s.lookAtHosts(p)
	for _, table := range []string{tableRollouts, tablePlace} {
		if next := s.store.nextWake(s.wall()); next > 0 {
			break
		}
		if s.hit(crashBeforeLease) {
			s.crash(p.id)
			return
		}
		l, ok := s.store.acquire(table, p.id, s.wall())
		if !ok {
			continue
		}
		s.events++
		if s.hit(crashAfterLease) {
			s.crash(p.id)
			return
		}
		row := l.row
		if table == tablePlace {
			row = -1
		}
		s.tasks = append(s.tasks, &task{plane: p.id, at: s.now + s.latency(), pc: atAct, row: row, leased: true, lease: l, until: s.now + leaseTTL})
	}
	p.poll = s.now + min(2*time.Second, max(time.Millisecond, s.store.nextWake(s.wall())))
}

// lookAtHosts wakes the live rollout when a host fell silent or came back since
// this plane's last look. The first look has nothing to compare with.
func (s *sim) lookAtHosts(p *plane) {
	turned := p.silent == nil
	now := make([]bool, len(s.store.observed))
	for i, o := range s.store.observed {
		now[i] = host.Silent(o.Arrived, s.wall())
		turned = turned || i >= len(p.silent) || p.silent[i] != now[i]
	}
	p.silent = now
	if l := s.store.live(); turned && l != nil {
		s.store.wake(&l.alarm, s.wall())
	}
}

// crash ends a process and all that it was doing.
func (s *sim) crash(plane int) {
	p := s.planes[plane]
	p.silent, p.dead, p.poll = nil, true, s.now+s.dur(500*time.Millisecond, 8*time.Second)
	s.tasks = slices.DeleteFunc(s.tasks, func(t *task) bool { return t.plane == plane })
	s.events++
	s.say("plane %d dies", plane)
}

func (s *sim) drop(t *task) {
	s.tasks = slices.DeleteFunc(s.tasks, func(x *task) bool { return x == t })
}

// lost ends a task whose lease is another's: its context has ended.
func (s *sim) lost(t *task) {
	s.say("plane %d has lost %s %d", t.plane, t.lease.table, t.lease.row)
	s.drop(t)
}

// failed is hold's end of a turn that failed: the row sleeps for a moment.
func (s *sim) failed(t *task) {
	s.drop(t)
	if !t.leased {
		return
	}
	a := s.store.alarmOf(t.lease.table, t.lease.row)
	if at := s.wall().Add(time.Second); s.store.check(t.lease, s.wall()) == nil && !a.wake.IsZero() && a.wake.Before(at) {
		a.wake = at
	}
	s.store.release(t.lease)
	s.notify()
}

// work takes a task over one point.
func (s *sim) work(_ int, t *task) {
	s.events++
	if t.leased {
		switch {
		case t.paused:
			// It goes on after a stop; it may notice first that the lease is lost.
			t.paused = false
			if s.chance(0.5) && s.store.extend(t.lease, s.wall()) != nil {
				s.lost(t)
				return
			}
		case s.store.extend(t.lease, s.wall()) != nil:
			s.lost(t)
			return
		default:
			t.until = s.now + leaseTTL
		}
		if t.pc != atAct && s.hit(leaseLost) {
			t.paused, t.at = true, s.now+s.dur(leaseTTL/2, 3*leaseTTL)
			return
		}
	}
	t.at = s.now + s.latency()
	switch t.pc {
	case atAct:
		s.act(t)
	case atEffect:
		s.carryOut(t)
	case atAnswer:
		s.answered(t)
	case atOutcome:
		s.keep(t)
	case atAsk:
		t.pc = atCommit
		if r := s.store.rollouts[t.row]; r.live && r.watch.limit != nil {
			if x, err := s.open(t.row); err == nil && x.binDue() {
				t.ask = answer{true, s.askMetric(r.rel)}
				t.at = s.now + s.dur(time.Millisecond, 500*time.Millisecond)
			}
		}
	case atCommit:
		s.decide(t)
	case atRelease:
		s.store.release(t.lease)
		s.drop(t)
		s.notify()
	case atRequest:
		if s.cantAsk(t.row) { // the check stays promised
			s.say("plane %d: checks wait for an address", t.plane)
			s.drop(t)
			return
		}
		t.ok, t.pc = s.releases[s.store.rollouts[t.row].rel].check, atChecked
	case atChecked:
		s.checked(t)
	case atCommand:
		s.commanded(t)
	}
}

// act reads what is promised, the newest first.
func (s *sim) act(t *task) {
	t.pending = t.pending[:0]
	for _, e := range s.store.pending(t.row) {
		if e.kind == rollout.Check {
			s.startCheck(t.plane, e)
			continue
		}
		if !s.unfenced || t.leased { // only who holds the lease calls what can't refuse him
			t.pending = append(t.pending, e)
		}
	}
	s.onward(t)
}

// onward is the point after the effects that are left.
func (s *sim) onward(t *task) {
	switch {
	case len(t.pending) > 0:
		t.pc = atEffect
	case !t.leased:
		s.drop(t)
	case t.again:
		t.pc = atRelease
	case t.row < 0:
		t.pc = atCommit
	default:
		t.pc = atAsk
	}
}

func (s *sim) startCheck(plane int, e effect) {
	for _, t := range s.tasks {
		if t.plane == plane && t.check.gen == e.gen {
			return
		}
	}
	s.tasks = append(s.tasks, &task{plane: plane, at: s.now + s.dur(10*time.Millisecond, time.Second), pc: atRequest, row: e.owner, check: e})
}

// carryOut runs the newest promised effect. The target refuses a generation that
// is not the highest; a load balancer can't, see call.
func (s *sim) carryOut(t *task) {
	if s.hit(crashBeforeEffect) {
		s.crash(t.plane)
		return
	}
	e := t.pending[0]
	if s.unfenced {
		s.call(t, e)
		return
	}
	if s.store.putDesired(e.doc) {
		s.say("plane %d: generation %d is desired", t.plane, e.gen)
	}
	s.notify()
	if s.hit(crashAfterEffect) {
		s.crash(t.plane)
		return
	}
	if s.hit(answerOfEffect) {
		s.failed(t)
		return
	}
	t.pc = atOutcome
}

// call is the way to a target that knows no generations: read again right before
// that the lease is ours and nothing newer is wanted, bound the call by what is
// left of the lease, and read back after.
func (s *sim) call(t *task, e effect) {
	newest := e.gen
	for _, x := range s.store.effects {
		if x.kind != rollout.Check {
			newest = max(newest, x.gen)
		}
	}
	if s.now >= t.until || s.store.check(t.lease, s.wall()) != nil {
		s.lost(t)
		return
	}
	if newest > e.gen || s.store.acked > e.gen {
		t.pc = atOutcome // it is past
		return
	}
	if d := s.store.busy.Sub(s.wall()); d > 0 && d < leaseTTL { // a call of another row's worker may still land
		t.at = s.now + d
		return
	}
	if s.fleet != nil && !s.ask(t, e) {
		return
	}
	bound := min(time.Second, (t.until-s.now)/2)
	s.store.busy = s.wall().Add(bound)
	land := s.now + s.dur(time.Millisecond, 50*time.Millisecond)
	if s.rate[desiredLate] > 0 && s.hit(desiredLate) {
		land = s.now + s.dur(0, bound)
	}
	t.sentTo = s.now + bound
	if !s.hit(desiredLost) {
		l := &letter{at: min(land, t.sentTo-1), router: s.routers[0], doc: &e.doc, owner: e.owner}
		if s.fleet != nil {
			l.ask = &e.ask
			if s.fleet.keyed && s.chance(0.1) { // the call comes twice, which keys are for
				s.letters = append(s.letters, l)
			}
		}
		s.letters = append(s.letters, l)
	}
	t.pc, t.at = atAnswer, min(land+time.Millisecond, t.sentTo)
}

// answered reads the load balancer back.
func (s *sim) answered(t *task) {
	r, e := s.routers[0], t.pending[0]
	s.store.busy = time.Time{}
	if s.hit(crashAfterEffect) {
		s.crash(t.plane)
		return
	}
	there := r.doc.Generation == e.gen
	if s.fleet != nil {
		if there = e.ask.Followed(s.observe(s.store.rollouts[e.owner])); there {
			s.fleet.outcome = e.gen
		}
	}
	if r.down > s.now || !there || s.hit(answerOfEffect) {
		s.failed(t) // unknown: the next turn reads and repeats
		return
	}
	t.pc = atOutcome
}

func (s *sim) keep(t *task) {
	if s.hit(crashBeforeOutcome) {
		s.crash(t.plane)
		return
	}
	e := t.pending[0]
	s.store.finish(e.gen)
	if s.unfenced && (s.routers[0].doc.Generation == e.gen || s.fleet != nil && s.fleet.outcome == e.gen) {
		s.store.acked = max(s.store.acked, e.gen)
		if l := s.store.live(); l != nil {
			s.store.wake(&l.alarm, s.wall())
		}
	}
	s.store.commits++
	if s.hit(crashAfterOutcome) {
		s.crash(t.plane)
		return
	}
	t.pending = t.pending[1:]
	s.onward(t)
}

// decide is the commit of a turn, under the lease's epoch.
func (s *sim) decide(t *task) {
	if err := s.store.check(t.lease, s.wall()); err != nil {
		s.lost(t)
		return
	}
	if t.row < 0 {
		if s.hit(crashBeforeCommit) {
			s.crash(t.plane)
			return
		}
		s.stepPlace()
	} else {
		x, err := s.open(t.row)
		if err != nil {
			s.violated(7, "%v", err)
		}
		if x.row.live {
			if err := x.events(t.ask); err != nil {
				s.violated(0, "a turn of rollout %d in %s failed: %v", t.row, x.row.state.Phase, err)
			}
			x.close()
		} else {
			x.row.wake = time.Time{}
		}
		if s.hit(crashBeforeCommit) {
			s.crash(t.plane)
			return
		}
		x.commit()
	}
	if s.hit(crashAfterCommit) {
		s.crash(t.plane)
		return
	}
	if s.hit(answerOfCommit) {
		s.failed(t)
		return
	}
	t.again, t.pc = true, atAct
}

// checked commits the outcome of checks.
func (s *sim) checked(t *task) {
	if !slices.ContainsFunc(s.store.effects, func(e effect) bool { return e.gen == t.check.gen }) {
		s.drop(t) // another plane's word is kept
		return
	}
	x, err := s.open(t.row)
	if err != nil {
		s.violated(7, "%v", err)
	}
	x.finish = append(x.finish, t.check.gen)
	if x.row.live {
		c := rollout.Checked{Step: t.check.step, OK: t.ok}
		if !t.ok {
			c.Reason = "status 500"
		}
		if err := x.feed(rollout.Event{Checked: &c}); err != nil {
			s.violated(0, "the outcome of checks of rollout %d in %s failed: %v", t.row, x.row.state.Phase, err)
		}
		x.close()
	}
	s.afterCommit(t, x)
}

// commanded commits a person's command.
func (s *sim) commanded(t *task) {
	x, err := s.command(*t.cmd, t.seen)
	switch {
	case refused(err):
		s.say("%s was refused: %v", t.cmd.Kind, err)
		s.drop(t)
		return
	case err != nil:
		s.violated(0, "command %s failed: %v", t.cmd.Kind, err)
	}
	s.say("%s by %s", t.cmd.Kind, t.cmd.By)
	s.afterCommit(t, x)
}

func (s *sim) afterCommit(t *task, x *turn) {
	if s.hit(crashBeforeCommit) {
		s.crash(t.plane)
		return
	}
	if s.unfenced && x.row.live {
		x.row.wake = s.wall() // who holds the lease acts
	}
	x.commit()
	if s.hit(crashAfterCommit) {
		s.crash(t.plane)
		return
	}
	t.pc, t.check = atAct, effect{}
}

// letter is a document on its way.
type letter struct {
	at     time.Duration
	router *router
	owner  int // of ask
	doc    *wire.Desired
	ask    *rollout.Ask
	report *wire.Observed
}
