package rollout

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/verdict"
)

var ecs = Mover{Name: "ECS", Pauses: true, Final: "the tasks' old addresses"}

// What a target that moves by itself can't do is refused with the nearest.
func TestCompileDriven(t *testing.T) {
	env := shadowed(pipeline.Canary)
	env.Shadow = nil
	p, err := CompileDriven(env, true, ecs)
	if err != nil || outline(p) != "prepare drive@500 bake@500 drive@10000 retire@10000" || p.Engine != 3 {
		t.Errorf("%s, engine %d, %v", outline(p), p.Engine, err)
	}
	env.Hooks.BeforeTraffic = []pipeline.Check{{Name: "before"}}
	if p, err = CompileDriven(env, false, ecs); err != nil || outline(p) != "prepare before@0 drive@10000 retire@10000" {
		t.Errorf("a first release: %s, %v", outline(p), err)
	}
	if p = CompileDrivenRollback(env, ecs); p.Validate() != nil || outline(p) != "prepare drive@10000 retire@10000" {
		t.Errorf("a rollback: %s, %v", outline(p), p.Validate())
	}
	for says, spoil := range map[string]func(*pipeline.Environment, *Mover){
		"the nearest is all-at-once": func(_ *pipeline.Environment, m *Mover) { m.Pauses = false },
		"nobody moves":               func(_ *pipeline.Environment, m *Mover) { m.Name = "" },
		"copies no requests":         func(e *pipeline.Environment, _ *Mover) { e.Shadow = &pipeline.Shadow{} },
		"the nearest is rollback":    func(e *pipeline.Environment, _ *Mover) { e.Rollout.OnFail = pipeline.Freeze },
		"is not known":               func(e *pipeline.Environment, _ *Mover) { e.Rollout.Strategy = "leap" },
		"at least one step":          func(e *pipeline.Environment, _ *Mover) { e.Rollout.Steps = nil },
		"weights must rise":          func(e *pipeline.Environment, _ *Mover) { e.Rollout.Steps = append(e.Rollout.Steps, e.Rollout.Steps[0]) },
	} {
		e, m := env, ecs
		spoil(&e, &m)
		if _, err := CompileDriven(e, true, m); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	for says, spoil := range map[string]func(*Plan){
		"engine 2 has not all": func(p *Plan) { p.Engine = 2 },
		"names its mover":      func(p *Plan) { p.Mover.Name = "" },
		"would move what ECS":  func(p *Plan) { p.Steps[1].Kind = StepShift },
		"doesn't wait between": func(p *Plan) { p.Mover.Pauses = false },
		"holds on drift":       func(p *Plan) { p.OnDrift = "" },
	} {
		p, _ := CompileDriven(env, true, ecs)
		p.Steps = slices.DeleteFunc(p.Steps, func(s PlanStep) bool { return s.Kind == StepCheck })
		spoil(&p)
		if err := p.Validate(); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// fleet is a driven target, and the control plane's calls to it. It keeps what it
// was asked under a key, moves by itself, and may wait where the plan doesn't.
type fleet struct {
	known, waiting, stopped, reverting, reverted, broken bool
	weight                                               int
	starts                                               int // deployments that were begun
	moved                                                int // the furthest that it was led to
}

func (f *fleet) observation(plan Plan) Observation {
	d := Driving{Known: f.known, Waiting: f.waiting, Stopped: f.stopped, Reverted: f.reverted, Done: f.weight == FullWeight && !f.reverting}
	o := Observation{Hosts: 1, MinWeight: f.weight, MaxWeight: f.weight, CandidateReady: true, OldReady: true, OldSeen: !plan.First, CandidateSeen: f.known, Driving: d}
	if f.broken {
		o.Failed, o.CandidateReady = "tasks exit", false
	}
	return o
}

type driven struct {
	plan   Plan
	s      State
	f      fleet
	gen    int64
	asks   map[int64]Ask
	open   int64 // promised, and no outcome kept
	acked  int64
	late   []Observation
	events []Event
	quiet  bool
	said   verdict.Verdict
	keys   map[int64]bool
}

// TestDrivenInvariants drives a target that moves by itself, loses answers, is late
// or silent, goes further than it may, dies and is turned by others, while people
// ask for everything. Each decision is held to the invariants, with the weight as
// the target tells it. In the end it behaves, and each rollout comes to its end.
func TestDrivenInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newDriven(t)
		t.Repeat(w.actions())
		replays(t, w.plan, w.events, w.s)
		w.ends(t)
		replays(t, w.plan, w.events, w.s)
		if len(w.keys) > 1 || w.f.starts > 1 {
			t.Fatalf("%d keys, %d deployments", len(w.keys), w.f.starts)
		}
	})
}

