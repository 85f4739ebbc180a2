package analysis

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/verdict"
)

func again[T any](t *testing.T, x *T) {
	t.Helper()
	b, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	var y T
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	*x = y
}

func says(t *testing.T, what string, m Metric, v verdict.Verdict, words string) {
	t.Helper()
	if m.Verdict != v || !strings.Contains(m.Sentence, words) {
		t.Errorf("%s: %s, %q; want %s with %q", what, m.Verdict, m.Sentence, v, words)
	}
}

// A gauge is the mean over instances; with a hard limit k bins in a row fail,
// without one it decides nothing and is told.
func TestGauge(t *testing.T) {
	top := 80.0
	g, err := NewGauge("memory", nil, &top, 3)
	if err != nil {
		t.Fatal(err)
	}
	add := func(why string, canary ...float64) {
		g.Add(canary, []float64{40, 60}, why)
		again(t, &g)
	}
	add("the query answered nothing")
	says(t, "nothing", g.Result(), verdict.NoData, "the query answered nothing")
	for range 3 {
		add("", 150, 5, math.NaN()) // one instance above, the mean is not
	}
	says(t, "mean", g.Result(), verdict.Pass, "stable version 50")
	add("", 90, 85)
	add("", 90, 85)
	says(t, "two", g.Result(), verdict.Inconclusive, "above the limit of 80 for 2 samples")
	add("", 90, 85)
	says(t, "three", g.Result(), verdict.Fail, "above the limit of 80 for 3 samples in a row")

	g, _ = NewGauge("memory", nil, nil, 0)
	add("", 900)
	m := g.Result()
	says(t, "advisory", m, verdict.Inconclusive, "decides nothing")
	pass := Metric{Name: "x", Basis: Concurrent, Verdict: verdict.Pass, Sentence: "fine"}
	if r := Combine([]Metric{m, pass}); r.Verdict != verdict.Pass || len(r.Reasons) != 1 {
		t.Errorf("beside a pass: %+v", r)
	}
	if r := Combine([]Metric{m}); r.Verdict != verdict.NoData {
		t.Errorf("alone: %+v", r)
	}
}

// An alarm says which state it is in; no data is not OK.
func TestAlarm(t *testing.T) {
	top := 10.0
	l, err := NewAlarm("dlq", nil, &top, 2)
	if err != nil {
		t.Fatal(err)
	}
	says(t, "new", l.Result(), verdict.NoData, "INSUFFICIENT_DATA")
	l.Add(l.Worst([]float64{1, math.NaN(), 3}))
	says(t, "below", l.Result(), verdict.Pass, "OK: ")
	l.Missing("the newest sample is 9 s old")
	l.Missing("the newest sample is 9 s old")
	says(t, "silent", l.Result(), verdict.NoData, "INSUFFICIENT_DATA: no data: the newest sample is 9 s old, 2 samples in a row")
	l.Add(l.Worst([]float64{1, 11, 3}))
	says(t, "once", l.Result(), verdict.Inconclusive, "2 fail")
	l.Add(l.Worst([]float64{1, 12}))
	again(t, &l)
	says(t, "twice", l.Result(), verdict.Fail, "ALARM: above the limit of 10 for 2 samples in a row, last 12")
}

// The pairs of judge.md: both windows must burn, the ticket fails nothing, and
// without the newest window nothing is known.
func TestBurn(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name  string
		rates []float64 // bad part over 5 min, 1 h, 30 min, 6 h, 3 d
		want  verdict.Verdict
		says  string
	}{
		{"quiet", []float64{0, 0, 0, 0, 0}, verdict.Pass, "no pair"},
		{"a burst", []float64{0.05, 0.0001, 0.009, 0.0001, 0}, verdict.Pass, "burns 50×"},
		{"fast", []float64{0.02, 0.015, 0.01, 0, 0}, verdict.Fail, "15× over 1 h and 20× over 5 min, both above 14.4×"},
		{"slow", []float64{0.007, 0.007, 0.0065, 0.0061, 0}, verdict.Fail, "6.1× over 6 h and 6.5× over 30 min, both above 6×"},
		{"ticket", []float64{0, 0, 0, 0.002, 0.0011}, verdict.Pass, "worth a ticket"},
		{"none", []float64{nan, nan, nan, nan, nan}, verdict.NoData, "the query answered nothing"},
		{"old only", []float64{nan, 0.001, nan, 0.001, 0.001}, verdict.NoData, "no data"},
	} {
		b, err := NewBurn("slo", 0.999, burnMonth)
		if err != nil {
			t.Fatal(err)
		}
		b.Add(c.rates, "the query answered nothing")
		again(t, &b)
		says(t, c.name, b.Result(), c.want, c.says)
	}
	short, err := NewBurn("slo", 0.999, 7*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	short.Add([]float64{0.004, 0.0035, 0, 0, 0}, "")
	says(t, "a week's budget burns at 3.36×", short.Result(), verdict.Fail, "3.36×")
	if _, err := NewBurn("slo", 99.9, burnMonth); err == nil {
		t.Error("a target in percent was taken")
	}
}

