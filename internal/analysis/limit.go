package analysis

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Limit judges samples of one series against absolute limits: k samples in a
// row outside fail; enough samples inside pass. Missing samples neither break
// nor lengthen a row, but k of them in a row are no data.
type Limit struct {
	V      int      `json:"v"`
	Name   string   `json:"name"`
	Kind   string   `json:"kind,omitempty"` // limit (also when empty), alarm or gauge
	Min    *float64 `json:"min,omitempty"`
	Max    *float64 `json:"max,omitempty"`
	K      int      `json:"k"`
	Need   int64    `json:"need"` // samples in each step before any pass
	Bins   int      `json:"bins"`
	Seen   int64    `json:"seen"`          // samples with a value
	Over   int64    `json:"over"`          // of these, outside
	StepN  int64    `json:"stepN"`         // samples with a value in this step
	Row    int      `json:"row"`           // outside, in a row until now
	Gap    int      `json:"gap"`           // missing, in a row until now
	Last   float64  `json:"last"`          // last value
	Why    string   `json:"why,omitempty"` // there is no value, as the provider tells it
	Passed int      `json:"passed"`
	Failed *Metric  `json:"failed,omitempty"`
}

// NewLimit starts the test. K below 1 is 3 samples in a row; need below 1 is k.
func NewLimit(name string, lo, hi *float64, k int, need int64) (Limit, error) {
	odd := func(x *float64) bool { return x != nil && (math.IsNaN(*x) || math.IsInf(*x, 0)) }
	switch {
	case lo == nil && hi == nil:
		return Limit{}, fmt.Errorf("metric %q has neither min nor max: give at least one", name)
	case odd(lo) || odd(hi):
		return Limit{}, fmt.Errorf("metric %q has a limit that is no number", name)
	case lo != nil && hi != nil && *lo > *hi:
		return Limit{}, fmt.Errorf("metric %q has min %v above max %v", name, *lo, *hi)
	}
	if k < 1 {
		k = 3
	}
	if need < 1 {
		need = int64(k)
	}
	return Limit{V: stateVersion, Name: name, Min: lo, Max: hi, K: k, Need: need}, nil
}

// KindAlarm is the kind of a [Metric] that is an alarm.
const KindAlarm = "alarm"

// NewAlarm starts a limit that speaks as an alarm does: OK, ALARM after k
// samples in a row outside, INSUFFICIENT_DATA without samples.
func NewAlarm(name string, lo, hi *float64, k int) (Limit, error) {
	l, err := NewLimit(name, lo, hi, max(1, k), 1)
	l.Kind = KindAlarm
	return l, err
}

// Worst is the value that is furthest outside the limits, or nearest to them;
// NaN of none. Of an alarm over several series the worst one counts.
func (l Limit) Worst(values []float64) float64 {
	worst, by := math.NaN(), math.Inf(-1)
	for _, x := range values {
		if math.IsNaN(x) {
			continue
		}
		over := math.Inf(-1)
		if l.Max != nil {
			over = max(over, x-*l.Max)
		}
		if l.Min != nil {
			over = max(over, *l.Min-x)
		}
		if math.IsNaN(worst) || over > by {
			worst, by = x, over
		}
	}
	return worst
}

// Missing takes a bin without a sample, and why there is none.
func (l *Limit) Missing(why string) {
	l.Why = why
	l.Add(math.NaN())
}

// UnmarshalJSON refuses a state of another version.
func (l *Limit) UnmarshalJSON(b []byte) error {
	type plain Limit
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("couldn't read a limit's state: %w", err)
	}
	if p.V != stateVersion {
		return fmt.Errorf("couldn't read the state of metric %q: it is of version %d, this build reads %d", p.Name, p.V, stateVersion)
	}
	if p.K < 1 || p.Row < 0 || p.Gap < 0 || p.Min == nil && p.Max == nil {
		return fmt.Errorf("couldn't read the state of metric %q: it has no limit, or a row of %d samples that fails at %d", p.Name, p.Row, p.K)
	}
	*l = Limit(p)
	return nil
}