func newDriven(t *rapid.T) *driven {
	env := pipeline.Environment{Name: "production", Target: pipeline.Target{Listen: ":1", Instances: 1}}
	env.Rollout = pipeline.Rollout{
		Strategy:        rapid.SampledFrom([]string{pipeline.Canary, pipeline.AllAtOnce}).Draw(t, "strategy"),
		Bake:            rapid.SampledFrom([]time.Duration{time.Second, 2 * time.Minute}).Draw(t, "bake"),
		Timeout:         rapid.SampledFrom([]time.Duration{time.Minute, 30 * time.Minute}).Draw(t, "timeout"),
		RollbackTimeout: rapid.SampledFrom([]time.Duration{10 * time.Second, 5 * time.Minute}).Draw(t, "rollbackTimeout"),
		OnNoData:        rapid.SampledFrom([]string{Extend, HoldThere}).Draw(t, "nodata"),
		Steps:           []pipeline.CanaryStep{{Weight: 5, Bake: time.Minute}, {Weight: 25, Bake: time.Minute}},
	}
	env.Analysis.MaxExtend = 1
	if rapid.Bool().Draw(t, "judged") {
		env.Analysis.Metrics = []pipeline.Metric{{Kind: pipeline.HTTPErrors}}
	}
	if rapid.Bool().Draw(t, "verify") {
		env.Verify = []pipeline.Check{{Name: "smoke"}}
	}
	plan, err := CompileDriven(env, rapid.IntRange(0, 4).Draw(t, "previous") > 0, ecs)
	if err != nil {
		t.Fatal(err)
	}
	return &driven{plan: plan, s: New(plan), asks: map[int64]Ask{}, keys: map[int64]bool{}}
}

