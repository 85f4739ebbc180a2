package analysis

import (
	"math"
	"math/rand/v2"
)

// newRandom gives the same numbers for the same seed, on every machine.
func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x5147ce)) }

// binomial draws the number of successes among n at rate p: by inversion where
// few are expected, else by Hörmann's transformed rejection (BTRS, 1993).
func binomial(rng *rand.Rand, n int64, p float64) int64 {
	switch {
	case n <= 0 || p <= 0:
		return 0
	case p >= 1:
		return n
	case p > 0.5:
		return n - binomial(rng, n, 1-p)
	case float64(n)*p < 10:
		return binomialInversion(rng, n, p)
	}
	nf, q := float64(n), 1-p
	spq := math.Sqrt(nf * p * q)
	b := 1.15 + 2.53*spq
	a := -0.0873 + 0.0248*b + 0.01*p
	c := nf*p + 0.5
	vr := 0.92 - 4.2/b
	alpha := (2.83 + 5.1/b) * spq
	m := math.Floor((nf + 1) * p)
	for {
		u, v := rng.Float64()-0.5, rng.Float64()
		us := 0.5 - math.Abs(u)
		k := math.Floor((2*a/us+b)*u + c)
		if k < 0 || k > nf {
			continue
		}
		if us >= 0.07 && v <= vr {
			return int64(k)
		}
		if math.Log(v*alpha/(a/(us*us)+b)) <= logFactorials(m, nf)-logFactorials(k, nf)+(k-m)*math.Log(p/q) {
			return int64(k)
		}
	}
}

func logFactorials(k, n float64) float64 {
	x, _ := math.Lgamma(k + 1)
	y, _ := math.Lgamma(n - k + 1)
	return x + y
}

func binomialInversion(rng *rand.Rand, n int64, p float64) int64 {
	odds := p / (1 - p)
	f := math.Exp(float64(n) * math.Log1p(-p))
	u := rng.Float64()
	for k := int64(0); k < n; k++ {
		if u < f {
			return k
		}
		u -= f
		f *= float64(n-k) / float64(k+1) * odds
		if f == 0 {
			return k
		}
	}
	return n
}

// quantile of sorted values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(0, min(i, len(sorted)-1))]
}
