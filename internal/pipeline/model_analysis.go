package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var analysisModel = object("analysis", defaultAnalysis,
	key("warmUp", "Time after the first user request that is not judged, except for catastrophes.", duration(0), func(a *Analysis, v time.Duration) { a.WarmUp = v }, byDefault("120s, at most half of the first bake")),
	key("bin", "Length of the bins in which counts are compared.", duration(time.Second), func(a *Analysis, v time.Duration) { a.Bin = v }, byDefault("10s, at most a quarter of the shortest bake, at least 1s (2s with scraped metrics)")),
	key("maxExcess", "How much worse than the stable release's rate may be, in percentage points. Tighten it to 0.2 for critical services.", number(between(0, 100)), func(a *Analysis, v float64) { a.MaxExcess = v }, byDefault("1")),
	key("alpha", "Chance of ever failing a release that is no worse, over the whole rollout.", number(between(0, 0.5)), func(a *Analysis, v float64) { a.Alpha = v }, byDefault("0.01")),
	key("beta", "Chance of passing a release that is worse than the bound.", number(between(0, 0.5)), func(a *Analysis, v float64) { a.Beta = v }, byDefault("0.05")),
	key("minEvents", "Requests that a step must see; fewer are no data.", integer(1, 1_000_000_000), func(a *Analysis, v int) { a.MinEvents = v }, byDefault("50")),
	key("maxExtend", "How often an inconclusive bake is repeated before a person is asked.", integer(0, 100), func(a *Analysis, v int) { a.MaxExtend = v }, byDefault("3")),
	key("metrics", "What is judged: http-errors and http-latency by bare name, or mappings.", list(metricModel, 1), func(a *Analysis, v []Metric) { a.Metrics = v }, byDefault("[http-errors]")),
	notYet[Analysis]("alarms", "watch alarms", "use a metric of kind limit"),
	notYet[Analysis]("judge", "use another judge inside a rollout", "compare samples with `sluice judge --file`"),
	notYet[Analysis]("provider", "query another provider of metrics", "let the agent scrape the service: target.metrics"),
)

// metricRefusals are the kinds that Sluice knows and this build cannot judge.
var metricRefusals = refuseAll("judge a metric of kind %s", "use rate (bad of total) or limit (a query with min or max)",
	"alarm", "slo", "gauge", "points", "latency", "logs")

var metricModel = either(
	as(oneOf("a metric that needs no query", []string{HTTPErrors, HTTPLatency}), func(s string) Metric { return withKind(Metric{Name: s}) }),
	as(besides(object("metric", Metric{},
		key("name", "Name of the metric. http-errors and http-latency need no kind.", name(), func(m *Metric, v string) { m.Name = v }, required),
		key("kind", "How it is judged.", oneOf("a kind of metric", []string{HTTPErrors, HTTPLatency, Rate, Limit}, metricRefusals...), func(m *Metric, v string) { m.Kind = v }, byDefault("the name, for http-errors and http-latency")),
		key("quantile", "Kind http-latency: which share of requests is meant.", number(between(0, 1)), func(m *Metric, v float64) { m.Quantile = v }, byDefault("0.99")),
		key("maxRatio", "Kind http-latency: how many times the stable release's quantile is still good.", number(above(1, 1000)), func(m *Metric, v float64) { m.MaxRatio = v }, byDefault("1.5")),
		key("bad", "Kind rate: PromQL selector of the counter of bad events, with $revision.", query(), func(m *Metric, v string) { m.Bad = v }),
		key("total", "Kind rate: PromQL selector of the counter of all events, with $revision.", query(), func(m *Metric, v string) { m.Total = v }),
		key("query", "Kind limit: PromQL query that gives one number.", query(), func(m *Metric, v string) { m.Query = v }),
		key("min", "Kind limit: the number must not be lower.", number(finite()), func(m *Metric, v float64) { m.Min = &v }),
		key("max", "Kind limit: the number must not be higher.", number(finite()), func(m *Metric, v float64) { m.Max = &v }),
	), checkMetric), withKind),
)

// withKind fills in what follows from a metric's name and kind.
func withKind(m Metric) Metric {
	if m.Kind == "" && (m.Name == HTTPErrors || m.Name == HTTPLatency) {
		m.Kind = m.Name
	}
	if m.Kind == HTTPLatency {
		if m.Quantile == 0 {
			m.Quantile = defaultQuantile
		}
		if m.MaxRatio == 0 {
			m.MaxRatio = defaultMaxRatio
		}
	}
	return m
}

// metricKeys says which keys each kind has beside name and kind; those with a
// mark are needed.
var metricKeys = map[string][]string{
	HTTPErrors:  nil,
	HTTPLatency: {"quantile", "maxRatio"},
	Rate:        {"bad!", "total!"},
	Limit:       {"query!", "min", "max"},
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
	for _, k := range []string{"quantile", "maxRatio", "bad", "total", "query", "min", "max"} {
		has := p.positions.Has(at + "." + k)
		switch {
		case has && !slices.Contains(allowed, k) && !slices.Contains(allowed, k+"!"):
			mend := "remove it; this kind has no settings"
			if len(allowed) > 0 {
				mend = fmt.Sprintf("kind %s takes %s", kind, strings.ReplaceAll(listing(allowed, "and"), "!", ""))
			}
			fail(p.keyAt(at+"."+k), at+"."+k, "metric-key", fmt.Sprintf("%s does not belong to a metric of kind %s", k, kind), mend)
		case !has && slices.Contains(allowed, k+"!"):
			fail(p.keyAt(at), at, "missing-key", fmt.Sprintf("%s, of kind %s, has no %s", label(at), kind, k), "add "+k+": with a PromQL query")
		}
	}
	if kind == Limit && ok {
		switch {
		case m.Min == nil && m.Max == nil:
			fail(p.keyAt(at), at, "missing-key", label(at)+", of kind limit, has neither min nor max", "add max: or min:; without them nothing is judged")
		case m.Min != nil && m.Max != nil && *m.Min > *m.Max:
			fail(p.keyAt(at+".min"), at+".min", "out-of-range", "min is above max", "swap them")
		}
	}
	for _, q := range []struct{ key, query string }{{"bad", m.Bad}, {"total", m.Total}} {
		if kind == Rate && q.query != "" && !strings.Contains(q.query, "$revision") {
			fail(p.valueAt(at+"."+q.key), at+"."+q.key, "query-revision", fmt.Sprintf("the query of %s does not mention $revision, so canary and baseline would be the same number", q.key), `add {revision="$revision"} to the selector`)
		}
	}
	return ok
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
