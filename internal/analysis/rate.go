package analysis

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Names of bases, as they stand in verdicts.
const (
	Concurrent  = "concurrent"
	BeforeAfter = "before-after"
	Absolute    = "absolute"
	NoBasis     = "none" // a first release: nothing to compare with
)

// Metric is what one metric came to, with all that a reader needs to check it.
// Rates are fractions; LogFail and LogPass are natural logarithms of evidence.
type Metric struct {
	Name         string          `json:"name"`
	Kind         string          `json:"kind,omitempty"`
	Verdict      verdict.Verdict `json:"verdict"`
	Basis        string          `json:"basis"`
	KC           int64           `json:"kc"`
	NC           int64           `json:"nc"`
	KB           int64           `json:"kb"`
	NB           int64           `json:"nb"`
	Estimate     float64         `json:"estimate"`     // the canary's rate; of a limit its last value
	LogFail      float64         `json:"logFail"`      // FAIL at ln(1/alpha) and above
	LogPass      float64         `json:"logPass"`      // PASS at ln(2/beta) and above
	Bound        float64         `json:"bound"`        // PASS says that the canary's rate is below this
	Detectable   float64         `json:"detectable"`   // smallest canary rate that would have failed 95 times of 100; 1: none
	DecidedAtBin int             `json:"decidedAtBin"` // 1 is the first; 0: not decided
	Sentence     string          `json:"sentence"`
}

// Frozen is what was known of the stable version before the canary's exposure.
// The zero value says: nothing; the first baseline bins are then taken.
type Frozen struct {
	Bad   int64 `json:"bad,omitempty"` // in the window before the shift
	Total int64 `json:"total,omitempty"`
	First bool  `json:"first,omitempty"` // a first release: there is no stable version

	// Floor is a baseline rate by construction, for latency 1 − q. The canary
	// must be worse than the concurrent baseline and than this to fail.
	Floor float64 `json:"floor,omitempty"`
}

// Rate is one rate metric's test over a rollout. It is a value: a copy goes its
// own way. Its JSON is the state to keep after every closed bin.
type Rate struct {
	V        int      `json:"v"`
	Name     string   `json:"name"`
	Kind     string   `json:"kind"`
	Noun     string   `json:"noun"` // what happened to bad events: "requests failed"
	Settings Settings `json:"settings"`
	Alpha    float64  `json:"alpha"` // this metric's part
	Fine     bool     `json:"fine,omitempty"`
	Frozen   Frozen   `json:"frozen,omitzero"`

	Bins    int   `json:"bins"`    // closed bins, also skipped ones
	Skipped int   `json:"skipped"` // of these, bins without a side or impossible
	StepN   int64 `json:"stepN"`   // judged canary requests of this step

	Warm tally  `json:"warm"` // concurrent warm-up bins
	Main tally  `json:"main"` // concurrent judged bins
	Cold counts `json:"cold"` // warm-up without a concurrent baseline
	Solo counts `json:"solo"` // judged without a concurrent baseline

	Base   counts `json:"base"`   // what PASS by excess compares with
	Sealed bool   `json:"sealed"` // Base does not change any more
	Before counts `json:"before"` // what bins without a baseline are compared with

	PassedAt int     `json:"passedAt"`
	Part     bool    `json:"part,omitempty"` // one of several that are averaged: fails nothing by itself
	Failed   *Metric `json:"failed,omitempty"`
}

const stateVersion = 1

// NewRate starts the test of one metric. Alpha is split over the metrics of the
// rollout; counts that frozen holds are from before the exposure.
func NewRate(name string, s Settings, metrics int, frozen Frozen) Rate {
	frozen.Bad, frozen.Total = max(0, frozen.Bad), max(0, frozen.Total)
	frozen.Bad = min(frozen.Bad, frozen.Total)
	r := Rate{
		V: stateVersion, Name: name, Kind: "rate", Noun: "events were bad",
		Settings: s, Alpha: s.Alpha / float64(max(1, metrics)), Frozen: frozen,
		Fine: frozen.Bad >= highTraffic,
	}
	if name == "http-errors" {
		r.Kind, r.Noun = name, "requests failed"
	}
	r.freeze(frozen.Bad, frozen.Total)
	return r
}

