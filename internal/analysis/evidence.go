package analysis

import (
	"math"
)

// grid holds the ratios that FAIL's mixture looks for, least first.
var grid = []float64{1.5, 2, 3, 5, 10, 20, 40}

const (
	fineRatio   = 1.2   // joins the grid at high traffic
	gridGap     = 1.15  // a ratio is looked for only if it is this much above the allowed one
	minExcess   = 0.002 // FAIL: excess in absolute terms, 0.2 percentage points
	crashRatio  = 5     // catastrophe: allowed ratio …
	crashExcess = 0.05  // … and least excess
	crashShare  = 0.1   // part of alpha that the catastrophe test may spend
	beforeShare = 0.05  // part of alpha that the bound on the rate from before may spend
	stepShare   = 0.1   // part of alpha for the evidence of single steps after the first
	highTraffic = 1000  // bad events of the stable before exposure that make fineRatio worthwhile
)

var crashGrid = []float64{10, 20, 40}

// tally is the sufficient statistic of the concurrent test for each ratio r:
// the log likelihood ratio of r against 1 is KC·ln r − D(r), because
// θ(r)/w = r/(1+(r−1)w) and (1−θ(r))/(1−w) = 1/(1+(r−1)w).
type tally struct {
	Bin
	D []float64 `json:"d,omitempty"` // Σ (kc+kb)·ln(1+(r−1)w), one per ratio
}

func (t *tally) add(b Bin, ratios []float64) {
	if len(t.D) != len(ratios) {
		t.D = make([]float64, len(ratios))
	} else {
		t.D = append([]float64(nil), t.D...) // copies of a Rate do not share it
	}
	w := float64(b.NC) / (float64(b.NC) + float64(b.NB))
	if k := float64(b.KC) + float64(b.KB); k > 0 {
		for i, r := range ratios {
			t.D[i] += k * math.Log1p((r-1)*w)
		}
	}
	t.Bin = t.Bin.plus(b)
}

// since is what was added after an earlier state of the same tally.
func (t tally) since(m tally) tally {
	out := tally{Bin: Bin{t.KC - m.KC, t.NC - m.NC, t.KB - m.KB, t.NB - m.NB}, D: append([]float64(nil), t.D...)}
	if len(m.D) == len(t.D) {
		for i := range out.D {
			out.D[i] -= m.D[i]
		}
	}
	return out
}

func (t tally) log(i int, ratios []float64) float64 {
	if len(t.D) != len(ratios) {
		return 0
	}
	return float64(t.KC)*math.Log(ratios[i]) - t.D[i]
}

// counts is one version's bad and all events.
type counts struct {
	K int64 `json:"k"`
	N int64 `json:"n"`
}

func (c counts) rate() float64 { return share(c.K, c.N) }

func (c counts) since(m counts) counts { return counts{c.K - m.K, c.N - m.N} }

func (c counts) plus(k, n int64) counts { return counts{satAdd(c.K, k), satAdd(c.N, n)} }

// low is the rate one standard error low: what PASS by excess trusts, so that a
// stable that had a few errors by chance does not widen the bound.
func (c counts) low() float64 {
	p := c.rate()
	return max(0, p-math.Sqrt(p*(1-p)/float64(max(1, c.N))))
}

// high is an upper confidence bound by Chernoff: the p above the observed rate
// with N·KL(observed, p) = ln(1/level).
func (c counts) high(level float64) float64 {
	if c.N <= 0 {
		return 1
	}
	p := c.rate()
	want := math.Log(1/level) / float64(c.N)
	lo, hi := p, 1.0
	for range 60 {
		mid := (lo + hi) / 2
		if divergence(p, mid) < want {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi
}

// divergence is Kullback-Leibler between two Bernoulli rates.
func divergence(p, q float64) float64 {
	d := 0.0
	if p > 0 {
		d += p * math.Log(p/q)
	}
	if p < 1 {
		d += (1 - p) * math.Log((1-p)/(1-q))
	}
	return d
}

// logBernoulli is the log likelihood ratio of rate p1 against p0 after k of n.
func logBernoulli(k, n int64, p1, p0 float64) float64 {
	s := 0.0
	if k > 0 {
		s += float64(k) * math.Log(p1/p0)
	}
	if n > k {
		s += (float64(n) - float64(k)) * (math.Log1p(-p1) - math.Log1p(-p0))
	}
	return s
}

// alone is the log likelihood ratio of "ratio × p" against "allowed × p" after
// k of n requests of one version, when p is a known rate.
func alone(k, n int64, ratio, allowed, p float64) float64 {
	null := allowed * p
	if n == 0 || p <= 0 || null >= 1 {
		return 0
	}
	alternative := min(ratio*p, null+0.9*(1-null))
	return logBernoulli(k, n, alternative, null)
}

// ratiosAbove returns the indices of the ratios that FAIL looks for when ratio
// allowed is allowed. The first two entries of ratios are r0 and rMax.
func ratiosAbove(ratios []float64, allowed float64) []int {
	var out []int
	for i := 2; i < len(ratios); i++ {
		if ratios[i] > gridGap*allowed {
			out = append(out, i)
		}
	}
	return out
}

// logMeanExp is ln of the mean of exp(x).
func logMeanExp(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	top := math.Inf(-1)
	for _, x := range xs {
		top = max(top, x)
	}
	if math.IsInf(top, 0) {
		return top
	}
	s := 0.0
	for _, x := range xs {
		s += math.Exp(x - top)
	}
	return top + math.Log(s/float64(len(xs)))
}

// finite keeps a number inside what JSON can hold.
func finite(x float64) float64 {
	switch {
	case math.IsNaN(x), x == 0: // also the negative zero
		return 0
	case x > 1e12:
		return 1e12
	case x < -1e12:
		return -1e12
	}
	return x
}
