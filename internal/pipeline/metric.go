package pipeline

import "time"

// Kinds of metrics.
const (
	HTTPErrors  = "http-errors"
	HTTPLatency = "http-latency"
	Rate        = "rate"
	Limit       = "limit"
	Gauge       = "gauge"
	SLO         = "slo"
	Points      = "points"
)

// Metric is one thing that is judged.
type Metric struct {
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`                // http-errors, http-latency, rate, limit, gauge, slo, points
	Quantile  float64   `json:"quantile,omitempty"`  // http-latency
	Quantiles []float64 `json:"quantiles,omitempty"` // http-latency: several, whose evidence is averaged
	MaxRatio  float64   `json:"maxRatio,omitempty"`
	Bad       string    `json:"bad,omitempty"`
	Total     string    `json:"total,omitempty"`
	Query     string    `json:"query,omitempty"`
	Min       *float64  `json:"min,omitempty"`
	Max       *float64  `json:"max,omitempty"`

	Samples   int           `json:"samples,omitempty"`   // limit, gauge: so many in a row fail, default 3
	Target    float64       `json:"target,omitempty"`    // slo: percent of events that are to be good
	Window    time.Duration `json:"window,omitempty"`    // slo: of the objective, default 30 days
	Direction string        `json:"direction,omitempty"` // points: which way is worse
	Increase  float64       `json:"increase,omitempty"`  // points: least ratio of means that is higher
	Decrease  float64       `json:"decrease,omitempty"`  // points: greatest ratio of means that is lower

	OnFail string `json:"onFail,omitempty"` // rollback, freeze, pause; empty: the rollout's
}

// AllQuantiles are the quantiles of a latency metric.
func (m Metric) AllQuantiles() []float64 {
	if len(m.Quantiles) > 0 {
		return m.Quantiles
	}
	return []float64{m.Quantile}
}

// Absolute reports whether m can be judged without a stable version.
func (m Metric) Absolute() bool {
	return m.Kind == Limit || m.Kind == SLO || m.Kind == Gauge && (m.Min != nil || m.Max != nil)
}

// Alarm is a state of a query: ALARM when any of its series is above or below a
// bound for a while, INSUFFICIENT_DATA when it has none, else OK.
type Alarm struct {
	Name  string        `json:"name"`
	Query string        `json:"query"`
	Above *float64      `json:"above,omitempty"`
	Below *float64      `json:"below,omitempty"`
	For   time.Duration `json:"for"`

	OnFail string `json:"onFail,omitempty"` // rollback, freeze, pause; empty: the rollout's
}

// Signal is its name among those of metrics. No metric has a name with a blank.
func (a Alarm) Signal() string { return "alarm " + a.Name }

// Actions are what a fail of one metric or alarm does, by the name that the judge
// has for it, of those that don't leave it to the rollout.
func (a Analysis) Actions() map[string]string {
	out := map[string]string{}
	for _, m := range a.Metrics {
		if m.OnFail != "" {
			out[m.Name] = m.OnFail
		}
	}
	for _, x := range a.Alarms {
		if x.OnFail != "" {
			out[x.Signal()] = x.OnFail
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Absolute reports whether anything in a can be judged without a stable version.
func (a Analysis) Absolute() bool {
	for _, m := range a.Metrics {
		if m.Absolute() {
			return true
		}
	}
	return len(a.Alarms) > 0
}

// Scraped reports whether anything in a is answered by queries.
func (a Analysis) Scraped() bool {
	for _, m := range a.Metrics {
		if m.Kind != HTTPErrors && m.Kind != HTTPLatency {
			return true
		}
	}
	return len(a.Alarms) > 0
}
