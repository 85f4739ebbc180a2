package pipeline_test

import (
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// What production is offered to be watched by, by kind of target. Each file misses
// something, and what it is offered is taken: with the service's own queries in the
// place of …, lint has nothing more to offer and refuses nothing.
func TestAlarmSets(t *testing.T) {
	files, err := filepath.Glob("testdata/alarms/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			src := read(t, file)
			_, problems := parse(src)
			same(t, strings.TrimSuffix(file, ".yaml")+".txt", problems.Render(src, false))
			text := string(src)
			for range 2 { // a worker that nothing judges is told that first, then the rest
				for _, p := range problems {
					text = taken(text, p.Rule, p.Mend)
				}
				_, problems = parse([]byte(text))
			}
			if len(problems) > 0 {
				t.Errorf("what was offered, taken:\n%s\n%s", text, problems.Render([]byte(text), false))
			}
		})
	}
}

// taken does in a file what a mend says.
func taken(text, rule, mend string) string {
	mend = strings.NewReplacer("query: …", `query: 'depth{revision="$revision"}'`, "bad: …", `bad: 'bad{revision="$revision"}'`, "total: …", `total: 'all{revision="$revision"}'`, "max: …", "max: 9").Replace(mend)
	switch rule {
	case "alarm-set":
		_, add, _ := strings.Cut(mend, "metrics: ")
		add, _, _ = strings.Cut(add, "; docs")
		if before, after, ok := strings.Cut(text, "analysis: {metrics: ["); ok {
			return before + "analysis: {metrics: [" + add + ", " + after
		}
		return text + "    analysis: {metrics: [http-errors, " + add + "]}\n"
	case "no-analysis":
		_, add, _ := strings.Cut(mend, "on its own metrics: ")
		return strings.Replace(text, "rollout: rolling", "rollout: {rolling: {bake: 15m}}", 1) + "    " + add + "\n"
	case "no-verify":
		_, verify, _ := strings.Cut(mend, "verify: ")
		return text + "    verify: " + verify + "\n"
	}
	return text
}

// Each signal may name its action, and under a platform's standard none that is weaker
// than what the standard decides for all.
func TestActionsOfSignals(t *testing.T) {
	of := func(rollout string) (pipeline.Definition, pipeline.Problems) {
		src := string(read(t, "testdata/alarms/host.yaml"))
		src = strings.Replace(src, "rollout: canary", "rollout: "+rollout, 1)
		return parse([]byte(src + "    analysis:\n      metrics: [{name: http-errors, onFail: pause}, http-latency]\n      alarms: [{name: disk, query: full, above: 1, onFail: rollback}]\n"))
	}
	d, problems := of("canary")
	if problems.Failed() {
		t.Fatal(problems.Err())
	}
	if got := d.Environments[1].Analysis.Actions(); !maps.Equal(got, map[string]string{"http-errors": pipeline.Pause, "alarm disk": pipeline.GoBack}) {
		t.Errorf("actions are %v", got)
	}
	if got := d.Environments[0].Analysis.Actions(); got != nil {
		t.Errorf("nothing says otherwise: %v", got)
	}
	_, problems = of("{standard: careful}")
	var said []string
	for _, p := range problems {
		if p.Rule == "loosens-standard" {
			said = append(said, p.Path)
		}
	}
	if len(said) != 1 || said[0] != "environments[1].analysis.metrics[0].onFail" {
		t.Errorf("loosened by %v", said)
	}
}
