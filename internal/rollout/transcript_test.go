package rollout

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// TestTranscripts plays the stories in testdata. A line that starts in the first
// column is what happens; the indented lines below it are what came of it.
// After a change run with -update and review the difference.
//
//	release NAME KEY=VALUE…  one artifact with that configuration
//	plan [key=value…]        of=NAME over=NAME, strategy, steps=5:2m,25:2m, bake, metrics, verify, first, batch, drain, …
//	start | tick D | judged VERDICT [SENTENCE [| FAILED,…]] | checked ok|failed [REASON]
//	seen [key=value…]        default: the target is as wanted; gen=-1 is one too old
//	does [key=value…]        a driven target: known, waiting, done, stopped, reverted, weight=, says …
//	advance|pause|… [--full] [--override] [REASON]
//	explain                  what a person is told
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			play := &player{t: t}
			for line := range strings.Lines(string(b)) {
				line = strings.TrimRight(line, "\n")
				if strings.HasPrefix(line, "  ") {
					continue
				}
				out.WriteString(line + "\n")
				if line != "" && !strings.HasPrefix(line, "#") {
					for _, o := range play.line(line) {
						out.WriteString("  " + o + "\n")
					}
				}
			}
			play.replays()
			if *update {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if out.String() != string(b) {
				t.Errorf("%s came out otherwise (go test -update writes it, review the diff):\n%s", file, out.String())
			}
		})
	}
}

type player struct {
	t      *testing.T
	plan   Plan
	s      State
	gen    int64
	events []Event

	releases map[string]released // by the name that the story gives
	of, over string              // the releases of the plan, if the story names them
	runs     []string            // those that succeeded, oldest first
}

// released is a release as control makes it: what was built, and what the
// environment adds to it.
type released struct {
	id     release.ID
	config string
}

// release keeps a release of the one artifact.
func (p *player) release(rest string) []string {
	name, config, _ := strings.Cut(rest, " ")
	env := map[string]string{}
	for _, kv := range strings.Fields(config) {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	artifact := release.Artifact{Name: "shop", Type: "files", Digest: release.DigestOf([]byte("shop"))}
	id, err := release.Manifest{Version: 1, Service: "shop", Artifacts: []release.Artifact{artifact}, Environments: map[string]release.Config{"production": {Env: env}}}.ID()
	p.must(err)
	for other, r := range p.releases {
		if r.id == id {
			p.t.Fatalf("%s is the release %s: nothing of it differs", name, other)
		}
	}
	if p.releases == nil {
		p.releases = map[string]released{}
		p.runs = []string{name} // the first one runs already
	}
	p.releases[name] = released{id, config}
	return []string{fmt.Sprintf("artifact %s with %s: release %s", artifact.Digest.Short(), config, id.Short())}
}

// between says which releases a plan is about, and that they are those that ran.
func (p *player) between(of, over string, rollback bool) {
	if p.of, p.over = of, over; of == "" && over == "" {
		return
	}
	n := len(p.runs)
	if _, known := p.releases[of]; !known || over != p.runs[n-1] {
		p.t.Fatalf("%s over %s: %v ran, and only the last of them can be replaced", of, over, p.runs)
	}
	if rollback && (n < 2 || p.runs[n-2] != of) {
		p.t.Fatalf("a rollback to %s, which did not run before %s", of, over)
	}
}

// shares says which release has which part of users.
func (p *player) shares(s State) string {
	if p.of == "" {
		return ""
	}
	of, over := p.releases[p.of], p.releases[p.over]
	out := fmt.Sprintf("; %s %s (%s)", over.id.Short(), percent(FullWeight-s.Weight), over.config)
	if s.Capacity {
		out += fmt.Sprintf(", %s %s (%s)", of.id.Short(), percent(s.Weight), of.config)
	}
	return out
}

func (p *player) line(line string) []string {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "release":
		return p.release(rest)
	case "plan":
		return p.compile(rest)
	case "explain":
		x := Explain(p.plan, p.s)
		out := []string{"now:  " + x.Now, "why:  " + x.Why, "next: " + x.Next}
		if x.When != "" {
			out = append(out, "when: "+x.When)
		}
		for _, c := range x.Can {
			out = append(out, "can:  "+c.String())
		}
		return out
	case "start":
		return p.event(Event{Start: &Start{}})
	case "tick":
		d, err := time.ParseDuration(rest)
		p.must(err)
		return p.event(Event{Tick: &Tick{Elapsed: d}})
	case "seen":
		return p.event(Event{Seen: p.observation(rest)})
	case "does":
		return p.event(Event{Seen: p.says(rest)})
	case "judged":
		v, sentence, _ := strings.Cut(rest, " ")
		sentence, failed, _ := strings.Cut(sentence, " | ")
		j := Judged{Verdict: verdict.Verdict(v), Sentence: sentence}
		if failed != "" {
			j.Failed = strings.Split(failed, ",")
		}
		heard := p.s.Heard(j)
		before := p.s
		out := p.event(Event{Judged: &j})
		if heard && (p.s.Phase != before.Phase || p.s.Frozen != before.Frozen || p.s.Paused != before.Paused) {
			p.t.Errorf("%q was heard already, and still changed something", rest)
		}
		return out
	case "late-judged": // of the step before
		v, sentence, _ := strings.Cut(rest, " ")
		return p.event(Event{Judged: &Judged{Step: p.s.Step - 2, Verdict: verdict.Verdict(v), Sentence: sentence}})
	case "checked":
		how, reason, _ := strings.Cut(rest, " ")
		return p.event(Event{Checked: &Checked{Step: p.s.Step, OK: how == "ok", Reason: reason}})
	}
	c := Command{Kind: CommandKind(word), By: "local:ana"}
	for {
		first, more, _ := strings.Cut(rest, " ")
		switch first {
		case "--full":
			c.Full = true
		case "--override":
			c.Override = true
		default:
			c.Reason = rest
			return p.event(Event{Command: &c})
		}
		rest = more
	}
}

