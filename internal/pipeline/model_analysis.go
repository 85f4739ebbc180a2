package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var analysisModel = object("analysis", defaultAnalysis, analysisKeys...)

var analysisKeys = []member[Analysis]{
	key("warmUp", "Time after the first user request that is not judged, except for catastrophes.", duration(0), func(a *Analysis, v time.Duration) { a.WarmUp = v }, byDefault("120s, at most half of the first bake")),
	key("bin", "Length of the bins in which counts are compared.", duration(time.Second), func(a *Analysis, v time.Duration) { a.Bin = v }, byDefault("10s, at most a quarter of the shortest bake, at least 1s (2s with scraped metrics)")),
	key("maxExcess", "How much worse than the stable release's rate may be, in percentage points. Tighten it to 0.2 for critical services.", number(between(0, 100)), func(a *Analysis, v float64) { a.MaxExcess = v }, byDefault("1")),
	key("alpha", "Chance of ever failing a release that is no worse, over the whole rollout.", number(between(0, 0.5)), func(a *Analysis, v float64) { a.Alpha = v }, byDefault("0.01")),
	key("beta", "Chance of passing a release that is worse than the bound.", number(between(0, 0.5)), func(a *Analysis, v float64) { a.Beta = v }, byDefault("0.05")),
	key("minEvents", "Requests that a step must see; fewer are no data.", integer(1, 1_000_000_000), func(a *Analysis, v int) { a.MinEvents = v }, byDefault("50")),
	key("maxExtend", "How often an inconclusive bake is repeated before a person is asked.", integer(0, 100), func(a *Analysis, v int) { a.MaxExtend = v }, byDefault("3")),
	key("metrics", "What is judged: http-errors and http-latency by bare name, or mappings.", list(metricModel, 1), func(a *Analysis, v []Metric) { a.Metrics = v }, byDefault("[http-errors]")),
	key("alarms", "Alarms that take the release back: queries with a bound. No data is never OK.", list(alarmModel, 1), func(a *Analysis, v []Alarm) { a.Alarms = v }),
	notYet[Analysis]("judge", "use another judge inside a rollout", "compare samples with `sluice judge --file`"),
	notYet[Analysis]("provider", "query another provider of metrics", "let the agent scrape the service: target.metrics"),
}

// metricRefusals are the kinds that Sluice knows and this build cannot judge.
var metricRefusals = append(refuseAll("judge a metric of kind %s", "use rate (bad of total), gauge, or limit (a query with min or max)",
	"latency", "logs"),
	refuseAll("judge an %s among metrics", "write it under analysis.alarms, with query and above or below", "alarm")...)

var alarmModel = also(object("alarm", Alarm{For: defaultAlarmFor},
	key("name", "Name of the alarm.", name(), func(a *Alarm, v string) { a.Name = v }, required),
	key("query", "PromQL query; each of its series counts.", query(), func(a *Alarm, v string) { a.Query = v }, required),
	key("above", "ALARM while a series is above this.", number(finite()), func(a *Alarm, v float64) { a.Above = &v }),
	key("below", "ALARM while a series is below this.", number(finite()), func(a *Alarm, v float64) { a.Below = &v }),
	key("for", "How long it must be so.", duration(0), func(a *Alarm, v time.Duration) { a.For = v }, byDefault("30s")),
	onFail(func(a *Alarm, v string) { a.OnFail = v }),
), func(p *parser, at string, a Alarm) bool {
	if a.Above == nil && a.Below == nil && !p.positions.Has(at+".above") && !p.positions.Has(at+".below") {
		p.at(p.keyAt(at), at, Error, "missing-key", label(at)+" has neither above nor below", "add above: or below:; without them it is never in ALARM")
		return false
	}
	return true
})

// defaultAlarmFor is how long an alarm's bound must be passed.
const defaultAlarmFor = 30 * time.Second

// sloWindow is the window of an objective that names none.
const sloWindow = 30 * 24 * time.Hour

