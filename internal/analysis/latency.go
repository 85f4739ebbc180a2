package analysis

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Latency judges time to response headers by buckets. For each quantile q it
// freezes a bound L, the bucket edge at or above maxRatio × the stable's
// quantile, and tests "slower than L" as a rate whose allowed value is 1 − q.
//
// It fails when the average of the quantiles' evidence reaches the threshold,
// and passes when every quantile passes. A quantile fails only against both the
// concurrent stable version (a shared slowness is nobody's fault) and 1 − q (a
// faster stable version is no reason).
type Latency struct {
	V         int            `json:"v"`
	Name      string         `json:"name"`
	Settings  Settings       `json:"settings"`
	Metrics   int            `json:"metrics"`
	MaxRatio  float64        `json:"maxRatio"`
	First     bool           `json:"first,omitempty"`
	Quantiles []Quantile     `json:"quantiles"`
	Early     map[int]uint64 `json:"early,omitempty"` // stable's buckets until they suffice to freeze
	Bins      int            `json:"bins"`
	PassedAt  int            `json:"passedAt"`
	Failed    *Metric        `json:"failed,omitempty"`
}

// Quantile is one tested quantile.
type Quantile struct {
	Q     float64 `json:"q"`
	Last  int     `json:"last"`          // the last bucket that is fast enough
	Bound float64 `json:"bound"`         // its upper edge in seconds; 0: not frozen yet
	Rate  Rate    `json:"rate,omitzero"` // from the freezing on

	Spread Spread `json:"spread,omitzero"` // of slow requests over the stable's hash buckets
}

// maxBuckets bounds a histogram that is taken from outside.
const maxBuckets = 1024

// NewLatency starts the test. Quantiles are fractions such as 0.99; maxRatio is
// how many times the stable's quantile is still fast enough.
func NewLatency(name string, s Settings, metrics int, maxRatio float64, first bool, quantiles ...float64) (Latency, error) {
	l := Latency{V: stateVersion, Name: name, Settings: s, Metrics: max(1, metrics), MaxRatio: maxRatio, First: first}
	if !(maxRatio >= 1 && maxRatio <= 1000) {
		return Latency{}, fmt.Errorf("maxRatio of metric %q is %v: it is from 1 to 1000, for instance 1.5", name, maxRatio)
	}
	if len(quantiles) == 0 || len(quantiles) > 8 {
		return Latency{}, fmt.Errorf("metric %q has %d quantiles: from 1 to 8 can be judged", name, len(quantiles))
	}
	for _, q := range quantiles {
		if !(q >= 0.5 && q <= 0.9999) {
			return Latency{}, fmt.Errorf("quantile of metric %q is %v: it is from 0.5 to 0.9999, for instance 0.99", name, q)
		}
		l.Quantiles = append(l.Quantiles, Quantile{Q: q})
	}
	return l, nil
}

// UnmarshalJSON refuses a state of another version.
func (l *Latency) UnmarshalJSON(b []byte) error {
	type plain Latency
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("couldn't read a latency metric's state: %w", err)
	}
	if p.V != stateVersion {
		return fmt.Errorf("couldn't read the state of metric %q: it is of version %d, this build reads %d", p.Name, p.V, stateVersion)
	}
	for _, q := range p.Quantiles {
		if (q.Bound > 0) != (q.Rate.V == stateVersion) || q.Bound < 0 {
			return fmt.Errorf("couldn't read the state of metric %q: quantile %v has a bound of %v and a test of version %d", p.Name, q.Q, q.Bound, q.Rate.V)
		}
	}
	if err := p.Settings.Validate(); err != nil {
		return fmt.Errorf("couldn't read the state of metric %q: %w", p.Name, err)
	}
	*l = Latency(p)
	return nil
}

