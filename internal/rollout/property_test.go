package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

// TestInvariants drives rollouts against a target that answers late, twice, never
// or wrong, whose routers are turned by somebody else and whose hosts vanish,
// while people ask for everything at any time. [world.after] holds every step to
// the invariants of design.md. In the end the target behaves, and then every
// rollout must come to an end by itself.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(w.actions())
		replays(t, w.plan, w.events, w.s)
		w.ends(t)
		replays(t, w.plan, w.events, w.s)
	})
}

type wish struct {
	weight        int
	shadow        int
	capacity, old bool
	shares        []Share
}

// of is what the wish wants of host i.
func (x wish) of(i int) Share {
	if x.shares != nil {
		return x.shares[i]
	}
	y := Share{Weight: x.weight}
	if x.capacity {
		y.Candidate = 1
	}
	if x.old {
		y.Old = 1
	}
	return y
}

type host struct {
	down             bool
	applied          int64
	weight           int
	candidate, old   bool // is there
	run, keep        int  // instances of them
	strange          bool // somebody else had it run something
	astray           bool // it says that it answers where checks can't ask
	candReady, ready bool // is ready; ready is the previous release's
}

type world struct {
	plan   Plan
	s      State
	events []Event // merged where Merge and Quiet allow it, as a log does
	quiet  bool    // the last one was
	gen    int64
	wishes map[int64]wish
	hosts  []host
	late   []Observation // were made and may still arrive, again and again

	said   verdict.Verdict // by the judge, of this bake, as the test saw it
	baked  time.Duration   // in this bake, as the test counted it
	wasBad bool            // it has rolled back
}

func newWorld(t *rapid.T) *world {
	w := &world{plan: drawPlan(t), wishes: map[int64]wish{}}
	w.s = New(w.plan)
	n := w.plan.Hosts
	if n == 0 {
		n = rapid.IntRange(1, 3).Draw(t, "hosts")
	}
	for range n {
		h := host{old: !w.plan.First, ready: !w.plan.First}
		if h.old {
			h.keep = max(1, w.plan.Instances)
		}
		w.hosts = append(w.hosts, h)
	}
	return w
}

