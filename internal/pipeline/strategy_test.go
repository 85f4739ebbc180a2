package pipeline_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

const strategyFile = `
version: 1
service: shop
owner: team
build: {steps: [{name: a, kind: package, run: x}], artifact: {type: files, path: out}}
environments:
  - name: dev
    target: {type: host, listen: ':1', preview: ':2', instances: 4, hosts: [a, b], run: ./shop, health: {http: /healthz}}
    rollout: %s
`

func strategy(t *testing.T, rollout string) (pipeline.Environment, string) {
	t.Helper()
	src := []byte(fmt.Sprintf(strategyFile, rollout))
	d, problems := parse(src)
	if problems.Failed() {
		t.Fatalf("%s\n%s", rollout, problems.Render(src, false))
	}
	digest, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.Environments[0], string(digest)
}

// TestEveryKeyOfAStrategyCounts: with a key the definition is another than
// without it, and the default is what the reference says.
func TestEveryKeyOfAStrategyCounts(t *testing.T) {
	for _, c := range []struct{ with, without, spelled string }{
		{"{rolling: {batch: 1}}", "rolling", "{rolling: {batch: 25%, additionalBatch: true, bake: 0s}}"},
		{"{rolling: {batch: 3}}", "{rolling: {batch: 2}}", ""},
		{"{rolling: {batch: 30%}}", "rolling", ""},
		{"{rolling: {additionalBatch: false}}", "rolling", ""},
		{"{rolling: {maxUnavailable: 2}}", "{rolling: {additionalBatch: false}}", "{rolling: {additionalBatch: false, batch: 25%}}"},
		{"{rolling: {bake: 1m}}", "rolling", ""},
		{"{blue-green: {bake: 30m}}", "blue-green", "{blue-green: {bake: 15m, retireAfter: 1h}}"},
		{"{blue-green: {retireAfter: 2h}}", "blue-green", "{blue-green: {}, retireAfter: 1h}"},
		{"{blue-green: {preTraffic: [{name: a, http: {path: /}}]}}", "blue-green", ""},
		{"{immutable: {bake: 30m}}", "immutable", "{immutable: {bake: 15m}}"},
		{"{immutable: {preTraffic: [{name: a, http: {path: /}}]}}", "immutable", ""},
		{"{linear: {step: 20}}", "linear", "{linear: {step: 10, every: 10m}}"},
		{"{linear: {every: 20m}}", "linear", "{strategy: linear}"},
		{"{traffic-splitting: {weight: 20}}", "traffic-splitting", "{traffic-splitting: {weight: 10, evaluate: 15m}}"},
		{"{traffic-splitting: {evaluate: 20m}}", "traffic-splitting", ""},
		{"{strategy: canary, onFail: freeze}", "canary", "{strategy: canary, onFail: rollback}"},
		{"{strategy: canary, onFail: roll-forward}", "{strategy: canary, onFail: freeze}", ""},
		{"{strategy: canary, onDrift: hold}", "canary", "{strategy: canary, onDrift: restore}"},
	} {
		_, with := strategy(t, c.with)
		_, without := strategy(t, c.without)
		if with == without {
			t.Errorf("%s is the same as %s", c.with, c.without)
		}
		if c.spelled != "" {
			if _, spelled := strategy(t, c.spelled); spelled != without {
				t.Errorf("%s is not what %s stands for", c.spelled, c.without)
			}
		}
	}
}

