package analysis

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/verdict"
)

// PlanStep is a share of traffic and how long it bakes.
type PlanStep struct {
	Share float64       // fraction, 0.05 = 5 %
	Bake  time.Duration // warm-up included
}

// Running is how far a bake is, and what it has shown.
type Running struct {
	Elapsed time.Duration // of PlanInput.Bake
	Warm    time.Duration // that the warm-up has had
	Test    Rate          // as it stands, with the bins of this bake and of those before
}

// PlanInput is what is known of a bake before anything moves, or while it runs.
type PlanInput struct {
	Settings     Settings
	Metrics      int        // that alpha is split over; 0 is 1
	BaselineRate float64    // the stable's rate of bad events, a fraction
	RPS          float64    // requests per second of both versions together
	Earlier      []PlanStep // their evidence counts too; warm-up is in the first
	Share        float64
	Bake         time.Duration
	Care         float64 // canary rate that the owner wants seen; 0: baseline + maxExcess
	Seed         uint64
	Running      *Running // the bake runs; nil: nothing moved yet. Its test has the evidence of Earlier
}

// PlanOutput is what the bake can do by its end.
type PlanOutput struct {
	CanaryRequests        int64    `json:"canaryRequests"` // judged ones, in this bake
	Detectable            float64  `json:"detectable"`     // canary rate that fails by its end 95 times of 100; 1: none
	ExpectedSecondsToPass float64  `json:"expectedSecondsToPass"`
	ChanceOfExtension     float64  `json:"chanceOfExtension"` // of a healthy canary
	Advice                []string `json:"advice,omitempty"`
}

// NeverPasses is ExpectedSecondsToPass when more than half of all healthy
// canaries have not passed after the bake and three extensions.
const NeverPasses = -1

const (
	planRuns    = 200
	planBins    = 24 // per bake; coarser than the real bins to stay below 100 ms
	planExtends = 3
)

// Plan says what a bake can see and how likely a healthy canary is to pass at
// its end. The same input gives the same answer. ExpectedSecondsToPass is the
// median over simulated healthy canaries, from the start of this bake, or from now
// on if it runs.
func Plan(in PlanInput) (PlanOutput, error) {
	if err := in.validate(); err != nil {
		return PlanOutput{}, fmt.Errorf("couldn't plan the bake: %w", err)
	}
	s := in.Settings
	warm := s.WarmUp
	var before counts // judged canary requests of earlier steps, and baseline's
	for _, e := range in.Earlier {
		judged := max(0, e.Bake-warm)
		warm = max(0, warm-e.Bake)
		before = before.plus(in.requests(e.Share, judged), in.requests(1-e.Share, judged))
	}
	judged := max(0, in.Bake-warm)
	out := PlanOutput{CanaryRequests: in.requests(in.Share, judged)}
	all := before.plus(out.CanaryRequests, in.requests(1-in.Share, judged))
	if in.Running != nil {
		before, all, out.CanaryRequests = in.goesOn()
		warm = max(0, in.Bake-in.takes(out.CanaryRequests))
	}
	out.Detectable = in.detectable(all.K, all.N)
	out.ExpectedSecondsToPass, out.ChanceOfExtension = in.simulate()
	out.Advice = in.advise(out, before, warm)
	return out, nil
}

func (in PlanInput) validate() error {
	if err := in.Settings.Validate(); err != nil {
		return err
	}
	steps := append(slices.Clone(in.Earlier), PlanStep{in.Share, in.Bake})
	if len(steps) > 100 {
		return fmt.Errorf("there are %d steps: at most 100 can be planned", len(steps))
	}
	for _, p := range steps {
		if !(p.Share > 0 && p.Share <= 1) {
			return fmt.Errorf("the share is %v: it is a fraction above 0 and at most 1", p.Share)
		}
		if p.Bake < 0 || p.Bake > 1000*time.Hour {
			return fmt.Errorf("the bake is %v: it is from 0 to 1000 hours", p.Bake)
		}
	}
	if !(in.BaselineRate >= 0 && in.BaselineRate < 1) {
		return fmt.Errorf("the baseline rate is %v: it is a fraction from 0 to below 1", in.BaselineRate)
	}
	if !(in.RPS >= 0 && in.RPS <= 1e7) {
		return fmt.Errorf("the traffic is %v requests per second: it is from 0 to 10 million", in.RPS)
	}
	if r := in.Running; r != nil && (r.Elapsed < 0 || r.Warm < 0 || r.Test.check() != nil) {
		return fmt.Errorf("the bake has run for %v and warmed up for %v: neither is below 0, and its test must be one", r.Elapsed, r.Warm)
	}
	if !(in.Care >= 0 && in.Care <= 1) {
		return fmt.Errorf("the rate to be seen is %v: it is a fraction from 0 to 1", in.Care)
	}
	return nil
}