func drawPlan(t *rapid.T) Plan {
	bake := rapid.SampledFrom([]time.Duration{0, time.Second, 2 * time.Minute})
	env := pipeline.Environment{Name: "production"}
	env.Rollout = pipeline.Rollout{
		Strategy:        rapid.SampledFrom([]string{pipeline.Canary, pipeline.AllAtOnce, pipeline.Rolling, pipeline.Rolling, pipeline.Immutable}).Draw(t, "strategy"),
		OnFail:          rapid.SampledFrom([]string{"", "", pipeline.Freeze, pipeline.RollForward}).Draw(t, "onFail"),
		OnDrift:         rapid.SampledFrom([]string{"", "", pipeline.DriftHold}).Draw(t, "onDrift"),
		Bake:            bake.Draw(t, "bake"),
		OnInconclusive:  rapid.SampledFrom([]string{Extend, HoldThere}).Draw(t, "inconclusive"),
		OnNoData:        rapid.SampledFrom([]string{Extend, HoldThere}).Draw(t, "nodata"),
		Timeout:         rapid.SampledFrom([]time.Duration{time.Minute, 30 * time.Minute}).Draw(t, "timeout"),
		RollbackTimeout: rapid.SampledFrom([]time.Duration{10 * time.Second, 5 * time.Minute}).Draw(t, "rollbackTimeout"),
	}
	for _, kind := range []string{pipeline.HTTPErrors, pipeline.Limit} {
		if rapid.Bool().Draw(t, kind) {
			env.Analysis.Metrics = append(env.Analysis.Metrics, pipeline.Metric{Name: kind, Kind: kind,
				OnFail: rapid.SampledFrom([]string{"", "", pipeline.Pause, pipeline.Freeze, pipeline.GoBack}).Draw(t, "onFail of "+kind)})
			bake = rapid.SampledFrom([]time.Duration{time.Second, 2 * time.Minute}) // 0 can't be judged
		}
	}
	if rapid.IntRange(0, 2).Draw(t, "shadow") == 0 && env.Rollout.Strategy != pipeline.Rolling && env.Rollout.Strategy != pipeline.Immutable {
		env.Shadow = &pipeline.Shadow{Share: rapid.SampledFrom([]float64{1, 100}).Draw(t, "share"), Bake: bake.Draw(t, "shadowBake")}
	}
	env.Target = pipeline.Target{Type: "host", Listen: ":1", Instances: rapid.IntRange(1, 3).Draw(t, "instances"), Hosts: []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(t, "planned hosts")]}
	if env.Rollout.Strategy != pipeline.Immutable && rapid.IntRange(0, 3).Draw(t, "worker") == 0 {
		env.Target.Listen, env.Target.Instances, env.Shadow = "", 3, nil
	}
	if env.Rollout.Strategy == pipeline.Rolling {
		env.Rollout.Batches = &pipeline.Batches{Batch: pipeline.Amount{Count: rapid.IntRange(1, env.Target.Total()).Draw(t, "batch")}, Additional: rapid.Bool().Draw(t, "additional")}
		if env.Rollout.Bake == 0 {
			env.Analysis.Metrics = nil
		}
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "steps") {
		env.Rollout.Steps = append(env.Rollout.Steps, pipeline.CanaryStep{Weight: float64(5 + 20*i), Bake: bake.Draw(t, "stepBake")})
	}
	env.Analysis.MaxExtend = rapid.IntRange(0, 2).Draw(t, "maxExtend")
	if rapid.Bool().Draw(t, "verify") {
		env.Verify = []pipeline.Check{{Name: "smoke"}}
	}
	if rapid.IntRange(0, 9).Draw(t, "rollback") == 0 {
		return CompileRollback(env)
	}
	plan, err := Compile(env, rapid.IntRange(0, 4).Draw(t, "previous") > 0)
	if err != nil {
		t.Fatal(err)
	}
	if rapid.IntRange(0, 4).Draw(t, "hold") == 0 { // no strategy has one yet
		i := rapid.IntRange(1, len(plan.Steps)-1).Draw(t, "holdAt")
		plan.Steps = slices.Insert(plan.Steps, i, PlanStep{Kind: StepHold, Weight: plan.Steps[i-1].Weight})
	}
	return plan
}

