package analysis

import (
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Result is the verdict on a step over all its metrics.
type Result struct {
	Verdict  verdict.Verdict `json:"verdict"`
	Metrics  []Metric        `json:"metrics"`
	Reasons  []string        `json:"reasons"`  // one for each metric with that verdict: "name: sentence"
	Sentence string          `json:"sentence"` // the first reason, and how many more
	// Unjudged says that this is a first release without any absolute limit:
	// nothing could be judged, health and checks decide. Its verdict is no-data.
	Unjudged bool `json:"unjudged,omitempty"`
}

// Failed are the metrics and alarms that failed and count.
func (r Result) Failed() []Metric {
	var out []Metric
	for _, m := range r.Metrics {
		if m.Verdict == verdict.Fail && !m.Advisory {
			out = append(out, m)
		}
	}
	return out
}

// Combine joins the metrics: a fail overrides all else, and it passes only if
// all of at least one pass. Metrics without a basis (a first release) do not
// count beside others that have one, and advisory ones never do.
func Combine(metrics []Metric) Result {
	r := Result{Verdict: verdict.NoData, Metrics: metrics, Sentence: "no metric was judged"}
	var vs []verdict.Verdict
	for _, m := range metrics {
		if !m.Advisory && (m.Basis != NoBasis || m.Verdict == verdict.Fail) {
			vs = append(vs, m.Verdict)
		}
	}
	r.Unjudged = len(vs) == 0 && len(metrics) > 0
	if len(vs) > 0 {
		r.Verdict = verdict.Worst(vs...)
	}
	for _, m := range metrics {
		if m.Verdict == r.Verdict && !m.Advisory && (m.Basis != NoBasis || r.Unjudged || m.Verdict == verdict.Fail) {
			r.Reasons = append(r.Reasons, m.Name+": "+m.Sentence)
		}
	}
	if len(r.Reasons) > 0 {
		r.Sentence = r.Reasons[0]
		if n := len(r.Reasons) - 1; n > 0 {
			r.Sentence += fmt.Sprintf(" (and %d more)", n)
		}
	}
	r.Sentence = strings.TrimSpace(r.Sentence)
	return r
}
