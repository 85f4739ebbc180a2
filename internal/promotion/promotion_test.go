package promotion

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/pipeline"
)

var production = pipeline.Environment{
	Name: "production", After: []string{"dev", "stage"},
	Gates: []pipeline.Gate{{Name: "tests-passed"}, {Name: "small", CEL: "artifact.size < 10"}, {Name: "fortune"}},
}

// Every gate is asked, in order, also after one failed.
func TestDecide(t *testing.T) {
	f := Facts{Facts: gate.Facts{Passed: []string{"dev"}, Tests: gate.Tests{Reports: 1, Passed: 1}, Release: "sha256:abc"}, Quarantine: "it was taken back"}
	want := []struct {
		gate   string
		answer gate.Answer
		says   string
	}{
		{"after:dev", gate.Pass, "succeeded in dev"},
		{"after:stage", gate.Fail, "has not succeeded in stage"},
		{"not-quarantined", gate.Fail, "quarantine lift abc"},
		{"tests-passed", gate.Pass, "1 test passed"},
		{"small", gate.Fail, "never a pass"},
		{"fortune", gate.Fail, "knows no gate"},
	}
	got := Decide(production, f)
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		if got[i].Gate != w.gate || got[i].Answer != w.answer || !strings.Contains(got[i].Reason, w.says) {
			t.Errorf("%d: %+v, want %+v", i, got[i], w)
		}
	}
	if d, blocked := Blocked(got); !blocked || d.Gate != "after:stage" {
		t.Errorf("blocked by %+v, %t", d, blocked)
	}
	if d, blocked := Blocked(Decide(pipeline.Environment{Name: "dev"}, Facts{})); blocked {
		t.Errorf("blocked by %+v", d)
	}
	for _, a := range []gate.Answer{"", gate.Waiting, gate.Fail, "maybe"} {
		if _, blocked := Blocked([]gate.Decision{{Answer: gate.Pass}, {Answer: a}}); !blocked {
			t.Errorf("%q does not block", a)
		}
	}
}