func (w *world) actions() map[string]func(*rapid.T) {
	some := func(t *rapid.T) *host { return &w.hosts[rapid.IntRange(0, len(w.hosts)-1).Draw(t, "host")] }
	return map[string]func(*rapid.T){
		"":      func(*rapid.T) {},
		"start": func(t *rapid.T) { w.do(t, Event{Start: &Start{}}) },
		"tick": func(t *rapid.T) {
			d := rapid.SampledFrom([]time.Duration{0, time.Second, 20 * time.Second, 2 * time.Minute, 20 * time.Minute}).Draw(t, "elapsed")
			w.do(t, Event{Tick: &Tick{Elapsed: d}})
		},
		"wake": func(t *rapid.T) {
			if d, ok := NextWake(w.plan, w.s); ok {
				w.do(t, Event{Tick: &Tick{Elapsed: d}})
			}
		},
		"behave":  func(t *rapid.T) { w.behave(t) },
		"behave2": func(t *rapid.T) { w.behave(t) },
		"almost": func(t *rapid.T) { // all is as wanted but for one thing
			w.obey()
			h := some(t)
			switch rapid.IntRange(0, 7).Draw(t, "but") {
			case 0, 1:
				h.weight = rapid.SampledFrom([]int{0, 100, 500, 2500, FullWeight}).Draw(t, "weight")
			case 2:
				h.candReady = false
			case 3:
				h.ready = false
			case 4:
				h.old, h.ready, h.keep = false, false, 0
			case 5:
				h.down = true
			case 6:
				h.strange = true
			case 7:
				h.astray = true
			}
			w.see(t, w.observe())
		},
		"good bake": func(t *rapid.T) {
			w.behave(t)
			w.judge(t, verdict.Pass, 0)
			w.do(t, Event{Tick: &Tick{Elapsed: 2 * time.Minute}})
		},
		"host applies": func(t *rapid.T) {
			if w.gen > 0 {
				w.apply(rapid.IntRange(0, len(w.hosts)-1).Draw(t, "which"), int64(rapid.IntRange(1, int(w.gen)).Draw(t, "generation")))
			}
		},
		"ready": func(t *rapid.T) {
			h := some(t)
			h.candReady, h.ready = h.candidate, h.old
		},
		"some go": func(t *rapid.T) { // instances, by themselves or by somebody else
			h := some(t)
			h.run, h.keep = max(0, h.run+rapid.IntRange(-1, 1).Draw(t, "run")), max(0, h.keep-rapid.IntRange(0, 1).Draw(t, "keep"))
		},
		"unready": func(t *rapid.T) {
			h := some(t)
			if rapid.Bool().Draw(t, "old") {
				h.ready = false
			} else {
				h.candReady = false
			}
		},
		"old dies":  func(t *rapid.T) { h := some(t); h.old, h.ready, h.keep = false, false, 0 },
		"host goes": func(t *rapid.T) { some(t).down = true },
		"host back": func(t *rapid.T) { some(t).down = false },
		"host wiped": func(t *rapid.T) {
			*some(t) = host{}
		},
		"drift": func(t *rapid.T) {
			some(t).weight = rapid.SampledFrom([]int{0, 100, 500, 2500, FullWeight}).Draw(t, "weight")
		},
		"stranger":      func(t *rapid.T) { some(t).strange = true },
		"astray":        func(t *rapid.T) { some(t).astray = true },
		"finds its way": func(t *rapid.T) { some(t).astray = false },
		"seen":          func(t *rapid.T) { w.see(t, w.observe()) },
		"later":         func(t *rapid.T) { w.late = append(w.late, w.observe()) },
		"late":          func(t *rapid.T) { w.seeLate(t) },
		"crash": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				o := w.observe()
				o.Failed, o.CandidateReady = "crash loop", false
				w.see(t, o)
			}
		},
		"judged": func(t *rapid.T) {
			v := rapid.SampledFrom([]verdict.Verdict{"", verdict.Pass, verdict.Pass, verdict.Inconclusive, verdict.NoData, verdict.Fail}).Draw(t, "verdict")
			w.judge(t, v, rapid.SampledFrom([]int{0, w.s.Step, 2, 4}).Draw(t, "of"))
		},
		"checked": func(t *rapid.T) {
			w.do(t, Event{Checked: &Checked{
				Step: rapid.SampledFrom([]int{w.s.Step, w.s.Step, 1}).Draw(t, "of"),
				OK:   rapid.IntRange(0, 3).Draw(t, "ok") > 0,
			}})
		},
		"command": func(t *rapid.T) {
			w.do(t, Event{Command: &Command{
				Kind:     rapid.SampledFrom([]CommandKind{Advance, Advance, Pause, Resume, Resume, Abort, GiveUp, Supersede, "dance"}).Draw(t, "kind"),
				By:       "local:ana",
				Reason:   rapid.SampledFrom([]string{"", "because"}).Draw(t, "reason"),
				Full:     rapid.Bool().Draw(t, "full"),
				Override: rapid.Bool().Draw(t, "override"),
			}})
		},
	}
}

func (w *world) apply(i int, gen int64) {
	h := &w.hosts[i]
	if h.down || gen <= h.applied { // an agent refuses what is older
		return
	}
	x := w.wishes[gen]
	h.applied, h.weight, h.strange = gen, x.of(i).Weight, false
	h.run, h.keep = x.of(i).Candidate, x.of(i).Old
	h.candReady, h.ready = h.candReady && x.capacity, h.ready && x.old
	h.candidate, h.old = x.capacity, x.old
}