// Freeze sets the bounds from the stable's buckets of an earlier time: the
// window before exposure, or later any bins before the next Add. It is false,
// and keeps the counts for more to come, while they are too few. Edge is the
// upper edge of a bucket in seconds and rises with its index.
func (l *Latency) Freeze(stable map[int]uint64, edge func(int) float64) bool {
	l.Early = sumBuckets(l.Early, stable)
	all := int64(0)
	for _, c := range l.Early {
		all = satAdd(all, clampCount(c))
	}
	for _, q := range l.Quantiles {
		if float64(all) < max(float64(l.Settings.MinEvents), 5/(1-q.Q)) {
			return false
		}
	}
	for i := range l.Quantiles {
		q := &l.Quantiles[i]
		last, ok := boundBucket(l.Early, q.Q, l.MaxRatio, edge)
		if !ok {
			return false
		}
		q.Last, q.Bound = last, edge(last)
		if q.Rate.V == 0 {
			slow, total := slower(l.Early, last)
			q.Rate = NewRate(l.Name, l.Settings, l.Metrics, Frozen{Bad: slow, Total: total, First: l.First, Floor: 1 - q.Q})
			q.Rate.Kind, q.Rate.Part = "latency", len(l.Quantiles) > 1
		}
		q.Rate.Noun = "requests took longer than " + seconds(q.Bound)
	}
	l.Early = nil
	return true
}

// Frozen says whether there is a bound to judge by.
func (l Latency) Frozen() bool { return len(l.Quantiles) > 0 && l.Quantiles[0].Bound > 0 }

// Add takes one closed bin of both versions' buckets (their increase in that
// bin, see DeltaHistogram). Until a bound is frozen, bins only serve to freeze
// it: a bin is never judged by a bound that it shaped.
func (l *Latency) Add(canary, stable map[int]uint64, at BinKind, edge func(int) float64) {
	if l.Bins < math.MaxInt32 {
		l.Bins++
	}
	if !l.Frozen() {
		l.Freeze(stable, edge)
		return
	}
	for i := range l.Quantiles {
		q := &l.Quantiles[i]
		q.Rate.Settings.Phi = q.Spread.Phi()
		var b Bin
		b.KC, b.NC = slower(canary, q.Last)
		b.KB, b.NB = slower(stable, q.Last)
		q.Rate.Add(b, at)
	}
	l.decide()
}

// Bounds are the last buckets that are fast enough, by quantile; nil until they
// are frozen.
func (l Latency) Bounds() []int {
	if !l.Frozen() {
		return nil
	}
	out := make([]int, len(l.Quantiles))
	for i, q := range l.Quantiles {
		out[i] = q.Last
	}
	return out
}

// Split takes the A/A split of the next bin: for each of Bounds how slow requests
// spread over the stable version's hash buckets. Slow requests that come in
// clusters then weigh less.
func (l *Latency) Split(spreads []Spread) {
	for i := range min(len(spreads), len(l.Quantiles)) {
		l.Quantiles[i].Spread.Join(spreads[i])
	}
}

// StartStep counts minEvents anew; the evidence goes on.
func (l *Latency) StartStep() {
	l.PassedAt = 0
	for i := range l.Quantiles {
		l.Quantiles[i].Rate.StartStep()
	}
}

func (l *Latency) decide() {
	if l.Failed != nil {
		return
	}
	if len(l.Quantiles) == 1 {
		if f := l.Quantiles[0].Rate.Failed; f != nil {
			m := *f
			m.DecidedAtBin = l.Bins
			l.Failed = &m
		}
	} else {
		l.Failed = l.average()
	}
	switch {
	case l.Failed != nil || l.Verdict() != verdict.Pass:
		l.PassedAt = 0
	case l.PassedAt == 0:
		l.PassedAt = l.Bins
	}
}

// average decides FAIL for several quantiles: a mean of e-values is one. The
// guards must hold for the quantile that tells it.
func (l Latency) average() *Metric {
	for _, w := range []window{warmUp, whole, step} {
		var es []float64
		told := -1
		for i, q := range l.Quantiles {
			es = append(es, q.Rate.logFail(w))
			if q.Rate.guard(w) && (told < 0 || es[i] > es[told]) {
				told = i
			}
		}
		want := l.Quantiles[0].Rate.threshold(w)
		if e := logMeanExp(es); told >= 0 && e >= want {
			m := l.Quantiles[told].Rate.failed(w)
			m.LogFail, m.DecidedAtBin = finite(e-want+math.Log(1/l.Quantiles[0].Rate.Alpha)), l.Bins
			return m
		}
	}
	return nil
}

