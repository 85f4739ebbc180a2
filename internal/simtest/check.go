package simtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/target/host"
	"github.com/sluicehq/sluice/internal/verdict"
)

// truth is what the test knows of a rollout, from what truly happened.
type truth struct {
	said    verdict.Verdict // delivered for this very bake
	served  int64           // requests of the candidate when its weight last changed
	samples int             // of the limit, since then
	left    bool            // every judged bake so far was left on a pass, or by a person
	person  bool            // somebody overrode or skipped
	back    bool            // it went back
}

func (s *sim) violated(n int, format string, args ...any) {
	v := &Violation{Invariant: n, Text: fmt.Sprintf(format, args...)}
	s.say("VIOLATED %v", v)
	panic(v)
}

// checkCommit holds what a transaction did to the invariants.
func (s *sim) checkCommit(t *turn, r *row) {
	for i := range t.steps {
		s.checkStep(r, &t.steps[i])
	}
	s.checkReplay(t.was, r)
	live := 0
	for _, x := range s.store.rollouts {
		if x.live {
			live++
		}
	}
	if live > 1 {
		s.violated(8, "%d rollouts are live", live)
	}
	if t.was.state.Phase.Terminal() && (r.state != t.was.state || len(t.effects) > 0) {
		s.violated(5, "rollout %d had ended (%s) and is %s", r.id, t.was.state.Phase, r.state.Phase)
	}
	s.checkDrift(t, r)
	if s.fleet != nil {
		s.checkTold(t, r)
	}
}

// checkStep holds one decision to the invariants.
func (s *sim) checkStep(r *row, x *step) {
	b, a, e := &x.before, &x.after, x.event
	plan, tr := &r.plan, &r.truth
	has := func(k rollout.EffectKind) bool {
		return slices.ContainsFunc(x.effects, func(f rollout.Effect) bool { return f.Kind == k })
	}
	advance := e.Command != nil && e.Command.Kind == rollout.Advance
	tr.person = tr.person || advance && (e.Command.Override || e.Command.Full)

	// 5
	if b.Phase.Terminal() {
		if *a != *b || len(x.effects) > 0 {
			s.violated(5, "rollout %d was %s and became %s", r.id, b.Phase, a.Phase)
		}
		return
	}
	// 1
	if a.Weight > plan.Steps[a.Step].Weight {
		s.violated(1, "weight %d is wanted at a step of %d", a.Weight, plan.Steps[a.Step].Weight)
	}
	if a.Weight > b.Weight && !advance {
		for _, q := range s.routers {
			if q.read < b.Wanted || !slices.Contains(q.weights, s.was(r, b, q)) {
				s.violated(1, "weight %d → %d, but %s was last read at generation %d with %v, and generation %d is wanted", b.Weight, a.Weight, q.name, q.read, q.weights, b.Wanted)
			}
		}
	}
	if p := plan.Steps[a.Step]; a.Shadow > 0 && !a.Phase.Terminal() && (a.Weight > 0 || a.Phase == rollout.RollingBack || a.Shadow != p.Shadow) {
		s.violated(1, "%d of the requests are copied in %s at step %d, whose share is %d, at weight %d", a.Shadow, a.Phase, a.Step, p.Shadow, a.Weight)
	}
	// What a host says of itself blames no release, and no time passes for it.
	if a.Seen.Misplaced != "" && a.Phase == rollout.Checking && !a.CheckOK && (!a.Held.On || e.Tick != nil && b.Phase == a.Phase && a.InAction != b.InAction) {
		s.violated(0, "checks can't be made, and it is not held for it: %s", a.Seen.Misplaced)
	}
	// 2
	if k := &s.releases[r.rel]; a.Weight > 0 && b.Weight == 0 {
		if !k.promoted || k.altered {
			s.violated(2, "release %d is exposed, which was not promoted or is altered", r.rel)
		}
		for _, q := range s.routers {
			if v := q.find(r.rel); s.fleet == nil && (v == nil || !v.verified) && q.down <= s.now {
				s.violated(2, "release %d is exposed, which %s has not verified", r.rel, q.name)
			}
		}
	}
	// 3
	if a.Old != !plan.First {
		s.violated(3, "the previous release is let go in %s", a.Phase)
	}
	if b.Capacity && !a.Capacity && (a.Phase != rollout.RollingBack || a.Weight > 0) {
		s.violated(3, "the candidate is removed in %s at weight %d", a.Phase, a.Weight)
	}
	if a.Keep < b.Keep && a.Phase != rollout.RollingBack {
		for _, q := range s.routers {
			if q.read < b.Wanted || !q.full && !(a.Lame && q.newer) { // a person may go on without the previous release's
				s.violated(3, "%d of %d instances of the previous release go, but %s was last read at generation %d (all ready %t), and generation %d is wanted", b.Keep-a.Keep, b.Keep, q.name, q.read, q.full, b.Wanted)
			}
		}
	}
	s.checkRollback(r, x, has(rollout.Alarm))
	s.checkVerdict(r, x, advance)
	// 9
	s.checkFacts(r, x)
	// 10
	resumed := s.fleet != nil && e.Command != nil && e.Command.Kind == rollout.Resume // of what was read right
	if b.Held.Cause == rollout.CauseDrift && a.Step > b.Step && e.Seen == nil && !resumed {
		s.violated(10, "step %d → %d while held for drift", b.Step, a.Step)
	}
	if (a.Weight != b.Weight || a.Capacity != b.Capacity) && b.Phase != rollout.Pending && !slices.ContainsFunc(x.effects, func(f rollout.Effect) bool { return f.Kind != rollout.Check && f.Kind != rollout.Alarm }) {
		s.violated(0, "another state is wanted and nobody is told")
	}
	if a.Weight != b.Weight {
		tr.served, tr.samples = s.served, 0
	}
}

