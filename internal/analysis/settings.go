package analysis

import (
	"fmt"
	"math"
	"time"
)

// Settings say how strictly a rollout is judged. See judge.md for the meaning.
type Settings struct {
	Alpha     float64       `json:"alpha"`     // chance of failing a healthy canary, per rollout
	Beta      float64       `json:"beta"`      // chance of passing one at the bound
	R0        float64       `json:"r0"`        // FAIL: worse than this ratio
	RMax      float64       `json:"rMax"`      // PASS: not worse than this ratio, or
	MaxExcess float64       `json:"maxExcess"` // by no more than this; a fraction, 0.01 = 1 percentage point
	MinBad    int64         `json:"minBad"`    // bad canary events before FAIL
	MinEvents int64         `json:"minEvents"` // canary requests in each step before any PASS
	Bin       time.Duration `json:"bin"`
	WarmUp    time.Duration `json:"warmUp"`
	Phi       float64       `json:"phi"` // over-dispersion from an A/A split; 0: none available, taken as 1
}

// Defaults returns judge.md's defaults. Bin and WarmUp depend on the bake, so that
// a definition has its own: package pipeline fills them in.
func Defaults() Settings {
	return Settings{
		Alpha: 0.01, Beta: 0.05, R0: 1.25, RMax: 2, MaxExcess: 0.01,
		MinBad: 5, MinEvents: 50, Bin: 10 * time.Second, WarmUp: 2 * time.Minute,
	}
}

// Validate says what is wrong with the settings and what would be right.
func (s Settings) Validate() error {
	fraction := func(x float64) bool { return x > 0 && x < 1 } // false for NaN
	switch {
	case !fraction(s.Alpha) || s.Alpha > 0.5:
		return fmt.Errorf("alpha is %v: it is a probability above 0 and at most 0.5, for instance 0.01", s.Alpha)
	case !fraction(s.Beta) || s.Beta > 0.5:
		return fmt.Errorf("beta is %v: it is a probability above 0 and at most 0.5, for instance 0.05", s.Beta)
	case !(s.R0 >= 1 && s.R0 <= 20):
		return fmt.Errorf("r0 is %v: it is a ratio from 1 to 20, for instance 1.25", s.R0)
	case !(s.RMax > 1 && s.RMax <= 1000):
		return fmt.Errorf("rMax is %v: it is a ratio above 1 and at most 1000, for instance 2", s.RMax)
	case !fraction(s.MaxExcess):
		return fmt.Errorf("maxExcess is %v percentage points: it must be above 0 and below 100, for instance 1", s.MaxExcess*100)
	case s.MinBad < 1 || s.MinBad > 1_000_000:
		return fmt.Errorf("minBad is %d: it is a count from 1 to 1 000 000, for instance 5", s.MinBad)
	case s.MinEvents < 1 || s.MinEvents > 1_000_000_000:
		return fmt.Errorf("minEvents is %d: it is a count from 1 to 1 000 000 000, for instance 50", s.MinEvents)
	case s.Bin < 0 || s.WarmUp < 0:
		return fmt.Errorf("bin is %v and warmUp is %v: neither may be negative", s.Bin, s.WarmUp)
	case !(s.Phi == 0 || s.Phi >= 1 && s.Phi <= 1e6):
		return fmt.Errorf("phi is %v: it is 0 (not measured) or from 1 to 1 000 000", s.Phi)
	}
	return nil
}

func (s Settings) phi() float64 { return max(1, s.Phi) }

// Bin is a closed bin: bad and all events of the canary and of the baseline.
type Bin struct {
	KC int64 `json:"kc"`
	NC int64 `json:"nc"`
	KB int64 `json:"kb"`
	NB int64 `json:"nb"`
}

// BinKind says what a bin may be used for. The flags combine.
type BinKind uint8

const (
	// Judged bins are evidence for FAIL and PASS. It is the zero value.
	Judged BinKind = 0
	// WarmUp bins only feed the catastrophe test (and the frozen baseline rate).
	WarmUp BinKind = 1
	// Alone says that the canary carries everything, so that no baseline is to
	// be expected and the counts from before are the basis.
	Alone BinKind = 2
)

// valid mends what skew between two counters can do (more bad than all) and
// refuses what nothing can explain.
func (b Bin) valid() (Bin, bool) {
	if b.KC < 0 || b.NC < 0 || b.KB < 0 || b.NB < 0 {
		return b, false
	}
	b.KC, b.KB = min(b.KC, b.NC), min(b.KB, b.NB)
	return b, true
}

// plus adds counts and saturates.
func (b Bin) plus(o Bin) Bin {
	return Bin{satAdd(b.KC, o.KC), satAdd(b.NC, o.NC), satAdd(b.KB, o.KB), satAdd(b.NB, o.NB)}
}

func satAdd(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func share(k, n int64) float64 {
	if n <= 0 {
		return 0
	}
	return float64(k) / float64(n)
}

// Delta is the increase of a cumulative counter. A counter that fell was reset
// and has counted cur since; negative values count as 0.
func Delta(prev, cur int64) int64 {
	prev, cur = max(0, prev), max(0, cur)
	if cur < prev {
		return cur
	}
	return cur - prev
}

// DeltaFloat is Delta for sampled counters. It is false where the samples say
// nothing: NaN, infinite or negative.
func DeltaFloat(prev, cur float64) (float64, bool) {
	bad := func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) || x < 0 }
	if bad(prev) || bad(cur) {
		return 0, false
	}
	if cur < prev {
		return cur, true
	}
	return cur - prev, true
}

// DeltaHistogram is Delta for each bucket of a cumulative histogram. If any
// bucket fell, the whole histogram was reset.
func DeltaHistogram(prev, cur map[int]uint64) map[int]uint64 {
	out := make(map[int]uint64, len(cur))
	reset := false
	for i, p := range prev {
		reset = reset || cur[i] < p
	}
	for i, c := range cur {
		if !reset {
			c -= prev[i]
		}
		if c > 0 {
			out[i] = c
		}
	}
	return out
}
