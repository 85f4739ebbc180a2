package control

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
	"github.com/sluicehq/sluice/internal/verdict"
)

// watch is what a rollout remembers of the signals that it watches. It is
// stored with the row after every turn, so that no evidence is lost when
// another control plane goes on.
type watch struct {
	V         int             `json:"v"`
	TickedAt  time.Time       `json:"tickedAt,omitzero"`
	Planned   time.Duration   `json:"planned,omitempty"` // until the next tick
	LastSeq   int64           `json:"lastSeq,omitempty"`
	LastEvent json.RawMessage `json:"lastEvent,omitempty"`

	BinElapsed time.Duration         `json:"binElapsed,omitempty"`
	Flush      bool                  `json:"flush,omitempty"` // the weight changed: close the bin early
	Warm       time.Duration         `json:"warm,omitempty"`  // since the candidate's first user request
	Step       int                   `json:"step,omitempty"`  // that the tests were told of
	Base       map[string]cumulative `json:"base,omitempty"`  // router counters at the last close
	Series     map[string]float64    `json:"series,omitempty"`
	Tests      []test                `json:"tests,omitempty"`
	Spread     analysis.Spread       `json:"spread,omitzero"`
	Points     []Point               `json:"points,omitempty"` // for the chart
	Result     analysis.Result       `json:"result,omitzero"`

	Facts    int64     `json:"facts,omitempty"` // of package rollout, so far: the revision that people see
	Why      string    `json:"why,omitempty"` // a person's words, of a rollback that was asked for
	Seen     Signals   `json:"seen,omitzero"`
	Cause    string    `json:"cause,omitempty"`   // what kind of event made it go back, see causeOf
	BackAt   time.Time `json:"backAt,omitzero"`   // going back was committed
	FailedAt time.Time `json:"failedAt,omitzero"` // verdict fail was committed
	ShownAt  time.Time `json:"shownAt,omitzero"`  // a weight above 0 was committed
	ZeroAt   time.Time `json:"zeroAt,omitzero"`   // the candidate's weight was read back as 0
}

// Signals are the counts since the candidate's first exposure.
type Signals struct {
	CanaryRequests   int64 `json:"canaryRequests"`
	CanaryBad        int64 `json:"canaryBad"`
	StableRequests   int64 `json:"stableRequests"`
	StableBad        int64 `json:"stableBad"`
	RequestsToDetect int64 `json:"requestsToDetect"` // canary requests until the verdict fail; 0: none
}

// cumulative is one revision's router counters on one host.
type cumulative struct {
	Requests int64            `json:"n"`
	Bad      int64            `json:"k"`
	Latency  map[int]uint64   `json:"l,omitempty"`
	Buckets  map[int][2]int64 `json:"b,omitempty"` // bad and all by hash bucket, of the stable
}

// Point is one closed bin for the chart. Rates are fractions, times seconds.
type Point struct {
	At  time.Time `json:"at"`
	KC  int64     `json:"kc"`
	NC  int64     `json:"nc"`
	KB  int64     `json:"kb"`
	NB  int64     `json:"nb"`
	C99 float64   `json:"c99"` // the canary's 99th percentile of time to response headers
	B99 float64   `json:"b99"`
	W   int       `json:"w"` // weight, basis points
}

// maxPoints bounds the chart: five hours of bins of 30 s, ten minutes of 1 s.
const maxPoints = 600

// test is one metric's test. Exactly one is set.
type test struct {
	Metric  pipeline.Metric   `json:"metric"`
	Rate    *analysis.Rate    `json:"rate,omitempty"`
	Latency *analysis.Latency `json:"latency,omitempty"`
	Limit   *analysis.Limit   `json:"limit,omitempty"`
}

const watchVersion = 1

func decodeWatch(b json.RawMessage) (watch, error) {
	var w watch
	if err := json.Unmarshal(b, &w); err != nil {
		return w, err
	}
	if w.V > watchVersion {
		return w, fmt.Errorf("it has version %d and this build knows up to %d: a newer sluice wrote it; run that one", w.V, watchVersion)
	}
	if w.Base == nil {
		w.Base = map[string]cumulative{}
	}
	if w.Series == nil {
		w.Series = map[string]float64{}
	}
	return w, nil
}

