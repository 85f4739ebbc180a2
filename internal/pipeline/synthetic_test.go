package pipeline_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// Made traffic is bounded where it is written, and more where it speaks for users;
// beside a platform's standard it speaks for nobody.
func TestSyntheticIsBounded(t *testing.T) {
	paths := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("/p%d", i))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	const own, standard = "    rollout: canary\n", "    rollout: careful@2\n"
	for name, c := range map[string]struct{ rollout, synthetic, says string }{
		"as much as an agent makes":          {own, "{rate: 1000, paths: " + paths(100) + "}", ""},
		"more":                               {own, "{rate: 1000.5}", "at most 1000"},
		"none":                               {own, "{rate: 0}", "above 0"},
		"more paths":                         {own, "{rate: 1, paths: " + paths(101) + "}", "synthetic.paths has 101 items; at most 100 are asked"},
		"as much as may be counted":          {own, "{rate: 50, count: true}", ""},
		"more that is counted":               {own, "{rate: 50.1, count: true}", "at most 50 per second on each host"},
		"more that is expressly not":         {own, "{rate: 51, count: false}", ""},
		"beside a standard, not counted":     {standard, "{rate: 100}", ""},
		"beside a standard, counted":         {standard, "{rate: 1, count: true}", "standard careful@2 of team-platform allows only what is stricter"},
		"not a number, and counted":          {own, "{rate: much, count: true}", "a number"},
		"beside a standard, no yes or no":    {standard, "{rate: 1, count: 7}", "count"},
		"several things wrong, told at once": {own, "{rate: 60, count: true, paths: " + paths(101) + "}", "at most 100 are asked"},
	} {
		e, problems, text := service(t, c.rollout+"    synthetic: "+c.synthetic+"\n", pipeline.WithPlatform(platform(t)))
		if problems.Failed() != (c.says != "") || !strings.Contains(text, c.says) {
			t.Errorf("%s: want %q\n%s", name, c.says, text)
		}
		if c.says == "" && (e.Synthetic == nil || e.Synthetic.Rate == 0) {
			t.Errorf("%s: %+v", name, e.Synthetic)
		}
	}
}
