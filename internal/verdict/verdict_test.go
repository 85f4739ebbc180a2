package verdict

import (
	"testing"

	"pgregory.net/rapid"
)

func TestWorst(t *testing.T) {
	for _, c := range []struct {
		in   []Verdict
		want Verdict
	}{
		{nil, ""},
		{[]Verdict{Pass}, Pass},
		{[]Verdict{Pass, Pass}, Pass},
		{[]Verdict{""}, Inconclusive},
		{[]Verdict{Pass, ""}, Inconclusive},
		{[]Verdict{Pass, Inconclusive}, Inconclusive},
		{[]Verdict{Inconclusive, NoData, Pass}, NoData},
		{[]Verdict{NoData, Fail, Pass}, Fail},
		{[]Verdict{"great", Pass}, Inconclusive},
	} {
		if got := Worst(c.in...); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

// It passes only what passed everywhere, and a fail is never outvoted.
func TestWorstProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vs := rapid.SliceOf(rapid.SampledFrom([]Verdict{"", Pass, Fail, Inconclusive, NoData, "unheard"})).Draw(t, "verdicts")
		all, fail := len(vs) > 0, false
		for _, v := range vs {
			all = all && v == Pass
			fail = fail || v == Fail
		}
		got := Worst(vs...)
		if (got == Pass) != all || (got == Fail) != fail {
			t.Fatalf("%q: %q", vs, got)
		}
	})
}