func (p *player) must(err error) {
	if err != nil {
		p.t.Helper()
		p.t.Fatal(err)
	}
}

func (p *player) compile(line string) []string {
	env := pipeline.Environment{Name: "production", Target: pipeline.Target{Type: "host", Listen: ":80", Hosts: []string{"local"}, Instances: 1}}
	env.Rollout = pipeline.Rollout{Strategy: pipeline.Canary, OnInconclusive: "extend", OnNoData: "hold", Timeout: 30 * time.Minute, RollbackTimeout: 5 * time.Minute, RetireAfter: time.Hour}
	env.Analysis.MaxExtend = 3
	first, rollback, replaces, of, over := false, false, false, "", ""
	mover := Mover{}
	for _, kv := range strings.Fields(line) {
		k, v, _ := strings.Cut(kv, "=")
		var err error
		switch k {
		case "strategy":
			env.Rollout.Strategy = v
		case "first":
			first = true
		case "rollback":
			rollback = true
		case "replaces":
			replaces = true
		case "of":
			of = v
		case "over":
			over = v
		case "mover":
			mover = Mover{Name: v, Pauses: true, Final: "its old addresses"}
		case "bake":
			env.Rollout.Bake, err = time.ParseDuration(v)
		case "steps":
			for step := range strings.SplitSeq(v, ",") {
				w, d, _ := strings.Cut(step, ":")
				var c pipeline.CanaryStep
				c.Weight, err = strconv.ParseFloat(w, 64)
				p.must(err)
				c.Bake, err = time.ParseDuration(d)
				p.must(err)
				env.Rollout.Steps = append(env.Rollout.Steps, c)
			}
		case "metrics":
			for m := range strings.SplitSeq(v, ",") {
				name, action, _ := strings.Cut(m, ":")
				env.Analysis.Metrics = append(env.Analysis.Metrics, pipeline.Metric{Name: name, Kind: name, OnFail: action})
			}
		case "verify":
			for c := range strings.SplitSeq(v, ",") {
				env.Verify = append(env.Verify, pipeline.Check{Name: c})
			}
		case "before":
			env.Hooks.BeforeTraffic = []pipeline.Check{{Name: v}}
		case "instances":
			env.Target.Instances, err = strconv.Atoi(v)
		case "hosts":
			env.Target.Hosts = strings.Split(v, ",")
		case "worker":
			env.Target.Listen = ""
		case "batch", "drain":
			b := pipeline.Batches{Additional: k == "batch"}
			b.Batch.Count, err = strconv.Atoi(v)
			env.Rollout.Batches = &b
		case "onfail":
			env.Rollout.OnFail = v
		case "ondrift":
			env.Rollout.OnDrift = v
		case "inconclusive":
			env.Rollout.OnInconclusive = v
		case "nodata":
			env.Rollout.OnNoData = v
		case "maxextend":
			env.Analysis.MaxExtend, err = strconv.Atoi(v)
		case "timeout":
			env.Rollout.Timeout, err = time.ParseDuration(v)
		default:
			p.t.Fatalf("unknown word %q of plan", k)
		}
		p.must(err)
	}
	p.between(of, over, rollback)
	switch {
	case rollback:
		p.plan = CompileRollback(env)
	case mover.Name != "":
		plan, err := CompileDriven(env, !first, mover)
		if err != nil {
			return []string{"error: " + err.Error()}
		}
		p.plan = plan
	default:
		plan, err := Compile(env, !first)
		if err != nil {
			return []string{"error: " + err.Error()}
		}
		p.plan = plan
	}
	if replaces {
		p.plan = p.plan.Replacing()
	}
	p.s, p.events, p.gen = New(p.plan), nil, 0
	var out []string
	for i, s := range p.plan.Steps {
		line := fmt.Sprintf("%d %s %s", i, s.Kind, percent(s.Weight))
		if s.Kind == StepBake {
			line += fmt.Sprintf(" for %s against %s, analysis %t", s.Bake, s.Basis, s.Analysis)
		}
		if p.plan.counted() && s.places() {
			line += fmt.Sprintf(", %d new and %d old of %d", s.Run, s.Keep, p.plan.total())
		}
		if s.Kind == StepCheck {
			line += " " + strings.Join(s.Checks, ",")
		}
		out = append(out, line)
	}
	return out
}

