package control

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// judging is the part of a watch that bins change and nothing else: a rollout
// and its replay are judged by the same code on the same bins. It holds sums, so
// that a bin costs the same after a minute and after a day.
type judging struct {
	Warm   time.Duration   `json:"warm,omitempty"` // since the candidate's first user request
	Step   int             `json:"step,omitempty"` // that the tests were told of
	Tests  []test          `json:"tests,omitempty"`
	Spread analysis.Spread `json:"spread,omitzero"` // of the stable's errors: the A/A split
}

// test is one metric's test. Exactly one of the pointers is set.
type test struct {
	Metric  pipeline.Metric   `json:"metric"`
	Alarm   *pipeline.Alarm   `json:"alarm,omitempty"` // the limit is this alarm's, there is no metric
	Rate    *analysis.Rate    `json:"rate,omitempty"`
	Latency *analysis.Latency `json:"latency,omitempty"`
	Limit   *analysis.Limit   `json:"limit,omitempty"`
	Gauge   *analysis.Gauge   `json:"gauge,omitempty"`
	Burn    *analysis.Burn    `json:"burn,omitempty"`
	Series  *analysis.Series  `json:"series,omitempty"`
}

// name is what readings are kept by.
func (x test) name() string {
	if x.Alarm != nil {
		return x.Alarm.Signal()
	}
	return x.Metric.Name
}

// failed names what failed, as a plan's actions do.
func failed(r analysis.Result) []string {
	var out []string
	for _, m := range r.Failed() {
		name := m.Name
		if m.Kind == analysis.KindAlarm {
			name = pipeline.Alarm{Name: name}.Signal()
		}
		out = append(out, name)
	}
	return out
}

// opening is what was known before the first bin: with it and the bins a rollout
// can be judged again.
type opening struct {
	V      int                        `json:"v"`
	First  bool                       `json:"first,omitempty"`
	Before cumulative                 `json:"before"`          // the stable's counts in the window before
	Spread analysis.Spread            `json:"spread,omitzero"` // its A/A split in that window
	Rates  map[string]analysis.Frozen `json:"rates,omitempty"` // custom metrics in that window
}

// closed is one closed bin as it was judged.
type closed struct {
	Point
	Took     time.Duration      `json:"took"`
	Step     int                `json:"step"`
	Extended int                `json:"extended,omitempty"`
	Baking   bool               `json:"baking,omitempty"` // else only a fail counts
	Alone    bool               `json:"alone,omitempty"`
	Last     bool               `json:"last,omitempty"`   // no other bin ends before the bake does
	Canary   map[int]uint64     `json:"canary,omitempty"` // latency
	Stable   map[int]uint64     `json:"stable,omitempty"`
	Spread   analysis.Spread    `json:"spread,omitzero"`
	Slow     []analysis.Spread  `json:"slow,omitempty"` // by judging.bounds
	Read     map[string]reading `json:"read,omitempty"` // custom metrics and alarms
	Verdict  verdict.Verdict    `json:"verdict,omitempty"`
}

// reading is what a query said for one bin.
type reading struct {
	Counts *analysis.Bin `json:"counts,omitempty"` // rate
	Canary []float64     `json:"canary,omitempty"`
	Stable []float64     `json:"stable,omitempty"`
	Why    string        `json:"why,omitempty"` // it said nothing that can be judged
}

