package analysis

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/verdict"
)

func drawBin(t *rapid.T) Bin {
	n := rapid.Int64Range(0, 200)
	b := Bin{NC: n.Draw(t, "nc"), NB: 10 * n.Draw(t, "nb")}
	b.KC = rapid.Int64Range(0, b.NC/4).Draw(t, "kc")
	b.KB = rapid.Int64Range(0, b.NB/10).Draw(t, "kb")
	return b
}

func drawRate(t *rapid.T) Rate {
	s := Defaults()
	s.Phi = rapid.SampledFrom([]float64{0, 1, 3}).Draw(t, "phi")
	s.WarmUp = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "warmUp")
	f := Frozen{Total: rapid.Int64Range(0, 10_000).Draw(t, "total")}
	f.Bad = rapid.Int64Range(0, f.Total/10).Draw(t, "bad")
	return NewRate("http-errors", s, rapid.IntRange(1, 3).Draw(t, "metrics"), f)
}

func drawKind(t *rapid.T) BinKind {
	return rapid.SampledFrom([]BinKind{Judged, Judged, Judged, WarmUp, Alone, WarmUp | Alone}).Draw(t, "kind")
}

// A fail stays whatever comes after; and nothing passes without evidence.
func TestFailIsStickyAndPassNeedsEvidence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRate(t)
		var failed Metric
		for range rapid.IntRange(1, 40).Draw(t, "bins") {
			if rapid.IntRange(0, 9).Draw(t, "new step") == 0 {
				r.StartStep()
			}
			r.Add(drawBin(t), drawKind(t))
			m := r.Result()
			if failed.Verdict == verdict.Fail && m != failed {
				t.Fatalf("a fail turned into %+v", m)
			}
			if m.Verdict == verdict.Fail {
				failed = m
				if m.KC < 5 && m.Basis == Concurrent && r.Solo.N+r.Cold.N == 0 {
					t.Fatalf("failed on %d bad events", m.KC)
				}
			}
			if m.Verdict == verdict.Pass && (r.StepN < r.Settings.MinEvents || m.LogPass < math.Log(2/r.Settings.Beta) || m.DecidedAtBin == 0) {
				t.Fatalf("passed without evidence: %+v", m)
			}
			if m.Verdict != r.Verdict() || m.Sentence == "" || m.Verdict == "" {
				t.Fatalf("%+v", m)
			}
			for _, x := range []float64{m.Estimate, m.LogFail, m.LogPass, m.Bound, m.Detectable} {
				if math.IsNaN(x) || math.IsInf(x, 0) {
					t.Fatalf("not a number in %+v", m)
				}
			}
			if m.Estimate > 1 || m.Bound > 1 || m.Detectable > 1 || m.Detectable < 0 {
				t.Fatalf("a rate above 1 in %+v", m)
			}
		}
	})
}

// A test that is stopped and resumed from its JSON at any bin is the same test.
func TestResumedFromJSONItDecidesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawRate(t)
		b := a
		for range rapid.IntRange(1, 30).Draw(t, "bins") {
			bin, kind := drawBin(t), drawKind(t)
			a.Add(bin, kind)
			raw, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			b = Rate{}
			if err := json.Unmarshal(raw, &b); err != nil {
				t.Fatal(err)
			}
			if len(raw) > 4000 {
				t.Fatalf("the state has grown to %d bytes", len(raw))
			}
			b.Add(bin, kind)
			if a.Result() != b.Result() {
				t.Fatalf("%+v\n%+v", a.Result(), b.Result())
			}
		}
	})
}

// The sums do not depend on the order of the bins.
func TestOrderOfBinsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := drawRate(t)
		start.Part = true // compare the evidence, not when it decided
		start.Sealed = true
		var bins []Bin
		for range rapid.IntRange(1, 30).Draw(t, "bins") {
			bins = append(bins, drawBin(t))
		}
		a, b := start, start
		for _, x := range bins {
			a.Add(x, Judged)
		}
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(len(bins), func(i, j int) { bins[i], bins[j] = bins[j], bins[i] })
		for _, x := range bins {
			b.Add(x, Judged)
		}
		x, y := a.Result(), b.Result()
		if math.Abs(x.LogFail-y.LogFail) > 1e-6 || math.Abs(x.LogPass-y.LogPass) > 1e-6 || x.KC != y.KC || x.NB != y.NB {
			t.Fatalf("%+v\n%+v", x, y)
		}
	})
}

