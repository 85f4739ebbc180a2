package control

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

// withMetrics is a canary of one step that also judges what m says.
func withMetrics(m, alarms string) string {
	out := `
  - name: production
    target: {type: host, listen: 127.0.0.1:9001, run: ./app, health: {http: /healthz}, metrics: {path: /metrics}}
    rollout: {canary: {steps: [{weight: 50, bake: 1m}]}}
    analysis:
      warmUp: 0s
      bin: 5s
      maxExcess: 5
      metrics: [http-errors` + m + `]
`
	if alarms != "" {
		out += "      alarms: [" + alarms + "]\n"
	}
	return out
}

// Whatever a metric answers that can't be judged is no data, told as exactly
// what it is; it holds the rollout and never passes nor takes it back.
func TestBadAnswers(t *testing.T) {
	stories(t, func(w *world) {
		const limit, rate = ", {name: depth, kind: limit, query: 'depth{r=\"$revision\"}', max: 5}", ", {name: orders, kind: rate, bad: 'bad{r=\"$revision\"}', total: 'all{r=\"$revision\"}'}"
		nan := func(string) ([]Sample, error) { return []Sample{{Series: "a", Value: math.NaN()}}, nil }
		for i, c := range []struct {
			metric string
			answer func(q string) ([]Sample, error)
			says   string
		}{
			{limit, func(string) ([]Sample, error) { return nil, nil }, "the query answered nothing"},
			{limit, nan, "the query answered NaN, which is no number"},
			{limit, func(string) ([]Sample, error) { return []Sample{{"{a=\"1\"}", 1}, {"{a=\"2\"}", 1}}, nil }, `the query answered 2 series where one is needed ({a="1"}, {a="2"}): join them with sum or avg`},
			{limit, func(string) ([]Sample, error) {
				return nil, fmt.Errorf("%w: the newest sample of shop in production is 9s old, and one is due every 1s", ErrNothing)
			}, "9s old, and one is due every 1s"},
			{limit, func(string) ([]Sample, error) {
				return nil, fmt.Errorf("%w: instance i1: line after series 0: it is text", ErrNothing)
			}, "line after series 0: it is text"},
			{limit, func(string) ([]Sample, error) { return nil, errors.New("connection refused") }, "connection refused"},
			{rate, nan, "total: the query answered NaN"},
			{rate, func(string) ([]Sample, error) { return nil, errors.New("connection refused") }, "total: connection refused"},
		} {
			env := withMetrics(c.metric, "")
			w.metrics.answer = nil
			if i == 0 {
				w.first(withMetrics("", ""))
			}
			w.metrics.answer = func(q string) ([]Sample, error) {
				if strings.HasPrefix(q, "sum(increase(") {
					return nil, nil
				}
				return c.answer(q)
			}
			r, _ := w.ship(w.definition(env), fmt.Sprint("v", i+2))
			w.until(r, "held", func(s Status) bool { return s.Environments[0].Held != "" })
			e := w.env(r)
			if e.Verdict != verdict.NoData || e.Weight != 50 || len(e.Metrics) != 2 || e.Metrics[1].Verdict != verdict.NoData || !strings.Contains(e.Metrics[1].Sentence, c.says) || !strings.Contains(e.Held, c.says) {
				w.Errorf("%d: held %q, %+v", i, e.Held, e.Metrics)
			}
			w.must(w.front.Abort(w.Context(), "default", r, "", "", alice))
			w.untilState(r, run.RolledBack)
		}
	})
}

// Gauges, burn rates, points and alarms are judged inside a rollout, and kept for
// a replay.
func TestOtherKinds(t *testing.T) {
	const (
		gauge  = ", {name: memory, kind: gauge, query: 'memory{r=\"$revision\"}', max: 100}"
		slo    = ", {name: good, kind: slo, target: 99.9, bad: failed, total: all}"
		points = ", {name: wait, kind: points, query: 'wait{r=\"$revision\"}'}"
		alarm  = "{name: dlq, query: dlq, above: 3, for: 10s}"
	)
	for _, c := range []struct {
		name, metric, alarms string
		judged               string // name of what decides
		sick                 map[string]float64
		says                 string
	}{
		{"gauge", gauge, "", "memory", map[string]float64{"memory": 150}, "above the limit of 100 for 3 samples in a row"},
		{"slo", slo, "", "good", map[string]float64{"failed": 0.05}, "burns 50× over 1 h"},
		{"points", points, "", "wait", map[string]float64{"wait": 5}, "higher"},
		{"alarm", "", alarm, "dlq", map[string]float64{"dlq": 4}, "ALARM: above the limit of 3 for 2 samples in a row"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stories(t, func(w *world) {
				w.first(withMetrics("", ""))
				w.pause(10 * time.Minute)
				sick, n := map[string]float64{}, 0
				candidate := ""
				w.metrics.answer = func(q string) ([]Sample, error) {
					n++
					value := func(name string, well float64) []Sample {
						if s, ok := sick[name]; ok && (candidate == "" || !strings.Contains(q, "r=\"") || strings.Contains(q, candidate)) {
							well = s
						}
						return []Sample{{Series: "a", Value: well}}
					}
					switch {
					case strings.Contains(q, "increase((failed)"):
						return value("failed", 0), nil
					case strings.Contains(q, "increase((all)"):
						return []Sample{{Value: 1}}, nil
					case strings.HasPrefix(q, "memory"):
						return append(value("memory", 50), value("memory", 60)...), nil
					case strings.HasPrefix(q, "wait"):
						return value("wait", 1+0.01*float64(n%7)), nil
					case strings.HasPrefix(q, "dlq"):
						return value("dlq", 1), nil
					}
					return nil, nil
				}
				env := withMetrics(c.metric, c.alarms)
				r, _ := w.ship(w.definition(env), "v2")
				s := w.untilState(r, run.Succeeded)
				ms := s.Environments[0].Metrics
				if m := ms[len(ms)-1]; m.Name != c.judged || m.Verdict != verdict.Pass {
					w.Errorf("a healthy one: %+v", m)
				}
				bad, v3 := w.ship(w.definition(env), "v3")
				candidate = v3.Short()
				for k, v := range c.sick {
					sick[k] = v
				}
				s = w.untilState(bad, run.RolledBack)
				ms = s.Environments[0].Metrics
				if m := ms[len(ms)-1]; m.Verdict != verdict.Fail || !strings.Contains(m.Sentence, c.says) {
					w.Errorf("a sick one: %+v", m)
				}
				for _, x := range w.replay(nil) {
					if x.Change != ReplaySame && x.Change != ReplayNotRecorded {
						w.Errorf("as recorded: %+v", x)
					}
				}
			})
		})
	}
}