var metricModel = either(
	as(oneOf("a metric that needs no query", []string{HTTPErrors, HTTPLatency}), func(s string) Metric { return withKind(Metric{Name: s}) }),
	as(besides(object("metric", Metric{},
		key("name", "Name of the metric. http-errors and http-latency need no kind.", name(), func(m *Metric, v string) { m.Name = v }, required),
		key("kind", "How it is judged.", oneOf("a kind of metric", []string{HTTPErrors, HTTPLatency, Rate, Limit, Gauge, SLO, Points}, metricRefusals...), func(m *Metric, v string) { m.Kind = v }, byDefault("the name, for http-errors and http-latency")),
		key("quantile", "Kind http-latency: which share of requests is meant.", number(between(0, 1)), func(m *Metric, v float64) { m.Quantile = v }, byDefault("0.99")),
		key("quantiles", "Kind http-latency: several quantiles, judged together; instead of quantile.", list(number(between(0, 1)), 1), func(m *Metric, v []float64) { m.Quantiles = v }),
		key("maxRatio", "Kind http-latency: how many times the stable release's quantile is still good.", number(above(1, 1000)), func(m *Metric, v float64) { m.MaxRatio = v }, byDefault("1.5")),
		key("bad", "Kinds rate and slo: PromQL selector of the counter of bad events; of a rate with $revision.", query(), func(m *Metric, v string) { m.Bad = v }),
		key("total", "Kinds rate and slo: PromQL selector of the counter of all events; of a rate with $revision.", query(), func(m *Metric, v string) { m.Total = v }),
		key("query", "Kinds limit and points: PromQL query that gives one number. Kind gauge: one of each instance. With $revision.", query(), func(m *Metric, v string) { m.Query = v }),
		key("min", "Kinds limit and gauge: the number must not be lower.", number(finite()), func(m *Metric, v float64) { m.Min = &v }),
		key("max", "Kinds limit and gauge: the number must not be higher.", number(finite()), func(m *Metric, v float64) { m.Max = &v }),
		key("samples", "Kinds limit and gauge: so many bins in a row outside fail.", integer(1, 1000), func(m *Metric, v int) { m.Samples = v }, byDefault("3")),
		key("target", "Kind slo: percent of events that are to be good.", number(between(0, 100)), func(m *Metric, v float64) { m.Target = v }),
		key("window", "Kind slo: the window of the objective.", duration(24*time.Hour), func(m *Metric, v time.Duration) { m.Window = v }, byDefault("720h")),
		key("direction", "Kind points: which way is worse.", oneOf("a direction", []string{"increase", "decrease", "either"}), func(m *Metric, v string) { m.Direction = v }, byDefault("increase")),
		key("increase", "Kind points: least ratio of means that counts as higher.", number(above(0, 1000)), func(m *Metric, v float64) { m.Increase = v }, byDefault("1")),
		key("decrease", "Kind points: greatest ratio of means that counts as lower.", number(above(0, 1000)), func(m *Metric, v float64) { m.Decrease = v }, byDefault("1")),
		onFail(func(m *Metric, v string) { m.OnFail = v }),
	), checkMetric), withKind),
)

// onFail is the action of one signal.
func onFail[T any](set func(*T, string)) member[T] {
	return key("onFail", "What a fail of this one does, where it is not what rollout.onFail says: rollback; freeze, until a person aborts or overrides; pause, until a person resumes. Of several that fail the strongest counts.",
		oneOf("an action", []string{GoBack, Freeze, Pause}, refusal{RollForward, "let one signal roll forward", "write rollout: {onFail: roll-forward}, which is for all of them, and onFail: rollback at those that shall go back"}),
		set, byDefault("rollout.onFail"))
}

// withKind fills in what follows from a metric's name and kind.
func withKind(m Metric) Metric {
	if m.Kind == "" && (m.Name == HTTPErrors || m.Name == HTTPLatency) {
		m.Kind = m.Name
	}
	if m.Kind == HTTPLatency {
		if m.Quantile == 0 && len(m.Quantiles) == 0 {
			m.Quantile = defaultQuantile
		}
		if m.MaxRatio == 0 {
			m.MaxRatio = defaultMaxRatio
		}
	}
	if m.Kind == SLO && m.Window == 0 {
		m.Window = sloWindow
	}
	if m.Kind == Points && m.Direction == "" {
		m.Direction = "increase"
	}
	return m
}

// metricKeys says which keys each kind has beside name and kind; those with a
// mark are needed.
var metricKeys = map[string][]string{
	HTTPErrors:  nil,
	HTTPLatency: {"quantile", "quantiles", "maxRatio"},
	Rate:        {"bad!", "total!"},
	Limit:       {"query!", "min", "max", "samples"},
	Gauge:       {"query!", "min", "max", "samples"},
	SLO:         {"target!", "bad!", "total!", "window"},
	Points:      {"query!", "direction", "increase", "decrease"},
}