func (w *driven) actions() map[string]func(*rapid.T) {
	tick := func(t *rapid.T, d time.Duration) { w.do(t, Event{Tick: &Tick{Elapsed: d}}) }
	return map[string]func(*rapid.T){
		"":      func(*rapid.T) {},
		"start": func(t *rapid.T) { w.do(t, Event{Start: &Start{}}) },
		"tick": func(t *rapid.T) {
			tick(t, rapid.SampledFrom([]time.Duration{time.Second, 30 * time.Second, 2 * time.Minute}).Draw(t, "elapsed"))
		},
		"wake": func(t *rapid.T) {
			if d, ok := NextWake(w.plan, w.s); ok {
				tick(t, d)
			}
		},
		"good turn": func(t *rapid.T) { w.turn(t, true); w.move(); w.see(t) },
		"good bake": func(t *rapid.T) {
			w.turn(t, true)
			w.move()
			w.see(t)
			w.judge(t, verdict.Pass)
			tick(t, time.Minute)
		},
		"call":        func(t *rapid.T) { w.turn(t, true) },
		"answer lost": func(t *rapid.T) { w.turn(t, false) },
		"moves":       func(*rapid.T) { w.move() },
		"waits": func(t *rapid.T) { // at a pause of its own
			if w.f.known && !w.f.reverting && w.f.weight < w.f.moved {
				w.f.weight = rapid.IntRange(w.f.weight, w.f.moved).Draw(t, "at")
				w.f.waiting = true
			}
		},
		"goes too far": func(t *rapid.T) {
			if w.f.known && !w.f.reverting && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				w.f.weight, w.f.waiting = rapid.SampledFrom([]int{0, 600, 2500, FullWeight}).Draw(t, "weight"), rapid.Bool().Draw(t, "waiting")
			}
		},
		"somebody stops it": func(t *rapid.T) {
			if w.f.known && !w.f.reverting && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				w.f.stopped = true
			}
		},
		"fails": func(t *rapid.T) { w.f.broken = rapid.IntRange(0, 3).Draw(t, "really") == 0 },
		"seen":  func(t *rapid.T) { w.see(t) },
		"silent": func(t *rapid.T) {
			w.do(t, Event{Seen: &Observation{Generation: w.acked, Missing: 1, Unreachable: "503"}})
		},
		"late": func(t *rapid.T) {
			if len(w.late) > 0 {
				o := rapid.SampledFrom(w.late).Draw(t, "which")
				w.do(t, Event{Seen: &o})
			}
		},
		"judged": func(t *rapid.T) {
			w.judge(t, rapid.SampledFrom([]verdict.Verdict{verdict.Pass, verdict.Pass, verdict.Inconclusive, verdict.NoData, verdict.Fail}).Draw(t, "verdict"))
		},
		"checked": func(t *rapid.T) {
			w.do(t, Event{Checked: &Checked{Step: w.s.Step, OK: rapid.IntRange(0, 3).Draw(t, "ok") > 0}})
		},
		"command": func(t *rapid.T) {
			w.do(t, Event{Command: &Command{
				Kind: rapid.SampledFrom([]CommandKind{Advance, Advance, Pause, Resume, Abort, GiveUp}).Draw(t, "kind"), By: "local:ana",
				Reason: rapid.SampledFrom([]string{"", "because"}).Draw(t, "reason"), Full: rapid.Bool().Draw(t, "full"), Override: rapid.Bool().Draw(t, "override"),
			}})
		},
	}
}

// turn is what control does with a promise: it observes first, and calls only if
// what was asked is not visible. An answer that is lost keeps no outcome.
func (w *driven) turn(t *rapid.T, answered bool) {
	a, ok := w.asks[w.open]
	if !ok {
		return
	}
	if !a.Followed(w.f.observation(w.plan)) {
		f := &w.f
		switch a.Kind {
		case Drive:
			w.keys[a.Key] = true
			if rapid.IntRange(0, 2).Draw(t, "it forgets") > 0 {
				f.starts++
				f.known, f.moved = true, w.plan.Steps[w.first()].Weight
			}
		case Continue:
			if f.known && f.waiting && f.weight == a.From {
				f.waiting, f.moved = false, w.reach(a.From)
			}
		case Stop:
			f.stopped = f.known
		case Revert:
			f.reverting = f.known
		default:
			t.Fatalf("asked for %q", a.Kind)
		}
	}
	if answered {
		w.acked, w.open = w.open, 0
	}
}

func (w *driven) first() int {
	return slices.IndexFunc(w.plan.Steps, func(s PlanStep) bool { return s.Kind == StepDrive })
}

// reach is how far the target goes when it is led on from a weight: to the plan's
// next pause point.
func (w *driven) reach(from int) int {
	for _, s := range w.plan.Steps {
		if s.Kind == StepDrive && s.Weight > from {
			return s.Weight
		}
	}
	return FullWeight
}

// move lets the target go where it was led to.
func (w *driven) move() {
	f := &w.f
	switch {
	case !f.known:
	case f.reverting:
		*f = fleet{known: true, reverting: true, reverted: true, starts: f.starts, broken: f.broken}
	case f.stopped || f.waiting || f.weight > f.moved:
	default:
		f.weight = f.moved
		f.waiting = f.weight < FullWeight
	}
}

func (w *driven) see(t *rapid.T) {
	o := w.f.observation(w.plan)
	o.Generation = w.acked
	w.late = append(w.late, o)
	w.do(t, Event{Seen: &o})
}

