// Package verdict holds the four answers that a judgement can have.
//
// It is a leaf. The zero value is no verdict at all, and never passes anything.
package verdict

// Verdict is what a judgement came to.
type Verdict string

// The verdicts. The zero value, "", means that nothing was judged.
const (
	Pass         Verdict = "pass"         // positive evidence that it is not worse than the stated bound
	Fail         Verdict = "fail"         // evidence that it is worse than allowed
	Inconclusive Verdict = "inconclusive" // data, but neither was proved
	NoData       Verdict = "no-data"      // the metric answered nothing, or too little
)

// Worst joins verdicts of several metrics: fail wins, then no-data, then
// inconclusive; pass only if all of at least one passed.
func Worst(vs ...Verdict) Verdict {
	rank := map[Verdict]int{Pass: 1, "": 2, Inconclusive: 2, NoData: 3, Fail: 4}
	var out Verdict
	best := 0
	for _, v := range vs {
		r, known := rank[v]
		if !known {
			v, r = "", rank[""] // of a newer version: it proves nothing here
		}
		if r > best {
			best, out = r, v
		}
	}
	if out == "" && best > 0 {
		return Inconclusive
	}
	return out
}
