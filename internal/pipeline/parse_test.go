package pipeline_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The example of the documentation is accepted as it is, and every default
// stands where the documentation says.
func TestParseTheExample(t *testing.T) {
	src := read(t, "testdata/good/interface.yaml")
	d, problems := pipeline.Parse("sluice.yaml", src)
	if len(problems) > 0 {
		t.Fatalf("the example has problems:\n%s", problems.Render(src, false))
	}
	prod, ok := d.Environment("production")
	if !ok {
		t.Fatal("production is missing")
	}
	a := prod.Analysis
	if a.WarmUp != 2*time.Minute || a.Bin != 10*time.Second || a.MaxExcess != 0.5 || a.Alpha != 0.01 || a.MinEvents != 50 || a.MaxExtend != 3 {
		t.Errorf("analysis defaults: %+v", a)
	}
	if len(a.Metrics) != 4 || a.Metrics[0].Kind != pipeline.HTTPErrors || a.Metrics[1].Kind != pipeline.HTTPLatency || *a.Metrics[3].Max != 0 {
		t.Errorf("metrics: %+v", a.Metrics)
	}
	if prod.Target.Env["TOKEN"].Secret != "file:/run/secrets/checkout-token" || prod.Target.Env["LOG_LEVEL"].Plain != "info" {
		t.Errorf("env: %+v", prod.Target.Env)
	}
	if got := prod.Target.Hosts; len(got) != 1 || got[0] != pipeline.Local {
		t.Errorf("hosts: %v", got)
	}
	dev, _ := d.Environment("dev")
	if dev.Rollout.Strategy != pipeline.AllAtOnce || dev.Rollout.RetireAfter != time.Hour || dev.Target.Instances != 1 || dev.Verify[0].HTTP.Timeout != 5*time.Second || len(dev.Analysis.Metrics) != 0 {
		t.Errorf("dev: %+v", dev)
	}
	if d.Build.Artifacts[0].Name != "main" || d.Build.Steps[0].Timeout != 30*time.Minute {
		t.Errorf("build: %+v", d.Build)
	}
}

// variant changes one place of the file that has everything.
func variant(t *testing.T, old, new string) (pipeline.Definition, pipeline.Problems) {
	t.Helper()
	if !strings.Contains(everything, old) {
		t.Fatalf("%q is not in the file", old)
	}
	src := []byte(strings.Replace(everything, old, new, 1))
	d, problems := parse(src)
	if problems.Failed() {
		t.Fatalf("%s\n%s", new, problems.Render(src, false))
	}
	return d, problems
}

// Defaults that depend on each other follow judge.md.
func TestDefaults(t *testing.T) {
	const canary = "rollout: {canary: {steps: [{weight: 50}]}}"
	for name, c := range map[string]struct {
		old, new  string
		warm, bin time.Duration
	}{
		"long bake":             {canary, "rollout: {canary: {steps: [{weight: 50, bake: 1h}]}}", 2 * time.Minute, 10 * time.Second},
		"short first bake":      {canary, "rollout: {canary: {steps: [{weight: 5, bake: 90s}, {weight: 50, bake: 15m}]}}", 45 * time.Second, 10 * time.Second},
		"warm-up of its own":    {"    analysis:\n", "    analysis:\n      warmUp: 0s\n", 0, 10 * time.Second},
		"bin of its own":        {"    analysis:\n", "    analysis:\n      bin: 3s\n", 2 * time.Minute, 3 * time.Second},
		"bare canary":           {canary, "rollout: canary", 2 * time.Minute, 10 * time.Second},
		"canary without steps":  {canary, "rollout: {canary: {}}", 2 * time.Minute, 10 * time.Second},
		"all at once, and bake": {canary, "rollout: {all-at-once: {bake: 2m}}", time.Minute, 10 * time.Second},
	} {
		d, _ := variant(t, c.old, c.new)
		e, _ := d.Environment("prod")
		if e.Analysis.WarmUp != c.warm || e.Analysis.Bin != c.bin {
			t.Errorf("%s: warm-up %s, bin %s", name, e.Analysis.WarmUp, e.Analysis.Bin)
		}
	}

	d, _ := variant(t, canary, "rollout: canary")
	e, _ := d.Environment("prod")
	if s := e.Rollout.Steps; len(s) != 3 || s[0].Weight != 5 || s[1].Weight != 25 || s[2].Weight != 50 || s[2].Bake != 15*time.Minute {
		t.Errorf("steps of a bare canary: %v", s)
	}
	if e.Rollout.OnInconclusive != "extend" || e.Rollout.OnNoData != "hold" || e.Rollout.Timeout != 30*time.Minute || e.Rollout.RollbackTimeout != 5*time.Minute {
		t.Errorf("settings of a bare canary: %+v", e.Rollout)
	}
	// Defaults are not shared between definitions.
	e.Rollout.Steps[0].Weight = 99
	again, _ := variant(t, canary, "rollout: canary")
	if e, _ := again.Environment("prod"); e.Rollout.Steps[0].Weight != 5 {
		t.Error("one definition's steps are another's")
	}
}

