package pipeline_test

import (
	"os"
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
