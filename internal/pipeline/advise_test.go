package pipeline_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// Each question has a key that changes the answers, and its words are taken.
func TestQuestions(t *testing.T) {
	other := map[string]string{"rps": "7", "baselineRate": "3", "instances": "9"}
	for _, q := range pipeline.Questions {
		value := other[q.Key]
		for _, w := range q.Words {
			if _, err := pipeline.Answer(pipeline.DefaultAnswers, q.Key, w); err != nil {
				t.Errorf("%s: %s: %v", q.Key, w, err)
			}
			if w != q.Default {
				value = w
			}
		}
		if got, err := pipeline.Answer(pipeline.DefaultAnswers, q.Key, value); err != nil || reflect.DeepEqual(got, pipeline.DefaultAnswers) {
			t.Errorf("%s: %s changes nothing (%v)", q.Key, value, err)
		}
		if got, err := pipeline.Answer(pipeline.DefaultAnswers, q.Key, q.Default); err != nil || !reflect.DeepEqual(got, pipeline.DefaultAnswers) {
			t.Errorf("%s: %s is not the default (%v)", q.Key, q.Default, err)
		}
		if _, err := pipeline.Answer(pipeline.DefaultAnswers, q.Key, "[no]"); err == nil {
			t.Errorf("%s took a list", q.Key)
		}
	}
	if _, err := pipeline.Answer(pipeline.DefaultAnswers, "risk", "hihg"); err == nil || !strings.Contains(err.Error(), "did you mean high?") {
		t.Errorf("%v", err)
	}
	if _, err := pipeline.Answer(pipeline.DefaultAnswers, "risk", "high\nrps: 5"); err == nil {
		t.Error("two answers in one")
	}
}

// A file of answers is as strict as any: unknown keys, wrong types and words that
// are none are told with their place.
func TestAnswersFile(t *testing.T) {
	a, problems := pipeline.ParseAnswers("answers.yaml", []byte("risk: critical\nrps: 120\nstate: migration\n"), pipeline.DefaultAnswers)
	if problems.Failed() || a.Risk != "critical" || a.RPS != 120 || a.State != "migration" || !a.UserFacing || a.Capacity != "double" {
		t.Errorf("%+v, %v", a, problems)
	}
	for src, want := range map[string]string{
		"risc: high\n":           "did you mean risk?",
		"risk: huge\n":           "it can be low, medium, high or critical",
		"rps: many\n":            "without quotes",
		"rps: -1\n":              "at least 0",
		"worker: true\nrps: 5\n": "a worker gets no requests",
		"instances: 0\n":         "1 to 100000",
		"- risk\n":               "mapping of keys",
		"":                       "says nothing",
	} {
		_, problems := pipeline.ParseAnswers("answers.yaml", []byte(src), pipeline.DefaultAnswers)
		if text := problems.Render([]byte(src), false); !problems.Failed() || !strings.Contains(text, want) {
			t.Errorf("%q wants %q:\n%s", src, want, text)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte("risk: critical\nrps: 120\n"))
	f.Add([]byte("worker: true\ninstances: 3"))
	f.Fuzz(func(t *testing.T, src []byte) {
		a, problems := pipeline.ParseAnswers("answers.yaml", src, pipeline.DefaultAnswers)
		checkPositions(t, src, problems)
		if !problems.Failed() && (a.Instances < 1 || !(a.RPS >= 0) || a.Risk == "") {
			t.Fatalf("%+v", a)
		}
	})
}
