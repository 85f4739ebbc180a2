package analysis

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/verdict"
)

// edges as of the agent: bucket i ends at 2^(i/8) seconds.
func edge(i int) float64 { return math.Exp2(float64(i) / 8) }

func bucket(seconds float64) int { return int(math.Ceil(8 * math.Log2(seconds))) }

// answers draws n log-normal latencies around 50 ms; a part is slower by extra.
func answers(rng *rand.Rand, n int, part, extra float64) map[int]uint64 {
	h := map[int]uint64{}
	for range n {
		s := 0.05 * math.Exp(0.5*rng.NormFloat64())
		if rng.Float64() < part {
			s += extra
		}
		h[bucket(s)]++
	}
	return h
}

func newLatency(t *testing.T, quantiles ...float64) Latency {
	t.Helper()
	s := Defaults()
	s.WarmUp = 0
	l, err := NewLatency("p99", s, 1, 1.5, false, quantiles...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSlowCanaryFailsAndEqualOnePasses(t *testing.T) {
	for _, quantiles := range [][]float64{{0.99}, {0.5, 0.9, 0.95, 0.99}} {
		rng := newRandom(4)
		slow, same := newLatency(t, quantiles...), newLatency(t, quantiles...)
		before := answers(rng, 20_000, 0, 0)
		if !slow.Freeze(before, edge) || !same.Freeze(before, edge) {
			t.Fatal("20 000 answers do not suffice to freeze a bound")
		}
		n := 0
		for range 100 {
			stable := answers(rng, 760, 0, 0)
			same.Add(answers(rng, 40, 0, 0), stable, Judged, edge)
			if slow.Verdict() != verdict.Fail {
				slow.Add(answers(rng, 40, 0.04, 0.4), stable, Judged, edge) // +400 ms on 4 %
				n += 40
			}
		}
		if m := slow.Result(); m.Verdict != verdict.Fail || n > 1600 || !strings.Contains(m.Sentence, "took longer than") || m.DecidedAtBin != n/40 {
			t.Errorf("%v: after %d slow requests: %+v", quantiles, n, m)
		}
		if m := same.Result(); m.Verdict != verdict.Pass || m.DecidedAtBin == 0 {
			t.Errorf("%v: an equal canary: %+v", quantiles, m)
		}
	}
}

// Both turn slow together: not the canary's fault.
func TestSharedSlownessDoesNotFail(t *testing.T) {
	rng := newRandom(5)
	l := newLatency(t, 0.99)
	l.Freeze(answers(rng, 20_000, 0, 0), edge)
	for range 100 {
		l.Add(answers(rng, 40, 0.2, 0.4), answers(rng, 760, 0.2, 0.4), Judged, edge)
	}
	if m := l.Result(); m.Verdict == verdict.Fail {
		t.Errorf("%+v", m)
	}
}

// A stable version that is far below the bound is no reason to fail a canary
// whose own quantile is within it.
func TestWithinTheQuantileDoesNotFail(t *testing.T) {
	l := newLatency(t, 0.99)
	l.Freeze(map[int]uint64{bucket(0.05): 980, bucket(0.1): 20}, edge)
	for range 300 {
		l.Add(map[int]uint64{bucket(0.05): 995, bucket(0.5): 5}, map[int]uint64{bucket(0.05): 9999, bucket(0.5): 1}, Judged, edge)
	}
	if m := l.Result(); m.Verdict != verdict.Pass {
		t.Errorf("0.5 %% above the bound is within the 99th percentile: %+v", m)
	}
}

func TestBoundIsTheEdgeAtOrAbove(t *testing.T) {
	h := map[int]uint64{-40: 989, -30: 11}
	for ratio, want := range map[float64]int{1: -30, 1.05: -29, 2: -22, 2.01: -21} {
		last, ok := boundBucket(h, 0.99, ratio, edge)
		if !ok || last != want || edge(last) < ratio*edge(-30)*(1-1e-6) {
			t.Errorf("ratio %v: bucket %d, want %d", ratio, last, want)
		}
	}
	for name, e := range map[string]func(int) float64{
		"flat": func(int) float64 { return 1 }, "not a number": func(int) float64 { return math.NaN() },
		"infinite": func(int) float64 { return math.Inf(1) }, "zero": func(int) float64 { return 0 },
	} {
		if _, ok := boundBucket(h, 0.99, 2, e); ok {
			t.Errorf("%s edges gave a bound", name)
		}
	}
}

// Without a latency of the stable version there is no data; its first bins
// freeze the bound and are not judged by it.
func TestNoBaselineLatencyYet(t *testing.T) {
	rng := newRandom(6)
	l := newLatency(t, 0.99)
	if m := l.Result(); m.Verdict != verdict.NoData {
		t.Errorf("%+v", m)
	}
	for range 2 {
		l.Add(answers(rng, 200, 0, 0), answers(rng, 300, 0, 0), Judged, edge)
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		l = Latency{}
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
	}
	if !l.Frozen() || l.Quantiles[0].Rate.Main.NC != 0 || l.Early != nil {
		t.Errorf("the bins that froze the bound were judged: %+v", l)
	}
	for range 20 {
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		l = Latency{}
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
		l.Add(answers(rng, 200, 0, 0), answers(rng, 300, 0, 0), Judged, edge)
	}
	if m := l.Result(); m.Verdict != verdict.Pass {
		t.Errorf("%+v", m)
	}
	l.StartStep()
	if m := l.Result(); m.Verdict != verdict.NoData {
		t.Errorf("a step without traffic: %+v", m)
	}
}

// At 100 % the frozen bound and its quantile are what is left to compare with.
func TestLatencyAlone(t *testing.T) {
	for part, want := range map[float64]verdict.Verdict{0: verdict.Pass, 0.1: verdict.Fail} {
		rng := newRandom(7)
		l := newLatency(t, 0.99)
		l.Freeze(answers(rng, 20_000, 0, 0), edge)
		for range 10 {
			l.Add(answers(rng, 400, part, 0.4), nil, Alone, edge)
		}
		if m := l.Result(); m.Verdict != want || m.Basis != BeforeAfter {
			t.Errorf("%v slow: %+v", part, m)
		}
	}
	first, err := NewLatency("p99", Defaults(), 1, 1.5, true, 0.99)
	if err != nil {
		t.Fatal(err)
	}
	first.Add(map[int]uint64{1: 500}, nil, Alone, edge)
	if m := first.Result(); m.Basis != NoBasis || m.Verdict != verdict.NoData {
		t.Errorf("%+v", m)
	}
}

func TestLatencyRefusesNonsense(t *testing.T) {
	for _, c := range []struct {
		ratio float64
		q     []float64
	}{{0.5, []float64{0.99}}, {math.NaN(), []float64{0.99}}, {1.5, nil}, {1.5, []float64{1}}, {1.5, []float64{math.NaN()}}} {
		if _, err := NewLatency("p", Defaults(), 1, c.ratio, false, c.q...); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	l := newLatency(t, 0.99)
	l.Freeze(map[int]uint64{1: math.MaxUint64, 2: math.MaxUint64}, edge)
	l.Freeze(map[int]uint64{1: math.MaxUint64}, edge)
	l.Add(map[int]uint64{99: math.MaxUint64}, map[int]uint64{1: math.MaxUint64}, Judged, edge)
	if m := l.Result(); m.NC < 0 || m.Verdict == verdict.Pass {
		t.Errorf("%+v", m)
	}
}

func TestLimit(t *testing.T) {
	nan := math.NaN()
	top, low := 10.0, 1.0
	for _, c := range []struct {
		name    string
		samples []float64
		want    verdict.Verdict
		says    string
	}{
		{"nothing", nil, verdict.NoData, "answered nothing"},
		{"only NaN", []float64{nan, nan, math.Inf(1)}, verdict.NoData, "answered nothing"},
		{"within", []float64{5, 6, 7, 5}, verdict.Pass, "within limits"},
		{"too few", []float64{5, 6, 7}, verdict.NoData, "4 are needed"},
		{"three over", []float64{5, 11, 12, 13, 5, 5, 5}, verdict.Fail, "above the limit of 10 for 3 samples"},
		{"three under", []float64{5, 0, 0.5, 0}, verdict.Fail, "below the limit of 1"},
		{"broken row", []float64{11, 11, 5, 11, 11, 5}, verdict.Pass, "4 of 6 samples outside"},
		{"gap in a row", []float64{5, 11, nan, 11, 11}, verdict.Fail, "above"},
		{"over just now", []float64{5, 5, 5, 11}, verdict.Inconclusive, "3 fail"},
		{"silent now", []float64{5, 5, 5, 5, nan, nan, nan}, verdict.NoData, "3 samples in a row"},
	} {
		l, err := NewLimit("dlq", &low, &top, 0, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range c.samples {
			b, err := json.Marshal(l)
			if err != nil {
				t.Fatal(err)
			}
			l = Limit{}
			if err := json.Unmarshal(b, &l); err != nil {
				t.Fatal(err)
			}
			l.Add(x)
		}
		m := l.Result()
		if m.Verdict != c.want || !strings.Contains(m.Sentence, c.says) || m.Basis != Absolute {
			t.Errorf("%s: %+v", c.name, m)
		}
		if (m.Verdict == verdict.Pass || m.Verdict == verdict.Fail) != (m.DecidedAtBin > 0) {
			t.Errorf("%s: decided at bin %d", c.name, m.DecidedAtBin)
		}
	}
	l, _ := NewLimit("dlq", nil, &top, 2, 2)
	l.Add(1)
	l.Add(1)
	l.StartStep()
	if l.Verdict() != verdict.NoData {
		t.Error("a new step passes on the last one's samples")
	}
	if _, err := NewLimit("x", nil, nil, 1, 1); err == nil {
		t.Error("no limit was taken")
	}
	if _, err := NewLimit("x", &top, &low, 1, 1); err == nil {
		t.Error("min above max was taken")
	}
	if _, err := NewLimit("x", nil, &nan, 1, 1); err == nil {
		t.Error("NaN was taken for a limit")
	}
}
