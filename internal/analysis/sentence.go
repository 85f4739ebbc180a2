package analysis

import (
	"fmt"
	"math"
	"strconv"

	"github.com/sluicehq/sluice/internal/verdict"
)

// sentence says in plain words what m is and why; w is the evidence that a fail
// was decided by.
func (r Rate) sentence(m Metric, w window) string {
	if m.Verdict == verdict.NoData {
		return r.silence(m)
	}
	s := fmt.Sprintf("canary %s of %s %s (%s), stable %s of %s", Count(m.KC), Count(m.NC), r.Noun,
		percent(m.Estimate), Count(m.KB), Count(m.NB))
	if m.Basis == BeforeAfter {
		s += " before"
	}
	s += fmt.Sprintf(" (%s): ", percent(share(m.KB, m.NB)))
	switch m.Verdict {
	case verdict.Fail:
		ratio, level := r.atLeastRatio(w)
		s += fmt.Sprintf("at least %s× worse with %s confidence", number(ratio), confidence(level))
		switch w {
		case warmUp:
			s += ", already during warm-up"
		case step:
			s += ", in this step alone"
		}
	case verdict.Pass:
		ratio, over := r.logPass()
		if over >= ratio {
			s += fmt.Sprintf("not worse than +%s pp (below %s, %s) with %s confidence",
				number(r.Settings.MaxExcess*100), percent(r.limitRate()), r.frozenFrom(), confidence(over))
		} else {
			s += fmt.Sprintf("not worse than %s× with %s confidence", number(r.Settings.RMax), confidence(ratio))
		}
	default:
		if m.Detectable >= 1 {
			s += "nothing proved; too few requests to have seen any regression"
		} else {
			s += fmt.Sprintf("nothing proved; could only have seen a rate of %s or more", percent(m.Detectable))
		}
	}
	if m.Basis == BeforeAfter {
		s += " (before-after: weaker than a comparison at the same time)"
	}
	switch phi := r.Settings.Phi; {
	case phi == 0:
		s += "; clusters of errors not corrected for (no A/A split yet)"
	case phi > 1:
		s += fmt.Sprintf("; corrected for clusters of errors (φ = %s by an A/A split)", number(phi))
	}
	return s
}

// frozenFrom says where the rate comes from that PASS by excess trusts.
func (r Rate) frozenFrom() string {
	switch {
	case r.Frozen.Floor > 0:
		return "by the quantile"
	case r.Base.N == r.Frozen.Total:
		return "frozen before exposure"
	}
	return "frozen in the first bins"
}

func (r Rate) silence(m Metric) string {
	switch {
	case m.Basis == NoBasis:
		return "first release: there is no stable version to compare with; health, checks and absolute limits decide"
	case m.Basis == BeforeAfter && r.Before.N < r.Settings.MinEvents:
		return fmt.Sprintf("nothing to compare with: the stable version had %s requests before, %s are needed",
			Count(r.Before.N), Count(r.Settings.MinEvents))
	case r.Bins == 0:
		return "no closed bin of counts yet"
	case r.Why != "":
		return fmt.Sprintf("no data: %s; %s judged requests in this step, %s are needed", r.Why, Count(r.StepN), Count(r.Settings.MinEvents))
	case r.StepN == 0 && r.Skipped == r.Bins:
		return fmt.Sprintf("no data: in none of %s did both versions have requests", plural(r.Bins, "bin"))
	}
	return fmt.Sprintf("too little data: the canary had %s judged requests in this step, %s are needed",
		Count(r.StepN), Count(r.Settings.MinEvents))
}

// atLeastRatio is the largest ratio that the evidence excludes at the window's
// level, and the log evidence for that.
func (r Rate) atLeastRatio(w window) (ratio, level float64) {
	ratios, want := r.ratiosOf(w), r.threshold(w)
	ratio, level = ratios[0], r.logFail(w)
	for i := 2; i < len(ratios) && w != warmUp; i++ {
		if e := r.logAbove(w, i); ratios[i] > ratio && e >= want {
			ratio, level = ratios[i], e
		}
	}
	return ratio, level
}

// Count writes 4560 as "4 560".
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// percent writes a fraction as "5.0 %", small ones with two digits.
func percent(x float64) string {
	p := x * 100
	switch {
	case p == 0:
		return "0 %"
	case p >= 99.95:
		return strconv.FormatFloat(p, 'f', 0, 64) + " %"
	case p >= 0.0995:
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(p, 'g', 2, 64) + " %"
}

func number(x float64) string { return strconv.FormatFloat(x, 'g', 3, 64) }

// confidence turns log evidence into an anytime-valid level, rounded down.
func confidence(log float64) string {
	p := 100 * -math.Expm1(-log)
	switch {
	case p >= 99.99:
		return "over 99.99 %"
	case p >= 99.9:
		return "99.9 %"
	}
	return strconv.FormatFloat(math.Floor(p*10)/10, 'f', 1, 64) + " %"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return Count(int64(n)) + " " + what + "s"
}