// Verdict is where the test stands now.
func (l Latency) Verdict() verdict.Verdict {
	if l.Failed != nil {
		return verdict.Fail
	}
	if l.V != stateVersion || !l.Frozen() {
		return verdict.NoData
	}
	vs := make([]verdict.Verdict, 0, len(l.Quantiles))
	for _, q := range l.Quantiles {
		vs = append(vs, q.Rate.Verdict())
	}
	return verdict.Worst(vs...)
}

// Result is the verdict with its reasons, told by the quantile that decides.
func (l Latency) Result() Metric {
	if l.Failed != nil {
		return *l.Failed
	}
	if !l.Frozen() {
		m := Metric{Name: l.Name, Kind: "latency", Verdict: verdict.NoData, Basis: Concurrent, Detectable: 1,
			Sentence: "no latency of the stable version yet to compare with"}
		if l.First {
			m.Basis, m.Sentence = NoBasis, "first release: there is no stable version's latency to compare with"
		}
		return m
	}
	v := l.Verdict()
	_, told := l.told(v)
	told.Verdict, told.DecidedAtBin = v, 0
	if v == verdict.Pass {
		told.DecidedAtBin = l.PassedAt
	}
	return told
}

// told is the quantile that tells a verdict: of those that came to it the one with
// the least evidence for a pass.
func (l Latency) told(v verdict.Verdict) (Rate, Metric) {
	var rate Rate
	var told Metric
	for _, q := range l.Quantiles {
		if m := q.Rate.Result(); m.Verdict == v && (rate.V == 0 || m.LogPass < told.LogPass) {
			rate, told = q.Rate, m
		}
	}
	return rate, told
}

// Told returns the test of the quantile that [Latency.Result] tells of; false while
// there is no bound, or after a fail.
func (l Latency) Told() (Rate, bool) {
	if l.Failed != nil || !l.Frozen() {
		return Rate{}, false
	}
	r, _ := l.told(l.Verdict())
	return r, r.V != 0
}

// boundBucket finds the bucket whose upper edge is at or above maxRatio × the
// upper edge of the bucket that holds the quantile.
func boundBucket(h map[int]uint64, q, maxRatio float64, edge func(int) float64) (int, bool) {
	keys := make([]int, 0, len(h))
	total := 0.0
	for i, c := range h {
		if c > 0 {
			keys = append(keys, i)
			total += float64(c)
		}
	}
	if len(keys) == 0 {
		return 0, false
	}
	slices.Sort(keys)
	at, seen := keys[len(keys)-1], 0.0
	for _, i := range keys {
		seen += float64(h[i])
		if seen >= q*total {
			at = i
			break
		}
	}
	want := maxRatio * edge(at)
	if !(want > 0) || math.IsInf(want, 0) {
		return 0, false
	}
	for i := at; i < at+maxBuckets; i++ {
		if edge(i) >= want*(1-1e-9) {
			return i, !math.IsInf(edge(i), 0)
		}
	}
	return 0, false
}

// slower counts events above bucket last, and all.
func slower(h map[int]uint64, last int) (slow, total int64) {
	for i, c := range h {
		total = satAdd(total, clampCount(c))
		if i > last {
			slow = satAdd(slow, clampCount(c))
		}
	}
	return slow, total
}

func clampCount(c uint64) int64 { return int64(min(c, math.MaxInt64)) }

func sumBuckets(a, b map[int]uint64) map[int]uint64 {
	out := make(map[int]uint64, max(len(a), len(b)))
	for i, c := range a {
		out[i] = c
	}
	for i, c := range b {
		if _, ok := out[i]; !ok && len(out) >= maxBuckets {
			continue
		}
		if s := out[i] + c; s >= c {
			out[i] = s
		} else {
			out[i] = math.MaxUint64
		}
	}
	return out
}

// seconds writes a bound as a person would: 840 µs, 300 ms, 1.2 s.
func seconds(s float64) string {
	unit := "s"
	switch {
	case s < 0.000999:
		s, unit = s*1e6, "µs"
	case s < 0.999:
		s, unit = s*1e3, "ms"
	}
	if s >= 100 {
		return strconv.FormatFloat(s, 'f', 0, 64) + " " + unit
	}
	return number(s) + " " + unit
}