// UnmarshalJSON refuses a state of another version and one that no test can
// have written.
func (r *Rate) UnmarshalJSON(b []byte) error {
	type plain Rate
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("couldn't read a metric's state: %w", err)
	}
	got := Rate(p)
	if got.V != stateVersion {
		return fmt.Errorf("couldn't read the state of metric %q: it is of version %d, this build reads %d", got.Name, got.V, stateVersion)
	}
	if err := got.Settings.Validate(); err != nil {
		return fmt.Errorf("couldn't read the state of metric %q: %w", got.Name, err)
	}
	for _, t := range []struct {
		tally
		ratios []float64
	}{{got.Warm, crashRatios}, {got.Main, got.ratios()}} {
		if len(t.D) != 0 && len(t.D) != len(t.ratios) {
			return fmt.Errorf("couldn't read the state of metric %q: it has %d sums, not %d", got.Name, len(t.D), len(t.ratios))
		}
		if _, ok := t.valid(); !ok {
			return fmt.Errorf("couldn't read the state of metric %q: it has a negative count", got.Name)
		}
	}
	*r = got
	return nil
}

// ratios are r0, rMax and what FAIL looks for.
func (r Rate) ratios() []float64 {
	out := make([]float64, 0, len(grid)+3)
	out = append(out, r.Settings.R0, r.Settings.RMax)
	if r.Fine {
		out = append(out, fineRatio)
	}
	return append(out, grid...)
}

// crashRatios has the layout of ratios; its second entry is not used.
var crashRatios = append([]float64{crashRatio, crashRatio}, crashGrid...)

// alphas are the parts of the metric's alpha: for FAIL, for catastrophe and for
// the bound on the rate from before.
func (r Rate) alphas() (main, crash, before float64) {
	before = beforeShare * r.Alpha
	if r.Settings.WarmUp > 0 {
		crash = crashShare * r.Alpha
	}
	return r.Alpha - crash - before, crash, before
}

// freeze gathers the stable's rate until it is known well enough that its error
// is small beside maxExcess, and then never changes it.
func (r *Rate) freeze(k, n int64) {
	if r.Sealed {
		return
	}
	r.Base = r.Base.plus(k, n)
	r.Sealed = float64(r.Base.N) >= max(float64(r.Settings.MinEvents), 4/r.Settings.MaxExcess)
}

// StartStep counts minEvents anew; the evidence goes on.
func (r *Rate) StartStep() {
	r.StepN, r.PassedAt = 0, 0
}

// Add takes a closed bin. Bins in which a side is missing are skipped.
func (r *Rate) Add(b Bin, at BinKind) {
	if r.Bins < math.MaxInt32 {
		r.Bins++
	}
	b, ok := b.valid()
	lonely := at&Alone != 0
	if !ok || b.NC == 0 || b.NB == 0 && !lonely {
		r.Skipped++
		return
	}
	if lonely {
		r.addAlone(b, at)
	} else {
		r.freeze(b.KB, b.NB)
		if at&WarmUp != 0 {
			r.Warm.add(b, crashRatios)
		} else {
			r.Main.add(b, r.ratios())
			r.StepN = satAdd(r.StepN, b.NC)
		}
	}
	r.decide()
}

func (r *Rate) addAlone(b Bin, at BinKind) {
	if r.Before.N == 0 {
		r.Before = counts{r.Frozen.Bad, r.Frozen.Total}.plus(r.Warm.KB, r.Warm.NB).plus(r.Main.KB, r.Main.NB)
		r.freeze(0, 0)
		r.Sealed = r.Sealed || r.Before.N > 0
	}
	if at&WarmUp != 0 {
		r.Cold = r.Cold.plus(b.KC, b.NC)
	} else {
		r.Solo = r.Solo.plus(b.KC, b.NC)
		r.StepN = satAdd(r.StepN, b.NC)
	}
}