// behave makes the target do all that is wanted, and report it.
func (w *world) behave(t *rapid.T) {
	w.obey()
	w.see(t, w.observe())
}

func (w *world) obey() {
	for i := range w.hosts {
		h := &w.hosts[i]
		h.down, h.strange, h.astray = false, false, false
		w.apply(i, w.gen)
		if w.gen > 0 { // what drifted is put back by the next one
			x := w.wishes[w.gen].of(i)
			h.weight, h.run, h.keep = x.Weight, x.Candidate, x.Old
			h.candidate, h.old = w.wishes[w.gen].capacity, w.wishes[w.gen].old
		}
		h.candReady, h.ready = h.candidate, h.old
	}
}

func (w *world) observe() Observation {
	o := Observation{CandidateReady: true, OldReady: true, MinWeight: FullWeight}
	shares := w.plan.Shares(w.s)
	for i, h := range w.hosts {
		if h.down {
			o.Missing++
			continue
		}
		if o.Hosts == 0 || h.applied < o.Generation {
			o.Generation = h.applied
		}
		o.Hosts++
		if h.astray {
			o.Misplaced = "a host says a wrong address"
		}
		if h.strange {
			o.Off = "somebody started something"
		}
		if shares != nil {
			w.held(&o, h, shares[i])
			continue
		}
		o.MinWeight, o.MaxWeight = min(o.MinWeight, h.weight), max(o.MaxWeight, h.weight)
		o.CandidateReady = o.CandidateReady && h.candReady
		o.OldReady = o.OldReady && (h.ready || w.plan.First)
		o.CandidateSeen, o.OldSeen = o.CandidateSeen || h.candidate, o.OldSeen || h.old
	}
	if o.Hosts == 0 {
		o.MinWeight, o.CandidateReady, o.OldReady = 0, false, false
	}
	return o
}

// held holds one host to its share, as package host does.
func (w *world) held(o *Observation, h host, x Share) {
	weight := h.weight
	if w.plan.Worker {
		weight = h.run * FullWeight / max(1, h.run+h.keep)
	}
	o.MinWeight, o.MaxWeight = min(o.MinWeight, weight), max(o.MaxWeight, weight)
	o.CandidateReady = o.CandidateReady && h.run >= x.Candidate && (h.candReady || x.Candidate == 0)
	o.OldReady = o.OldReady && (x.Old == 0 || h.ready && h.keep >= x.Old)
	o.CandidateSeen, o.OldSeen = o.CandidateSeen || h.run > 0, o.OldSeen || h.keep > 0
	if !w.plan.Worker && h.weight != x.Weight || h.run > x.Candidate || h.keep > x.Old {
		o.Off = "somebody did something"
	}
}

func (w *world) see(t *rapid.T, o Observation) {
	w.late = append(w.late, o)
	w.do(t, Event{Seen: &o})
}

func (w *world) seeLate(t *rapid.T) {
	if len(w.late) > 0 {
		o := rapid.SampledFrom(w.late).Draw(t, "late")
		w.do(t, Event{Seen: &o})
	}
}

func (w *world) judge(t *rapid.T, v verdict.Verdict, of int) {
	if w.s.Phase == Baking && v != verdict.Fail && (of == 0 || of == w.s.Step) && w.plan.Steps[w.s.Step].Kind == StepBake {
		w.said = v
	}
	j := Judged{Step: of, Verdict: v, Sentence: "so it is"}
	if v == verdict.Fail {
		j.Failed = rapid.SampledFrom([][]string{nil, {pipeline.HTTPErrors}, {pipeline.Limit}, {pipeline.HTTPErrors, pipeline.Limit}}).Draw(t, "failed")
	}
	w.do(t, Event{Judged: &j})
}

