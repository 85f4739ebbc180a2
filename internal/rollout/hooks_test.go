package rollout

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// Hooks stand where their names say, in every strategy and for a first release.
func TestHooksInPlans(t *testing.T) {
	check := func(name string) []pipeline.Check { return []pipeline.Check{{Name: name}} }
	hooks := pipeline.Hooks{BeforeTraffic: check("b"), AfterStep: check("s"), AfterTraffic: check("a")}
	for want, env := range map[string]pipeline.Environment{
		"prepare b@0 shift@500 bake@500 s@500 shift@5000 bake@5000 s@5000 shift@10000 s@10000 v@10000 a@10000 retire@10000": {
			Rollout: pipeline.Rollout{Strategy: pipeline.Canary, Steps: []pipeline.CanaryStep{{Weight: 5, Bake: time.Minute}, {Weight: 50, Bake: time.Minute}}},
		},
		"prepare b@0 shift@10000 bake@10000 s@10000 v@10000 a@10000 retire@10000": {
			Rollout: pipeline.Rollout{Strategy: pipeline.AllAtOnce, Bake: time.Minute},
		},
	} {
		env.Hooks, env.Verify = hooks, check("v")
		p, err := Compile(env, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := outline(p); got != want {
			t.Errorf("%s:\n got %s\nwant %s", env.Rollout.Strategy, got, want)
		}
		if p, err = Compile(env, false); err != nil {
			t.Fatal(err)
		}
		if got := outline(p); got != "prepare b@0 shift@10000 s@10000 v@10000 a@10000 retire@10000" {
			t.Errorf("a first release by %s: %s", env.Rollout.Strategy, got)
		}
		// The way back is not held up.
		if got := outline(CompileRollback(env)); got != "prepare shift@10000 v@10000 retire@10000" {
			t.Errorf("a rollback: %s", got)
		}
	}
}

func outline(p Plan) string {
	var out []string
	for _, s := range p.Steps {
		word := string(s.Kind)
		if s.Kind == StepCheck {
			word = strings.Join(s.Checks, "+")
		}
		if s.Kind != StepPrepare {
			word += "@" + strconv.Itoa(s.Weight)
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}
