package analysis

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Gauge judges a level, such as memory or a queue's depth, by its mean over the
// instances of a version. With limits, k bins in a row outside fail; without, it
// is advisory: told beside the stable version's mean, and decides nothing,
// because a level has no number of events to say how sure one may be.
type Gauge struct {
	V         int    `json:"v"`
	Name      string `json:"name"`
	Hard      *Limit `json:"hard,omitempty"` // nil: advisory
	Bins      int    `json:"bins"`
	Canary    level  `json:"canary"`
	Stable    level  `json:"stable"`
	Instances int    `json:"instances"` // of the canary, in the newest bin
	Why       string `json:"why,omitempty"`
}

// level is a mean of means.
type level struct {
	N    int64   `json:"n"`
	Mean float64 `json:"mean"`
}

func (l *level) add(x float64) {
	l.N = satAdd(l.N, 1)
	l.Mean = finite(l.Mean + (x-l.Mean)/float64(l.N))
}

// NewGauge starts the test; without min and max it is advisory.
func NewGauge(name string, lo, hi *float64, k int) (Gauge, error) {
	g := Gauge{V: stateVersion, Name: name}
	if lo == nil && hi == nil {
		return g, nil
	}
	l, err := NewLimit(name, lo, hi, k, 0)
	l.Kind = "gauge"
	g.Hard = &l
	return g, err
}

// UnmarshalJSON refuses a state of another version.
func (g *Gauge) UnmarshalJSON(b []byte) error {
	type plain Gauge
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("couldn't read a gauge's state: %w", err)
	}
	if p.V != stateVersion || p.Canary.N < 0 || p.Stable.N < 0 {
		return fmt.Errorf("couldn't read the state of metric %q: it is of version %d, this build reads %d", p.Name, p.V, stateVersion)
	}
	*g = Gauge(p)
	return nil
}

// Add takes one bin: a value of each instance. NaN and the infinities are left
// out; why says what is wrong when the canary has none.
func (g *Gauge) Add(canary, stable []float64, why string) {
	g.Bins = min(g.Bins+1, math.MaxInt32)
	c, n := meanOf(canary)
	g.Instances, g.Why = n, ""
	if n > 0 {
		g.Canary.add(c)
	} else {
		g.Why = why
	}
	if b, n := meanOf(stable); n > 0 {
		g.Stable.add(b)
	}
	switch {
	case g.Hard == nil:
	case n == 0:
		g.Hard.Missing(why)
	default:
		g.Hard.Add(c)
	}
}

func meanOf(xs []float64) (m float64, n int) {
	for _, x := range xs {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			n++
			m += (x - m) / float64(n)
		}
	}
	return m, n
}

// StartStep counts samples anew.
func (g *Gauge) StartStep() {
	if g.Hard != nil {
		g.Hard.StartStep()
	}
}

// Result is the verdict with its reasons.
func (g Gauge) Result() Metric {
	beside := ""
	if g.Stable.N > 0 {
		beside = fmt.Sprintf("; on average %s, the stable version %s", number(g.Canary.Mean), number(g.Stable.Mean))
	}
	if g.Hard != nil {
		m := g.Hard.Result()
		if m.Verdict != verdict.NoData {
			m.Sentence = fmt.Sprintf("mean of %s: %s%s", plural(g.Instances, "instance"), m.Sentence, beside)
		}
		return m
	}
	m := Metric{Name: g.Name, Kind: "gauge", Basis: Concurrent, Advisory: true, Verdict: verdict.Inconclusive,
		NC: g.Canary.N, NB: g.Stable.N, Estimate: g.Canary.Mean, Bound: g.Stable.Mean}
	if g.Canary.N == 0 {
		m.Verdict, m.Sentence = verdict.NoData, "advisory, no data"
		if g.Why != "" {
			m.Sentence += ": " + g.Why
		}
		return m
	}
	m.Sentence = fmt.Sprintf("advisory, decides nothing without min or max: mean %s over %s%s", number(g.Canary.Mean), plural(int(min(g.Canary.N, math.MaxInt32)), "bin"), beside)
	return m
}
