package pipeline_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// Other settings are laid over recorded ones; what they don't say stays.
func TestOverlay(t *testing.T) {
	base := pipeline.Analysis{Alpha: 0.01, Beta: 0.05, MaxExcess: 1, MinEvents: 50, Bin: 10 * time.Second, WarmUp: time.Minute, Metrics: []pipeline.Metric{{Name: "http-errors", Kind: "http-errors"}}}
	got, problems := pipeline.Overlay(base, "--set", []byte("{alpha: 0.05, warmUp: 0s}"))
	if problems.Failed() {
		t.Fatal(problems)
	}
	if got.Alpha != 0.05 || got.WarmUp != 0 || got.MaxExcess != 1 || got.Bin != 10*time.Second || len(got.Metrics) != 1 {
		t.Errorf("%+v", got)
	}
	got, problems = pipeline.Overlay(base, "a.yaml", []byte("metrics: [http-errors, {name: dlq, kind: limit, query: up, max: 1}]\n"))
	if problems.Failed() || len(got.Metrics) != 2 || got.Alpha != 0.01 {
		t.Errorf("%+v, %v", got, problems)
	}
	for src, want := range map[string]string{"{alpha: 2}": "alpha", "{alfa: 0.1}": "alfa", "{alpha: much}": "number", "[1]": "mapping", "": "empty", "{bin: 5}": "5s"} {
		if _, problems := pipeline.Overlay(base, "--set", []byte(src)); !problems.Failed() || !strings.Contains(problems.Render([]byte(src), false), want) {
			t.Errorf("%q: %s", src, problems.Render([]byte(src), false))
		}
	}
}

// Whatever is laid over settings is taken or refused.
func FuzzOverlay(f *testing.F) {
	for _, s := range []string{"{alpha: 0.05}", "metrics: [http-errors]", "alarms: [{name: a, query: up, above: 1}]", "[", "bin: 5"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		_, problems := pipeline.Overlay(pipeline.Analysis{}, "x", src)
		checkPositions(t, src, problems)
	})
}