func (w *driven) judge(t *rapid.T, v verdict.Verdict) {
	if w.s.Phase == Baking && v != verdict.Fail {
		w.said = v
	}
	w.do(t, Event{Judged: &Judged{Step: w.s.Step, Verdict: v, Sentence: "so it is"}})
}

func (w *driven) do(t *rapid.T, e Event) {
	b := w.s
	a, effects, err := Step(w.plan, b, e)
	if err != nil {
		if a != b || effects != nil || !errors.Is(err, ErrRefused) && !errors.Is(err, ErrTransition) {
			t.Fatalf("%s: %v", e.name(), err)
		}
		return
	}
	if d := e.Tick; d != nil {
		if at, ok := NextWake(w.plan, b); (!ok || d.Elapsed < at) && !Quiet(b, a, e, effects) {
			t.Fatalf("a tick of %s before the wake-up in %s did something: %v", d.Elapsed, at, effects)
		}
	}
	w.after(t, b, a, e, effects)
	if b.Step != a.Step {
		w.said = ""
	}
	w.s = a
	quiet := Quiet(b, a, e, effects)
	if last := len(w.events) - 1; last >= 0 && w.quiet {
		if merged, ok := Merge(w.events[last], e); ok {
			w.events, e = w.events[:last], merged
		}
	}
	w.events, w.quiet = append(w.events, e), quiet
	if asks(effects) == "" {
		return
	}
	w.gen++
	w.do(t, Event{Applied: &Applied{Generation: w.gen}})
	w.asks[w.gen], w.open = w.s.Ask(), w.gen // the newest promise is carried out
}

// asks is what the effects ask of the target.
func asks(effects []Effect) (k EffectKind) {
	for _, f := range effects {
		if f.Kind == Drive || f.Kind == Continue || f.Kind == Stop || f.Kind == Revert {
			k += f.Kind
		}
	}
	return k
}