// do steps e, as control does, and holds the decision to the invariants.
func (w *world) do(t *rapid.T, e Event) {
	before := w.s
	w.early(t, e)
	after, effects, err := Step(w.plan, before, e)
	if err != nil {
		if after != before || effects != nil {
			t.Fatalf("%s was refused (%v) and still changed something", e.name(), err)
		}
		if !errors.Is(err, ErrRefused) && !errors.Is(err, ErrTransition) {
			t.Fatalf("%s: %v", e.name(), err)
		}
		return
	}
	if d := e.Tick; d != nil && before.Phase == Baking && !before.Paused.On && !before.Held.On {
		w.baked += d.Elapsed
	}
	w.after(t, before, after, e, effects)
	if before.Step != after.Step {
		w.said, w.baked = "", 0
	}
	if before.Extended != after.Extended {
		w.baked = 0
	}
	w.s = after
	w.log(e, Quiet(before, after, e, effects))
	if wants(effects) {
		w.gen++
		w.wishes[w.gen] = wish{after.Weight, after.Shadow, after.Capacity, after.Old, w.plan.Shares(after)}
		if rapid.IntRange(0, 9).Draw(t, "between") == 0 {
			w.seeLate(t) // before the generation is known
		}
		if w.s.Applying {
			w.do(t, Event{Applied: &Applied{Generation: w.gen}})
		}
	}
}

func (w *world) log(e Event, quiet bool) {
	if last := len(w.events) - 1; last >= 0 && w.quiet {
		if merged, ok := Merge(w.events[last], e); ok {
			w.events[last], w.quiet = merged, quiet
			return
		}
	}
	w.events, w.quiet = append(w.events, e), quiet
}

func wants(effects []Effect) bool {
	return slices.ContainsFunc(effects, func(f Effect) bool { return f.Kind == Apply })
}

// early asserts that a tick before the wake-up changes nothing but counters, so
// that sleeping until then loses nothing.
func (w *world) early(t *rapid.T, e Event) {
	if e.Tick == nil {
		return
	}
	d, ok := NextWake(w.plan, w.s)
	if ok && e.Tick.Elapsed >= d {
		return
	}
	s, effects, err := Step(w.plan, w.s, e)
	if err != nil || len(effects) > 0 || len(Facts(w.s, s, e)) > 0 {
		t.Fatalf("a tick of %s before the wake-up in %s (%t) did something: %v %v %v", e.Tick.Elapsed, d, ok, effects, Facts(w.s, s, e), err)
	}
}