// goesOn is what a bake that runs will have judged at its end, canary's and
// baseline's requests: all of it, what is from before this step, and the canary's
// of this step.
func (in PlanInput) goesOn() (before, all counts, canary int64) {
	r := in.Running
	judged := max(0, in.left()-max(0, in.Settings.WarmUp-r.Warm))
	more := in.requests(in.Share, judged)
	all = counts{r.Test.Main.NC, r.Test.Main.NB}
	if r.Test.basis() == BeforeAfter {
		all = counts{K: r.Test.Solo.N}
	}
	all = all.plus(more, in.requests(1-in.Share, judged))
	canary = satAdd(r.Test.StepN, more)
	before.K = max(0, all.K-canary)
	before.N = max(0, all.N-int64(float64(canary)*(1-in.Share)/in.Share))
	return before, all, canary
}

// left is what a bake that runs has still before it.
func (in PlanInput) left() time.Duration { return max(0, in.Bake-in.Running.Elapsed) }

// takes is how long it takes the canary to get so many requests.
func (in PlanInput) takes(n int64) time.Duration {
	if in.RPS == 0 {
		return 0
	}
	return time.Duration(min(float64(n)/(in.RPS*in.Share), 1e9) * float64(time.Second))
}

func (in PlanInput) requests(share float64, d time.Duration) int64 {
	return int64(math.Round(in.RPS * share * d.Seconds()))
}

// rate is the test as it will be started; the stable's rate counts as known
// from the hour before.
func (in PlanInput) rate() Rate {
	n := max(1000, in.RPS*3600)
	return NewRate("http-errors", in.Settings, in.Metrics, Frozen{Bad: int64(math.Round(n * in.BaselineRate)), Total: int64(n)})
}

// detectable of n canary and nb baseline requests; nb 0: nothing concurrent.
func (in PlanInput) detectable(n, nb int64) float64 {
	r := in.rate()
	m := Metric{NC: n, NB: nb, KB: int64(math.Round(float64(nb) * in.BaselineRate)), Basis: Concurrent}
	if in.Running != nil {
		if r = in.Running.Test; r.basis() == BeforeAfter {
			m.Basis, m.KB, m.NB = BeforeAfter, r.Before.K, r.Before.N
		}
		return r.detectable(m)
	}
	if nb == 0 {
		r.Before = counts{r.Frozen.Bad, r.Frozen.Total}
		m.Basis, m.KB, m.NB = BeforeAfter, r.Before.K, r.Before.N
	}
	return r.detectable(m)
}

// simulate plays healthy canaries: the median seconds to the first pass in this
// bake or its extensions, and the chance that the bake itself ends without.
func (in PlanInput) simulate() (seconds, extension float64) {
	rng := newRandom(in.Seed)
	start, begun, bake := in.rate(), time.Duration(0), in.Bake
	if in.Running != nil {
		start, begun, bake = in.Running.Test, in.Running.Warm, in.left()
	}
	passes := start.Verdict() == verdict.Pass
	switch {
	case passes && (in.RPS == 0 || bake == 0):
		return 0, 0
	case in.RPS == 0 || in.Bake == 0 || start.Failed != nil:
		return NeverPasses, 1
	}
	var times []float64
	extended := 0
	for range planRuns {
		r, warmed := start, begun
		play := func(p PlanStep, until func(at time.Duration) bool) {
			bins := max(1, planBins/(1+len(in.Earlier)/4))
			for i := range bins {
				d := p.Bake / time.Duration(bins)
				kind := Judged
				if warmed < in.Settings.WarmUp {
					kind = WarmUp
				}
				warmed += d
				b := Bin{NC: int64(in.RPS*p.Share*d.Seconds() + rng.Float64())}
				b.KC = binomial(rng, b.NC, in.BaselineRate)
				if p.Share >= 1 {
					kind |= Alone
				} else {
					b.NB = int64(in.RPS*(1-p.Share)*d.Seconds() + rng.Float64())
					b.KB = binomial(rng, b.NB, in.BaselineRate)
				}
				r.Add(b, kind)
				if until != nil && until(time.Duration(i+1)*d) {
					return
				}
			}
		}
		if in.Running == nil {
			for _, e := range in.Earlier {
				r.StartStep()
				play(e, nil)
			}
			r.StartStep()
		}
		at := math.Inf(1)
		if passes {
			at = 0
		}
		var passed time.Duration // of the bake and its extensions
		for round := range 1 + planExtends {
			d := in.Bake
			if round == 0 {
				d = bake
			}
			play(PlanStep{in.Share, d}, func(done time.Duration) bool {
				if math.IsInf(at, 1) && r.PassedAt > 0 {
					at = (passed + done).Seconds()
				}
				return round > 0 && !math.IsInf(at, 1)
			})
			passed += d
			if round == 0 && r.Failed == nil && r.Verdict() != verdict.Pass {
				extended++
			}
			if !math.IsInf(at, 1) {
				break
			}
		}
		times = append(times, at)
	}
	slices.Sort(times)
	if seconds = quantile(times, 0.5); math.IsInf(seconds, 1) {
		seconds = NeverPasses
	}
	return seconds, float64(extended) / planRuns
}