func (w *watch) lastEvent() (rollout.Event, bool) {
	var e rollout.Event
	if len(w.LastEvent) == 0 || json.Unmarshal(w.LastEvent, &e) != nil {
		return e, false
	}
	return e, true
}

func (w *watch) setLastEvent(seq int64, encoded []byte) {
	w.LastSeq, w.LastEvent = seq, encoded
}

// elapsed is the time since the last tick, as far as it can be believed: a
// clock that jumped counts at most twice what was planned, and never backwards.
func (w *watch) elapsed(now time.Time) time.Duration {
	if w.TickedAt.IsZero() {
		return 0
	}
	return clampElapsed(now.Sub(w.TickedAt), w.Planned)
}

// clockGap is how much time may pass uncounted without being told.
const clockGap = 5 * time.Second

// gap is how much of the time since the last tick is not believed.
func (w *watch) gap(now time.Time) time.Duration {
	if w.TickedAt.IsZero() {
		return 0
	}
	return now.Sub(w.TickedAt) - w.elapsed(now)
}

// follow notes the moments that people ask for later.
func (w *watch) follow(before, after rollout.State, now time.Time) {
	if before.Weight != after.Weight {
		w.Flush = true
		if w.ShownAt.IsZero() && after.Weight > 0 {
			w.ShownAt = now
		}
	}
	if before.Phase != rollout.RollingBack && after.Phase == rollout.RollingBack {
		w.BackAt = now
	}
	if before.Verdict != verdict.Fail && after.Verdict == verdict.Fail {
		w.FailedAt = now
		w.Seen.RequestsToDetect = w.Seen.CanaryRequests
	}
	if !w.BackAt.IsZero() && w.ZeroAt.IsZero() && after.Seen.MaxWeight == 0 && after.Seen.Missing == 0 && !after.Applying && after.Seen.Generation >= after.Wanted && after.Weight == 0 {
		w.ZeroAt = now
	}
}

// rollbackMillis is from the commit of going back to the weight read back as 0.
func (w *watch) rollbackMillis() *int64 {
	if w.BackAt.IsZero() || w.ZeroAt.IsZero() {
		return nil
	}
	ms := w.ZeroAt.Sub(w.BackAt).Milliseconds()
	return &ms
}

func (w *watch) nextBin(s rollout.State, a pipeline.Analysis) (time.Duration, bool) {
	if len(w.Tests) == 0 || !s.Exposed || s.Phase == rollout.RollingBack {
		return 0, false
	}
	if w.Flush {
		return 0, true
	}
	return max(0, a.Bin-w.BinElapsed), true
}

// newWatch freezes what is known of the stable version before anything moves.
func (c *Controller) newWatch(tx *store.Tx, key release.Key, env pipeline.Environment, plan rollout.Plan, restore *wire.Revision) (watch, error) {
	w := watch{V: watchVersion, Base: map[string]cumulative{}, Series: map[string]float64{}}
	before := cumulative{}
	if restore != nil {
		var err error
		if before, err = c.before(tx, key, env, restore.Release); err != nil {
			return w, err
		}
	}
	set := preview.Settings(env.Analysis)
	judged := env.Analysis.Metrics
	for _, m := range judged {
		t := test{Metric: m}
		switch m.Kind {
		case pipeline.HTTPErrors:
			r := analysis.NewRate(pipeline.HTTPErrors, set, len(judged), analysis.Frozen{Bad: before.Bad, Total: before.Requests, First: plan.First})
			t.Rate = &r
		case pipeline.HTTPLatency:
			l, err := analysis.NewLatency(m.Name, set, len(judged), m.MaxRatio, plan.First, m.Quantile)
			if err != nil {
				return w, err
			}
			l.Freeze(before.Latency, wire.LatencyEdge)
			t.Latency = &l
		case pipeline.Rate:
			r := analysis.NewRate(m.Name, set, len(judged), analysis.Frozen{First: plan.First})
			t.Rate = &r
		case pipeline.Limit:
			l, err := analysis.NewLimit(m.Name, m.Min, m.Max, 0, 0)
			if err != nil {
				return w, err
			}
			t.Limit = &l
		default:
			return w, fmt.Errorf("metric %s has the unknown kind %q", m.Name, m.Kind)
		}
		w.Tests = append(w.Tests, t)
	}
	return w, nil
}