func (p *player) observation(line string) *Observation {
	o := Observation{
		Generation: p.s.Wanted, Hosts: 1, MinWeight: p.s.Weight, MaxWeight: p.s.Weight,
		CandidateReady: p.s.Capacity, CandidateSeen: p.s.Capacity,
		OldReady: p.s.Old || p.plan.First, OldSeen: p.s.Old,
	}
	if shares := p.plan.Shares(p.s); shares != nil {
		o.Hosts, o.MinWeight, o.MaxWeight = len(shares), FullWeight, 0
		for _, x := range shares {
			o.MinWeight, o.MaxWeight = min(o.MinWeight, x.Weight), max(o.MaxWeight, x.Weight)
		}
		o.OldSeen, o.CandidateSeen = p.s.Keep > 0, p.s.Run > 0
	}
	words := strings.Fields(line)
	for i, kv := range words {
		k, v, _ := strings.Cut(kv, "=")
		n, _ := strconv.Atoi(v)
		switch k {
		case "gen":
			o.Generation += int64(n)
		case "hosts":
			o.Hosts = n
		case "missing":
			o.Missing = n
		case "unreachable":
			o.Missing, o.Unreachable = 1, v
		case "weight":
			o.MinWeight, o.MaxWeight = n, n
		case "max":
			o.MaxWeight = n
		case "starting":
			o.CandidateReady = false
		case "old":
			o.OldReady, o.OldSeen = false, v == "starting"
		case "off":
			o.Off = strings.Join(append([]string{v}, words[i+1:]...), " ")
			return &o
		case "failed":
			o.Failed = strings.Join(append([]string{v}, words[i+1:]...), " ")
			o.CandidateReady = false
			return &o
		default:
			p.t.Fatalf("unknown word %q of seen", k)
		}
	}
	return &o
}

// says is what a driven target tells: it has heard of what was asked last, unless
// gen= says otherwise.
func (p *player) says(line string) *Observation {
	o := Observation{Generation: p.s.Wanted, Hosts: 1, CandidateReady: true, OldReady: true, OldSeen: true}
	d := &o.Driving
	words := strings.Fields(line)
	for i, kv := range words {
		k, v, _ := strings.Cut(kv, "=")
		n, _ := strconv.Atoi(v)
		switch k {
		case "gen":
			o.Generation += int64(n)
		case "known":
			d.Known = true
		case "waiting":
			d.Waiting = true
		case "done":
			d.Done = true
		case "stopped":
			d.Stopped = true
		case "reverted":
			d.Reverted = true
		case "weight":
			o.MinWeight, o.MaxWeight = n, n
		case "unknown":
			o = Observation{Generation: o.Generation, Missing: 1, Unreachable: strings.Join(words[i+1:], " ")}
			return &o
		case "failed":
			o.Failed, o.CandidateReady = strings.Join(words[i+1:], " "), false
			return &o
		case "says":
			d.Step = strings.Join(words[i+1:], " ")
			return &o
		default:
			p.t.Fatalf("unknown word %q of does", k)
		}
	}
	return &o
}