// Copies of a Rate do not share state.
func TestRateIsAValue(t *testing.T) {
	a := NewRate("x", Defaults(), 1, Frozen{})
	a.Add(Bin{1, 20, 2, 380}, Judged)
	b := a
	before := a.Result()
	for range 50 {
		b.Add(Bin{10, 20, 2, 380}, Judged)
	}
	if a.Result() != before {
		t.Error("adding to a copy changed the original")
	}
}

func TestZeroValuesDoNotPass(t *testing.T) {
	var l Latency
	var lim Limit
	for name, v := range map[string]verdict.Verdict{
		"rate": Rate{}.Verdict(), "latency": l.Verdict(), "limit": lim.Verdict(), "metric": Metric{}.Verdict,
		"combined": Combine(nil).Verdict, "zero metric": Combine([]Metric{{}}).Verdict,
	} {
		if v == verdict.Pass {
			t.Errorf("%s passes", name)
		}
	}
}

// The evidence is the formula of judge.md.
func TestFormulae(t *testing.T) {
	s := Defaults()
	s.WarmUp = 0
	r := NewRate("x", s, 1, Frozen{Bad: 0, Total: 10_000})
	r.Plain = true
	bins := []Bin{{1, 20, 2, 380}, {3, 100, 4, 300}, {2, 200, 1, 200}}
	for _, b := range bins {
		r.Add(b, Judged)
	}
	theta := func(ratio, w float64) float64 { return ratio * w / (ratio*w + 1 - w) }
	var terms []float64
	for _, ratio := range []float64{1.5, 2, 3, 5, 10, 20, 40} {
		sum := 0.0
		for _, b := range bins {
			w := float64(b.NC) / float64(b.NC+b.NB)
			sum += float64(b.KC)*math.Log(theta(ratio, w)/theta(1.25, w)) + float64(b.KB)*math.Log((1-theta(ratio, w))/(1-theta(1.25, w)))
		}
		terms = append(terms, math.Exp(sum))
	}
	total := 0.0
	for _, x := range terms {
		total += x
	}
	if got, want := r.Result().LogFail, math.Log(total/7); math.Abs(got-want) > 1e-9 {
		t.Errorf("log evidence for fail is %v, want %v", got, want)
	}
	ratio := 0.0
	for _, b := range bins {
		w := float64(b.NC) / float64(b.NC+b.NB)
		ratio += float64(b.KC)*math.Log(w/theta(2, w)) + float64(b.KB)*math.Log((1-w)/(1-theta(2, w)))
	}
	if got, _ := r.logPass(); math.Abs(got-ratio) > 1e-9 {
		t.Errorf("log evidence for pass by ratio is %v, want %v", got, ratio)
	}
}

// Counts near the end of int64 neither overflow nor pass nor hang.
func TestHugeCounts(t *testing.T) {
	r := NewRate("x", Defaults(), 1, Frozen{})
	for range 3 {
		r.Add(Bin{math.MaxInt64, math.MaxInt64, 0, math.MaxInt64}, Judged)
	}
	if m := r.Result(); m.Verdict != verdict.Fail || m.KC < 0 || m.NC < 0 {
		t.Errorf("%+v", m)
	}
	r = NewRate("x", Defaults(), 1, Frozen{Bad: math.MaxInt64, Total: math.MaxInt64})
	for range 3 {
		r.Add(Bin{5, math.MaxInt64, 5, math.MaxInt64}, Judged)
		r.Add(Bin{5, math.MaxInt64, 0, 0}, Alone)
	}
	if m := r.Result(); m.NC < 0 || m.Verdict == verdict.Fail {
		t.Errorf("%+v", m)
	}
}

// Too few bad events, or too small an excess, do not fail, however sure it is.
func TestGuards(t *testing.T) {
	r := NewRate("x", Defaults(), 1, Frozen{})
	for range 4 {
		r.Add(Bin{1, 10, 0, 10_000}, Judged)
	}
	if r.Verdict() == verdict.Fail {
		t.Error("failed on four bad events")
	}
	r = NewRate("x", Defaults(), 1, Frozen{})
	for range 100 {
		r.Add(Bin{10, 10_000, 10, 100_000}, Judged) // 10×, but 0.09 percentage points
	}
	if m := r.Result(); m.Verdict == verdict.Fail || m.LogFail < 50 {
		t.Errorf("the excess is below 0.2 pp: %+v", m)
	}
}

