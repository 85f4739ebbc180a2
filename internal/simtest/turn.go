package simtest

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/target/host"
	"github.com/sluicehq/sluice/internal/verdict"
)

const minBin = 2 * time.Second

// turn is one decision about one rollout in one transaction, like control's turn.
// Nothing of it is in the store before commit.
type turn struct {
	s       *sim
	at      time.Time // the transaction's
	was     *row      // as it is in the store
	row     row       // the copy that is worked on
	steps   []step    // what was decided, for the checks
	leaves  []rollout.Fact
	gen     int64 // the store's counter, as far as this transaction took it
	apply   int64
	check   bool
	alarms  int
	effects []effect
	finish  []int64 // effects that this transaction finishes
	reports []host.Report
	told    rollout.Observation // by a driven target
}

// step is one event and what came of it.
type step struct {
	before, after rollout.State
	event         rollout.Event
	effects       []rollout.Effect
	facts         []rollout.Fact
}

func (s *sim) open(id int) (*turn, error) {
	was := s.store.rollouts[id]
	t := &turn{s: s, at: s.wall(), was: was, row: *was, gen: s.store.generation}
	var err error
	if t.row.state, err = rollout.DecodeState(was.encoded); err != nil {
		return nil, fmt.Errorf("couldn't read the state: %w", err)
	}
	t.row.watch.base = maps.Clone(was.watch.base)
	if w := &t.row.watch; w.rate != nil {
		r := *w.rate
		w.rate = &r
	}
	if w := &t.row.watch; w.limit != nil {
		l := *w.limit
		w.limit = &l
	}
	return t, nil
}

// feed lets one event happen.
func (t *turn) feed(e rollout.Event) error {
	before := t.row.state
	after, effects, err := rollout.Step(t.row.plan, before, e)
	if err != nil {
		return err
	}
	t.row.state = after
	if before.Weight != after.Weight {
		t.row.watch.flush = true
	}
	facts := rollout.Facts(before, after, e)
	t.leaves = append(t.leaves, facts...)
	t.steps = append(t.steps, step{before, after, e, effects, facts})
	t.log(e, rollout.Quiet(before, after, e, effects))
	for _, f := range effects {
		switch f.Kind {
		case rollout.Apply, rollout.Drive, rollout.Continue, rollout.Stop, rollout.Revert:
			t.gen++
			t.apply = t.gen
			if err := t.feed(rollout.Event{Applied: &rollout.Applied{Generation: t.gen}}); err != nil {
				return err
			}
		case rollout.Check:
			t.check = true
		case rollout.Alarm:
			t.alarms++
		default:
			return fmt.Errorf("unknown effect %q", f.Kind)
		}
	}
	return nil
}

// log appends the event, or merges it into the last one where that is allowed.
func (t *turn) log(e rollout.Event, quiet bool) {
	r := &t.row
	n := len(r.events)
	if n > 0 && r.watch.quiet && quiet {
		if merged, ok := rollout.Merge(r.events[n-1], e); ok {
			r.events = append(r.events[:n-1:n-1], merged)
			return
		}
	}
	r.events = append(r.events[:n:n], e)
	r.watch.quiet = quiet
}

// close makes the promises and the alarm of the new state.
func (t *turn) close() {
	if t.apply > 0 {
		e := effect{owner: t.row.id, gen: t.apply, kind: rollout.Apply}
		if t.s.fleet != nil {
			e.kind, e.ask = t.row.state.Asked, t.row.state.Ask()
		} else {
			e.doc = t.document(t.apply)
		}
		t.effects = append(t.effects, e)
	}
	if t.check {
		t.gen++
		t.effects = append(t.effects, effect{owner: t.row.id, gen: t.gen, kind: rollout.Check, step: t.row.state.Step})
	}
	t.row.wake = time.Time{}
	if t.row.live = t.row.live && !t.row.state.Phase.Terminal(); !t.row.live {
		return
	}
	next := rollout.Rest(t.row.state)
	if d, ok := rollout.NextWake(t.row.plan, t.row.state); ok {
		next = min(next, d)
	}
	if w := &t.row.watch; (w.rate != nil || w.limit != nil) && t.row.state.Judged() && t.row.state.Phase != rollout.RollingBack {
		next = min(next, max(0, minBin-w.binElapsed))
		if w.flush {
			next = 0
		}
	}
	next = max(next, 5*time.Millisecond)
	t.row.watch.ticked, t.row.watch.planned = t.at, next
	t.row.wake = t.at.Add(next)
}

