package analysis

import (
	"math"
)

// power is how often a regression of the detectable size is found.
const power = 0.95

// detectable is the smallest canary rate that would have failed by now with
// 95 % power; 1 when none would. It looks at the test's last bin only, and so
// names a rate a little higher than a test that may stop at any bin achieves:
// TestDetectableAgainstMonteCarlo holds the difference.
func (r Rate) detectable(m Metric) float64 {
	if m.NC == 0 || m.Basis == NoBasis {
		return 1
	}
	d := detector{
		ratios: r.ratios(), phi: r.Settings.phi(), want: r.threshold(whole), floor: r.Frozen.Floor,
		minBad: r.Settings.MinBad, minExcess: minExcess, n: m.NC, nb: m.NB,
	}
	if m.Basis == BeforeAfter {
		d.known = r.known()
		if d.known == 0 {
			return 1
		}
		return d.smallest(share(m.KB, m.NB))
	}
	return d.smallest(share(m.KB, m.NB))
}

// detector answers for a given number of requests which rate would be seen.
type detector struct {
	ratios    []float64 // r0, rMax, grid
	phi, want float64
	minBad    int64
	minExcess float64
	n, nb     int64   // canary and baseline requests
	known     float64 // if above 0: no concurrent baseline, this rate instead
	floor     float64
}

// smallest bisects the canary's rate, for a baseline rate of p0.
func (d detector) smallest(p0 float64) float64 {
	needs := d.needs(p0)
	seen := func(p float64) bool {
		s := 0.0
		for _, k := range needs {
			s += atLeast(k, d.n, p)
		}
		return s >= power*float64(len(needs))
	}
	if !seen(1) {
		return 1
	}
	lo, hi := min(p0, 1), 1.0
	for range 30 {
		if hi <= lo*(1+1e-4) {
			break // nobody reads more digits, and each step costs some ten microseconds
		}
		mid := (lo + hi) / 2
		if lo > 0 && hi > 2*lo {
			mid = math.Sqrt(lo * hi)
		}
		if seen(mid) {
			hi = mid
		} else {
			lo = mid
		}
	}
	return hi
}

// needs returns how many bad canary events fail the test, for equally likely
// numbers of bad baseline events.
func (d detector) needs(p0 float64) []int64 {
	if d.known > 0 {
		return []int64{d.need(0, p0)}
	}
	const points = 11
	out := make([]int64, points)
	for i := range out {
		kb := poissonQuantile(float64(d.nb)*p0, (float64(i)+0.5)/points)
		out[i] = d.need(min(kb, d.nb), share(kb, d.nb))
	}
	return out
}

func (d detector) need(kb int64, base float64) int64 {
	w := 1.0
	if d.nb > 0 {
		w = float64(d.n) / (float64(d.n) + float64(d.nb))
	}
	above := ratiosAbove(d.ratios, d.ratios[0])
	xs := make([]float64, len(above))
	r0 := d.ratios[0]
	fails := func(k int64) bool {
		if share(k, d.n)-base < d.minExcess {
			return false
		}
		for i, j := range above {
			r := d.ratios[j]
			if d.known > 0 {
				xs[i] = alone(k, d.n, r, r0, d.known) / d.phi
				continue
			}
			all := float64(k) + float64(kb)
			xs[i] = (float64(k)*math.Log(r/r0) - all*(math.Log1p((r-1)*w)-math.Log1p((r0-1)*w))) / d.phi
		}
		if logMeanExp(xs) < d.want {
			return false
		}
		if d.floor <= 0 {
			return true
		}
		for i, j := range above {
			xs[i] = alone(k, d.n, d.ratios[j], r0, d.floor) / d.phi
		}
		return logMeanExp(xs) >= d.want
	}
	lo, hi := d.minBad-1, d.n // lo does not fail, or is too few
	if hi <= lo || !fails(hi) {
		return math.MaxInt64
	}
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		if fails(mid) {
			hi = mid
		} else {
			lo = mid
		}
	}
	return hi
}

// atLeast is the chance of k or more among n at rate p: the regularised
// incomplete beta function I_p(k, n−k+1).
func atLeast(k, n int64, p float64) float64 {
	switch {
	case k <= 0:
		return 1
	case k > n || p <= 0:
		return 0
	case p >= 1:
		return 1
	}
	a, b := float64(k), float64(n-k)+1
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(lab - la - lb + a*math.Log(p) + b*math.Log1p(-p))
	if p < (a+1)/(a+b+2) {
		return min(1, front*betaFraction(a, b, p)/a)
	}
	return max(0, 1-front*betaFraction(b, a, 1-p)/b)
}

// betaFraction is the continued fraction of the incomplete beta function
// (Abramowitz and Stegun 26.5.8), by Lentz's method.
func betaFraction(a, b, x float64) float64 {
	const tiny = 1e-300
	away := func(v float64) float64 {
		if math.Abs(v) < tiny {
			return tiny
		}
		return v
	}
	c, d := 1.0, 1/away(1-(a+b)*x/(a+1))
	h := d
	for i := 1; i <= 10_000; i++ {
		m := float64(i)
		even := m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		d = 1 / away(1+even*d)
		c = away(1 + even/c)
		h *= d * c
		odd := -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		d = 1 / away(1+odd*d)
		c = away(1 + odd/c)
		step := d * c
		h *= step
		if math.Abs(step-1) < 1e-10 {
			break
		}
	}
	return h
}

// poissonQuantile is the least k with P(X ≤ k) ≥ q.
func poissonQuantile(mean, q float64) int64 {
	if mean <= 0 {
		return 0
	}
	if mean > 500 {
		// Cornish-Fisher; its error is far below one at this size.
		z := math.Sqrt2 * math.Erfinv(2*q-1)
		return int64(math.Round(mean + z*math.Sqrt(mean) + (z*z-1)/6))
	}
	p := math.Exp(-mean)
	sum := p
	k := int64(0)
	for sum < q && k < 10_000 {
		k++
		p *= mean / float64(k)
		sum += p
	}
	return k
}