func checkMetric(p *parser, at string, m Metric) bool {
	ok := true
	fail := func(pos Position, where, rule, message, mend string) {
		p.at(pos, where, Error, rule, message, mend)
		ok = false
	}
	named := m.Name == HTTPErrors || m.Name == HTTPLatency
	if named && m.Kind != "" && m.Kind != m.Name {
		fail(p.valueAt(at+".kind"), at+".kind", "metric-kind", fmt.Sprintf("metric %s cannot be of kind %s", m.Name, m.Kind), "give the metric another name, or leave kind out")
		return false
	}
	kind := withKind(m).Kind
	if kind == "" {
		fail(p.keyAt(at), at, "missing-key", label(at)+" has no kind", "add kind: rate with bad and total, or kind: limit with query and max")
		return false
	}
	allowed, known := metricKeys[kind]
	if !known {
		return false // it was said already
	}
	for _, k := range []string{"quantile", "quantiles", "maxRatio", "bad", "total", "query", "min", "max", "samples", "target", "window", "direction", "increase", "decrease"} {
		has := p.positions.Has(at + "." + k)
		switch {
		case has && !slices.Contains(allowed, k) && !slices.Contains(allowed, k+"!"):
			mend := "remove it; this kind has no settings"
			if len(allowed) > 0 {
				mend = fmt.Sprintf("kind %s takes %s", kind, strings.ReplaceAll(listing(allowed, "and"), "!", ""))
			}
			fail(p.keyAt(at+"."+k), at+"."+k, "metric-key", fmt.Sprintf("%s does not belong to a metric of kind %s", k, kind), mend)
		case !has && slices.Contains(allowed, k+"!"):
			fail(p.keyAt(at), at, "missing-key", fmt.Sprintf("%s, of kind %s, has no %s", label(at), kind, k), metricMend(k))
		}
	}
	if p.positions.Has(at+".quantile") && p.positions.Has(at+".quantiles") {
		fail(p.keyAt(at+".quantiles"), at+".quantiles", "one-of", "quantile and quantiles in one metric", "keep one of them")
	}
	if len(m.Quantiles) > maxQuantiles {
		fail(p.keyAt(at+".quantiles"), at+".quantiles", "too-large", fmt.Sprintf("%d quantiles: at most %d are judged together", len(m.Quantiles), maxQuantiles), "keep those that users feel, for instance [0.5, 0.95, 0.99]")
	}
	for i, q := range append([]float64{m.Quantile}, m.Quantiles...) {
		if where := fmt.Sprintf("%s.quantiles[%d]", at, i-1); q != 0 && (q < 0.5 || q > 0.9999) {
			if i == 0 {
				where = at + ".quantile"
			}
			fail(p.valueAt(where), where, "out-of-range", fmt.Sprintf("quantile %v is outside 0.5 to 0.9999", q), "0.99 is the slowest hundredth of requests")
		}
	}
	if (kind == Limit || kind == Gauge) && ok {
		switch {
		case kind == Limit && m.Min == nil && m.Max == nil:
			fail(p.keyAt(at), at, "missing-key", label(at)+", of kind limit, has neither min nor max", "add max: or min:; without them nothing is judged")
		case m.Min != nil && m.Max != nil && *m.Min > *m.Max:
			fail(p.keyAt(at+".min"), at+".min", "out-of-range", "min is above max", "swap them")
		}
	}
	for _, q := range []struct{ key, query string }{{"bad", m.Bad}, {"total", m.Total}, {"query", m.Query}} {
		if (kind == Rate || kind == Gauge || kind == Points) && q.query != "" && !strings.Contains(q.query, "$revision") {
			fail(p.valueAt(at+"."+q.key), at+"."+q.key, "query-revision", fmt.Sprintf("the query of %s does not mention $revision, so canary and baseline would be the same number", q.key), `add {revision="$revision"} to the selector`)
		}
	}
	return ok
}

// maxQuantiles is how many the judge takes.
const maxQuantiles = 8

func metricMend(key string) string {
	if key == "target" {
		return "add target: with the percent of good events, for instance 99.9"
	}
	return "add " + key + ": with a PromQL query"
}

func query() codec[string] {
	return also(text(notBlank, atMost(8<<10)), func(p *parser, at string, s string) bool {
		if p.checkQuery == nil {
			return true
		}
		if err := p.checkQuery(s); err != nil {
			p.at(p.valueAt(at), at, Error, "bad-query", "the query is not PromQL: "+oneLine(err), "mend the query")
			return false
		}
		return true
	})
}