// after holds one decision to the invariants of design.md.
func (w *driven) after(t *rapid.T, b, a State, e Event, effects []Effect) {
	fail := func(what string) {
		t.Helper()
		t.Fatalf("%s\n%s\nbefore %+v\nafter  %+v\neffects %v", what, e.name(), b, a, effects)
	}
	o, d, asked := a.Seen, a.Seen.Driving, asks(effects)
	everywhere := !b.Applying && o.Generation >= b.Wanted && o.Hosts > 0 && o.Missing == 0
	command := func(k CommandKind) bool { return e.Command != nil && e.Command.Kind == k }
	forward := a.Phase != RollingBack && !a.Phase.Terminal() && a.Phase != Pending
	// 1, 10
	switch {
	case wants(effects):
		fail("a driven target is applied to")
	case a.Weight > w.plan.Steps[a.Step].Weight:
		fail("1: more is allowed than the step's")
	case a.Weight > b.Weight && !command(Advance) && !(everywhere && o.MaxWeight == b.Weight):
		fail("1: it may go further without having been read where it was")
	case forward && b.Phase != Pending && o.Hosts > 0 && o.Missing == 0 && o.MaxWeight > a.Weight && a.Held.Cause != CauseDrift:
		fail("10: it is further than it may be, and not held")
	case b.Held.Cause == CauseDrift && a.Step > b.Step && !(e.Seen != nil && b.Resumed || command(Resume)):
		fail("10: a step on drift")
	case forward && o.Missing > 0 && !a.Held.On:
		fail("silence is not held")
	case asked == Continue && (a.Held.On || a.Paused.On):
		fail("10: led on while held or paused")
	case (asked == Drive || asked == Continue) && !forward:
		fail("4: exposed on the way back")
	case a.Key != b.Key && (b.Key != 0 || e.Applied == nil):
		fail("a second key")
	}
	// 4: a rollback that is observed, stop before revert.
	if e.Judged != nil && e.Judged.Verdict == verdict.Fail && b.Exposed && !b.Phase.Terminal() && a.Phase != RollingBack {
		fail("4: fail did not stop exposure")
	}
	if b.Phase != RollingBack && a.Phase == RollingBack && asked != Stop && !(asked == Revert && (d.Done || d.Stopped || d.Reverted)) {
		fail("4: rolling back without asking for it")
	}
	if a.Phase != b.Phase && (a.Phase == RolledBack || a.Phase == Cancelled) && b.Asked != "" && b.Phase == RollingBack &&
		!(everywhere && b.Asked == Revert && (d.Reverted || !d.Known) && o.MaxWeight == 0 && o.OldReady && a.Rollback == RollbackDone && a.Reason != "") {
		fail("4: ended without having read the revert")
	}
	if a.Phase != b.Phase && (a.Phase == RolledBack || a.Phase == Cancelled) && (w.f.weight > 0 || w.f.known && !w.f.reverted) {
		fail("4: it ended, and the target truly is another")
	}
	if b.Phase == RollingBack && a.Phase != RollingBack && a.Phase != RolledBack && a.Phase != Cancelled && !(a.Phase == RollbackFailed && command(GiveUp) && b.Stuck.On) {
		fail("4: it went forward again")
	}
	if e.Seen != nil && e.Seen.Missing > 0 && a.Phase != b.Phase {
		fail("an unknown outcome is a verdict")
	}
	if a.Phase == Succeeded && b.Phase != Succeeded && !(everywhere && d.Done && o.MaxWeight == FullWeight && o.CandidateReady) {
		fail("3: success that was not observed")
	}
	if b.Phase.Terminal() && (a != b || effects != nil) {
		fail("5: terminal is terminal")
	}
	// 6
	override := command(Advance) && e.Command.Override
	for i := b.Step; i < a.Step; i++ {
		if p := w.plan.Steps[i]; p.Kind == StepBake && p.Analysis && !override && (i > b.Step && !command(Advance) || i == b.Step && w.said != verdict.Pass) {
			fail("6: left without positive evidence")
		}
	}
	// 9
	facts := map[FactKind]bool{}
	for _, f := range Facts(b, a, e) {
		facts[f.Kind] = true
	}
	if facts[FactAsked] != (a.Asked != b.Asked) || facts[FactWeight] != (a.Weight != b.Weight) || facts[FactPhase] != (a.Phase != b.Phase) || facts[FactHeld] != (a.Held != b.Held) {
		fail("9: a change without its fact")
	}
	if a.Asked != b.Asked && asked != a.Asked || asked != "" && !a.Applying {
		fail("what is wanted changed and nobody is told, or an older observation can complete it")
	}
	if d, ok := NextWake(w.plan, a); ok && d <= 0 {
		fail("it never sleeps")
	}
	if x := Explain(w.plan, a); x.Now == "" || x.Why == "" || x.Next == "" || forward && strings.Contains(x.Why, "host") {
		fail("not explained: " + x.Now + "/" + x.Why + "/" + x.Next)
	}
}

// ends asserts liveness once the target behaves. What strayed nobody but a person
// can decide about: it is aborted.
func (w *driven) ends(t *rapid.T) {
	w.f.broken = false
	w.do(t, Event{Command: &Command{Kind: Resume, By: "local:ana"}})
	for i := range 100 {
		if w.s.Phase.Terminal() {
			return
		}
		w.turn(t, true)
		w.move()
		w.see(t)
		switch {
		case w.s.Held.Cause == CauseDrift:
			w.do(t, Event{Command: &Command{Kind: Abort, By: "local:ana"}})
		case w.s.Phase == Pending:
			w.do(t, Event{Start: &Start{}})
		case w.s.Phase == Checking:
			w.do(t, Event{Checked: &Checked{Step: w.s.Step, OK: true}})
		case w.s.Phase == Baking:
			w.judge(t, verdict.Pass)
		default:
		}
		if d, ok := NextWake(w.plan, w.s); ok && (w.s.Phase == Baking || w.s.Phase == RollingBack || d <= repeatEvery || i > 50) {
			w.do(t, Event{Tick: &Tick{Elapsed: d}})
		}
	}
	t.Fatalf("with a good target it came to %+v, and %+v", w.s, w.f)
}