// Sample is the newest value of one series.
type Sample struct {
	Series string // its labels, as one text
	Value  float64
}

// answers are what metric providers said for the bin that is due.
type answers struct {
	asked   bool
	samples map[string][]Sample // by metric and role, see askKey
}

const (
	roleValue        = "value"
	roleCanaryBad    = "canary/bad"
	roleCanaryTotal  = "canary/total"
	roleStableBad    = "stable/bad"
	roleStableTotal  = "stable/total"
	roleBeforeBad    = "before/bad" // of the stable, in the window before the exposure
	roleBeforeTotal  = "before/total"
	metricQueryLimit = 5 * time.Second
)

func askKey(metric, role string) string { return metric + "\x00" + role }

// ask queries the metric providers if a bin is due. It happens before the
// transaction, bounded by less than a lease.
func (c *Controller) ask(ctx context.Context, project, id string) (answers, error) {
	var out answers
	var queries map[string]string
	err := c.store.View(ctx, func(tx *store.Tx) error {
		t, err := c.openTurn(tx, project, id)
		if err != nil || !t.row.Live {
			return err
		}
		if !t.state.Exposed {
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
	out = answers{asked: true, samples: map[string][]Sample{}}
	for key, q := range queries {
		s, err := c.metrics.Ask(ctx, q)
		if err != nil {
			c.log.Warn("a metric could not be asked; it counts as no data for this bin", "project", project, "rollout", id, "query", q, "error", err)
			continue
		}
		out.samples[key] = s
	}
	return out, nil
}

func (t *turn) fill(query string, id release.ID) string {
	return strings.NewReplacer("$revision", id.Short(), "$service", t.row.Service, "$environment", t.row.Environment).Replace(query)
}

// queriesBefore ask for what the stable counted in the window before.
func (t *turn) queriesBefore() map[string]string {
	out := map[string]string{}
	for _, x := range t.watch.Tests {
		if x.Metric.Kind != pipeline.Rate || t.restore == nil || x.Rate.Frozen.Total > 0 {
			continue
		}
		for role, q := range map[string]string{roleBeforeBad: x.Metric.Bad, roleBeforeTotal: x.Metric.Total} {
			out[askKey(x.Metric.Name, role)] = fmt.Sprintf("sum(increase((%s)[%s:10s]))", t.fill(q, t.restore.Release), "1h")
		}
	}
	return out
}

// freezeRates takes what the stable's custom metrics counted before.
func (w *watch) freezeRates(ask answers, s analysis.Settings) {
	for i, x := range w.Tests {
		bad, total := ask.samples[askKey(x.Metric.Name, roleBeforeBad)], ask.samples[askKey(x.Metric.Name, roleBeforeTotal)]
		if x.Metric.Kind != pipeline.Rate || len(total) != 1 || !(total[0].Value >= 1) || total[0].Value > 1e15 {
			continue
		}
		f := analysis.Frozen{Total: int64(total[0].Value)}
		if len(bad) == 1 && bad[0].Value > 0 {
			f.Bad = int64(min(bad[0].Value, total[0].Value))
		}
		r := analysis.NewRate(x.Metric.Name, s, len(w.Tests), f)
		w.Tests[i].Rate = &r
	}
}

func (t *turn) queries() map[string]string {
	out := map[string]string{}
	fill := t.fill
	for _, x := range t.watch.Tests {
		switch x.Metric.Kind {
		case pipeline.Limit:
			out[askKey(x.Metric.Name, roleValue)] = fill(x.Metric.Query, t.row.Release)
		case pipeline.Rate:
			out[askKey(x.Metric.Name, roleCanaryBad)] = fill(x.Metric.Bad, t.row.Release)
			out[askKey(x.Metric.Name, roleCanaryTotal)] = fill(x.Metric.Total, t.row.Release)
			if t.restore != nil {
				out[askKey(x.Metric.Name, roleStableBad)] = fill(x.Metric.Bad, t.restore.Release)
				out[askKey(x.Metric.Name, roleStableTotal)] = fill(x.Metric.Total, t.restore.Release)
			}
		}
	}
	return out
}

// judge closes the bin that is due, if one is, and returns the verdict if it is
// another than the state's.
func (t *turn) judge(reports []host.Report, ask answers) *rollout.Judged {
	w := &t.watch
	counts := host.Counters(reports, t.key(), t.plan.Environment.Target.Hosts)
	if !t.state.Exposed || t.state.Phase == rollout.RollingBack {
		if !t.state.Exposed {
			w.rebase(counts, t.row.Release, t.restoreID())
			w.freezeRates(ask, preview.Settings(t.plan.Environment.Analysis))
		}
		return nil
	}
	if w.BinElapsed < t.plan.Environment.Analysis.Bin && !w.Flush {
		return nil
	}
	if !ask.asked && len(t.queries()) > 0 {
		return nil // it became due after the providers could be asked; they are in the next turn
	}
	canary, stable := w.increase(counts, t.row.Release), w.increase(counts, t.restoreID())
	w.Seen.CanaryRequests += canary.Requests
	w.Seen.CanaryBad += canary.Bad
	w.Seen.StableRequests += stable.Requests
	w.Seen.StableBad += stable.Bad
	kind := analysis.Judged
	if w.Warm < t.plan.Environment.Analysis.WarmUp {
		kind |= analysis.WarmUp
	}
	if t.plan.First || t.state.Weight == rollout.FullWeight {
		kind |= analysis.Alone
	}
	if w.Seen.CanaryRequests > 0 {
		w.Warm += w.BinElapsed
	}
	if w.Step != t.state.Step {
		w.Step = t.state.Step
		for i := range w.Tests {
			w.Tests[i].startStep()
		}
	}
	w.Spread.Add(spread(stable.Buckets))
	bin := analysis.Bin{KC: canary.Bad, NC: canary.Requests, KB: stable.Bad, NB: stable.Requests}
	metrics := make([]analysis.Metric, 0, len(w.Tests))
	for i := range w.Tests {
		metrics = append(metrics, w.add(&w.Tests[i], bin, canary.Latency, stable.Latency, ask, kind))
	}
	w.chart(Point{At: t.tx.Now(), KC: bin.KC, NC: bin.NC, KB: bin.KB, NB: bin.NB, C99: quantile(canary.Latency, 0.99), B99: quantile(stable.Latency, 0.99), W: t.state.Weight})
	w.BinElapsed, w.Flush = 0, false
	if len(metrics) == 0 {
		return nil
	}
	res := analysis.Combine(metrics)
	if res.Verdict != verdict.Fail && t.state.Phase != rollout.Baking {
		return nil // only a fail counts between bakes; what the last bake came to stays told
	}
	w.Result = res
	same := res.Verdict == t.state.Verdict && (!t.state.Held.On || res.Sentence == t.state.Sentence)
	if same || res.Unjudged {
		return nil
	}
	return &rollout.Judged{Step: t.state.Step, Verdict: w.Result.Verdict, Sentence: w.Result.Sentence}
}

func (x *test) startStep() {
	switch {
	case x.Rate != nil:
		x.Rate.StartStep()
	case x.Latency != nil:
		x.Latency.StartStep()
	case x.Limit != nil:
		x.Limit.StartStep()
	}
}

func (w *watch) add(x *test, bin analysis.Bin, canary, stable map[int]uint64, ask answers, kind analysis.BinKind) analysis.Metric {
	switch {
	case x.Latency != nil:
		x.Latency.Add(canary, stable, kind, wire.LatencyEdge)
		return x.Latency.Result()
	case x.Limit != nil:
		v := math.NaN()
		if s := ask.samples[askKey(x.Metric.Name, roleValue)]; len(s) == 1 {
			v = s[0].Value
		}
		x.Limit.Add(v)
		return x.Limit.Result()
	case x.Metric.Kind == pipeline.HTTPErrors:
		x.Rate.Settings.Phi = w.Spread.Phi()
	default:
		bin = analysis.Bin{
			KC: w.rise(x.Metric.Name, roleCanaryBad, ask), NC: w.rise(x.Metric.Name, roleCanaryTotal, ask),
			KB: w.rise(x.Metric.Name, roleStableBad, ask), NB: w.rise(x.Metric.Name, roleStableTotal, ask),
		}
	}
	x.Rate.Add(bin, kind)
	return x.Rate.Result()
}

// rise sums the increase of every series since the bin before. A series that
// was not there before begins to count now: what it held is of another time.
func (w *watch) rise(metric, role string, ask answers) int64 {
	sum := 0.0
	for _, s := range ask.samples[askKey(metric, role)] {
		key := askKey(metric, role) + "\x00" + s.Series
		prev, known := w.Series[key]
		w.Series[key] = s.Value
		if d, ok := analysis.DeltaFloat(prev, s.Value); ok && (known || strings.HasPrefix(role, "canary")) {
			sum += d
		}
	}
	return int64(math.Round(min(sum, math.MaxInt64/2)))
}

// rebase takes counters as the start, before the candidate is exposed.
func (w *watch) rebase(counts []host.Counts, candidate, stable release.ID) {
	w.increase(counts, candidate)
	w.increase(counts, stable)
	w.BinElapsed = 0
}

// increase is what a revision counted over all hosts since the last call. A
// host's new boot starts from nothing.
func (w *watch) increase(counts []host.Counts, id release.ID) cumulative {
	out := cumulative{Latency: map[int]uint64{}, Buckets: map[int][2]int64{}}
	if id == "" {
		return out
	}
	for _, c := range counts {
		if c.Release != id {
			continue
		}
		key := c.Host + "/" + c.Boot + "/" + id.Short()
		cur := sum(c)
		prev := w.Base[key]
		w.Base[key] = cur
		out.Requests += analysis.Delta(prev.Requests, cur.Requests)
		out.Bad += analysis.Delta(prev.Bad, cur.Bad)
		for i, n := range analysis.DeltaHistogram(prev.Latency, cur.Latency) {
			out.Latency[i] += n
		}
		for i, b := range cur.Buckets {
			p, o := prev.Buckets[i], out.Buckets[i]
			out.Buckets[i] = [2]int64{o[0] + analysis.Delta(p[0], b[0]), o[1] + analysis.Delta(p[1], b[1])}
		}
	}
	return out
}

func sum(c host.Counts) cumulative {
	out := cumulative{Latency: map[int]uint64{}, Buckets: map[int][2]int64{}}
	for i, b := range c.Buckets {
		if b.Requests == 0 {
			continue
		}
		out.Requests += b.Requests
		out.Bad += b.Bad
		out.Buckets[i] = [2]int64{b.Bad, b.Requests}
		for e, n := range b.Latency {
			out.Latency[e] += n
		}
	}
	return out
}

func spread(b map[int][2]int64) [][2]int64 {
	out := make([][2]int64, wire.Buckets)
	for i, x := range b {
		if i >= 0 && i < len(out) {
			out[i] = x
		}
	}
	return out
}

func (w *watch) chart(p Point) {
	w.Points = append(w.Points, p)
	if len(w.Points) > maxPoints {
		w.Points = w.Points[len(w.Points)-maxPoints:]
	}
}

// quantile is the upper edge, in seconds, of the bucket that holds q; 0 of none.
func quantile(h map[int]uint64, q float64) float64 {
	var total uint64
	lo, hi := math.MaxInt, math.MinInt
	for i, n := range h {
		total += n
		lo, hi = min(lo, i), max(hi, i)
	}
	if total == 0 {
		return 0
	}
	want := uint64(math.Ceil(q * float64(total)))
	var seen uint64
	for i := lo; i <= hi; i++ {
		if seen += h[i]; seen >= want {
			return wire.LatencyEdge(i)
		}
	}
	return wire.LatencyEdge(hi)
}
