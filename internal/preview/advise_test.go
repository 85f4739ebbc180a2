package preview

import (
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// pasted puts an advice into a whole file and reads it as lint does.
func pasted(a Advice) (pipeline.Environment, string) {
	listen := "listen: 127.0.0.1:9001, "
	if a.Answers.Worker {
		listen = "metrics: {path: /m}, "
	}
	src := "version: 1\nservice: shop\nowner: team\nbuild: {steps: [{name: a, kind: unit, run: x, reports: [{format: junit, path: x}]}], artifact: {type: files, path: out}}\nenvironments:\n" +
		"  - name: production\n    target: {type: host, " + listen + "run: ./shop, instances: " + strconv.Itoa(a.Answers.Instances) + ", health: {http: /h}}\n    " + strings.ReplaceAll(strings.TrimSpace(a.YAML), "\n", "\n    ") + "\n"
	if a.Answers.Worker {
		src = strings.Replace(src, ", health: {http: /h}", "", 1)
	}
	d, problems := pipeline.Parse("sluice.yaml", []byte(src))
	if problems.Failed() {
		return pipeline.Environment{}, problems.Render([]byte(src), false)
	}
	return d.Environments[0], ""
}

// What is advised for whom, and what is refused.
func TestAdvise(t *testing.T) {
	for name, c := range map[string]struct {
		change                         func(*pipeline.Answers)
		strategy, action, refused, why string
	}{
		"a critical shop": {func(q *pipeline.Answers) { q.Risk, q.RPS, q.Instances = "critical", 600, 8 },
			pipeline.Canary, pipeline.GoBack, "all-at-once: every user meets a bad release at once", "1 % of users"},
		"no room": {func(q *pipeline.Answers) { q.Capacity, q.Instances, q.Rollback = "none", 8, "minutes" },
			pipeline.Rolling, pipeline.GoBack, "canary: it runs a second full set beside (8 instances more)", "up to 2 instances less"},
		"one instance, no room for another": {func(q *pipeline.Answers) { q.Capacity = "batch" },
			pipeline.Canary, pipeline.GoBack, "blue-green: it runs a second full set beside (1 instance more)", ""},
		"versions must not mix": {func(q *pipeline.Answers) { q.Drift = "none" },
			pipeline.BlueGreen, pipeline.GoBack, "canary: it serves two versions side by side", "in one step"},
		"regulated, no mix": {func(q *pipeline.Answers) { q.Drift, q.Compliance = "none", "approval" },
			pipeline.Immutable, pipeline.GoBack, "canary: it serves two versions", "alike"},
		"data that the old cannot read": {func(q *pipeline.Answers) { q.State = "breaking" },
			pipeline.BlueGreen, pipeline.RollForward, "canary: old and new serve from the same data", "expand first"},
		"a tool of our own": {func(q *pipeline.Answers) { q.Risk, q.UserFacing = "low", false },
			pipeline.AllAtOnce, pipeline.GoBack, "", "Little is at stake"},
		"a worker": {func(q *pipeline.Answers) { q.Worker, q.UserFacing, q.Instances = true, false, 10 },
			pipeline.Canary, pipeline.GoBack, "blue-green: a worker has no requests", "own metrics"},
		"one worker of much risk": {func(q *pipeline.Answers) { q.Worker, q.Risk = true, "high" },
			pipeline.AllAtOnce, pipeline.GoBack, "canary: one instance cannot be shared out", "goes back"},
	} {
		t.Run(name, func(t *testing.T) {
			q := pipeline.DefaultAnswers
			c.change(&q)
			a, err := Advise(q)
			if err != nil || a.Strategy != c.strategy || a.OnFail != c.action || (a.Conflict != "") != strings.HasPrefix(name, "one ") {
				t.Fatalf("%s, %s, %q, %v", a.Strategy, a.OnFail, a.Conflict, err)
			}
			refused := ""
			for _, r := range a.Refused {
				refused += r.Strategy + ": " + r.Why + "\n"
			}
			if !strings.Contains(refused, c.refused) {
				t.Errorf("refused:\n%swant %q", refused, c.refused)
			}
			if text := strings.Join(a.Why, "\n"); !strings.Contains(text, c.why) {
				t.Errorf("why:\n%s\nwant %q", text, c.why)
			}
			e, bad := pasted(a)
			if bad != "" || e.Rollout.Strategy != c.strategy {
				t.Errorf("its YAML:\n%s\n%s", a.YAML, bad)
			}
		})
	}
}

// More traffic proves sooner; thin traffic asks for synthetic requests.
func TestAdviceSizesBakes(t *testing.T) {
	at := func(rps float64) Advice {
		q := pipeline.DefaultAnswers
		q.Risk, q.RPS = "high", rps
		a, err := Advise(q)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if few := strings.Join(at(3).Watch, " "); !strings.Contains(few, "so it begins with 25 %") {
		t.Errorf("few requests: %s", few)
	}
	thick, medium, thin := at(2000), at(60), at(0.2)
	if !(thick.Seconds < medium.Seconds && medium.Seconds < thin.Seconds) {
		t.Errorf("to 100 %%: %v s, %v s, %v s", thick.Seconds, medium.Seconds, thin.Seconds)
	}
	if strings.Contains(thick.YAML, "synthetic") || !strings.Contains(thin.YAML, "synthetic: {rate: ") || !strings.Contains(strings.Join(thin.Watch, " "), "0.2 requests per second") {
		t.Errorf("%s\n%s\n%v", thick.YAML, thin.YAML, thin.Watch)
	}
	for _, s := range medium.Steps {
		if s.Bake != nil && s.Bake.ChanceOfExtension > 2*extendsSeldom {
			t.Errorf("%s: %.0f %% chance of an extension", s.Text, 100*s.Bake.ChanceOfExtension)
		}
	}
}

// Whatever is answered: the same advice twice, one that was not refused unless it
// says so, each strategy accounted for, and a file that lint accepts.
func TestAdviceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := pipeline.DefaultAnswers
		for _, x := range pipeline.Questions {
			if x.Words == nil {
				continue
			}
			var err error
			if q, err = pipeline.Answer(q, x.Key, rapid.SampledFrom(x.Words).Draw(t, x.Key)); err != nil {
				t.Fatal(err)
			}
		}
		q.Instances = rapid.IntRange(1, 40).Draw(t, "instances")
		if !q.Worker {
			q.RPS = rapid.SampledFrom([]float64{0, 0.001}).Draw(t, "rps")
		}
		a, err := Advise(q)
		if err != nil {
			t.Fatal(err)
		}
		if n := 1 + len(a.Alternatives) + len(a.Refused); n != len(pipeline.Strategies) || len(a.Why) < 2 || len(a.Steps) < 3 || a.Capacity == "" {
			t.Fatalf("%d strategies, %+v", n, a)
		}
		for _, r := range append(a.Refused, a.Alternatives...) {
			if r.Strategy == a.Strategy || r.Why == "" {
				t.Fatalf("%+v", r)
			}
		}
		if _, bad := pasted(a); bad != "" {
			t.Fatalf("its YAML:\n%s\n%s", a.YAML, bad)
		}
		if again, _ := Advise(q); q.RPS == 0 && !reflect.DeepEqual(a, again) {
			t.Fatal("another advice for the same answers")
		}
	})
}

// What it recommends it does not warn of.
func TestAdviceStandsByItself(t *testing.T) {
	for _, risk := range []string{"low", "medium", "high", "critical"} {
		for _, rps := range []float64{0.5, 5, 40, 200} {
			q := pipeline.DefaultAnswers
			q.Risk, q.RPS = risk, rps
			a, err := Advise(q)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range a.Steps {
				if s.Bake != nil && len(s.Bake.Advice) > 0 {
					t.Errorf("risk %s at %g requests per second: %s, and yet %q", risk, rps, s.Text, s.Bake.Advice)
				}
			}
		}
	}
}