// http-errors is judged for a canary and wherever an analysis is asked for,
// and not where the file names other metrics.
func TestWhatIsJudged(t *testing.T) {
	dev, _ := variant(t, "purpose: feedback", "purpose: play")
	if e, _ := dev.Environment("dev"); len(e.Analysis.Metrics) != 0 {
		t.Errorf("all-at-once judges %v", e.Analysis.Metrics)
	}
	asked, _ := variant(t, "purpose: feedback", "analysis: {maxExcess: 0.5}")
	if e, _ := asked.Environment("dev"); len(e.Analysis.Metrics) != 1 || e.Analysis.Metrics[0].Kind != pipeline.HTTPErrors {
		t.Errorf("an analysis judges %v", e.Analysis.Metrics)
	}
	canary, _ := variant(t, "{all-at-once: {bake: 15m}}", "canary")
	if e, _ := canary.Environment("dev"); len(e.Analysis.Metrics) != 1 || e.Analysis.Metrics[0].Name != pipeline.HTTPErrors {
		t.Errorf("a canary judges %v", e.Analysis.Metrics)
	}
	others, _ := variant(t, "purpose: feedback", "analysis: {metrics: [http-latency]}")
	if e, _ := others.Environment("dev"); len(e.Analysis.Metrics) != 1 || e.Analysis.Metrics[0].Quantile != 0.99 || e.Analysis.Metrics[0].MaxRatio != 1.5 {
		t.Errorf("the named metrics are %v", e.Analysis.Metrics)
	}
}

// Values of variables are kept as they are written.
func TestVariables(t *testing.T) {
	d, _ := variant(t, "env: {A: {secret: 'file:/a'}}\n      health", "env: {N: 007, F: 1.50, B: true, T: 2026-01-01, S: 'x y', E: ''}\n      health")
	e, _ := d.Environment("prod")
	for k, want := range map[string]string{"N": "007", "F": "1.50", "B": "true", "T": "2026-01-01", "S": "x y", "E": ""} {
		if got := e.Target.Env[k].Plain; got != want {
			t.Errorf("%s is %q, not %q", k, got, want)
		}
	}
}

// The same file gives the same digest, whatever its layout and comments.
func TestDigestIsOfTheMeaning(t *testing.T) {
	a, _ := variant(t, "owner: team", "owner: team # a comment")
	b, _ := variant(t, "owner: team", `owner: "team"`)
	da, errA := a.Digest()
	db, errB := b.Digest()
	if errA != nil || errB != nil || da != db {
		t.Errorf("%s, %s, %v, %v", da, db, errA, errB)
	}
}

// Problems read well as JSON, for lint --json.
func TestProblemsAsJSON(t *testing.T) {
	_, problems := parse([]byte("version: 3\n"))
	b, err := json.Marshal(problems)
	if err != nil || !strings.Contains(string(b), `"line":1,"column":10,"severity":"error","rule":"version","path":"version"`) {
		t.Errorf("%s, %v", b, err)
	}
	if problems.Err() == nil || !strings.Contains(problems.Err().Error(), "sluice.yaml:1:10: error:") {
		t.Errorf("as an error: %v", problems.Err())
	}
	_, none := parse(read(t, "testdata/good/small.yaml"))
	if b, err := json.Marshal(none); err != nil || string(b) != "[]" || none.Err() != nil {
		t.Errorf("without problems: %s, %v, %v", b, err, none.Err())
	}
}

// Lint can be asked about a definition that was not read from a file.
func TestLintWithoutPositions(t *testing.T) {
	d, _ := parse([]byte(everything))
	for i := range d.Environments {
		d.Environments[i].Gates = nil
	}
	for _, p := range pipeline.Lint(d, nil) {
		if p.Rule == "no-tests-gate" && p.Line == 1 && p.Column == 1 {
			return
		}
	}
	t.Error("the missing gate was not told")
}
