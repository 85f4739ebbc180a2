package rollout

import (
	"encoding/json"
	"errors"
	"flag"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/verdict"
)

func init() { // rapid's default of 100 histories is too few for rare orders; a flag still wins
	if err := flag.Set("rapid.checks", "2000"); err != nil {
		panic(err)
	}
}

func TestDecodeStateRefusesWhatItCannotKnow(t *testing.T) {
	for _, c := range []struct{ in, says string }{
		{``, "couldn't read"},
		{`[]`, "couldn't read"},
		{`{}`, "names no version"},
		{`{"v":-1}`, "names no version"},
		{`{"v":2,"phase":"pending"}`, "a newer Sluice wrote it"},
		{`{"v":1}`, "unknown phase"},
		{`{"v":1,"phase":"dancing"}`, "unknown phase"},
		{`{"v":1,"phase":"baking","verdict":"fine"}`, "unknown verdict"},
		{`{"v":1,"phase":"baking","weight":10001,"exposed":true}`, "out of range"},
		{`{"v":1,"phase":"baking","step":-1}`, "out of range"},
		{`{"v":1,"phase":"baking","inPhase":-1}`, "out of range"},
		{`{"v":1,"phase":"baking","weight":5}`, "without exposure"},
		{`{"v":1,"phase":"baking","held":{"on":true}}`, "needs a cause"},
		{`{"v":1,"phase":"baking","held":{"on":true,"cause":"mood"}}`, "unknown cause"},
		{`{"v":1,"phase":"pending","reason":"` + strings.Repeat("x", maxStateBytes) + `"}`, "more than"},
	} {
		if _, err := DecodeState([]byte(c.in)); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60s: %v, want %q", c.in, err, c.says)
		}
	}
	if s, err := DecodeState([]byte(`{"v":1,"phase":"pending","old":true}`)); err != nil || s != New(Plan{}) {
		t.Errorf("a pending state came to %+v, %v", s, err)
	}
}

// An older state goes through each upcaster on the way to today's.
func TestUpcast(t *testing.T) {
	replace := func(pairs ...string) upcaster {
		return func(b json.RawMessage) (json.RawMessage, error) {
			return []byte(strings.NewReplacer(pairs...).Replace(string(b))), nil
		}
	}
	old := []byte(`{"v":1,"stage":"pending"}`)
	ups := map[int]upcaster{2: replace(`"v":2`, `"v":3,"step":1`)}
	if _, err := upcast(old, 3, ups); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "version 1 is no longer understood") {
		t.Errorf("without an upcaster: %v", err)
	}
	ups[1] = replace("stage", "phase", `"v":1`, `"v":2`)
	if b, err := upcast(old, 3, ups); err != nil || string(b) != `{"v":3,"step":1,"phase":"pending"}` {
		t.Errorf("came to %s, %v", b, err)
	}
	ups[2] = replace()
	if _, err := upcast(old, 3, ups); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "left version 2") {
		t.Errorf("a forgetful upcaster: %v", err)
	}
	ups[2] = func(json.RawMessage) (json.RawMessage, error) { return nil, errors.New("no stage") }
	if _, err := upcast(old, 3, ups); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "no stage") {
		t.Errorf("a failing upcaster: %v", err)
	}
}