func TestStateOfAnotherVersionIsRefused(t *testing.T) {
	for _, raw := range []string{
		`{"v":2}`, `{}`, `[]`, `{"v":1}`,
		`{"v":1,"settings":{"alpha":0.01,"beta":0.05,"r0":1,"rMax":2,"maxExcess":0.01,"minBad":5,"minEvents":50},"main":{"kc":1,"d":[1,2]}}`,
		`{"v":1,"settings":{"alpha":0.01,"beta":0.05,"r0":1,"rMax":2,"maxExcess":0.01,"minBad":5,"minEvents":50},"main":{"kc":-1}}`,
	} {
		var r Rate
		if err := json.Unmarshal([]byte(raw), &r); err == nil {
			t.Errorf("%s was taken", raw)
		}
	}
	var l Latency
	if err := json.Unmarshal([]byte(`{"v":7,"name":"p99"}`), &l); err == nil || !strings.Contains(err.Error(), "p99") {
		t.Errorf("latency: %v", err)
	}
	var lim Limit
	if err := json.Unmarshal([]byte(`{"v":0}`), &lim); err == nil {
		t.Error("a limit without a version was taken")
	}
	if err := json.Unmarshal([]byte(`{"v":1,"k":3}`), &lim); err == nil {
		t.Error("a limit without limits was taken")
	}
	if err := json.Unmarshal([]byte(`{"v":1,"quantiles":[{"q":0.9,"bound":1}]}`), &l); err == nil {
		t.Error("a bound without a test was taken")
	}
}

func TestDelta(t *testing.T) {
	for _, c := range [][3]int64{{0, 5, 5}, {5, 9, 4}, {9, 3, 3}, {-4, 2, 2}, {3, -1, 0}, {7, 7, 0}} {
		if got := Delta(c[0], c[1]); got != c[2] {
			t.Errorf("from %d to %d is %d, want %d", c[0], c[1], got, c[2])
		}
	}
	if d, ok := DeltaFloat(10, 4); !ok || d != 4 {
		t.Errorf("a reset counter gives %v, %v", d, ok)
	}
	for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1} {
		if _, ok := DeltaFloat(1, x); ok {
			t.Errorf("%v was taken for a sample", x)
		}
	}
	if got := DeltaHistogram(map[int]uint64{1: 5, 2: 5}, map[int]uint64{1: 7, 2: 5, 3: 1}); len(got) != 2 || got[1] != 2 || got[3] != 1 {
		t.Errorf("%v", got)
	}
	if got := DeltaHistogram(map[int]uint64{1: 5, 2: 5}, map[int]uint64{1: 7}); got[1] != 7 {
		t.Errorf("a histogram whose bucket 2 fell was reset: %v", got)
	}
}

func TestCombine(t *testing.T) {
	m := func(v verdict.Verdict, basis string) Metric {
		return Metric{Name: "m-" + string(v), Verdict: v, Basis: basis, Sentence: "said"}
	}
	pass, fail, open, none := m(verdict.Pass, Concurrent), m(verdict.Fail, Concurrent), m(verdict.Inconclusive, Concurrent), m(verdict.NoData, Concurrent)
	first := m(verdict.NoData, NoBasis)
	for _, c := range []struct {
		in       []Metric
		want     verdict.Verdict
		unjudged bool
	}{
		{nil, verdict.NoData, false},
		{[]Metric{pass, pass}, verdict.Pass, false},
		{[]Metric{pass, open}, verdict.Inconclusive, false},
		{[]Metric{open, none, pass}, verdict.NoData, false},
		{[]Metric{none, fail, pass}, verdict.Fail, false},
		{[]Metric{first}, verdict.NoData, true},
		{[]Metric{first, m(verdict.Pass, Absolute)}, verdict.Pass, false},
		{[]Metric{first, m(verdict.Fail, Absolute)}, verdict.Fail, false},
	} {
		got := Combine(c.in)
		if got.Verdict != c.want || got.Unjudged != c.unjudged || got.Sentence == "" {
			t.Errorf("%v gives %+v, want %s", c.in, got, c.want)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	if err := Defaults().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(*Settings){
		"alpha": func(s *Settings) { s.Alpha = 0 }, "beta": func(s *Settings) { s.Beta = math.NaN() },
		"r0": func(s *Settings) { s.R0 = 0.5 }, "rMax": func(s *Settings) { s.RMax = 1 },
		"maxExcess": func(s *Settings) { s.MaxExcess = 1 }, "minBad": func(s *Settings) { s.MinBad = 0 },
		"minEvents": func(s *Settings) { s.MinEvents = -1 }, "phi": func(s *Settings) { s.Phi = 0.5 },
		"bin": func(s *Settings) { s.Bin = -1 },
	} {
		s := Defaults()
		f(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a bad %s gives: %v", name, err)
		}
	}
}
