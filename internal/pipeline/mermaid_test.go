package pipeline_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/pipeline"
)

func TestMermaid(t *testing.T) {
	d, _ := parse(read(t, "testdata/good/interface.yaml"))
	same(t, "testdata/interface.mmd", pipeline.Mermaid(d))
}

// Nothing in a name can end a label, and every edge joins nodes that exist.
func TestMermaidLabels(t *testing.T) {
	d, _ := parse([]byte(everything))
	d.Service, d.Build.Artifacts[0].Path = "a\"]\n; click x", "<b>`"
	got := pipeline.Mermaid(d)
	known := map[string]bool{}
	node := regexp.MustCompile(`^(?:subgraph )?(\w+)[ \[({]`)
	for line := range strings.SplitSeq(got, "\n") {
		line = strings.TrimSpace(line)
		if m := node.FindStringSubmatch(line); m != nil && !strings.Contains(line, " --> ") {
			known[m[1]] = true
		}
		if strings.Count(line, `"`)%2 != 0 || strings.Contains(line, "click x") && !strings.HasPrefix(line, "subgraph build") {
			t.Errorf("a label ends early: %s", line)
		}
	}
	for line := range strings.SplitSeq(got, "\n") {
		if from, to, ok := strings.Cut(strings.TrimSpace(line), " --> "); ok && (!known[from] || !known[to]) {
			t.Errorf("an edge to nowhere: %s", line)
		}
	}
}

func TestWeights(t *testing.T) {
	for name, c := range map[string]struct {
		r    pipeline.Rollout
		last float64
		n    int
	}{
		"all at once":       {pipeline.Rollout{Strategy: pipeline.AllAtOnce}, 100, 1},
		"canary":            {pipeline.Rollout{Strategy: pipeline.Canary, Steps: []pipeline.CanaryStep{{Weight: 5}, {Weight: 50}}}, 100, 3},
		"canary to the end": {pipeline.Rollout{Strategy: pipeline.Canary, Steps: []pipeline.CanaryStep{{Weight: 5}, {Weight: 100}}}, 100, 2},
	} {
		w := pipeline.Weights(c.r)
		if len(w) != c.n || w[len(w)-1].Weight != c.last {
			t.Errorf("%s: %v", name, w)
		}
	}
}
