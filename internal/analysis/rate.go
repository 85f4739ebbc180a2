package analysis

import (
	"encoding/json"
	"errors"
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
	LogFail      float64         `json:"logFail"`      // FAIL at ln(metrics/alpha) and above
	LogPass      float64         `json:"logPass"`      // PASS at ln(2/beta) and above
	Bound        float64         `json:"bound"`        // PASS says that the canary's rate is below this
	Detectable   float64         `json:"detectable"`   // smallest canary rate that would have failed 95 times of 100; 1: none
	DecidedAtBin int             `json:"decidedAtBin"` // 1 is the first; 0: not decided
	Sentence     string          `json:"sentence"`

	Phi      float64 `json:"phi,omitempty"`      // over-dispersion that the evidence was divided by, if it was measured
	Advisory bool    `json:"advisory,omitempty"` // it is told and decides nothing
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
	Alpha    float64  `json:"alpha"`           // this metric's part
	Fine     bool     `json:"fine,omitempty"`  // a finer grid, at high traffic
	Plain    bool     `json:"plain,omitempty"` // one step and no bin alone: alpha need not be kept for these
	Frozen   Frozen   `json:"frozen,omitzero"`

	Bins    int   `json:"bins"`    // closed bins, also skipped ones
	Skipped int   `json:"skipped"` // of these, bins without a side or impossible
	StepN   int64 `json:"stepN"`   // judged canary requests of this step

	Why string `json:"why,omitempty"` // the newest bin has no counts, as the provider tells it

	Warm tally  `json:"warm"` // concurrent warm-up bins
	Main tally  `json:"main"` // concurrent judged bins
	Cold counts `json:"cold"` // warm-up without a concurrent baseline
	Solo counts `json:"solo"` // judged without a concurrent baseline

	Steps    int    `json:"steps"`    // later steps than the first with evidence
	Mark     tally  `json:"mark"`     // Main when this step started
	MarkSolo counts `json:"markSolo"` // Solo when this step started

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
	if err := got.check(); err != nil {
		return fmt.Errorf("couldn't read the state of metric %q: %w", got.Name, err)
	}
	*r = got
	return nil
}