func (in PlanInput) advise(out PlanOutput, before counts, warm time.Duration) []string {
	var advice []string
	if in.RPS == 0 && out.CanaryRequests >= in.Settings.MinEvents {
		if out.ChanceOfExtension == 0 {
			return nil
		}
		return []string{"there is no traffic any more: send synthetic traffic, or this bake ends undecided"}
	}
	if in.RPS == 0 {
		return []string{"there is no traffic to judge by: send synthetic traffic, or this bake ends in no-data and holds"}
	}
	perSecond := in.RPS * in.Share
	if out.CanaryRequests < in.Settings.MinEvents {
		need := warm + time.Duration(float64(in.Settings.MinEvents)/perSecond*1.2*float64(time.Second))
		advice = append(advice, fmt.Sprintf("about %s canary requests are judged in this bake and minEvents is %s: it ends in no-data and holds; bake %s, raise the share or send synthetic traffic",
			Count(out.CanaryRequests), Count(in.Settings.MinEvents), round(need)))
	}
	care := in.Care
	if care == 0 {
		care = in.BaselineRate + in.Settings.MaxExcess
	}
	if out.Detectable > care && care > in.BaselineRate*in.Settings.R0 && care > in.BaselineRate+minExcess {
		if a := in.enough(care, out, before, warm); a != "" {
			advice = append(advice, a)
		}
	} else if out.Detectable > care {
		advice = append(advice, fmt.Sprintf("a canary rate of %s is within what r0 = %s and the least excess of 0.2 pp allow: no bake can see it", percent(care), number(in.Settings.R0)))
	}
	if out.ChanceOfExtension >= 0.2 && out.CanaryRequests >= in.Settings.MinEvents {
		a := fmt.Sprintf("%.0f %% of healthy canaries need an extension", 100*out.ChanceOfExtension)
		switch {
		case out.ExpectedSecondsToPass == NeverPasses:
			a += "; half of them do not pass even after three: bake longer, raise the share, or allow a larger maxExcess"
		default:
			a += fmt.Sprintf("; half of them pass within %s: bake longer or raise the share", round(time.Duration(out.ExpectedSecondsToPass*float64(time.Second))))
		}
		advice = append(advice, a)
	}
	return advice
}

// enough proposes the bake, share or synthetic traffic that would see care.
func (in PlanInput) enough(care float64, out PlanOutput, before counts, warm time.Duration) string {
	sees := func(n int64) bool {
		nb := int64(float64(n) * (1 - in.Share) / in.Share)
		return in.detectable(satAdd(before.K, n), satAdd(before.N, nb)) <= care
	}
	// A hair's breadth is no advice: both would print as the same figure.
	if out.Detectable < 1 && percent(out.Detectable) == percent(care) {
		return ""
	}
	said := "none that it could see"
	if out.Detectable < 1 {
		said = percent(out.Detectable) + " or more"
	}
	a := fmt.Sprintf("the smallest canary rate that this bake can see is %s, not %s", said, percent(care))
	lo, hi := out.CanaryRequests, max(64, 2*out.CanaryRequests)
	for !sees(hi) {
		if hi > 1<<40 {
			return a + ": choose a larger regression to look for"
		}
		lo, hi = hi, 2*hi
	}
	for hi-lo > max(1, hi/50) {
		mid := lo + (hi-lo)/2
		if sees(mid) {
			hi = mid
		} else {
			lo = mid
		}
	}
	bake := warm + time.Duration(float64(hi)/(in.RPS*in.Share)*float64(time.Second))
	a += fmt.Sprintf(": it takes about %s canary requests, so bake %s", Count(hi), round(bake))
	if judged := (in.Bake - warm).Seconds(); judged > 0 {
		if share := float64(hi) / (in.RPS * judged); share <= 0.5 {
			a += fmt.Sprintf(", or raise the share to %s", percent(share))
		}
		a += fmt.Sprintf(", or add %s per second to the canary", plural(int(math.Ceil((float64(hi)-float64(out.CanaryRequests))/judged)), "synthetic request"))
	}
	return a
}

// round leaves the digits of a duration that matter.
func round(d time.Duration) time.Duration {
	switch {
	case d > time.Hour:
		return d.Round(10 * time.Minute)
	case d > 10*time.Minute:
		return d.Round(time.Minute)
	}
	return d.Round(time.Second)
}