// was is the weight that a router had to have in a state.
func (s *sim) was(r *row, b *rollout.State, q *router) int {
	shares := r.plan.Shares(*b)
	if shares == nil {
		return b.Weight
	}
	for i, h := range s.target.Hosts { // which are sorted
		if h == q.name {
			return shares[i].Weight
		}
	}
	return -1
}

// checkRollback is invariant 4.
func (s *sim) checkRollback(r *row, x *step, alarm bool) {
	b, a, e, tr := &x.before, &x.after, x.event, &r.truth
	switch {
	case a.Phase == rollout.RollingBack && b.Phase != rollout.RollingBack:
		tr.back = true
		abort := e.Command != nil && e.Command.Kind == rollout.Abort
		if a.Reason == "" || !alarm && !abort {
			s.violated(4, "it goes back silently (reason %q)", a.Reason)
		}
	case tr.back && a.Phase != rollout.RollingBack:
		switch a.Phase {
		case rollout.RolledBack, rollout.Cancelled:
		case rollout.RollbackFailed:
			if e.Command == nil || e.Command.Kind != rollout.GiveUp || !b.Stuck.On {
				s.violated(4, "given up by nobody")
			}
			return
		default:
			s.violated(4, "it went back and is %s", a.Phase)
		}
		if a.Reason == "" || a.Rollback == "" {
			s.violated(4, "it ended silently")
		}
		for _, q := range s.routers {
			if q.read < b.Wanted || !slices.Contains(q.weights, 0) {
				s.violated(4, "%s, but %s was last read at generation %d with %v, and generation %d is wanted", a.Phase, q.name, q.read, q.weights, b.Wanted)
			}
		}
	case a.Phase == rollout.Succeeded:
		for _, q := range s.routers {
			if q.read < b.Wanted || !slices.Contains(q.weights, wire.FullWeight) {
				s.violated(3, "succeeded, but %s was last read at generation %d with %v", q.name, q.read, q.weights)
			}
		}
		if !tr.left {
			s.violated(3, "succeeded although a bake was left without a pass")
		}
	}
}