func (r *Rate) decide() {
	if r.Failed != nil {
		return
	}
	main, crash, _ := r.alphas()
	switch {
	case !r.Part && crash > 0 && r.logCrash() >= math.Log(1/crash) && r.crashGuard():
		r.Failed = r.failed(true)
	case !r.Part && r.logFail(0) >= math.Log(1/main) && r.failGuard():
		r.Failed = r.failed(false)
	case r.passes():
		if r.PassedAt == 0 {
			r.PassedAt = r.Bins
		}
	default:
		r.PassedAt = 0
	}
}

func (r Rate) failed(crash bool) *Metric {
	m := r.measure(crash)
	m.Verdict, m.DecidedAtBin = verdict.Fail, r.Bins
	m.Sentence = r.sentence(m, crash)
	return &m
}

// known is the rate that bins without a baseline are tested against.
func (r Rate) known() float64 {
	if r.Frozen.Floor > 0 {
		return r.Frozen.Floor
	}
	if r.Before.N < r.Settings.MinEvents {
		return 0 // too little is known: no evidence
	}
	_, _, level := r.alphas()
	return r.Before.high(level)
}

// logFail is the evidence that the ratio is above the i-th of ratios().
func (r Rate) logFail(i int) float64 {
	known := 0.0
	if r.Solo.N > 0 {
		known = r.known()
	}
	return r.mixture(r.Main, r.Solo, r.ratios(), i, known)
}

func (r Rate) logCrash() float64 {
	known := 0.0
	if r.Cold.N > 0 {
		known = r.known()
	}
	return r.mixture(r.Warm, r.Cold, crashRatios, 0, known)
}

func (r Rate) mixture(t tally, solo counts, ratios []float64, i int, known float64) float64 {
	above := ratiosAbove(ratios, ratios[i])
	xs := make([]float64, 0, len(above))
	phi := r.Settings.phi()
	for _, j := range above {
		x := t.log(j, ratios) - t.log(i, ratios) + alone(solo.K, solo.N, ratios[j], ratios[i], known)
		xs = append(xs, x/phi)
	}
	e := logMeanExp(xs)
	if f := r.Frozen.Floor; f > 0 {
		// Both null hypotheses must fall: no worse than the stable version now,
		// and no worse than the stated rate. The smaller e-value says so.
		all := solo.plus(t.KC, t.NC)
		for n, j := range above {
			xs[n] = alone(all.K, all.N, ratios[j], ratios[i], f) / phi
		}
		e = min(e, logMeanExp(xs))
	}
	return e
}

// excess is how far the canary is above what the stable had in the same bins.
func excess(t tally, solo, before counts) float64 {
	n := float64(t.NC) + float64(solo.N)
	if n == 0 {
		return 0
	}
	expected := float64(t.NC)*share(t.KB, t.NB) + float64(solo.N)*before.rate()
	return (float64(t.KC) + float64(solo.K) - expected) / n
}

func (r Rate) failGuard() bool {
	return satAdd(r.Main.KC, r.Solo.K) >= r.Settings.MinBad && excess(r.Main, r.Solo, r.Before) >= minExcess
}

func (r Rate) crashGuard() bool {
	return satAdd(r.Warm.KC, r.Cold.K) >= r.Settings.MinBad && excess(r.Warm, r.Cold, r.Before) >= crashExcess
}

