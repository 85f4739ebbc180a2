package analysis

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Classes of a point comparison, as Kayenta names them.
const (
	ClassPass       = "Pass"
	ClassHigh       = "High"
	ClassLow        = "Low"
	ClassNodata     = "Nodata"
	ClassNodataFail = "NodataFailMetric"
)

// Points are two series without counts, compared as Kayenta's NetflixACAJudge
// does: does the canary's distribution lie above or below the control's?
type Points struct {
	Canary, Control []float64 // NaN is a missing point
	Direction       string    // increase, decrease, either (default)
	Critical        bool      // anything but a pass zeroes the score
	MustHaveData    bool
	ReplaceNaN      bool    // by 0, instead of dropping it
	DropOutliers    bool    // outside of factor × the interquartile range
	OutlierFactor   float64 // default 3
	CLES            bool    // effect is the common-language effect size, not the ratio of means

	// Effects that High and Low need, and that a critical metric needs to zero
	// the score. 0 is the default: 1, or 0.5 of CLES.
	AllowedIncrease, AllowedDecrease   float64
	CriticalIncrease, CriticalDecrease float64

	Seed uint64 // of the jitter that tells two constants apart
}

// Comparison is what a point comparison came to.
type Comparison struct {
	Class    string
	Critical bool    // a critical metric's non-pass
	Effect   float64 // NaN: not defined
	Lower    float64 // 98 % confidence interval of the shift
	Upper    float64
	Shift    float64 // Hodges-Lehmann estimate
	M, N     int     // points of canary and control that were compared
}

const (
	pointsZ      = 2.3263478740408408 // 98 % two-sided
	pointsFactor = 0.25               // part of the estimated shift that the interval must clear
	pointsLeast  = 5                  // below this many points a side nothing is said
	pointsFew    = 50                 // below this many it is said with a warning
	jitter       = 1e-5
)

// Compare runs the comparison.
func (p Points) Compare() Comparison {
	factor := p.OutlierFactor
	if factor <= 0 {
		factor = 3
	}
	clean := func(xs []float64) []float64 {
		out := make([]float64, 0, len(xs))
		for _, x := range xs {
			switch {
			case !math.IsNaN(x) && !math.IsInf(x, 0):
				out = append(out, x)
			case p.ReplaceNaN:
				out = append(out, 0)
			}
		}
		slices.Sort(out)
		if p.DropOutliers {
			out = withoutOutliers(out, factor)
		}
		return out
	}
	x, y := clean(p.Canary), clean(p.Control)
	c := Comparison{Class: ClassPass, Effect: p.neutral(), M: len(x), N: len(y)}
	if len(x) == 0 || len(y) == 0 {
		c.Effect = math.NaN()
		switch {
		case p.ReplaceNaN:
		case p.MustHaveData && !p.Critical:
			c.Class = ClassNodataFail
		default:
			c.Class, c.Critical = ClassNodata, p.Critical
		}
		return c
	}
	constantX, constantY := x[0] == x[len(x)-1], y[0] == y[len(y)-1]
	if slices.Equal(x, y) || constantX && constantY && x[0] == y[0] {
		return c
	}
	if constantX && constantY {
		rng := newRandom(p.Seed)
		x, y = jittered(rng, x), jittered(rng, y)
	}
	c.Lower, c.Upper, c.Shift = mannWhitney(x, y)
	c.Effect = p.effect(x, y)
	b := pointsFactor * math.Abs(c.Shift)
	reaches := func(limit float64, up bool) bool {
		if limit == 0 {
			limit = p.neutral()
		}
		return math.IsNaN(c.Effect) || up && c.Effect >= limit || !up && c.Effect <= limit
	}
	switch {
	case p.Direction != "decrease" && c.Lower > b && reaches(p.AllowedIncrease, true):
		c.Class, c.Critical = ClassHigh, p.Critical && reaches(p.CriticalIncrease, true)
	case p.Direction != "increase" && c.Upper < -b && reaches(p.AllowedDecrease, false):
		c.Class, c.Critical = ClassLow, p.Critical && reaches(p.CriticalDecrease, false)
	}
	return c
}

func (p Points) neutral() float64 {
	if p.CLES {
		return 0.5
	}
	return 1
}

