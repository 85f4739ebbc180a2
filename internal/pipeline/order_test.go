package pipeline_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/pipeline"
)

func waves(ws [][]pipeline.Step) string {
	var out []string
	for _, w := range ws {
		var names []string
		for _, s := range w {
			names = append(names, s.Name)
		}
		out = append(out, strings.Join(names, " "))
	}
	return strings.Join(out, " | ")
}

func TestOrder(t *testing.T) {
	got, err := pipeline.Order([]pipeline.Step{{Name: "package", Needs: []string{"unit", "lint"}}, {Name: "unit", Needs: []string{"deps"}}, {Name: "deps"}, {Name: "lint"}})
	if err != nil || waves(got) != "deps lint | unit | package" {
		t.Errorf("%s, %v", waves(got), err)
	}
	for _, bad := range [][]pipeline.Step{
		{{Name: "a", Needs: []string{"b"}}, {Name: "b", Needs: []string{"a"}}},
		{{Name: "a", Needs: []string{"nobody"}}},
		{{Name: "a"}, {Name: "a"}},
	} {
		if _, err := pipeline.Order(bad); err == nil {
			t.Errorf("%v was ordered", bad)
		}
	}
}

// Every step runs once, after all that it needs, and no later than it must.
func TestOrderProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "steps")
		steps := make([]pipeline.Step, n)
		for i := range steps {
			steps[i].Name = fmt.Sprintf("s%d", i)
			for j := range i {
				if rapid.Bool().Draw(t, "need") {
					steps[i].Needs = append(steps[i].Needs, fmt.Sprintf("s%d", j))
				}
			}
		}
		shuffled := rapid.Permutation(steps).Draw(t, "order")
		ws, err := pipeline.Order(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]int{}
		for i, w := range ws {
			for _, s := range w {
				if _, twice := at[s.Name]; twice {
					t.Fatalf("%s runs twice", s.Name)
				}
				at[s.Name] = i
			}
		}
		if len(at) != n {
			t.Fatalf("%d of %d steps run", len(at), n)
		}
		for _, s := range steps {
			earliest := 0
			for _, need := range s.Needs {
				earliest = max(earliest, at[need]+1)
			}
			if at[s.Name] != earliest {
				t.Fatalf("%s runs in wave %d, could in %d", s.Name, at[s.Name], earliest)
			}
		}
	})
}

func envs(list ...string) pipeline.Definition {
	var d pipeline.Definition
	for _, e := range list {
		name, after, _ := strings.Cut(e, "<")
		d.Environments = append(d.Environments, pipeline.Environment{Name: name, After: strings.Fields(strings.ReplaceAll(after, ",", " "))})
	}
	return d
}

func TestPath(t *testing.T) {
	d := envs("prod<load,stage", "load<dev", "stage<dev", "dev", "other")
	got, err := pipeline.Path(d, "prod")
	if err != nil || strings.Join(got, " ") != "dev load stage prod" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := pipeline.Path(d, "other"); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := pipeline.Path(d, "nowhere"); err == nil || !strings.Contains(err.Error(), "only prod, load") {
		t.Errorf("unknown environment: %v", err)
	}
	if _, err := pipeline.Path(envs("a<b", "b<a"), "a"); err == nil {
		t.Error("a circle has a path")
	}
	if next := pipeline.Next(d, "dev"); !slices.Equal(next, []string{"load", "stage"}) {
		t.Errorf("after dev: %v", next)
	}
	if next := pipeline.Next(d, ""); !slices.Equal(next, []string{"dev", "other"}) {
		t.Errorf("first: %v", next)
	}
}

func TestProduction(t *testing.T) {
	for _, c := range []struct {
		d    pipeline.Definition
		want string
	}{
		{envs("dev", "production<dev"), "production"},
		{envs("dev", "eu-prod<dev", "us-prod<dev", "load<dev"), "eu-prod us-prod"},
		{envs("live"), "live"},
		{envs("dev", "pre-prod<dev", "main<pre-prod"), "main"},
		{envs("dev", "stage<dev", "final<stage"), "final"},
		{envs("dev"), ""},
		{envs("delivery", "products<delivery", "alive<products"), "alive"},
	} {
		var got []string
		for _, e := range c.d.Environments {
			if pipeline.Production(c.d, e.Name) {
				got = append(got, e.Name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: production is %v, want %s", c.d.Environments, got, c.want)
		}
	}
}

// Each kind, gate, environment and strategy says which risk it removes.
func TestRisks(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range pipeline.Kinds {
		r := pipeline.StageRisk(k)
		if r == "" || seen[r] {
			t.Errorf("kind %s: risk %q", k, r)
		}
		seen[r] = true
	}
	d := envs("dev", "stage<dev", "production<stage")
	for _, e := range d.Environments {
		r := pipeline.EnvironmentRisk(d, e)
		if r == "" || seen[r] {
			t.Errorf("environment %s: risk %q", e.Name, r)
		}
		seen[r] = true
	}
	if pipeline.GateRisk(pipeline.Gate{Name: pipeline.TestsPassed}) == pipeline.GateRisk(pipeline.Gate{Name: "x", CEL: "true"}) {
		t.Error("gates remove one risk")
	}
	if pipeline.RolloutRisk(pipeline.Rollout{Strategy: pipeline.Canary}) == pipeline.RolloutRisk(pipeline.Rollout{Strategy: pipeline.AllAtOnce}) {
		t.Error("strategies remove one risk")
	}
}