// after holds one decision to the invariants, by their numbers in design.md.
func (w *world) after(t *rapid.T, b, a State, e Event, effects []Effect) {
	fail := func(what string) {
		t.Helper()
		t.Fatalf("%s\n%s\nbefore %+v\nafter  %+v\neffects %v", what, e.name(), b, a, effects)
	}
	seen := a.Seen
	wanted, known := b.Wanted, !b.Applying
	if e.Applied != nil {
		wanted, known = e.Applied.Generation, true
	}
	fresh := known && seen.Generation >= wanted
	everywhere := fresh && seen.Hosts > 0 && seen.Missing == 0
	counted := w.plan.counted()
	at := func(weight int) bool {
		switch {
		case counted && weight == 0:
			return seen.MaxWeight == 0
		case counted && weight == FullWeight && !w.plan.Worker:
			return seen.Off == "" && seen.MinWeight == FullWeight
		case counted:
			return seen.Off == ""
		}
		return seen.MinWeight == weight && seen.MaxWeight == weight
	}
	asSet := func(weight int) bool { return at(weight) && seen.Off == "" }
	override := e.Command != nil && e.Command.Kind == Advance && e.Command.Override && e.Command.Reason != ""
	advance := e.Command != nil && e.Command.Kind == Advance

	// 1, 10: exposure is the plan's, and rises only over routers read to be right.
	if a.Weight > w.plan.Steps[a.Step].Weight || a.Weight > 0 && !a.Exposed {
		fail("1: more exposed than the step allows")
	}
	if a.Weight > b.Weight {
		if !advance && !(everywhere && asSet(b.Weight)) {
			fail("1: raised without having read every router at the weight before")
		}
		if b.Held.Cause == CauseDrift && e.Seen == nil || fresh && seen.Hosts > 0 && !asSet(b.Weight) || b.Paused.On && e.Command == nil {
			fail("10: raised on drift, or while paused")
		}
	}
	// Copies are made where the plan says so, before any user comes; nobody goes on with
	// them who goes back.
	if a.Shadow > 0 && !a.Phase.Terminal() && (a.Weight > 0 || a.Phase == RollingBack || a.Shadow != w.plan.Steps[a.Step].Shadow) {
		fail("1: copies where the plan has none")
	}
	if known && !a.Applying && w.wishes[a.Wanted].shadow != a.Shadow && !a.Phase.Terminal() {
		fail("1: hosts were told to copy another share")
	}
	w.asked(b, a, e, fail)
	switch a.Phase {
	case Preparing, Checking, Baking, Finishing:
		if b.Phase != Pending && fresh && a.Wanted == wanted && b.Weight == a.Weight && seen.Hosts > 0 && !asSet(a.Weight) && (!counted || b.Run == a.Run && b.Keep == a.Keep) && a.Held.Cause != CauseDrift {
			fail("10: drift is not held")
		}
	}
	if a.Step > b.Step && b.Phase == Preparing && !seen.CandidateReady {
		fail("1: exposed before it was ready")
	}
	if a.CheckOK && !b.CheckOK && !(b.Frozen != "" && override) && (e.Checked == nil || e.Checked.Step != b.Step) || e.Checked != nil && e.Checked.Step != b.Step && a != b {
		fail("6: the checks of another step were taken")
	}
	if (a.Phase == Baking || a.Phase == Finishing) && seen.Missing > 0 && a.Held.Cause != CauseUnreachable && a.Held.Cause != CauseDrift && a.Held.Cause != CauseFrozen {
		fail("a host is missing and it is not held")
	}
	if b.Held.Cause == CauseDrift && a.Held.Cause != CauseDrift && a.Phase != RollingBack && a.Phase != Superseded && !(fresh && asSet(b.Weight)) {
		fail("10: drift was forgotten")
	}
	// 3: the previous release is there as long as the rollout is, and the
	// candidate as long as it has traffic.
	if a.Old == w.plan.First {
		fail("3: the previous release was let go")
	}
	if b.Capacity && !a.Capacity && (a.Phase != RollingBack || a.Weight != 0 || seen.MaxWeight != 0) {
		fail("3: the candidate was removed while it had traffic")
	}
	if b.Held.Cause == CauseDrift && w.plan.OnDrift != "" && !b.Resumed && a.Held.Cause != CauseDrift && a.Phase != RollingBack && a.Phase != Superseded {
		fail("10: drift was put back without a person")
	}
	w.counts(b, a, e, everywhere, fresh, fail)
	w.frozen(b, a, e, override, fail)
	if a.Weight < b.Weight && (a.Phase != RollingBack || !w.plan.Worker && !w.plan.First && !seen.OldReady && !seen.OldSeen) {
		fail("3: traffic was moved to nothing")
	}
	// 4: rollbacks.
	w.wasBad = w.wasBad || a.Phase == RollingBack
	switch a.Phase {
	case Succeeded:
		if b.Phase != Succeeded && (w.wasBad || !everywhere || !at(FullWeight) || !seen.CandidateReady) {
			fail("4: success that was not observed, or of a rollback")
		}
	case RollingBack:
		if b.Phase == RollingBack && (a.Back < b.Back || a.Reason != b.Reason) {
			fail("4: the rollback began anew")
		}
		if b.Phase != RollingBack && (!wants(effects) || a.Reason == "" || a.Paused.On || a.Held.On) {
			fail("4: rolling back without doing it or without saying why")
		}
	case RolledBack, Cancelled:
		if b.Phase == RollingBack && !(everywhere && at(0) && (w.plan.First || !a.Exposed || seen.OldReady) && a.Reason != "" && !a.Capacity && a.Rollback == RollbackDone) {
			fail("4: ended without having read the restore point")
		}
		if a.Phase == Cancelled && (a.Exposed || !a.Aborted) || a.Phase == RolledBack && a.Aborted && !a.Exposed {
			fail("4: cancelled is for aborts before exposure")
		}
	case RollbackFailed:
		if b.Phase == RollingBack && (e.Command == nil || e.Command.Kind != GiveUp || !b.Stuck.On) {
			fail("4: only a person gives up, and only a stuck one")
		}
	}
	if w.wasBad && a.Phase != RollingBack && !a.Phase.Terminal() {
		fail("4: it went forward again")
	}
	if b.Stuck.On && !a.Stuck.On && a.Phase == RollingBack {
		fail("4: no longer stuck without an end")
	}
	if j := e.Judged; j != nil && j.Verdict == verdict.Fail && b.Judged() && !b.Phase.Terminal() && b.Phase != RollingBack {
		does, waived := w.plan.on(b.open(*j)), len(j.Failed) > 0 && len(b.open(*j)) == 0
		switch {
		case a.Weight > b.Weight:
			fail("4: fail raised the weight")
		case waived && (a.Phase != b.Phase || a.Frozen != b.Frozen || a.Paused != b.Paused):
			fail("4: what a person took for no failure was acted on")
		case waived:
		case does == "" && a.Phase != RollingBack, does == pipeline.Pause && !a.Paused.On && a.Frozen == "", does != "" && does != pipeline.Pause && a.Frozen == "":
			fail(fmt.Sprintf("4: fail of %v did not %q", j.Failed, does))
		}
	}
	if a.Waived != b.Waived && (e.Command == nil || e.Command.Kind != Resume && (e.Command.Kind != Advance || !e.Command.Override)) {
		fail("4: nobody took a failure for none")
	}
	// 5
	if b.Phase.Terminal() && (a != b || effects != nil) {
		fail("5: terminal is terminal")
	}
	// 6: a bake that is judged is left on a pass after its time, or by a person.
	for i := b.Step; i < a.Step; i++ {
		p := w.plan.Steps[i]
		if p.Kind != StepBake || i == b.Step && override || b.Frozen != "" && override || b.Hurry {
			continue
		}
		switch {
		case a.Hurry && i > b.Step:
		case advance && e.Command.Full && (override || i > b.Step): // skipped by a person, on the present pass
		case p.Analysis && (i != b.Step || w.said != verdict.Pass):
			fail("6: left without positive evidence")
		case w.baked < p.Bake && !advance:
			fail("6: left before its time")
		}
	}
	if advance && a.Step > b.Step && !override && w.plan.Steps[b.Step].Analysis && w.said != verdict.Pass {
		fail("6: advanced without a pass or an override")
	}
	w.facts(t, b, a, e, fail)
	// The wish and the effect go together, once.
	if (a.Weight != b.Weight || a.Capacity != b.Capacity || a.Run != b.Run || a.Keep != b.Keep || a.Moved != b.Moved || a.Shadow != b.Shadow) && !wants(effects) {
		fail("what is wanted changed and nobody is told")
	}
	if wants(effects) && !a.Applying {
		fail("an observation from before the effect could complete it")
	}
	if d, ok := NextWake(w.plan, a); ok && d <= 0 {
		fail("it never sleeps")
	}
	if x := Explain(w.plan, a); x.Now == "" || x.Why == "" || x.Next == "" {
		fail("not explained: " + x.Now + "/" + x.Why + "/" + x.Next)
	}
}