// Add takes the bin's sample; NaN and the infinities are a missing one.
func (l *Limit) Add(x float64) {
	if l.Bins < math.MaxInt32 {
		l.Bins++
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		l.Gap = min(l.Gap+1, math.MaxInt32)
	} else {
		l.Gap, l.Last, l.Why = 0, x, ""
		l.Seen, l.StepN = satAdd(l.Seen, 1), satAdd(l.StepN, 1)
		if l.outside(x) {
			l.Over = satAdd(l.Over, 1)
			l.Row = min(l.Row+1, math.MaxInt32)
		} else {
			l.Row = 0
		}
	}
	if l.Failed != nil {
		return
	}
	if l.Row >= l.K {
		m := l.measure()
		m.Verdict, m.DecidedAtBin = verdict.Fail, l.Bins
		m.Sentence = fmt.Sprintf("%s for %s in a row, last %s", l.breach(x), plural(l.Row, "sample"), number(x))
		if l.Kind == KindAlarm {
			m.Sentence = "ALARM: " + m.Sentence
		}
		l.Failed = &m
		return
	}
	if l.Verdict() != verdict.Pass {
		l.Passed = 0
	} else if l.Passed == 0 {
		l.Passed = l.Bins
	}
}

// StartStep counts samples anew. A row that is under way goes on.
func (l *Limit) StartStep() { l.StepN, l.Passed = 0, 0 }

func (l Limit) outside(x float64) bool {
	return l.Min != nil && x < *l.Min || l.Max != nil && x > *l.Max
}

func (l Limit) breach(x float64) string {
	if l.Max != nil && x > *l.Max {
		return "above the limit of " + number(*l.Max)
	}
	return "below the limit of " + number(*l.Min)
}

// Verdict is where the test stands now.
func (l Limit) Verdict() verdict.Verdict {
	switch {
	case l.Failed != nil:
		return verdict.Fail
	case l.V != stateVersion, l.StepN < l.Need, l.Gap >= l.K:
		return verdict.NoData
	case l.Row > 0:
		return verdict.Inconclusive
	}
	return verdict.Pass
}

func (l Limit) measure() Metric {
	kind := l.Kind
	if kind == "" {
		kind = "limit"
	}
	m := Metric{Name: l.Name, Kind: kind, Basis: Absolute, KC: l.Over, NC: l.Seen, Estimate: finite(l.Last)}
	if l.Max != nil {
		m.Bound = finite(*l.Max)
	} else if l.Min != nil {
		m.Bound = finite(*l.Min)
	}
	return m
}

// Result is the verdict with its reasons.
func (l Limit) Result() Metric {
	if l.Failed != nil {
		return *l.Failed
	}
	m := l.measure()
	m.Verdict = l.Verdict()
	switch m.Verdict {
	case verdict.Pass:
		m.DecidedAtBin = l.Passed
		m.Sentence = fmt.Sprintf("within limits now, %s of %s outside, last %s", Count(l.Over), plural(int(min(l.Seen, math.MaxInt32)), "sample"), number(l.Last))
	case verdict.Inconclusive:
		m.Sentence = fmt.Sprintf("%s for %s in a row, %d fail, last %s", l.breach(l.Last), plural(l.Row, "sample"), l.K, number(l.Last))
	case verdict.NoData:
		m.Sentence = fmt.Sprintf("too little data: %s with a value in this step, %s are needed", plural(int(min(l.StepN, math.MaxInt32)), "sample"), Count(l.Need))
		why := l.Why
		if why == "" {
			why = "the query answered nothing"
		}
		if l.Seen == 0 {
			m.Sentence = "no data: " + why
		} else if l.Gap > 0 {
			m.Sentence = fmt.Sprintf("no data: %s, %s in a row; the last value was %s", why, plural(l.Gap, "sample"), number(l.Last))
		}
	}
	if l.Kind == KindAlarm {
		m.Sentence = alarmState(m.Verdict) + ": " + m.Sentence
	}
	return m
}

func alarmState(v verdict.Verdict) string {
	switch v {
	case verdict.Fail:
		return "ALARM"
	case verdict.NoData:
		return "INSUFFICIENT_DATA"
	}
	return "OK"
}
