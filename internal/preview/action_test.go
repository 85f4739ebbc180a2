package preview

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// A plan says which signals do something else than the rollout.
func TestPlanNamesTheActionsOfSignals(t *testing.T) {
	env := pipeline.Environment{Name: "production", Target: pipeline.Target{Type: "host", Listen: ":1", Instances: 1, Hosts: []string{"a"}}}
	env.Rollout = pipeline.Rollout{Strategy: pipeline.Canary, Steps: []pipeline.CanaryStep{{Weight: 5, Bake: time.Minute}}, Timeout: time.Minute, RollbackTimeout: time.Minute}
	env.Analysis.Metrics = []pipeline.Metric{{Name: "http-errors", Kind: "http-errors"}, {Name: "backlog", Kind: "limit", OnFail: pipeline.Pause}}
	env.Analysis.Alarms = []pipeline.Alarm{{Name: "disk", OnFail: pipeline.Freeze}}
	p, err := rollout.Compile(env, true)
	if err != nil {
		t.Fatal(err)
	}
	if got := Failing(p); !strings.HasSuffix(got, "in one step. A fail of alarm disk alone freezes it. A fail of backlog alone pauses it until a person resumes.") {
		t.Error(got)
	}
	first, err := rollout.Compile(env, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := Failing(first); !strings.Contains(got, "users then get 503") {
		t.Error(got)
	}
}