// checkVerdict is invariant 6.
func (s *sim) checkVerdict(r *row, x *step, advance bool) {
	b, a, e, tr, plan := &x.before, &x.after, x.event, &r.truth, &r.plan
	if j := e.Judged; j != nil && b.Phase == rollout.Baking && j.Step == b.Step {
		tr.said = j.Verdict
	}
	if a.Step == b.Step {
		return
	}
	override := advance && e.Command.Override && e.Command.Reason != ""
	for i := b.Step; i < a.Step; i++ {
		p := plan.Steps[i]
		if p.Kind != rollout.StepBake || !p.Analysis || override || a.Hurry || advance && e.Command.Full && i > b.Step {
			continue
		}
		if i > b.Step || tr.said != verdict.Pass {
			tr.left = false
			s.violated(6, "step %d was left on %q", i, tr.said)
		}
		if n := s.served - tr.served; r.watch.rate != nil && !plan.First && n < 40 {
			s.violated(6, "step %d passed on %d requests", i, n)
		}
		if r.watch.limit != nil && tr.samples == 0 {
			s.violated(6, "step %d passed without a sample", i)
		}
		k := &s.releases[r.rel]
		// One is bad only beside a stable that is not, and was left alone.
		alone := !s.disturbed && r.old >= 0 && s.releases[r.old].errors < 0.4
		if w := r.watch.rate; alone && w != nil {
			alone = w.Frozen.Bad*20 <= w.Frozen.Total
		}
		if r.watch.rate != nil && !plan.First && k.errors > 0.4 && alone || r.watch.limit != nil && k.load > 10 {
			s.violated(6, "step %d passed a release that is bad: %+v: %s", i, *k, b.Sentence)
		}
	}
	tr.said = ""
}

// checkFacts is invariant 9: each change has its entry, with what it came to.
func (s *sim) checkFacts(r *row, x *step) {
	b, a := &x.before, &x.after
	need := func(changed bool, kind rollout.FactKind, to string) {
		if !changed {
			return
		}
		for _, f := range x.facts {
			if f.Kind == kind && (to == "" || f.To == to) {
				return
			}
		}
		s.violated(9, "%s became %s without an entry", kind, to)
	}
	need(a.Phase != b.Phase, rollout.FactPhase, string(a.Phase))
	need(a.Step != b.Step, rollout.FactStep, strconv.Itoa(a.Step))
	need(a.Weight != b.Weight, rollout.FactWeight, strconv.Itoa(a.Weight))
	need(a.Verdict != b.Verdict && a.Verdict != "", rollout.FactVerdict, string(a.Verdict))
	need(a.Paused != b.Paused, rollout.FactPaused, "")
	need(a.Held != b.Held, rollout.FactHeld, "")
	need(a.Run != b.Run || a.Keep != b.Keep, rollout.FactCounts, "")
	need(a.Stuck != b.Stuck, rollout.FactStuck, "")
	if c := x.event.Command; c != nil {
		need(true, rollout.FactCommand, string(c.Kind))
	}
	_ = r
}

// checkReplay is invariant 7. The entries before the last one never change, so
// that it goes on from where the last check stood.
func (s *sim) checkReplay(was, r *row) {
	from := max(0, len(was.events)-1)
	state := was.replayed
	for i := from; i < len(r.events); i++ {
		if i == len(r.events)-1 {
			r.replayed = state
		}
		var err error
		if state, _, err = rollout.Step(r.plan, state, r.events[i]); err != nil {
			s.violated(7, "event %d of rollout %d can't be replayed: %v", i, r.id, err)
		}
	}
	if len(r.events) > 0 && state != r.state {
		s.violated(7, "replaying rollout %d came to %+v, not %+v", r.id, state, r.state)
	}
	stored, err := rollout.DecodeState(r.encoded)
	if err != nil || stored != r.state {
		s.violated(7, "rollout %d was stored as %+v (%v), not %+v", r.id, stored, err, r.state)
	}
	if r.live {
		return
	}
	b, err := json.Marshal(r.events)
	if err != nil {
		s.violated(7, "%v", err)
	}
	var events []rollout.Event
	if err := json.Unmarshal(b, &events); err != nil {
		s.violated(7, "%v", err)
	}
	if state, err = rollout.Replay(r.plan, events); err != nil || state != r.state {
		s.violated(7, "the log of rollout %d came to %+v (%v), not %+v", r.id, state, err, r.state)
	}
}