// check says why no test can have written this state.
func (r Rate) check() error {
	if err := r.Settings.Validate(); err != nil {
		return err
	}
	for _, t := range []struct {
		tally
		ratios []float64
	}{{r.Warm, crashRatios}, {r.Main, r.ratios()}, {r.Mark, r.ratios()}} {
		if len(t.D) != 0 && len(t.D) != len(t.ratios) {
			return fmt.Errorf("it has %d sums, not %d", len(t.D), len(t.ratios))
		}
		for _, d := range t.D {
			if !(d >= 0 && d <= 1e21) { // 2⁶⁴ events at ln 40
				return fmt.Errorf("it has a sum of %v", d)
			}
		}
		if b, ok := t.valid(); !ok || b != t.Bin {
			return fmt.Errorf("it has impossible counts: %v", t.Bin)
		}
	}
	for _, c := range []counts{r.Cold, r.Solo, r.MarkSolo, r.Base, r.Before, {r.Frozen.Bad, r.Frozen.Total}, {r.StepN, r.StepN}} {
		if c.K < 0 || c.K > c.N {
			return fmt.Errorf("it has impossible counts: %d of %d", c.K, c.N)
		}
	}
	m, n := r.Main, r.Mark
	if n.KC > m.KC || n.NC > m.NC || n.KB > m.KB || n.NB > m.NB || r.MarkSolo.K > r.Solo.K || r.MarkSolo.N > r.Solo.N {
		return errors.New("its step began with more than it has")
	}
	if !(r.Alpha > 0 && r.Alpha <= r.Settings.Alpha) || !(r.Frozen.Floor >= 0 && r.Frozen.Floor < 1) || r.Steps < 0 || r.Bins < 0 || r.Skipped < 0 {
		return fmt.Errorf("alpha %v, floor %v, steps %d or bins %d cannot be", r.Alpha, r.Frozen.Floor, r.Steps, r.Bins)
	}
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

// window is which evidence a decision to fail rests on.
type window int

const (
	whole  window = iota // all judged bins of the rollout
	step                 // those of this step, if it is not the first
	warmUp               // catastrophe
)

// alpha is the window's part of the metric's alpha. What a later step may spend
// on its own evidence halves, and more, with each: Σ 1/(i(i+1)) = 1.
func (r Rate) alpha(w window) float64 {
	crash := 0.0
	if r.Settings.WarmUp > 0 {
		crash = crashShare
	}
	switch w {
	case warmUp:
		return crash * r.Alpha
	case step:
		return stepShare * r.Alpha / (float64(r.Steps) * float64(r.Steps+1)) // +Inf is not reached: Steps > 0
	}
	if r.Plain {
		return (1 - crash) * r.Alpha
	}
	return (1 - crash - beforeShare - stepShare) * r.Alpha
}

// beforeLevel is the level of the bound on the rate from before.
func (r Rate) beforeLevel() float64 { return beforeShare * r.Alpha }

// evidence of a window: the concurrent and the lonely counts.
func (r Rate) evidence(w window) (tally, counts) {
	switch w {
	case warmUp:
		return r.Warm, r.Cold
	case step:
		return r.Main.since(r.Mark), r.Solo.since(r.MarkSolo)
	}
	return r.Main, r.Solo
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

// StartStep counts minEvents anew. The evidence goes on; beside it the new
// step's own evidence may fail the canary too, with its own small part of alpha,
// so that a long healthy past does not hide what breaks only at more traffic.
func (r *Rate) StartStep() {
	r.StepN, r.PassedAt = 0, 0
	if t, solo := r.evidence(step); t.NC+solo.N > 0 && r.Steps < 1000 && !r.Plain {
		r.Steps++
		r.Mark, r.MarkSolo = r.Main, r.Solo
	}
}

// Missing takes a bin without counts, and why there are none.
func (r *Rate) Missing(why string) {
	r.Add(Bin{}, Judged)
	r.Why = why
}

// Add takes a closed bin. Bins in which a side is missing are skipped.
func (r *Rate) Add(b Bin, at BinKind) {
	r.Why = ""
	if r.Bins < math.MaxInt32 {
		r.Bins++
	}
	b, ok := b.valid()
	lonely := at&Alone != 0 && !r.Plain
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
	for _, w := range []window{warmUp, whole, step} {
		if r.Part || w == step && r.Steps == 0 {
			continue
		}
		// The guard is the cheap one, and of a healthy canary it seldom holds.
		if r.guard(w) && r.logFail(w) >= r.threshold(w) {
			r.Failed = r.failed(w)
			return
		}
	}
	switch {
	case !r.passes():
		r.PassedAt = 0
	case r.PassedAt == 0:
		r.PassedAt = r.Bins
	}
}

// threshold is the log evidence that fails; +Inf where nothing may be spent.
func (r Rate) threshold(w window) float64 {
	if w == step && r.Steps == 0 {
		return math.Inf(1)
	}
	return math.Log(1 / r.alpha(w))
}

func (r Rate) failed(w window) *Metric {
	m := r.measure(w)
	m.Verdict, m.DecidedAtBin = verdict.Fail, r.Bins
	m.Sentence = r.sentence(m, w)
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
	return r.Before.high(r.beforeLevel())
}

// logFail is a window's evidence that the ratio is above the allowed one.
func (r Rate) logFail(w window) float64 { return r.logAbove(w, 0) }

// logAbove is a window's evidence that the ratio is above the i-th of its ratios.
func (r Rate) logAbove(w window, i int) float64 {
	t, solo := r.evidence(w)
	if t.NC+solo.N == 0 {
		return 0
	}
	known := 0.0
	if solo.N > 0 {
		known = r.known()
	}
	return r.mixture(t, solo, r.ratiosOf(w), i, known)
}

func (r Rate) ratiosOf(w window) []float64 {
	if w == warmUp {
		return crashRatios
	}
	return r.ratios()
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

// guard asks for enough bad events and a large enough excess besides.
func (r Rate) guard(w window) bool {
	t, solo := r.evidence(w)
	least := minExcess
	if w == warmUp {
		least = crashExcess
	}
	return satAdd(t.KC, solo.K) >= r.Settings.MinBad && excess(t, solo, r.Before) >= least
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
	m := r.measure(whole)
	m.Verdict = r.Verdict()
	if m.Verdict == verdict.Pass {
		m.DecidedAtBin = r.PassedAt
	}
	m.Sentence = r.sentence(m, whole)
	return m
}

// Baseline is the stable's rate that the canary is compared with, as far as it is
// known by now.
func (r Rate) Baseline() float64 {
	switch {
	case r.basis() == BeforeAfter:
		return r.Before.rate()
	case r.Main.NB > 0:
		return share(r.Main.KB, r.Main.NB)
	case r.Frozen.Floor > 0:
		return r.Frozen.Floor
	}
	return share(r.Frozen.Bad, r.Frozen.Total)
}

// measure fills in all but the verdict, from a window's counts. LogFail has the
// window's part of alpha taken off, so that it compares with ln(1/Alpha).
func (r Rate) measure(w window) Metric {
	t, solo := r.evidence(w)
	m := Metric{Name: r.Name, Kind: r.Kind, Basis: r.basis()}
	m.KC, m.NC, m.KB, m.NB = t.KC, t.NC, t.KB, t.NB
	m.LogFail = finite(r.logFail(w) - r.threshold(w) + math.Log(1/r.Alpha))
	if w != warmUp {
		ratio, over := r.logPass()
		m.LogPass = finite(max(ratio, over))
	}
	switch m.Basis {
	case BeforeAfter:
		m.KC, m.NC, m.KB, m.NB = solo.K, solo.N, r.Before.K, r.Before.N
	case NoBasis:
		m.KC, m.NC, m.LogPass = solo.K, solo.N, 0
	}
	m.Estimate, m.Phi = share(m.KC, m.NC), r.Settings.Phi
	m.Bound = min(1, max(r.Settings.RMax*share(m.KB, m.NB), r.limitRate()))
	m.Detectable = r.detectable(m)
	return m
}