// document is what hosts shall run for the state, as control makes it.
func (t *turn) document(gen int64) wire.Desired {
	d := host.Document(key, t.s.target, gen)
	st := &t.row.state
	var old, cand *wire.Revision
	if st.Old && t.row.old >= 0 {
		old = &wire.Revision{Release: id(t.row.old), Weight: wire.FullWeight - st.Weight, Instances: t.s.target.Instances}
	}
	if st.Capacity {
		cand = &wire.Revision{Release: id(t.row.rel), Weight: st.Weight, Candidate: true, Instances: t.s.target.Instances, Shadow: st.Shadow}
	}
	t.wanted().Put(&d, old, cand)
	for _, r := range []*wire.Revision{old, cand} {
		if r != nil {
			d.Revisions = append(d.Revisions, *r)
		}
	}
	return d
}

// wanted is the share of each host, where the plan counts instances.
func (t *turn) wanted() *host.Wanted {
	return host.WantedOf(t.row.plan, t.row.state, t.s.target.Hosts, t.s.target.Instances)
}

// instructed is what hosts are held to, as told of control.
func (t *turn) instructed() *host.Wanted {
	w := t.wanted()
	if t.row.state.Wanted == 0 || t.row.state.Phase == rollout.RollingBack {
		return w
	}
	return w.Tell(t.document(t.row.state.Wanted))
}

// misplaced says why hosts can't be asked, where a step of the plan would.
func (s *sim) misplaced(r *row, reports []host.Report) string {
	if s.worker || s.fleet != nil || !slices.ContainsFunc(r.plan.Steps, func(p rollout.PlanStep) bool { return p.Kind == rollout.StepCheck }) {
		return ""
	}
	if err := host.Misplaced(reports, key, s.target); err != nil {
		return err.Error()
	}
	return ""
}

// cantAsk reports whether checks of a rollout wait for a host's address.
func (s *sim) cantAsk(id int) bool {
	return s.misplaced(s.store.rollouts[id], s.reports()) != ""
}

