package control

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// Question is a query about one service in one environment. Whoever answers it
// looks at no other's series.
type Question struct {
	Key   release.Key
	Query string
}

// Sample is the newest value of one series.
type Sample struct {
	Series string // its labels, as one text
	Value  float64
}

// ErrNothing is what a question without any series in its answer comes to; the
// error that wraps it says why.
var ErrNothing = errors.New("the query answered nothing")

// answers are what metric providers said for the bin that is due.
type answers struct {
	asked   bool
	samples map[string][]Sample // by metric and role, see askKey
	why     map[string]string   // there is no sample
	failed  map[string]bool     // it could not be asked at all
}

const (
	roleValue        = "value" // of the candidate
	roleStable       = "stable/value"
	roleCanaryBad    = "canary/bad"
	roleCanaryTotal  = "canary/total"
	roleStableBad    = "stable/bad"
	roleStableTotal  = "stable/total"
	roleBeforeBad    = "before/bad" // of the stable, in the window before the exposure
	roleBeforeTotal  = "before/total"
	roleBurn         = "burn/" // and the window
	metricQueryLimit = 5 * time.Second
)

func askKey(metric, role string) string { return metric + "\x00" + role }

// ask queries the metric providers if a bin is due. It happens before the
// transaction, bounded by less than a lease.
func (c *Controller) ask(ctx context.Context, project, id string) (answers, error) {
	var out answers
	var queries map[string]string
	var key release.Key
	err := c.store.View(ctx, func(tx *store.Tx) error {
		t, err := c.openTurn(tx, project, id)
		if err != nil || !t.row.Live {
			return err
		}
		key = t.key()
		if !t.state.Judged() {
			queries = t.queriesBefore()
			return nil
		}
		if t.watch.BinElapsed+t.watch.elapsed(tx.Now()) < t.plan.Environment.Analysis.Bin && !t.watch.Flush {
			return nil
		}
		queries = t.queries()
		return nil
	})
	if err != nil || len(queries) == 0 {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, min(metricQueryLimit, c.leaseTTL/2))
	defer cancel()
	out = answers{asked: true, samples: map[string][]Sample{}, why: map[string]string{}, failed: map[string]bool{}}
	for at, q := range queries {
		s, err := c.metrics.Ask(ctx, Question{Key: key, Query: q})
		if errors.Is(err, ErrNothing) {
			out.why[at] = clip(err.Error())
			continue
		}
		if err != nil {
			out.failed[at] = true
			c.log.Warn("a metric could not be asked; it counts as no data for this bin", "project", project, "rollout", id, "query", q, "error", err)
			out.why[at] = clip(err.Error())
			continue
		}
		out.samples[at] = s
	}
	return out, nil
}

// values are what one query answered, without what is no number, and why there
// are none.
func (a answers) values(key string) (out []float64, why string) {
	if why := a.why[key]; why != "" {
		return nil, why
	}
	for _, s := range a.samples[key] {
		if !math.IsNaN(s.Value) && !math.IsInf(s.Value, 0) {
			out = append(out, s.Value)
		}
	}
	switch n := len(a.samples[key]); {
	case n == 0:
		return nil, "the query answered nothing"
	case len(out) == 0:
		return nil, fmt.Sprintf("the query answered %v, which is no number", a.samples[key][0].Value)
	}
	return out, ""
}

// one is the answer of a query that has to give exactly one series.
func (a answers) one(key string) (out []float64, why string) {
	if all := a.samples[key]; len(all) > 1 {
		return nil, clip(fmt.Sprintf("the query answered %d series where one is needed (%s, %s): join them with sum or avg", len(all), all[0].Series, all[1].Series))
	}
	return a.values(key)
}

func (t *turn) fill(query string, id release.ID) string {
	return strings.NewReplacer("$revision", id.Short(), "$service", t.row.Service, "$environment", t.row.Environment).Replace(query)
}

// increase is a query for what a counter rose in a window. Few steps are enough:
// the two ends and the resets between them count.
func increase(query string, window time.Duration) string {
	step := max(10*time.Second, (window / 720).Round(time.Second))
	return fmt.Sprintf("sum(increase((%s)[%ds:%ds]))", query, int64(window/time.Second), int64(step/time.Second))
}

// queriesBefore ask for what the stable counted in the window before.
func (t *turn) queriesBefore() map[string]string {
	out := map[string]string{}
	for _, x := range t.watch.Tests {
		if x.Metric.Kind != pipeline.Rate || t.restore == nil || x.Rate.Frozen.Total > 0 {
			continue
		}
		for role, q := range map[string]string{roleBeforeBad: x.Metric.Bad, roleBeforeTotal: x.Metric.Total} {
			out[askKey(x.name(), role)] = increase(t.fill(q, t.restore.Release), beforeWindow)
		}
	}
	return out
}

// freezeRates takes what the stable's custom metrics counted before.
func (w *watch) freezeRates(ask answers, s analysis.Settings) error {
	for i, x := range w.Tests {
		bad, total := ask.samples[askKey(x.name(), roleBeforeBad)], ask.samples[askKey(x.name(), roleBeforeTotal)]
		if x.Metric.Kind != pipeline.Rate || len(total) != 1 || !(total[0].Value >= 1) || total[0].Value > 1e15 || w.Opening == nil {
			continue
		}
		f := analysis.Frozen{Total: int64(total[0].Value)}
		if len(bad) == 1 && bad[0].Value > 0 {
			f.Bad = int64(min(bad[0].Value, total[0].Value))
		}
		if w.Opening.Rates == nil {
			w.Opening.Rates = map[string]analysis.Frozen{}
		}
		w.Opening.Rates[x.name()] = f
		var err error
		if w.Tests[i], err = startTest(x.Metric, s, x.of(w.Tests), *w.Opening); err != nil {
			return err
		}
	}
	return nil
}

