package analysis

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Burn judges how fast a service spends the error budget of its objective. A
// pair of windows burns when both are above its factor: the long one says that
// it matters, the short one that it goes on. Pairs that would page a person
// fail; the pair that would open a ticket is told, and fails nothing: three days
// are no release's doing.
type Burn struct {
	V      int           `json:"v"`
	Name   string        `json:"name"`
	Target float64       `json:"target"` // good events, a fraction: 0.999
	Window time.Duration `json:"window"` // of the objective
	Bins   int           `json:"bins"`
	StepN  int64         `json:"stepN"`           // answers in this step
	Rates  []float64     `json:"rates,omitempty"` // the newest burn rates, by BurnWindows; −1 is a missing one
	Passed int           `json:"passed"`
	Why    string        `json:"why,omitempty"`
	Failed *Metric       `json:"failed,omitempty"`
}

// BurnWindows are the windows that a burn rate is asked over.
var BurnWindows = []time.Duration{5 * time.Minute, time.Hour, 30 * time.Minute, 6 * time.Hour, 3 * 24 * time.Hour}

// burnPairs are judge.md's for an objective over 30 days, by index into
// BurnWindows. Other objectives spend the same part of their budget.
var burnPairs = []struct {
	long, short int
	factor      float64
	page        bool
}{{1, 0, 14.4, true}, {3, 2, 6, true}, {4, 3, 1, false}}

const burnMonth = 30 * 24 * time.Hour

// NewBurn starts the test. Target is a fraction of good events.
func NewBurn(name string, target float64, window time.Duration) (Burn, error) {
	switch {
	case !(target > 0 && target < 1):
		return Burn{}, fmt.Errorf("target of metric %q is %v: it is a fraction above 0 and below 1, for instance 0.999", name, target)
	case window < 24*time.Hour || window > 366*24*time.Hour:
		return Burn{}, fmt.Errorf("window of metric %q is %v: it is from a day to a year, for instance 720h", name, window)
	}
	return Burn{V: stateVersion, Name: name, Target: target, Window: window}, nil
}

// UnmarshalJSON refuses a state of another version.
func (b *Burn) UnmarshalJSON(data []byte) error {
	type plain Burn
	var p plain
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("couldn't read a burn rate's state: %w", err)
	}
	if p.V != stateVersion || !(p.Target > 0 && p.Target < 1) || len(p.Rates) != 0 && len(p.Rates) != len(BurnWindows) {
		return fmt.Errorf("couldn't read the state of metric %q: version %d, target %v and %d rates cannot be", p.Name, p.V, p.Target, len(p.Rates))
	}
	*b = Burn(p)
	return nil
}

// Add takes one bin's answers: for each of BurnWindows the part of events that
// were bad, NaN where nothing was answered, and why.
func (b *Burn) Add(bad []float64, why string) {
	b.Bins = min(b.Bins+1, math.MaxInt32)
	rates := make([]float64, len(BurnWindows))
	seen := 0
	for i := range rates {
		rates[i] = -1
		if i < len(bad) && bad[i] >= 0 && bad[i] <= 1 {
			rates[i] = bad[i] / (1 - b.Target)
			seen++
		}
	}
	if seen == 0 {
		b.Why, b.Rates = why, nil
		b.Passed = 0
		return
	}
	b.Why, b.Rates = "", rates
	b.StepN = satAdd(b.StepN, 1)
	if b.Failed != nil {
		return
	}
	if s := b.burning(true); s != "" {
		m := b.measure()
		m.Verdict, m.DecidedAtBin, m.Sentence = verdict.Fail, b.Bins, s
		b.Failed = &m
		return
	}
	if b.Verdict() != verdict.Pass {
		b.Passed = 0
	} else if b.Passed == 0 {
		b.Passed = b.Bins
	}
}

// StartStep counts answers anew.
func (b *Burn) StartStep() { b.StepN, b.Passed = 0, 0 }

func (b Burn) factor(f float64) float64 { return f * float64(b.Window) / float64(burnMonth) }

// burning says which pair burns, of those that page or of the others.
func (b Burn) burning(page bool) string {
	for _, p := range burnPairs {
		f := b.factor(p.factor)
		if p.page == page && len(b.Rates) > 0 && b.Rates[p.long] > f && b.Rates[p.short] > f {
			return fmt.Sprintf("the error budget of %s burns %s× over %s and %s× over %s, both above %s×",
				percent(1-b.Target), number(b.Rates[p.long]), span(BurnWindows[p.long]), number(b.Rates[p.short]), span(BurnWindows[p.short]), number(f))
		}
	}
	return ""
}

func span(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d min", d/time.Minute)
}

// Verdict is where the test stands now.
func (b Burn) Verdict() verdict.Verdict {
	switch {
	case b.Failed != nil:
		return verdict.Fail
	case b.V != stateVersion, len(b.Rates) == 0, b.StepN == 0, b.Rates[0] < 0:
		return verdict.NoData // without the shortest window nothing is known of now
	}
	return verdict.Pass
}

func (b Burn) measure() Metric {
	m := Metric{Name: b.Name, Kind: "slo", Basis: Absolute, NC: b.StepN, Bound: b.factor(burnPairs[0].factor)}
	if len(b.Rates) > 0 {
		m.Estimate = finite(max(0, b.Rates[0]))
	}
	return m
}

// Result is the verdict with its reasons.
func (b Burn) Result() Metric {
	if b.Failed != nil {
		return *b.Failed
	}
	m := b.measure()
	m.Verdict = b.Verdict()
	switch {
	case m.Verdict == verdict.NoData:
		m.Sentence = "no data: the burn rate was not answered"
		if b.Why != "" {
			m.Sentence = "no data: " + b.Why
		}
	default:
		m.DecidedAtBin = b.Passed
		m.Sentence = fmt.Sprintf("the error budget of %s burns %s× over the last 5 min: no pair of windows burns enough to page", percent(1-b.Target), number(b.Rates[0]))
		if s := b.burning(false); s != "" {
			m.Sentence += "; worth a ticket: " + s
		}
	}
	return m
}
