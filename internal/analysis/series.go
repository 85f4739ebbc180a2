package analysis

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Series compares points inside a rollout; see Points. It looks once, at the end
// of each bake: the comparison has no defence against being looked at often, so
// a look at every bin would in the end fail a healthy canary. Only points of one
// step are compared, because a level depends on the weight.
//
// The points themselves are not part of the state. Who calls Look has them.
type Series struct {
	V         int     `json:"v"`
	Name      string  `json:"name"`
	Direction string  `json:"direction,omitempty"`
	Increase  float64 `json:"increase,omitempty"` // ratio of means that High needs
	Decrease  float64 `json:"decrease,omitempty"`
	Bins      int     `json:"bins"`
	Canary    int     `json:"canary"` // points in this step
	Control   int     `json:"control"`
	Looked    int     `json:"looked,omitempty"` // canary points at the last look
	Why       string  `json:"why,omitempty"`
	Last      *Metric `json:"last,omitempty"` // of this step's last look
	Failed    *Metric `json:"failed,omitempty"`
}

// NewSeries starts the test. An increase or decrease of 0 takes the default.
func NewSeries(name, direction string, increase, decrease float64) (Series, error) {
	switch direction {
	case "", "increase", "decrease", "either":
	default:
		return Series{}, fmt.Errorf("direction of metric %q is %q: it is increase, decrease or either", name, direction)
	}
	if increase < 0 || decrease < 0 {
		return Series{}, fmt.Errorf("metric %q allows a negative ratio", name)
	}
	return Series{V: stateVersion, Name: name, Direction: direction, Increase: increase, Decrease: decrease}, nil
}

// UnmarshalJSON refuses a state of another version.
func (s *Series) UnmarshalJSON(b []byte) error {
	type plain Series
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("couldn't read a point comparison's state: %w", err)
	}
	if p.V != stateVersion || p.Canary < 0 || p.Control < 0 {
		return fmt.Errorf("couldn't read the state of metric %q: it is of version %d, this build reads %d", p.Name, p.V, stateVersion)
	}
	*s = Series(p)
	return nil
}

// Add takes one bin's points, NaN for a missing one, and why.
func (s *Series) Add(canary, control float64, why string) {
	s.Bins = min(s.Bins+1, math.MaxInt32)
	if isPoint(canary) {
		s.Canary++
	}
	if isPoint(control) {
		s.Control++
	}
	s.Why = why
}

func isPoint(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// StartStep begins anew: points of another weight are of another kind.
func (s *Series) StartStep() { s.Canary, s.Control, s.Looked, s.Last = 0, 0, 0, nil }

// Due says whether there is enough more than at the last look to look again: a
// held rollout is at the end of its bake for long.
func (s Series) Due() bool { return s.Failed == nil && (s.Looked == 0 || 2*s.Canary >= 3*s.Looked) }

// Look compares the points of this step, at the end of its bake.
func (s *Series) Look(canary, control []float64) {
	c := Points{Canary: canary, Control: control, Direction: s.Direction, AllowedIncrease: s.Increase, AllowedDecrease: s.Decrease, Seed: 1}.Compare()
	m := c.Metric(s.Name)
	if m.Verdict == verdict.Pass || m.Verdict == verdict.Fail {
		m.DecidedAtBin = s.Bins
	}
	s.Looked, s.Last = s.Canary, &m
	if m.Verdict == verdict.Fail && s.Failed == nil {
		s.Failed = &m
	}
}

// Result is the verdict with its reasons.
func (s Series) Result() Metric {
	switch {
	case s.Failed != nil:
		return *s.Failed
	case s.Last != nil:
		m := *s.Last
		if m.Verdict == verdict.NoData && s.Why != "" {
			m.Sentence += ": " + s.Why
		}
		return m
	}
	m := Metric{Name: s.Name, Kind: "points", Basis: Concurrent, NC: int64(s.Canary), NB: int64(s.Control), Detectable: 1, Verdict: verdict.Inconclusive}
	m.Sentence = fmt.Sprintf("%s and %s so far; they are compared when the bake ends", plural(s.Canary, "canary point"), plural(s.Control, "stable point"))
	if min(s.Canary, s.Control) < pointsLeast {
		m.Verdict = verdict.NoData
		if s.Why != "" {
			m.Sentence = "no data: " + s.Why + "; " + m.Sentence
		}
	}
	return m
}