// facts holds Facts to 9: all that changed, and nothing else.
func (w *world) facts(t *rapid.T, b, a State, e Event, fail func(string)) {
	got := map[FactKind]Fact{}
	for _, f := range Facts(b, a, e) {
		if _, twice := got[f.Kind]; twice || f.By == "" {
			fail("9: a fact twice or by nobody: " + string(f.Kind))
		}
		got[f.Kind] = f
	}
	want := map[FactKind]bool{
		FactCommand: e.Command != nil, FactPhase: a.Phase != b.Phase, FactStep: a.Step != b.Step,
		FactWeight: a.Weight != b.Weight, FactVerdict: a.Verdict != b.Verdict, FactExtended: a.Extended != b.Extended,
		FactPaused: a.Paused != b.Paused, FactHeld: a.Held != b.Held, FactStuck: a.Stuck != b.Stuck,
		FactCounts:   counts(a) != counts(b),
		FactCapacity: a.Capacity != b.Capacity, FactRollback: a.Rollback != b.Rollback,
		FactCheck: e.Checked != nil && b.Phase == Checking && e.Checked.Step == b.Step && !b.CheckOK,
	}
	for kind, changed := range want {
		if _, ok := got[kind]; ok != changed {
			fail("9: fact " + string(kind) + " is " + strconv.FormatBool(ok))
		}
	}
	if f, ok := got[FactWeight]; ok && f.To != strconv.Itoa(a.Weight) {
		fail("9: a wrong fact")
	}
	if f, ok := got[FactCommand]; ok && f.By == release.System {
		fail("9: a person's command by the system")
	}
}

