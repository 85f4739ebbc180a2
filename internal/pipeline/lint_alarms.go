package pipeline

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// signal is one thing that services of a kind should be watched by.
type signal struct {
	what   string
	add    string         // a metric that does; … is the service's own
	kinds  []string       // of metrics that are about it by their kind
	about  *regexp.Regexp // names and queries that are about it
	judged func(Metric) bool
}

// alarmSets are the least that should be watched, by the kind of target. That
// instances start, stay up and answer for their health is watched without a word.
// docs/judging.md has them with queries.
var alarmSets = map[string][]signal{
	"host": {
		{what: "failed requests", add: HTTPErrors, kinds: []string{HTTPErrors}},
		{what: "slow requests", add: "{name: http-latency, quantiles: [0.5, 0.99]}", kinds: []string{HTTPLatency}},
		{what: "errors that the service or what it depends on counts", add: "{name: errors, kind: rate, bad: …, total: …}", kinds: []string{Rate, SLO}, about: aboutErrors},
		{what: "saturation or throttling", add: "{name: memory, kind: gauge, query: …, max: …}", kinds: []string{Gauge}, about: aboutSaturation},
		business,
	},
	"worker": {
		{what: "work that failed, itself or in what it depends on", add: failedWork, kinds: []string{Rate, SLO}, about: aboutErrors},
		{what: "how long work takes", add: "{name: duration, kind: limit, query: …, max: …}", about: aboutTime},
		{what: "work that waits", add: "{name: backlog, kind: limit, query: …, max: …}", about: regexp.MustCompile(`(?i)lag|backlog|queue|depth|waiting|iterator_?age|oldest`)},
		{what: "dead letters", add: "{name: dead-letters, kind: limit, query: …, max: 0}", about: regexp.MustCompile(`(?i)dlq|dead[_-]?letter|poison`)},
		{what: "saturation or throttling", add: "{name: memory, kind: gauge, query: …, max: …}", kinds: []string{Gauge}, about: regexp.MustCompile(`(?i)satur|memory|heap|rss|pool|threads|goroutines|connections|cpu|disk|throttl`)},
		business,
	},
}

const failedWork = "{name: jobs, kind: rate, bad: …, total: …}"

var (
	// business is a rate that is not named after errors.
	business = signal{what: "what the business counts", add: "{name: orders, kind: rate, bad: …, total: …}", about: regexp.MustCompile(`(?i)business|revenue|conversion|\bkpi\b`),
		judged: func(m Metric) bool { return (m.Kind == Rate || m.Kind == SLO) && !aboutErrors.MatchString(m.Name) }}

	aboutErrors     = regexp.MustCompile(`(?i)err|fail|exception|panic`)
	aboutSaturation = regexp.MustCompile(`(?i)satur|memory|heap|rss|queue|pool|threads|goroutines|connections|cpu|disk|throttl|lag|backlog|dlq|dead_?letter|depth`)
)

// kindOf is the kind of target in alarmSets.
func kindOf(t Target) string {
	if t.Worker() {
		return "worker"
	}
	return t.Type
}

// watched reports whether anything that a judges is about the signal.
func (s signal) watched(a Analysis) bool {
	is := func(text string) bool { return text != "" && s.about != nil && s.about.MatchString(text) }
	return slices.ContainsFunc(a.Metrics, func(m Metric) bool {
		return slices.Contains(s.kinds, m.Kind) || s.judged != nil && s.judged(m) || m.Query+m.Bad != "" && (is(m.Name) || is(m.Query) || is(m.Bad))
	}) || slices.ContainsFunc(a.Alarms, func(x Alarm) bool { return is(x.Name) || is(x.Query) })
}

// alarmSet offers what is missing of the least that a service should be watched by.
// Where nothing is judged at all that is the greater worry, and told so; of a service
// that is not scraped only what its router counts can be.
func (l *linter) alarmSet(at string, e Environment) {
	if len(e.Analysis.Metrics) == 0 {
		return
	}
	var missing, add []string
	for _, s := range alarmSets[kindOf(e.Target)] {
		if scraped := s.about != nil; !s.watched(e.Analysis) && (!scraped || e.Target.Metrics != nil || e.Target.Worker()) {
			missing, add = append(missing, s.what), append(add, s.add)
		}
	}
	if len(missing) == 0 {
		return
	}
	where := at + ".analysis"
	if !l.positions.Has(where) {
		where = at + ".name"
	}
	what := "a service on a host"
	if e.Target.Worker() {
		what = "a worker"
	}
	l.add(l.positions.Value(where), where, Note, "alarm-set", fmt.Sprintf("%s judges less than %s should be judged by: %s", e.Name, what, strings.Join(missing, "; ")),
		"add to analysis.metrics: "+strings.Join(add, ", ")+"; docs/judging.md has the whole set")
}