func (p Points) effect(x, y []float64) float64 {
	if p.CLES {
		m, n := float64(len(x)), float64(len(y))
		rx, _ := rankSum(x, y, 0)
		return (2*rx - m*(m+1)) / (2 * m * n)
	}
	mx, my := mean(x), mean(y)
	if mx == 0 || my == 0 {
		return math.NaN()
	}
	return mx / my
}

// Metric tells the comparison in the judge's words. Fewer than five points a
// side are no data, whatever the class.
func (c Comparison) Metric(name string) Metric {
	m := Metric{Name: name, Kind: "points", Basis: Concurrent, NC: int64(c.M), NB: int64(c.N), Estimate: finite(c.Shift), Bound: finite(pointsFactor * math.Abs(c.Shift))}
	m.Sentence = fmt.Sprintf("%s canary points against %s of the stable version: ", Count(m.NC), Count(m.NB))
	switch {
	case c.Class == ClassNodata || c.Class == ClassNodataFail:
		m.Verdict = verdict.NoData
		m.Sentence += "a side has no points"
	case min(c.M, c.N) < pointsLeast:
		m.Verdict = verdict.NoData
		m.Sentence += fmt.Sprintf("at least %d a side are needed, fewer are often wrong", pointsLeast)
	case c.Class == ClassPass:
		m.Verdict = verdict.Pass
		m.Sentence += fmt.Sprintf("no shift beyond the bound (98 %% interval %s to %s)", number(c.Lower), number(c.Upper))
	default:
		m.Verdict = verdict.Fail
		side := "higher"
		if c.Class == ClassLow {
			side = "lower"
		}
		m.Sentence += fmt.Sprintf("%s, by %s (98 %% interval %s to %s)", side, number(c.Shift), number(c.Lower), number(c.Upper))
	}
	if m.Verdict == verdict.NoData {
		return m
	}
	if min(c.M, c.N) < pointsFew {
		m.Sentence += fmt.Sprintf("; few points: %d or more a side are advised", pointsFew)
	}
	m.Sentence += "; compares middles, so that a bad minority of points may pass, and depends on the unit"
	return m
}

// Score joins comparisons to Kayenta's score from 0 to 100. Groups name each
// comparison's group; weights are percent, and groups without one share the rest.
func Score(cs []Comparison, groups []string, weights map[string]float64) (total float64, byGroup map[string]float64) {
	type tallied struct{ pass, judged int }
	tallies := map[string]*tallied{}
	byGroup = map[string]float64{}
	nodata, critical := 0, false
	var order []string
	for i, c := range cs {
		g := ""
		if i < len(groups) {
			g = groups[i]
		}
		t, ok := tallies[g]
		if !ok {
			t = &tallied{}
			tallies[g] = t
			order = append(order, g)
		}
		critical = critical || c.Critical
		switch c.Class {
		case ClassNodata:
			nodata++
			continue
		case ClassPass:
			t.pass++
		}
		t.judged++
	}
	rest, unweighted := 100.0, 0
	for _, g := range order {
		if w, ok := weights[g]; ok {
			rest -= w
		} else {
			unweighted++
		}
	}
	for _, g := range order {
		byGroup[g] = 100
		if t := tallies[g]; t.judged > 0 {
			byGroup[g] = 100 * float64(t.pass) / float64(t.judged)
		}
		w, ok := weights[g]
		if !ok {
			w = max(0, rest) / float64(unweighted)
		}
		total += byGroup[g] * w / 100
	}
	if critical || len(cs) == 0 || 2*nodata >= len(cs) {
		total = 0
	}
	return math.Round(total*100) / 100, byGroup
}

// withoutOutliers keeps sorted values inside the fences.
func withoutOutliers(sorted []float64, factor float64) []float64 {
	if len(sorted) == 0 {
		return sorted
	}
	q1, q3 := percentile(sorted, 0.25), percentile(sorted, 0.75)
	lo := min(percentile(sorted, 0.01), q1-factor*(q3-q1))
	hi := max(percentile(sorted, 0.99), q3+factor*(q3-q1))
	out := sorted[:0:0]
	for _, x := range sorted {
		if x >= lo && x <= hi {
			out = append(out, x)
		}
	}
	return out
}