// of is how many metrics share alpha with x.
func (x test) of(all []test) int {
	n := 0
	for _, o := range all {
		if o.Alarm == nil {
			n++
		}
	}
	return n
}

// burnEvery bounds how often burn rates are asked: their windows are long, and a
// query over days is dear.
const burnEvery = 30 * time.Second

// burnDue says whether the bin that is closed next asks for burn rates.
func (t *turn) burnDue() bool {
	bin := max(time.Second, t.plan.Environment.Analysis.Bin)
	return t.watch.Closed%int64(max(1, burnEvery/bin)) == 0
}

func (t *turn) queries() map[string]string {
	out := map[string]string{}
	for _, x := range t.watch.Tests {
		put := func(role, query string, of release.ID) { out[askKey(x.name(), role)] = t.fill(query, of) }
		switch {
		case x.Alarm != nil:
			put(roleValue, x.Alarm.Query, t.row.Release)
			continue
		case x.Burn != nil && t.burnDue():
			for _, w := range analysis.BurnWindows {
				put(roleBurn+w.String()+"/bad", increase(x.Metric.Bad, w), t.row.Release)
				put(roleBurn+w.String()+"/total", increase(x.Metric.Total, w), t.row.Release)
			}
		case x.Limit != nil:
			put(roleValue, x.Metric.Query, t.row.Release)
		case x.Gauge != nil, x.Series != nil:
			put(roleValue, x.Metric.Query, t.row.Release)
			if t.restore != nil {
				put(roleStable, x.Metric.Query, t.restore.Release)
			}
		case x.Metric.Kind == pipeline.Rate:
			put(roleCanaryBad, x.Metric.Bad, t.row.Release)
			put(roleCanaryTotal, x.Metric.Total, t.row.Release)
			if t.restore != nil {
				put(roleStableBad, x.Metric.Bad, t.restore.Release)
				put(roleStableTotal, x.Metric.Total, t.restore.Release)
			}
		}
	}
	return out
}

// readings are what the answers say of each metric that is asked for.
func (t *turn) readings(ask answers, alone bool) map[string]reading {
	out := map[string]reading{}
	for _, x := range t.watch.Tests {
		at := func(role string) string { return askKey(x.name(), role) }
		var r reading
		switch {
		case x.Alarm != nil:
			r.Canary, r.Why = ask.values(at(roleValue))
		case x.Burn != nil && t.burnDue():
			r = burnReading(x.name(), ask)
		case x.Limit != nil:
			r.Canary, r.Why = ask.one(at(roleValue))
		case x.Gauge != nil:
			r.Canary, r.Why = ask.values(at(roleValue))
			r.Stable, _ = ask.values(at(roleStable))
		case x.Series != nil:
			r.Canary, r.Why = ask.one(at(roleValue))
			var why string
			if r.Stable, why = ask.one(at(roleStable)); r.Why == "" && why != "" {
				r.Why = "of the stable version: " + why
			}
		case x.Metric.Kind == pipeline.Rate:
			r = t.watch.rates(x.name(), ask, alone)
		default:
			continue
		}
		out[x.name()] = r
	}
	return out
}

// rates are the counts of a custom rate in this bin.
func (w *watch) rates(name string, ask answers, alone bool) reading {
	b := analysis.Bin{
		KC: w.rise(name, roleCanaryBad, ask), NC: w.rise(name, roleCanaryTotal, ask),
		KB: w.rise(name, roleStableBad, ask), NB: w.rise(name, roleStableTotal, ask),
	}
	if _, why := ask.values(askKey(name, roleCanaryTotal)); why != "" {
		return reading{Why: "total: " + why}
	}
	r := reading{Counts: &b}
	// A counter of bad events that never rose need not be there yet; one that
	// could not be asked is another thing.
	if at := askKey(name, roleCanaryBad); ask.failed[at] {
		return reading{Why: "bad: " + ask.why[at]}
	}
	if _, why := ask.values(askKey(name, roleStableTotal)); why != "" && !alone {
		r.Why = "total of the stable version: " + why
	}
	return r
}

func burnReading(name string, ask answers) reading {
	r := reading{Canary: make([]float64, len(analysis.BurnWindows))}
	for i, w := range analysis.BurnWindows {
		r.Canary[i] = -1 // missing
		total, why := ask.one(askKey(name, roleBurn+w.String()+"/total"))
		if why == "" && total[0] <= 0 {
			why = "no events in the last " + pipeline.Short(w)
		}
		if why != "" {
			if r.Why == "" {
				r.Why = why
			}
			continue
		}
		r.Canary[i] = 0 // a counter of bad events that is not there yet has counted none
		at := askKey(name, roleBurn+w.String()+"/bad")
		if bad, why := ask.one(at); len(bad) == 1 {
			r.Canary[i] = min(1, max(0, bad[0]/total[0]))
		} else if ask.failed[at] {
			r.Canary[i], r.Why = -1, why
		}
	}
	return r
}

// rise sums the increase of every series since the bin before. A series that
// was not there before begins to count now: what it held is of another time.
func (w *watch) rise(metric, role string, ask answers) int64 {
	sum := 0.0
	for _, s := range ask.samples[askKey(metric, role)] {
		key := askKey(metric, role) + "\x00" + s.Series
		prev, known := w.Series[key]
		if d, ok := analysis.DeltaFloat(prev, s.Value); ok {
			w.Series[key] = s.Value
			if known || strings.HasPrefix(role, "canary") {
				sum += d
			}
		}
	}
	return int64(math.Round(min(sum, math.MaxInt64/2)))
}