// logPass is the evidence that the canary is not worse than rMax times the
// baseline, and that it is not worse than the frozen rate plus maxExcess.
func (r Rate) logPass() (ratio, over float64) {
	phi := r.Settings.phi()
	ratio = -r.Main.log(1, r.ratios())
	if r.Solo.N > 0 {
		low := r.baseRate()
		if low <= 0 || low*r.Settings.RMax >= 1 {
			ratio = math.Inf(-1) // no ratio to a rate that may be 0
		} else {
			ratio += logBernoulli(r.Solo.K, r.Solo.N, low, low*r.Settings.RMax)
		}
	}
	over = math.Inf(-1)
	if p, null := r.baseRate(), r.limitRate(); (r.Sealed || r.Frozen.Floor > 0) && null < 1 {
		// Half of the weight on the frozen rate itself, and a quarter on each of
		// two above it, so that one stray error does not end it.
		all := r.Solo.plus(r.Main.KC, r.Main.NC)
		at := func(extra float64) float64 { return logBernoulli(all.K, all.N, p+extra, null) / phi }
		d := r.Settings.MaxExcess
		x := at(0)
		over = logMeanExp([]float64{x, x, at(d / 4), at(d / 2)})
	}
	return ratio / phi, over
}

// baseRate is the frozen rate that PASS compares with.
func (r Rate) baseRate() float64 {
	if r.Frozen.Floor > 0 {
		return r.Frozen.Floor
	}
	if r.Base.N == 0 {
		return r.Before.low()
	}
	return r.Base.low()
}

func (r Rate) limitRate() float64 { return r.baseRate() + r.Settings.MaxExcess }

func (r Rate) passes() bool {
	if r.silent() {
		return false
	}
	ratio, over := r.logPass()
	return max(ratio, over) >= math.Log(2/r.Settings.Beta)
}

// silent says that there is too little to say anything but fail.
func (r Rate) silent() bool {
	switch {
	case r.V != stateVersion, r.StepN < r.Settings.MinEvents:
		return true
	case r.basis() == BeforeAfter:
		return r.Frozen.Floor == 0 && r.Before.N < r.Settings.MinEvents
	}
	return r.basis() == NoBasis
}

func (r Rate) basis() string {
	switch {
	case r.Frozen.First && r.Main.NB+r.Warm.NB == 0:
		return NoBasis
	case r.Solo.N+r.Cold.N > 0:
		return BeforeAfter
	}
	return Concurrent
}

// Verdict is where the test stands now.
func (r Rate) Verdict() verdict.Verdict {
	switch {
	case r.Failed != nil:
		return verdict.Fail
	case r.silent():
		return verdict.NoData
	case r.passes():
		return verdict.Pass
	}
	return verdict.Inconclusive
}

// Result is the verdict with all its reasons. After a fail it is as at the bin
// that decided it.
func (r Rate) Result() Metric {
	if r.Failed != nil {
		return *r.Failed
	}
	m := r.measure(false)
	m.Verdict = r.Verdict()
	if m.Verdict == verdict.Pass {
		m.DecidedAtBin = r.PassedAt
	}
	m.Sentence = r.sentence(m, false)
	return m
}

// measure fills in all but the verdict; crash: of the warm-up.
func (r Rate) measure(crash bool) Metric {
	t, solo := r.Main, r.Solo
	m := Metric{Name: r.Name, Kind: r.Kind, Basis: r.basis()}
	if crash {
		t, solo = r.Warm, r.Cold
		m.LogFail = finite(r.logCrash())
	} else {
		ratio, over := r.logPass()
		m.LogFail, m.LogPass = finite(r.logFail(0)), finite(max(ratio, over))
	}
	m.KC, m.NC, m.KB, m.NB = t.KC, t.NC, t.KB, t.NB
	if m.Basis == BeforeAfter {
		m.KC, m.NC, m.KB, m.NB = solo.K, solo.N, r.Before.K, r.Before.N
	} else if m.Basis == NoBasis {
		m.KC, m.NC, m.LogPass = solo.K, solo.N, 0
	}
	m.Estimate = share(m.KC, m.NC)
	m.Bound = min(1, max(r.Settings.RMax*share(m.KB, m.NB), r.limitRate()))
	m.Detectable = r.detectable(m)
	return m
}