// Points are looked at once a bake, and only those of one step.
func TestSeries(t *testing.T) {
	s, err := NewSeries("queue", "increase", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c, b []float64
	for i := range 60 {
		c, b = append(c, 200+float64(i%7)), append(b, 100+float64(i%5))
		s.Add(c[i], b[i], "")
	}
	says(t, "before the end", s.Result(), verdict.Inconclusive, "compared when the bake ends")
	quiet := s
	quiet.Look(b, b)
	says(t, "equal", quiet.Result(), verdict.Pass, "no shift")
	quiet.StartStep()
	says(t, "next step", quiet.Result(), verdict.NoData, "so far")
	s.Look(c, b)
	again(t, &s)
	says(t, "doubled", s.Result(), verdict.Fail, "higher")
	s.StartStep()
	says(t, "fail stays", s.Result(), verdict.Fail, "higher")
	few, _ := NewSeries("queue", "", 0, 0)
	few.Add(1, math.NaN(), "the query answered NaN")
	says(t, "missing", few.Result(), verdict.NoData, "the query answered NaN")
}

// Errors in clusters widen the evidence by what the A/A split shows, and the
// sentence says so.
func TestPhiIsSaid(t *testing.T) {
	s := Defaults()
	s.Phi = 3.2
	r := NewRate("http-errors", s, 1, Frozen{Bad: 500, Total: 100_000})
	for range 20 {
		r.Add(Bin{KC: 4, NC: 100, KB: 10, NB: 1900}, Judged)
	}
	m := r.Result()
	if m.Phi != 3.2 || !strings.Contains(m.Sentence, "φ = 3.2 by an A/A split") {
		t.Errorf("%+v", m)
	}
	r.Missing("the newest sample is 12 s old")
	r.StartStep()
	r.Missing("the newest sample is 12 s old")
}

// Slow requests that come in clusters of one bucket are no evidence by number.
func TestLatencySplit(t *testing.T) {
	edge := func(i int) float64 { return float64(i+1) / 10 }
	l, err := NewLatency("http-latency", Defaults(), 1, 1.5, false, 0.9, 0.99)
	if err != nil {
		t.Fatal(err)
	}
	if !l.Freeze(map[int]uint64{0: 9800, 5: 200}, edge) {
		t.Fatal("not frozen")
	}
	for i := range 100 {
		split := make([][2]int64, 16)
		for b := range split {
			split[b] = [2]int64{0, 60}
		}
		split[i%16] = [2]int64{10, 70} // ten slow ones of one user
		l.Split([]Spread{SpreadOf(split), SpreadOf(split)})
		l.Add(map[int]uint64{0: 50}, map[int]uint64{0: 960, 20: 10}, Judged, edge)
		again(t, &l)
	}
	for _, q := range l.Quantiles {
		if q.Rate.Settings.Phi < 5 {
			t.Errorf("quantile %v: φ is %v of clusters of ten", q.Q, q.Rate.Settings.Phi)
		}
	}
	if m := l.Result(); m.Phi < 5 {
		t.Errorf("%+v", m)
	}
}

// What only advises has not failed, and what passed neither.
func TestWhatFailed(t *testing.T) {
	r := Combine([]Metric{
		{Name: "http-errors", Verdict: verdict.Fail, Basis: Concurrent},
		{Name: "disk", Kind: KindAlarm, Verdict: verdict.Fail, Basis: Absolute},
		{Name: "heap", Kind: "gauge", Verdict: verdict.Fail, Basis: Absolute, Advisory: true},
		{Name: "dlq", Kind: "limit", Verdict: verdict.Pass, Basis: Absolute},
	})
	if got := r.Failed(); len(got) != 2 || got[0].Name != "http-errors" || got[1].Name != "disk" {
		t.Errorf("failed: %+v", got)
	}
}