func canary(t testing.TB) Plan {
	env := pipeline.Environment{Name: "production"}
	env.Rollout.Strategy = pipeline.Canary
	env.Rollout.Steps = []pipeline.CanaryStep{{Weight: 5, Bake: time.Minute}}
	env.Analysis.Metrics = []pipeline.Metric{{Kind: pipeline.HTTPErrors}}
	env.Verify = []pipeline.Check{{Name: "smoke"}}
	plan, err := Compile(env, true)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// Compile is given a validated environment; what it leaves open gets the defaults.
func TestCompileDefaults(t *testing.T) {
	p := canary(t)
	if p.OnInconclusive != Extend || p.OnNoData != HoldThere || p.Timeout != 30*time.Minute || p.RollbackTimeout != 5*time.Minute || p.RetireAfter != time.Hour || p.Engine != 1 {
		t.Errorf("defaults: %+v", p)
	}
}

// Not to keep the previous release is an answer, and no default's want.
func TestRetireAtOnce(t *testing.T) {
	d, problems := pipeline.Parse("sluice.yaml", []byte(`{version: 1, service: shop, owner: team, build: {steps: [{name: b, kind: package, run: make}], artifact: {type: files, path: out}},
  environments: [{name: production, target: {type: host, listen: ':80', run: ./shop}, rollout: {all-at-once: {}, retireAfter: 0s}}]}`))
	if problems.Failed() {
		t.Fatal(problems.Err())
	}
	p, err := Compile(d.Environments[0], true)
	if err != nil || p.RetireAfter != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	x := Explain(p, State{V: stateVersion, Phase: Succeeded, Exposed: true, Step: len(p.Steps) - 1, Weight: FullWeight, Old: true})
	if len(x.Can) != 1 || !strings.Contains(x.Next, "has stopped") || !strings.Contains(x.Can[0].String(), "starts it again") {
		t.Errorf("%+v", x)
	}
}

func TestPlansThatCannotRun(t *testing.T) {
	for says, spoil := range map[string]func(*Plan){
		"compiled by engine 5":   func(p *Plan) { p.Engine = 5 },
		"with 4":                 func(p *Plan) { p.Actions = Actions{"dlq": "pause"} },
		"does is \"panic\"":      func(p *Plan) { p.Engine, p.Actions = Engine, Actions{"dlq": "panic"} },
		"compiled by engine 0":   func(p *Plan) { p.Engine = 0 },
		"begin with prepare":     func(p *Plan) { p.Steps = p.Steps[1:] },
		"end with retire":        func(p *Plan) { p.Steps = p.Steps[:len(p.Steps)-1] },
		"neither extend nor":     func(p *Plan) { p.OnNoData = "pass" },
		"timeouts":               func(p *Plan) { p.RollbackTimeout = 0 },
		"in the middle":          func(p *Plan) { p.Steps[1].Kind = StepPrepare },
		"weights must rise":      func(p *Plan) { p.Steps[1].Weight = 0 },
		"to at most 100 %":       func(p *Plan) { p.Steps[1].Weight = FullWeight + 1 },
		"step 1 bakes":           func(p *Plan) { p.Steps[1] = PlanStep{Kind: StepBake, Bake: time.Hour} },
		"unknown kind":           func(p *Plan) { p.Steps[1].Kind = "teleport" },
		"while the candidate":    func(p *Plan) { p.Steps[2].Weight = 600 },
		"it ends at 5 %":         func(p *Plan) { p.Steps = append(p.Steps[:3:3], PlanStep{Kind: StepRetire, Weight: 500}) },
		"judged but bakes for n": func(p *Plan) { p.Steps[2].Bake = 0 },
	} {
		p := canary(t)
		spoil(&p)
		_, _, err := Step(p, New(p), Event{Start: &Start{}})
		if !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestStatesOfAnotherPlan(t *testing.T) {
	p := canary(t)
	for says, s := range map[string]State{
		"version 0":      {Phase: Pending},
		"at step 9":      {V: 1, Phase: Baking, Step: 9},
		"5 % at a step":  {V: 1, Phase: Preparing, Weight: 500, Exposed: true},
		"baking at a st": {V: 1, Phase: Baking},
	} {
		if _, _, err := Step(p, s, Event{Tick: &Tick{}}); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		if x := Explain(p, s); !strings.Contains(x.Now, "can't read") {
			t.Errorf("explained as %+v", x)
		}
		if _, ok := NextWake(p, s); ok {
			t.Error("wakes for a state that it can't use")
		}
	}
}

func TestEventsThatMeanNothing(t *testing.T) {
	p := canary(t)
	for says, e := range map[string]Event{
		"exactly one field, not 0": {},
		"exactly one field, not 2": {Start: &Start{}, Tick: &Tick{}},
		"backwards":                {Tick: &Tick{Elapsed: -1}},
		"impossible observation":   {Seen: &Observation{MinWeight: 2, MaxWeight: 1}},
		"unknown verdict":          {Judged: &Judged{Verdict: "great"}},
		"applied in pending":       {Applied: &Applied{Generation: 1}},
		`command "jump" in`:        {Command: &Command{Kind: "jump"}},
	} {
		s, effects, err := Step(p, New(p), e)
		if !errors.Is(err, ErrTransition) || !strings.Contains(err.Error(), says) || s != New(p) || effects != nil {
			t.Errorf("%v, want %q", err, says)
		}
	}
	// A generation below the one known is another worker's.
	s, err := Replay(p, []Event{{Start: &Start{}}, {Applied: &Applied{Generation: 7}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Step(p, s, Event{Applied: &Applied{Generation: 6}}); !errors.Is(err, ErrTransition) {
		t.Errorf("generation 6 after 7: %v", err)
	}
	if _, err := Replay(p, []Event{{Start: &Start{}}, {Start: &Start{}}}); err == nil || !strings.Contains(err.Error(), "couldn't replay event 1 (start)") {
		t.Errorf("replay of two starts: %v", err)
	}
}

func TestMerge(t *testing.T) {
	tick := func(d time.Duration) Event { return Event{Tick: &Tick{Elapsed: d}} }
	seen := func(weight int) Event { return Event{Seen: &Observation{Hosts: 1, MaxWeight: weight}} }
	if e, ok := Merge(tick(1), tick(2)); !ok || e.Tick.Elapsed != 3 {
		t.Errorf("ticks: %+v %t", e, ok)
	}
	if e, ok := Merge(seen(5), seen(5)); !ok || e.Seen.MaxWeight != 5 {
		t.Errorf("the same seen twice: %+v %t", e, ok)
	}
	for _, c := range [][2]Event{
		{tick(1), seen(1)}, {seen(1), seen(2)}, {tick(math.MaxInt64), tick(1)}, {tick(1), tick(-1)}, {},
		{{Judged: &Judged{Verdict: verdict.Pass}}, {Judged: &Judged{Verdict: verdict.Pass}}},
	} {
		if e, ok := Merge(c[0], c[1]); ok {
			t.Errorf("merged to %+v", e)
		}
	}
}

// FuzzDecodeState: whatever is read is as good as what was written.
func FuzzDecodeState(f *testing.F) {
	p := canary(f)
	s := New(p)
	for _, e := range story() {
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		if s, _, err = Step(p, s, e); err != nil {
			f.Fatal(err)
		}
	}
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Fatal(err)
			}
			return
		}
		if b, err = json.Marshal(s); err != nil {
			t.Fatal(err)
		}
		again, err := DecodeState(b)
		if err != nil || again != s {
			t.Fatalf("%+v came back as %+v, %v", s, again, err)
		}
		Explain(p, s)
		NextWake(p, s)
	})
}

// FuzzReplay: no plan and no events make the machine panic, or leave a state
// that it can't go on from.
func FuzzReplay(f *testing.F) {
	plan, err := json.Marshal(canary(f))
	if err != nil {
		f.Fatal(err)
	}
	events, err := json.Marshal(story())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plan, events)
	f.Add([]byte(`{}`), []byte(`[{}]`))
	env := shadowed(pipeline.Canary)
	env.Shadow = nil
	if moved, err := CompileDriven(env, true, ecs); err != nil {
		f.Fatal(err)
	} else if plan, err = json.Marshal(moved); err != nil {
		f.Fatal(err)
	}
	f.Add(plan, []byte(`[{"start":{}},{"seen":{"hosts":1,"candidateReady":true,"oldReady":true}},{"applied":{"generation":1}},
		{"seen":{"generation":1,"hosts":1,"minWeight":500,"maxWeight":500,"candidateReady":true,"oldReady":true,"driving":{"known":true,"waiting":true}}},
		{"judged":{"verdict":"fail"}},{"applied":{"generation":2}},{"seen":{"generation":2,"hosts":1,"oldReady":true,"driving":{"known":true,"stopped":true}}},
		{"applied":{"generation":3}},{"seen":{"generation":3,"hosts":1,"oldReady":true,"driving":{"known":true,"reverted":true}}}]`))
	f.Fuzz(func(t *testing.T, plan, events []byte) {
		var p Plan
		var es []Event
		if json.Unmarshal(plan, &p) != nil || json.Unmarshal(events, &es) != nil || len(es) > 200 {
			return
		}
		s := New(p)
		for _, e := range es {
			after, _, err := Step(p, s, e)
			if err != nil {
				if after != s {
					t.Fatal("an error changed the state")
				}
				continue
			}
			if err := after.check(p); err != nil {
				t.Fatalf("%+v: %v", after, err)
			}
			if s.Phase.Terminal() && after != s {
				t.Fatal("terminal is terminal")
			}
			Facts(s, after, e)
			Explain(p, after)
			NextWake(p, after)
			s = after
		}
	})
}

// story is a canary that is exposed, held, paused, and fails.
func story() []Event {
	at := func(gen int64, weight int) Event {
		return Event{Seen: &Observation{Generation: gen, Hosts: 1, MinWeight: weight, MaxWeight: weight, CandidateReady: true, OldReady: true, OldSeen: true, CandidateSeen: true}}
	}
	return []Event{
		{Start: &Start{}},
		{Applied: &Applied{Generation: 1}},
		at(1, 0),
		{Applied: &Applied{Generation: 2}},
		at(2, 500),
		{Tick: &Tick{Elapsed: time.Minute}},
		{Judged: &Judged{Step: 2, Verdict: verdict.Inconclusive, Sentence: "40 requests"}},
		at(2, 600),
		{Applied: &Applied{Generation: 3}},
		at(3, 500),
		{Command: &Command{Kind: Pause, By: "local:ana"}},
		{Judged: &Judged{Step: 2, Verdict: verdict.Fail, Sentence: "20 %"}},
		{Applied: &Applied{Generation: 4}},
		{Tick: &Tick{Elapsed: 5 * time.Minute}},
		{Applied: &Applied{Generation: 5}},
		at(5, 0),
		{Applied: &Applied{Generation: 6}},
		at(6, 0),
	}
}
