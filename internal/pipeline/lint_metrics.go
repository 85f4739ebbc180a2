package pipeline

import (
	"fmt"
	"regexp"
	"time"
)

// signals holds the rules of what is judged and of alarms.
func (l *linter) signals(at string, e Environment) {
	for i, m := range e.Analysis.Metrics {
		where := fmt.Sprintf("%s.analysis.metrics[%d]", at, i)
		switch m.Kind {
		case Limit, Gauge:
			l.weak(where+".query", m.Query, m.Samples == 1, 0, m.Max)
		case Points:
			l.points(where, e, m)
		}
		if m.Kind == Gauge && !m.Absolute() {
			l.add(l.positions.Value(where), where, Note, "advisory-metric", fmt.Sprintf("gauge %s has no limit: it is shown and decides nothing", m.Name), "add max: or min:, if a level is known that is wrong whatever the stable release has")
		}
	}
	for i, a := range e.Analysis.Alarms {
		where := fmt.Sprintf("%s.analysis.alarms[%d].query", at, i)
		l.weak(where, a.Query, a.For == 0, a.For, a.Above)
	}
}

var (
	aboutCPU     = regexp.MustCompile(`(?i)cpu`)
	aboutTime    = regexp.MustCompile(`(?i)latency|duration|response_time|_seconds|_millis`)
	isAverage    = regexp.MustCompile(`(?i)\bavg(_over_time)?\b|_sum\b[^/]*/[^/]*_count\b`)
	isQuantile   = regexp.MustCompile(`(?i)quantile`)
	noDataIsGood = regexp.MustCompile(`(?i)\bor\b(\s+on\s*\(\s*\))?\s*(\(\s*)?(vector\s*\(|\d)`)
	aCounter     = regexp.MustCompile(`\w+_total\b`)
	aRate        = regexp.MustCompile(`(?i)\b(rate|irate|increase|delta|resets|changes)\s*\(`)
)

// cpuLeast is how long a busy processor has to be busy to mean anything.
const cpuLeast = 5 * time.Minute

// weak warns of a bound that fires when nothing is wrong, or never.
func (l *linter) weak(at, query string, once bool, lasts time.Duration, above *float64) {
	warn := func(message, mend string) { l.warn(at, "weak-alarm", message, mend) }
	if noDataIsGood.MatchString(query) {
		warn("the query makes a number of no data, so that a service that is gone looks well", "leave the or out: a query that answers nothing is no data, which never passes")
	}
	if aCounter.MatchString(query) && !aRate.MatchString(query) {
		warn("the query is of a counter, which only rises: it passes any bound in the end", "take its rate: rate(NAME[1m]), or judge kind: rate with bad and total")
	}
	switch {
	case aboutCPU.MatchString(query) && above != nil && lasts < cpuLeast:
		warn("a busy processor for a short time is no harm to anybody, and a release that starts is always busy", "judge what users feel: http-latency at 0.99; or ask for throttling, or for "+Short(cpuLeast)+" and longer in an alarm")
	case aboutTime.MatchString(query) && isAverage.MatchString(query) && !isQuantile.MatchString(query):
		warn("an average of times hides the slow ones: one user in a hundred can wait for a minute", "judge http-latency with quantiles: [0.5, 0.99], or histogram_quantile(0.99, …)")
	case once:
		warn("one bin over the bound is enough, and one bin is often an accident", "ask for several in a row: samples: 3, or for: 30s in an alarm")
	}
}

// pointsFew is how many points a side are advised, as the judge does.
const pointsFew = 50

// points warns of the traps of a point comparison.
func (l *linter) points(at string, e Environment, m Metric) {
	_, shortest := Bakes(e.Rollout)
	n := 0
	if e.Analysis.Bin > 0 {
		n = int(shortest / e.Analysis.Bin)
	}
	message := fmt.Sprintf("metric %s compares points, which have no number of events: its verdict depends on the unit, and a bad minority of points passes", m.Name)
	if n < pointsFew {
		message += fmt.Sprintf("; the shortest bake has %d points a side, and below %d it is often wrong", n, pointsFew)
	}
	l.warn(at, "points-traps", message, fmt.Sprintf("count events instead: kind: rate with bad and total; or bake for %s and longer", Short(pointsFew*e.Analysis.Bin)))
}