// event steps e, and as control does gives each Apply a generation at once.
func (p *player) event(e Event) []string {
	after, effects, err := Step(p.plan, p.s, e)
	if err != nil {
		if after != p.s || effects != nil {
			p.t.Errorf("%s was an error and still changed something", e.name())
		}
		if !errors.Is(err, ErrRefused) && !errors.Is(err, ErrTransition) {
			p.t.Errorf("unexpected error: %v", err)
		}
		return []string{"error: " + err.Error()}
	}
	var out []string
	for _, f := range Facts(p.s, after, e) {
		out = append(out, fact(f))
	}
	if after.Phase == Succeeded && p.s.Phase != Succeeded && p.of != "" {
		p.runs = append(p.runs, p.of)
	}
	p.s = after
	p.events = append(p.events, e)
	for _, f := range effects {
		line := "=> " + string(f.Kind)
		if f.Reason != "" {
			line += ": " + f.Reason
		}
		if k := f.Kind; k == Drive || k == Continue || k == Stop || k == Revert {
			p.gen++
			applied := Event{Applied: &Applied{Generation: p.gen}}
			s, _, err := Step(p.plan, p.s, applied)
			p.must(err)
			p.s, p.events = s, append(p.events, applied)
			line += fmt.Sprintf(" generation %d", p.gen)
			switch k {
			case Drive:
				line += fmt.Sprintf(", key %d", s.Ask().Key)
			case Continue:
				line += " from " + percent(s.Ask().From)
			default:
			}
		}
		if f.Kind == Apply {
			p.gen++
			line += fmt.Sprintf(" generation %d: weight %s, candidate %t, old %t", p.gen, percent(after.Weight), after.Capacity, after.Old)
			for _, x := range p.plan.Shares(after) {
				line += fmt.Sprintf("; %d new, %d old, %s", x.Candidate, x.Old, percent(x.Weight))
			}
			line += p.shares(after)
			applied := Event{Applied: &Applied{Generation: p.gen}}
			s, more, err := Step(p.plan, p.s, applied)
			p.must(err)
			if len(more) > 0 {
				p.t.Errorf("applied had effects: %v", more)
			}
			p.s, p.events = s, append(p.events, applied)
		}
		out = append(out, line)
	}
	return append(out, "= "+standing(p.plan, p.s))
}

func fact(f Fact) string {
	line := "fact " + string(f.Kind)
	switch f.Kind {
	case FactCommand:
		line += " " + f.To
	default:
		line += fmt.Sprintf(" %s → %s", or(f.From), or(f.To))
	}
	if f.Full {
		line += " --full"
	}
	if f.Override {
		line += " --override"
	}
	if f.Reason != "" && f.Kind != FactPhase && f.Kind != FactWeight && f.Kind != FactCapacity {
		line += ": " + f.Reason
	}
	if f.By != release.System {
		line += " (" + string(f.By) + ")"
	}
	return line
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func standing(plan Plan, s State) string {
	line := fmt.Sprintf("%s, step %d, %s", s.Phase, s.Step, percent(s.Weight))
	if s.Phase == Baking {
		line += ", baked " + s.InPhase.String()
	}
	if s.Verdict != "" {
		line += ", " + string(s.Verdict)
	}
	for _, f := range []struct {
		name string
		f    Flag
	}{{"paused", s.Paused}, {"held", s.Held}, {"stuck", s.Stuck}} {
		if f.f.On {
			line += ", " + f.name
		}
	}
	if s.Phase.Terminal() && s.Reason != "" {
		line += ": " + s.Reason
	}
	if d, ok := NextWake(plan, s); ok {
		line += ", wakes in " + d.String()
	}
	return line
}

// replays asserts that what was recorded rebuilds the state, also through JSON.
func (p *player) replays() {
	b, err := json.Marshal(p.events)
	p.must(err)
	var events []Event
	p.must(json.Unmarshal(b, &events))
	s, err := Replay(p.plan, events)
	p.must(err)
	if s != p.s {
		p.t.Errorf("replay came to %+v, not %+v", s, p.s)
	}
	b, err = json.Marshal(p.s)
	p.must(err)
	s, err = DecodeState(b)
	p.must(err)
	if s != p.s {
		p.t.Errorf("JSON came to %+v, not %+v", s, p.s)
	}
}