// percentile interpolates as R's type 7.
func percentile(sorted []float64, q float64) float64 {
	h := q * float64(len(sorted)-1)
	i := int(math.Floor(h))
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (h-float64(i))*(sorted[i+1]-sorted[i])
}

func jittered(rng *rand.Rand, xs []float64) []float64 {
	out := make([]float64, len(xs))
	for i, x := range xs {
		out[i] = x + rng.NormFloat64()*jitter*math.Abs(x)
	}
	slices.Sort(out)
	return out
}

func mean(xs []float64) float64 {
	m := 0.0
	for i, x := range xs {
		m += (x - m) / float64(i+1) // does not overflow
	}
	return m
}

// mannWhitney returns the confidence interval and the estimate of the shift of
// sorted x against sorted y, by inverting the rank test.
func mannWhitney(x, y []float64) (lower, upper, shift float64) {
	left, right := x[0]-y[len(y)-1], x[len(x)-1]-y[0]
	solve := func(want float64) float64 {
		f := func(mu float64) float64 { return rankZ(x, y, mu) - want }
		switch a, b := f(left), f(right); {
		case a <= 0:
			return left
		case b >= 0:
			return right
		default:
			return brent(f, left, right, a, b)
		}
	}
	return solve(pointsZ), solve(-pointsZ), solve(0)
}

// rankZ is the continuity-corrected normal score of the rank sum of x−mu; it
// falls as mu rises.
func rankZ(x, y []float64, mu float64) float64 {
	m, n := float64(len(x)), float64(len(y))
	rx, ties := rankSum(x, y, mu)
	d := rx - m*(m+1)/2 - m*n/2
	v := m * n / 12 * ((m + n + 1) - ties/((m+n)*(m+n-1)))
	if v <= 0 {
		return 0
	}
	if d > 0 {
		d -= 0.5
	} else if d < 0 {
		d += 0.5
	}
	return d / math.Sqrt(v)
}

// rankSum is the sum of the ranks of x−mu among both, ties averaged, and
// Σ(t³−t) over the ties. Both are sorted.
func rankSum(x, y []float64, mu float64) (sum, ties float64) {
	i, j, rank := 0, 0, 0.0
	for i < len(x) || j < len(y) {
		var v float64
		switch {
		case i == len(x):
			v = y[j]
		case j == len(y):
			v = x[i] - mu
		default:
			v = min(x[i]-mu, y[j])
		}
		inX, inY := 0.0, 0.0
		for i < len(x) && x[i]-mu <= v {
			i++
			inX++
		}
		for j < len(y) && y[j] <= v {
			j++
			inY++
		}
		t := inX + inY
		sum += inX * (rank + (t+1)/2)
		ties += t*t*t - t
		rank += t
	}
	return sum, ties
}

// brent finds the root of f between a and b, where fa > 0 > fb, to 1e-4 in
// absolute terms, as Kayenta does.
func brent(f func(float64) float64, a, b, fa, fb float64) float64 {
	const tol = 1e-4
	c, fc := a, fa
	d := b - a
	e := d
	for range 200 {
		if (fb > 0) == (fc > 0) {
			c, fc = a, fa
			d = b - a
			e = d
		}
		if math.Abs(fc) < math.Abs(fb) {
			a, b, c = b, c, b
			fa, fb, fc = fb, fc, fb
		}
		t := 2*2.220446049250313e-16*math.Abs(b) + tol
		m := (c - b) / 2
		if math.Abs(m) <= t || fb == 0 {
			return b
		}
		if math.Abs(e) < t || math.Abs(fa) <= math.Abs(fb) {
			d, e = m, m
		} else {
			s := fb / fa
			var p, q float64
			if a == c {
				p, q = 2*m*s, 1-s
			} else {
				q = fa / fc
				r := fb / fc
				p = s * (2*m*q*(q-r) - (b-a)*(r-1))
				q = (q - 1) * (r - 1) * (s - 1)
			}
			if p > 0 {
				q = -q
			} else {
				p = -p
			}
			if 2*p < 3*m*q-math.Abs(t*q) && p < math.Abs(e*q/2) {
				e, d = d, p/q
			} else {
				d, e = m, m
			}
		}
		a, fa = b, fb
		if math.Abs(d) > t {
			b += d
		} else if m > 0 {
			b += t
		} else {
			b -= t
		}
		fb = f(b)
	}
	return b
}