// replays holds what was recorded to 7.
func replays(t *rapid.T, plan Plan, recorded []Event, want State) {
	b, err := json.Marshal(recorded)
	if err != nil {
		t.Fatal(err)
	}
	var events []Event
	if err := json.Unmarshal(b, &events); err != nil {
		t.Fatal(err)
	}
	s, err := Replay(plan, events)
	if err != nil || s != want {
		t.Fatalf("7: replay came to %+v (%v), not %+v", s, err, want)
	}
	if b, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if s, err = DecodeState(b); err != nil || s != want {
		t.Fatalf("7: JSON came to %+v (%v), not %+v", s, err, want)
	}
}

// ends asserts liveness: from wherever it stands, once the target behaves, the
// judge passes and the checks are answered, it comes to the end it must.
func (w *world) ends(t *rapid.T) {
	w.late = nil
	want := []Phase{Succeeded}
	switch {
	case w.s.Phase.Terminal():
		want = []Phase{w.s.Phase}
	case w.s.Phase == RollingBack:
		want = []Phase{RolledBack, Cancelled}
	case rapid.Bool().Draw(t, "abort in the end"):
		w.do(t, Event{Command: &Command{Kind: Abort, By: "local:ana"}})
		want = []Phase{RolledBack, Cancelled}
	}
	w.do(t, Event{Command: &Command{Kind: Resume, By: "local:ana"}}) // refused where it is not paused
	for range 100 {
		if w.s.Phase.Terminal() {
			break
		}
		switch w.s.Held.Cause {
		case CauseFrozen:
			w.do(t, Event{Command: &Command{Kind: Advance, By: "local:ana", Override: true, Reason: "it is well"}})
		case CauseDrift:
			w.do(t, Event{Command: &Command{Kind: Resume, By: "local:ana"}})
		default:
		}
		switch w.s.Phase {
		case Pending:
			w.do(t, Event{Start: &Start{}})
		case Checking:
			w.do(t, Event{Checked: &Checked{Step: w.s.Step, OK: true}})
		case Baking:
			if w.s.Held.Cause == CausePlan {
				w.do(t, Event{Command: &Command{Kind: Advance, By: "local:ana"}})
			} else {
				w.judge(t, verdict.Pass, w.s.Step)
			}
		default:
		}
		w.behave(t)
		if d, ok := NextWake(w.plan, w.s); ok && (w.s.Phase == Baking || w.s.Phase == RollingBack) {
			w.do(t, Event{Tick: &Tick{Elapsed: d}})
		}
	}
	if !slices.Contains(want, w.s.Phase) {
		t.Fatalf("with a good target it came to %+v, not %v", w.s, want)
	}
}