// startTests begins all tests of an analysis.
func startTests(a pipeline.Analysis, set analysis.Settings, o opening) ([]test, error) {
	var out []test
	for _, m := range a.Metrics {
		t, err := startTest(m, set, len(a.Metrics), o)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	for _, al := range a.Alarms {
		rows := 1
		if set.Bin > 0 {
			rows = int((al.For + set.Bin - 1) / set.Bin)
		}
		l, err := analysis.NewAlarm(al.Name, al.Below, al.Above, rows)
		if err != nil {
			return nil, err
		}
		out = append(out, test{Alarm: &al, Limit: &l})
	}
	return out, nil
}

func startTest(m pipeline.Metric, set analysis.Settings, metrics int, o opening) (test, error) {
	t := test{Metric: m}
	switch m.Kind {
	case pipeline.HTTPErrors:
		r := analysis.NewRate(pipeline.HTTPErrors, set, metrics, analysis.Frozen{Bad: o.Before.Bad, Total: o.Before.Requests, First: o.First})
		r.Name = m.Name // the plan's actions of signals are by the definition's names
		t.Rate = &r
	case pipeline.HTTPLatency:
		l, err := analysis.NewLatency(m.Name, set, metrics, m.MaxRatio, o.First, m.AllQuantiles()...)
		if err != nil {
			return t, err
		}
		l.Freeze(o.Before.Latency, wire.LatencyEdge)
		t.Latency = &l
	case pipeline.Rate:
		f := o.Rates[m.Name]
		f.First = o.First
		r := analysis.NewRate(m.Name, set, metrics, f)
		t.Rate = &r
	case pipeline.Limit:
		l, err := analysis.NewLimit(m.Name, m.Min, m.Max, m.Samples, 0)
		if err != nil {
			return t, err
		}
		t.Limit = &l
	case pipeline.Gauge:
		g, err := analysis.NewGauge(m.Name, m.Min, m.Max, m.Samples)
		if err != nil {
			return t, err
		}
		t.Gauge = &g
	case pipeline.SLO:
		b, err := analysis.NewBurn(m.Name, m.Target/100, m.Window)
		if err != nil {
			return t, err
		}
		t.Burn = &b
	case pipeline.Points:
		s, err := analysis.NewSeries(m.Name, m.Direction, m.Increase, m.Decrease)
		if err != nil {
			return t, err
		}
		t.Series = &s
	default:
		return t, fmt.Errorf("metric %s has the unknown kind %q", m.Name, m.Kind)
	}
	return t, nil
}

// bounds are the last fast buckets of all latencies that are judged, in order.
func (j *judging) bounds() []int {
	var out []int
	for _, x := range j.Tests {
		if x.Latency != nil {
			out = append(out, x.Latency.Bounds()...)
		}
	}
	return out
}

// bin judges one closed bin. History gives the bins before it, for what compares
// points at the end of a bake.
func (j *judging) bin(c closed, a pipeline.Analysis, history func() ([]closed, error)) (analysis.Result, error) {
	kind := analysis.Judged
	if j.Warm < a.WarmUp {
		kind |= analysis.WarmUp
	}
	if c.Alone {
		kind |= analysis.Alone
	}
	if c.NC > 0 || j.Warm > 0 {
		j.Warm += c.Took // it counts from the first user request on
	}
	if j.Step != c.Step {
		j.Step = c.Step
		for i := range j.Tests {
			j.Tests[i].startStep()
		}
	}
	j.Spread.Join(c.Spread)
	slow := c.Slow
	if len(slow) != len(j.bounds()) {
		slow = nil // the bounds are others than when the bin was closed
	}
	metrics := make([]analysis.Metric, 0, len(j.Tests))
	for i := range j.Tests {
		x := &j.Tests[i]
		if x.Latency != nil {
			if n := len(x.Latency.Bounds()); len(slow) > 0 && n > 0 {
				x.Latency.Split(slow[:n])
				slow = slow[n:]
			}
		}
		m, err := j.add(x, c, kind, history)
		if err != nil {
			return analysis.Result{}, err
		}
		metrics = append(metrics, m)
	}
	if len(metrics) == 0 {
		return analysis.Result{}, nil
	}
	return analysis.Combine(metrics), nil
}

func (x *test) startStep() {
	switch {
	case x.Rate != nil:
		x.Rate.StartStep()
	case x.Latency != nil:
		x.Latency.StartStep()
	case x.Limit != nil:
		x.Limit.StartStep()
	case x.Gauge != nil:
		x.Gauge.StartStep()
	case x.Burn != nil:
		x.Burn.StartStep()
	case x.Series != nil:
		x.Series.StartStep()
	}
}

func (j *judging) add(x *test, c closed, kind analysis.BinKind, history func() ([]closed, error)) (analysis.Metric, error) {
	read, asked := c.Read[x.name()]
	switch {
	case x.Latency != nil:
		x.Latency.Add(c.Canary, c.Stable, kind, wire.LatencyEdge)
		return x.Latency.Result(), nil
	case x.Limit != nil:
		v := x.Limit.Worst(read.Canary)
		if math.IsNaN(v) {
			x.Limit.Missing(read.Why)
		} else {
			x.Limit.Add(v)
		}
		return x.Limit.Result(), nil
	case x.Gauge != nil:
		x.Gauge.Add(read.Canary, read.Stable, read.Why)
		return x.Gauge.Result(), nil
	case x.Burn != nil:
		if asked {
			x.Burn.Add(orNaN(read.Canary), read.Why)
		}
		return x.Burn.Result(), nil
	case x.Series != nil:
		x.Series.Add(one(read.Canary), one(read.Stable), read.Why)
		if c.Last && x.Series.Due() {
			if err := x.look(c, history); err != nil {
				return analysis.Metric{}, err
			}
		}
		return x.Series.Result(), nil
	case x.Metric.Kind == pipeline.HTTPErrors:
		x.Rate.Settings.Phi = j.Spread.Phi()
		x.Rate.Add(analysis.Bin{KC: c.KC, NC: c.NC, KB: c.KB, NB: c.NB}, kind)
	case read.Counts == nil:
		x.Rate.Missing(read.Why)
	default:
		x.Rate.Add(*read.Counts, kind)
		x.Rate.Why = read.Why
	}
	return x.Rate.Result(), nil
}

// look compares the points of this step.
func (x *test) look(c closed, history func() ([]closed, error)) error {
	all, err := history()
	if err != nil {
		return err
	}
	var canary, stable []float64
	for _, b := range append(slices.Clip(all), c) {
		if r := b.Read[x.name()]; b.Step == c.Step {
			canary, stable = append(canary, r.Canary...), append(stable, r.Stable...)
		}
	}
	x.Series.Look(canary, stable)
	return nil
}

func one(xs []float64) float64 {
	if len(xs) != 1 {
		return math.NaN()
	}
	return xs[0]
}

// orNaN turns the −1 of a missing answer, which JSON can hold, into NaN.
func orNaN(xs []float64) []float64 {
	out := slices.Clone(xs)
	for i, x := range out {
		if x < 0 {
			out[i] = math.NaN()
		}
	}
	return out
}

// splits are the A/A splits of a bin: of errors, and of each latency bound.
func splits(stable cumulative, bounds int) (errors analysis.Spread, slow []analysis.Spread) {
	split := make([][2]int64, wire.Buckets)
	for i, b := range stable.Buckets {
		if i >= 0 && i < len(split) {
			split[i] = b
		}
	}
	errors.Add(split)
	for q := range bounds {
		each := make([][2]int64, wire.Buckets)
		for i, b := range stable.Buckets {
			if n := stable.Slow[i]; i >= 0 && i < len(each) && q < len(n) {
				each[i] = [2]int64{n[q], b[1]}
			}
		}
		slow = append(slow, analysis.SpreadOf(each))
	}
	return errors, slow
}

// keep appends a closed bin, and before the first one what was known before.
func (t *turn) keep(c closed) error {
	w := &t.watch
	put := func(seq int64, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("couldn't encode a bin: %w", err)
		}
		if err := t.tx.AppendBin(t.row.Project, t.row.ID, seq, b); err != nil {
			return fmt.Errorf("couldn't keep a bin of rollout %s: %w", t.row.ID, err)
		}
		return nil
	}
	if w.Closed == 0 {
		o := opening{} // of a rollout that an older sluice started: no replay
		if w.Opening != nil {
			o = *w.Opening
		}
		if err := put(0, o); err != nil {
			return err
		}
		w.Opening = nil
	}
	w.Closed++
	return put(w.Closed, c)
}

func decodeBins(rows []store.Bin) ([]closed, error) {
	out := make([]closed, 0, len(rows))
	for _, r := range rows {
		if r.Seq == 0 {
			continue
		}
		var c closed
		if err := json.Unmarshal(r.Data, &c); err != nil {
			return nil, fmt.Errorf("couldn't read bin %d of rollout %s: %w", r.Seq, r.Rollout, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// history are the bins that were kept so far.
func (t *turn) history() ([]closed, error) {
	rows, err := t.tx.Bins(t.row.Project, t.row.ID, 0)
	if err != nil {
		return nil, err
	}
	return decodeBins(rows)
}

// points are the newest bins, for the chart.
func (t *turn) points() ([]Point, error) {
	out := t.watch.Points
	rows, err := t.tx.Bins(t.row.Project, t.row.ID, maxPoints)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r.Seq == 0 {
			continue
		}
		var p Point
		if err := json.Unmarshal(r.Data, &p); err != nil {
			return nil, fmt.Errorf("couldn't read bin %d of rollout %s: %w", r.Seq, r.Rollout, err)
		}
		out = append(out, p)
	}
	return out[max(0, len(out)-maxPoints):], nil
}