// TestCodeDeployNames: every documented name is a shape that its name tells, and
// its bakes suffice for its judge.
func TestCodeDeployNames(t *testing.T) {
	n := 0
	for _, name := range []string{
		"AllAtOnce", "HalfAtATime", "OneAtATime",
		"LambdaAllAtOnce", "LambdaCanary10Percent5Minutes", "LambdaCanary10Percent10Minutes", "LambdaCanary10Percent15Minutes", "LambdaCanary10Percent30Minutes",
		"LambdaLinear10PercentEvery1Minute", "LambdaLinear10PercentEvery2Minutes", "LambdaLinear10PercentEvery3Minutes", "LambdaLinear10PercentEvery10Minutes",
		"ECSAllAtOnce", "ECSCanary10Percent5Minutes", "ECSCanary10Percent15Minutes", "ECSLinear10PercentEvery1Minutes", "ECSLinear10PercentEvery3Minutes",
	} {
		n++
		env, _ := strategy(t, "CodeDeployDefault."+name)
		r := env.Rollout
		if r.Name() != "CodeDeployDefault."+name {
			t.Errorf("%s is called %s", name, r.Name())
		}
		for i, s := range r.Steps {
			if !strings.Contains(name, fmt.Sprintf("%d", int(s.Bake/time.Minute))) || s.Weight != float64(10*(i+1)) {
				t.Errorf("%s: step %+v", name, s)
			}
		}
		switch {
		case strings.Contains(name, "Linear") && (r.Strategy != pipeline.Linear || len(r.Steps) != 9),
			strings.Contains(name, "Canary") && (r.Strategy != pipeline.Canary || len(r.Steps) != 1),
			strings.HasSuffix(name, "AllAtOnce") && r.Strategy != pipeline.AllAtOnce,
			name == "HalfAtATime" && (r.Strategy != pipeline.Rolling || r.Batches.Size(8) != 4 || r.Batches.Additional),
			name == "OneAtATime" && (r.Strategy != pipeline.Rolling || r.Batches.Size(8) != 1):
			t.Errorf("%s is %+v", name, r)
		}
	}
	// No name is known that is not documented: the enum of the schema has these and ours.
	if words := pipeline.StrategyWords(); len(words) != n+len(pipeline.Strategies) || !slices.Contains(words, "canary") {
		t.Errorf("%d words", len(words))
	}
	for wrong, meant := range map[string]string{
		"CodeDeployDefault.OneAtTime": "did you mean CodeDeployDefault.OneAtATime?",
		"HalfAtATime":                 "did you mean CodeDeployDefault.HalfAtATime?",
		"bluegreen":                   "did you mean blue-green?",
		"Careful":                     "traffic-splitting, or one of CodeDeploy's",
	} {
		_, problems := parse([]byte(fmt.Sprintf(strategyFile, wrong)))
		if len(problems) == 0 || !slices.ContainsFunc(problems, func(p pipeline.Problem) bool { return strings.Contains(p.Mend, meant) }) {
			t.Errorf("%s: %v", wrong, problems)
		}
	}
}

func TestAmounts(t *testing.T) {
	for in, want := range map[string]map[int]int{
		"1": {1: 1, 9: 1}, "25%": {1: 1, 3: 1, 8: 2, 9: 2}, "100%": {7: 7}, "12.5%": {8: 1, 16: 2}, "33.33%": {3: 1},
	} {
		env, _ := strategy(t, "{rolling: {batch: "+in+"}}")
		if got := env.Rollout.Batches.Batch.String(); got != in {
			t.Errorf("%s is written %s", in, got)
		}
		for total, n := range want {
			if got := env.Rollout.Batches.Size(total); got != n {
				t.Errorf("%s of %d is %d, not %d", in, total, got, n)
			}
		}
	}
	for _, bad := range []string{"0", "0%", "101%", "half", "-1", "'1e2%'", "'%'", "1.5", "[1]", "'5 %'", "'.%'"} {
		if _, problems := parse([]byte(fmt.Sprintf(strategyFile, "{rolling: {batch: "+bad+"}}"))); !problems.Failed() {
			t.Errorf("batch %s is taken", bad)
		}
	}
}

// TestWorkerCounts: a raise is a raise, and what cannot be said is an error.
func TestWorkerCounts(t *testing.T) {
	steps := func(weights ...float64) (out []pipeline.CanaryStep) {
		for _, w := range weights {
			out = append(out, pipeline.CanaryStep{Weight: w})
		}
		return out
	}
	for _, c := range []struct {
		steps []pipeline.CanaryStep
		total int
		want  []int
	}{
		{steps(5, 25, 50), 20, []int{1, 5, 10}},
		{steps(5, 25, 50), 8, []int{1, 2, 4}},
		{steps(5, 25, 50), 4, []int{1, 2, 3}},
		{steps(10, 100), 10, []int{1, 10}},
		{steps(5, 25, 50), 3, nil},
		{steps(50), 1, nil},
	} {
		got, err := pipeline.WorkerCounts(c.steps, c.total)
		if !slices.Equal(got, c.want) || (err != nil) != (c.want == nil) {
			t.Errorf("%v of %d: %v, %v", c.steps, c.total, got, err)
		}
	}
}