// commit puts the turn into the store, all of it in one moment.
func (t *turn) commit() {
	s, st := t.s, &t.s.store
	st.commits++
	st.generation = t.gen
	st.leaves += len(t.leaves)
	for _, gen := range t.finish {
		st.finish(gen)
	}
	st.effects = append(st.effects[:len(st.effects):len(st.effects)], t.effects...)
	t.row.encoded = encode(t.row.state)
	t.row.revision++
	ended := t.was.live && !t.row.live
	before := t.was.state
	r := t.row
	st.rollouts[r.id] = &r
	if ended {
		s.settle(&r)
	}
	s.checkCommit(t, &r)
	if before.Phase != r.state.Phase {
		s.say("rollout %d %s → %s at step %d, weight %d%s", r.id, before.Phase, r.state.Phase, r.state.Step, r.state.Weight, because(r.state.Reason))
		s.phaseChanged()
	} else if before.Step != r.state.Step || before.Weight != r.state.Weight || before.Held != r.state.Held || before.Verdict != r.state.Verdict {
		s.say("rollout %d %s step %d weight %d verdict %s held %s", r.id, r.state.Phase, r.state.Step, r.state.Weight, r.state.Verdict, r.state.Held.Cause)
	}
	s.notify()
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// settle is control's finish: what an ended rollout leaves behind.
func (s *sim) settle(r *row) {
	p := &s.store.place
	if (s.focus.phase == rollout.Pending || s.focus.phase == ended) && ofEffects(s.focus.fault) {
		s.deploy = s.now + s.dur(5*time.Second, 15*time.Second) // time for a retirement
	}
	if r.state.Phase != rollout.Succeeded {
		if r.state.Exposed {
			s.store.quarantine[r.rel] = true
		}
		if !p.retire.IsZero() {
			if r.state.Wanted > 0 {
				p.retire = time.Time{}
			} else {
				p.wake = s.wall()
			}
		}
		return
	}
	p.current, p.previous, p.retire, p.ticked = r.rel, -1, time.Time{}, time.Time{}
	p.wake = s.wall()
	if r.old < 0 {
		return
	}
	p.retire = s.wall().Add(r.plan.RetireAfter)
	if r.plan.Strategy == rollout.StrategyRollback {
		p.retire = s.wall()
		s.store.quarantine[r.old] = true
		return
	}
	p.previous = r.old
}

// events feeds a turn what happened since the last one, in control's order.
func (t *turn) events(ask answer) error {
	w := &t.row.watch
	if t.row.state.Phase == rollout.Pending {
		return t.feed(rollout.Event{Start: &rollout.Start{}})
	}
	reports := t.s.reports()
	t.reports = reports
	old := ""
	if t.row.old >= 0 {
		old = string(id(t.row.old))
	}
	var seen rollout.Observation
	if t.s.fleet != nil {
		seen = t.s.observe(&t.row)
		seen.Generation = t.s.store.acked
		t.told = seen
	} else {
		seen = t.instructed().Observe(reports, key, t.s.target.Hosts, id(t.row.rel), idOf(old), t.at)
		seen.Misplaced = t.s.misplaced(&t.row, reports)
	}
	elapsed := time.Duration(0)
	if !w.ticked.IsZero() {
		elapsed = max(0, min(t.at.Sub(w.ticked), 2*w.planned))
	}
	w.binElapsed += elapsed
	if j := t.judge(reports, ask); j != nil {
		if err := t.feed(rollout.Event{Judged: j}); err != nil {
			return err
		}
	}
	if elapsed > 0 {
		if err := t.feed(rollout.Event{Tick: &rollout.Tick{Elapsed: elapsed}}); err != nil {
			return err
		}
	}
	if seen == t.row.state.Seen || t.row.state.Phase.Terminal() {
		return nil
	}
	return t.feed(rollout.Event{Seen: &seen})
}

// answer is what the metric provider said before the transaction.
type answer struct {
	asked bool
	value float64 // of the limit; NaN: a gap
}

func (t *turn) binDue() bool {
	w := &t.row.watch
	e := time.Duration(0)
	if !w.ticked.IsZero() {
		e = max(0, min(t.at.Sub(w.ticked), 2*w.planned))
	}
	return t.row.state.Judged() && (w.binElapsed+e >= minBin || w.flush)
}

// judge closes a bin that is due, through the real tests of package analysis.
func (t *turn) judge(reports []host.Report, ask answer) *rollout.Judged {
	w, st := &t.row.watch, &t.row.state
	if w.rate == nil && w.limit == nil {
		return nil
	}
	counts := host.Counters(reports, key, t.s.target.Hosts)
	if t.s.env.Shadow != nil {
		counts = append(counts, host.ShadowCounters(reports, key, t.s.target.Hosts)...)
	}
	if !st.Judged() || st.Phase == rollout.RollingBack {
		if !st.Judged() {
			w.increase(counts, t.row.rel)
			w.increase(counts, t.row.old)
			w.binElapsed = 0
		}
		return nil
	}
	if w.binElapsed < minBin && !w.flush || w.limit != nil && !ask.asked {
		return nil
	}
	cand, stable := w.increase(counts, t.row.rel), w.increase(counts, t.row.old)
	kind := analysis.Judged
	if w.warm < t.s.warmUp {
		kind |= analysis.WarmUp
	}
	if t.row.plan.First || st.Weight == rollout.FullWeight {
		kind |= analysis.Alone
	}
	if cand[0] > 0 {
		w.warm += w.binElapsed
	}
	if w.step != st.Step {
		w.step = st.Step
		if w.rate != nil {
			w.rate.StartStep()
		}
		if w.limit != nil {
			w.limit.StartStep()
		}
	}
	var metrics []analysis.Metric
	if w.rate != nil {
		w.rate.Add(analysis.Bin{KC: cand[1], NC: cand[0], KB: stable[1], NB: stable[0]}, kind)
		metrics = append(metrics, w.rate.Result())
	}
	if w.limit != nil {
		w.limit.Add(ask.value)
		if !math.IsNaN(ask.value) {
			t.row.truth.samples++
		}
		metrics = append(metrics, w.limit.Result())
	}
	w.binElapsed, w.flush = 0, false
	res := analysis.Combine(metrics)
	if res.Verdict != verdict.Fail && st.Phase != rollout.Baking {
		return nil
	}
	judged := rollout.Judged{Step: st.Step, Verdict: res.Verdict, Sentence: res.Sentence}
	for _, m := range res.Failed() { // no alarm is among them
		judged.Failed = append(judged.Failed, m.Name)
	}
	if st.Heard(judged) || res.Unjudged {
		return nil
	}
	return &judged
}

// increase is requests and bad ones of a release since the last call.
func (w *watch) increase(counts []host.Counts, rel int) (out [2]int64) {
	if rel < 0 {
		return out
	}
	for _, c := range counts {
		if c.Release != id(rel) {
			continue
		}
		k := baseKey{c.Host, c.Boot, rel}
		var cur [2]int64
		for _, b := range c.Buckets {
			cur[0] += b.Requests
			cur[1] += b.Bad
		}
		prev := w.base[k]
		w.base[k] = cur
		out[0] += analysis.Delta(prev[0], cur[0])
		out[1] += analysis.Delta(prev[1], cur[1])
	}
	return out
}

// command is a person's word for the last rollout, like Controller.Rollout.
func (s *sim) command(c rollout.Command, revision int64) (*turn, error) {
	r := s.store.last()
	if revision != r.revision && c.Kind != rollout.Abort {
		return nil, errStale
	}
	t, err := s.open(r.id)
	if err != nil {
		return nil, err
	}
	if err := t.feed(rollout.Event{Command: &c}); err != nil {
		return nil, err
	}
	t.close()
	return t, nil
}

// insert writes a rollout of rel over what runs, as a run does whose gates hold.
func (s *sim) insert(rel int, plan rollout.Plan) error {
	st := &s.store
	r := &row{live: true, plan: plan, rel: rel, old: st.place.current, state: rollout.New(plan)}
	r.encoded, r.replayed = encode(r.state), r.state
	r.truth.left = true
	r.wake = s.wall()
	r.watch.base = map[baseKey][2]int64{}
	if s.judged.rate {
		set := analysis.Defaults()
		set.Bin, set.WarmUp, set.MaxExcess = minBin, s.warmUp, 0.05
		frozen := analysis.Frozen{First: plan.First}
		for _, c := range host.Counters(st.observed, key, s.target.Hosts) {
			if r.old >= 0 && c.Release == id(r.old) {
				for _, b := range c.Buckets {
					frozen.Bad, frozen.Total = frozen.Bad+b.Bad, frozen.Total+b.Requests
				}
			}
		}
		x := analysis.NewRate("http-errors", set, s.judged.n(), frozen)
		r.watch.rate = &x
	}
	if s.judged.limit {
		most := 10.0
		x, err := analysis.NewLimit("load", nil, &most, 0, 0)
		if err != nil {
			return err
		}
		r.watch.limit = &x
	}
	if err := st.insert(r); err != nil {
		return err
	}
	s.say("rollout %d of release %d over %d is pending: %s", r.id, rel, r.old, plan.Strategy)
	s.phaseChanged()
	s.notify()
	return nil
}

// refused reports that a command was not allowed, which is an answer.
func refused(err error) bool {
	return errors.Is(err, rollout.ErrRefused) || errors.Is(err, rollout.ErrTransition) || errors.Is(err, errStale)
}

// stepPlace retires the previous release when its time has come.
func (s *sim) stepPlace() {
	p, st, now := &s.store.place, &s.store, s.wall()
	st.commits++
	if p.current < 0 {
		p.wake = time.Time{}
		return
	}
	next := now.Add(5 * time.Minute)
	if !p.ticked.IsZero() {
		passed := now.Sub(p.ticked)
		gap := passed - max(0, min(passed, 2*p.planned))
		if !p.retire.IsZero() && gap.Abs() > 5*time.Second {
			p.retire = p.retire.Add(gap)
		}
	}
	switch {
	case p.retire.IsZero(), st.live() != nil:
	case s.fleet != nil: // it lets go by itself
		p.retire = time.Time{}
	case !p.retire.After(now):
		p.retire = time.Time{}
		st.generation++
		d := host.Document(key, s.target, st.generation)
		d.Revisions = append(d.Revisions, wire.Revision{Release: id(p.current), Weight: wire.FullWeight, Instances: s.target.Instances})
		st.effects = append(slices.Clip(st.effects), effect{owner: -1, gen: st.generation, kind: rollout.Apply, doc: d})
		s.say("release %d is retired (generation %d)", p.previous, st.generation)
		next = now.Add(time.Second)
		if s.focus.phase == rollout.Pending {
			s.deploy = s.now
		}
	case p.retire.Before(next):
		next = p.retire
	}
	p.wake, p.ticked, p.planned = next, now, next.Sub(now)
	s.notify()
}

func (s *sim) askMetric(rel int) float64 {
	if s.healed {
		return s.releases[rel].load
	}
	if s.gapUntil > s.now || s.hit(metricGap) {
		return math.NaN()
	}
	return s.releases[rel].load
}