// checkDrift is invariant 10: what routers tell at the wanted generation is what
// is wanted, or the rollout is held.
func (s *sim) checkDrift(t *turn, r *row) {
	if t.reports == nil {
		return
	}
	st := &r.state
	switch st.Phase {
	case rollout.Preparing, rollout.Checking, rollout.Baking, rollout.Finishing:
	default:
		return
	}
	if st.Applying || st.Held.Cause == rollout.CauseDrift {
		return
	}
	differs := ""
	for _, q := range t.reports {
		if t.at.Sub(q.Arrived).Abs() > host.Unreachable {
			continue
		}
		svc := &q.Services[0]
		if svc.Generation < st.Wanted {
			return
		}
		w, want := 0, st.Weight
		for _, v := range svc.Revisions {
			if v.Release == id(stranger) {
				differs = q.Host + " runs a release of which nobody knows"
			}
			if v.Release == id(r.rel) {
				w = v.Weight
			}
		}
		for _, x := range s.routers {
			if x.name == q.Host {
				want = s.was(r, st, x)
			}
		}
		if w != want && !s.worker {
			differs = fmt.Sprintf("%s has %d where %d is recorded, and it is %s (held %q)", q.Host, w, want, st.Phase, st.Held.Cause)
		}
	}
	if differs != "" {
		s.violated(10, "%s", differs)
	}
}

// checkTake holds what a router is about to do to the invariants.
func (s *sim) checkTake(r *router, d wire.Desired) {
	if d.Generation <= r.doc.Generation {
		if s.unfenced && (d.Generation == r.doc.Generation || s.turnedAt > 0 && s.now-s.turnedAt < 4*leaseTTL) {
			return // it can't refuse: a clock that jumped let two workers in; drift finds it
		}
		s.violated(1, "%s took generation %d after %d", r.name, d.Generation, r.doc.Generation)
	}
	l := s.store.last()
	for _, v := range r.revs {
		if slices.ContainsFunc(d.Revisions, func(x wire.Revision) bool { return x.Release == id(v.rel) }) {
			continue
		}
		old, cand := v.rel == l.old, v.rel == l.rel
		switch p := l.state.Phase; {
		case p == rollout.RollbackFailed:
		case old && p != rollout.Succeeded:
			s.violated(3, "%s retires release %d while the rollout over it is %s", r.name, v.rel, p)
		case cand && p == rollout.Succeeded:
			s.violated(3, "%s removes release %d, which has succeeded", r.name, v.rel)
		case cand && v.weight > 0 && r.drift == nil && s.turnedAt == 0:
			s.violated(3, "%s removes release %d at weight %d", r.name, v.rel, v.weight)
		}
	}
}

// checkWorld holds all that is to the invariants, after each event.
func (s *sim) checkWorld() {
	l := s.store.live()
	if s.fleet != nil {
		s.checkDriven()
		return
	}
	for _, r := range s.routers {
		for _, v := range r.revs {
			if v.weight > 0 && !v.verified && v.candidate && r.drift == nil {
				s.violated(2, "%s gives %d to release %d, which it did not verify", r.name, v.weight, v.rel)
			}
			if l == nil || v.rel != l.rel || r.drift != nil || l.state.Applying || r.doc.Generation != l.state.Wanted {
				continue
			}
			if v.shadow != l.state.Shadow {
				s.violated(1, "%s copies %d to the candidate at generation %d, and %d is recorded", r.name, v.shadow, l.state.Wanted, l.state.Shadow)
			}
			if v.want != l.state.Weight && l.plan.Instances == 0 {
				s.violated(1, "%s was told %d at generation %d, and %d is recorded", r.name, v.want, l.state.Wanted, l.state.Weight)
			}
			if v.weight > l.plan.Steps[l.state.Step].Weight && l.plan.Instances == 0 && !r.stays {
				s.violated(1, "%s gives %d at a step of %d", r.name, v.weight, l.plan.Steps[l.state.Step].Weight)
			}
		}
	}
}

// checkEnd holds what is left when nothing goes wrong any more.
func (s *sim) checkEnd() {
	l := s.store.last()
	p := &s.store.place
	if l == nil || l.state.Phase == rollout.RollbackFailed || p.current < 0 {
		return
	}
	if l.state.Phase == rollout.Superseded && l.state.Exposed {
		return // it waits for the release that mends it
	}
	for _, r := range s.routers {
		v := r.find(p.current)
		if s.fleet != nil {
			if s.turnedAt == 0 && !s.fleet.strayed && (v == nil || v.weight != wire.FullWeight) {
				s.violated(4, "in the end the fleet does not give all to release %d: %s", p.current, r.shares())
			}
			continue
		}
		if r.drift != nil || s.unfenced && s.turnedAt > 0 {
			continue // between rollouts nobody looks here; see control
		}
		if v == nil || v.want != wire.FullWeight {
			s.violated(4, "in the end %s does not give all to release %d: %s", r.name, p.current, r.shares())
		}
	}
}
