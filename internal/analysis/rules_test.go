package analysis

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/verdict"
)

// FAIL's mixture keeps the ratios above 1.15·r0, and M is how many it keeps.
func TestRatiosThatAreLookedFor(t *testing.T) {
	for _, c := range []struct {
		r0, least float64
		m         int
		fine      bool
	}{
		{1, 1.5, 7, false},
		{1.25, 1.5, 7, false},
		{1.3, 1.5, 7, false}, // 1.495
		{1.31, 2, 6, false},  // 1.5065
		{1.7, 2, 6, false},   // 1.955
		{1.75, 3, 5, false},  // 2.0125
		{17, 20, 2, false},   // 19.55
		{1, 1.2, 8, true},
		{1.04, 1.2, 8, true},  // 1.196
		{1.05, 1.5, 7, true},  // 1.2075
		{1.25, 1.5, 7, true},  //
		{1.305, 2, 6, true},   // 1.50075
		{1.304, 1.5, 7, true}, // 1.4996
	} {
		s := Defaults()
		s.R0, s.WarmUp = c.r0, 0
		r := NewRate("x", s, 1, Frozen{Bad: map[bool]int64{true: highTraffic}[c.fine], Total: 1e6})
		kept := ratiosAbove(r.ratios(), c.r0)
		if len(kept) != c.m || r.ratios()[kept[0]] != c.least {
			t.Errorf("r0 %v (fine %t): %d ratios, the least is %v; want %d from %v", c.r0, c.fine, len(kept), r.ratios()[kept[0]], c.m, c.least)
		}
		b := Bin{9, 100, 4, 900}
		r.Add(b, Judged)
		var sum float64
		for _, i := range kept {
			theta := func(ratio float64) float64 { return ratio * 0.1 / (ratio*0.1 + 0.9) }
			sum += math.Exp(9*math.Log(theta(r.ratios()[i])/theta(c.r0)) + 4*math.Log((1-theta(r.ratios()[i]))/(1-theta(c.r0))))
		}
		if got, want := r.logFail(whole), math.Log(sum/float64(c.m)); math.Abs(got-want) > 1e-9 {
			t.Errorf("r0 %v (fine %t): log evidence %v, want %v", c.r0, c.fine, got, want)
		}
	}
}

// During warm-up only a catastrophe fails: more than 5 times the baseline, by at
// least 5 percentage points. After it 0.2 points are enough.
func TestCatastrophe(t *testing.T) {
	for _, c := range []struct {
		name   string
		bin    Bin
		warm   verdict.Verdict
		judged verdict.Verdict
	}{
		{"49 times, by 4.9 points", Bin{50, 1000, 1000, 1_000_000}, verdict.NoData, verdict.Fail},
		{"51 times, by 5.1 points", Bin{52, 1000, 1000, 1_000_000}, verdict.Fail, verdict.Fail},
		{"4.5 times, by 7 points", Bin{9000, 100_000, 2000, 100_000}, verdict.NoData, verdict.Fail},
		{"6.9 times, by 12 points", Bin{1380, 10_000, 20_000, 1_000_000}, verdict.NoData, verdict.Fail}, // nearer to 5 than to 10
		{"7.5 times, by 13 points", Bin{1500, 10_000, 20_000, 1_000_000}, verdict.Fail, verdict.Fail},
		{"20 times, by 38 points", Bin{400, 1000, 2000, 100_000}, verdict.Fail, verdict.Fail},
		{"4 of 4", Bin{4, 4, 0, 1_000_000}, verdict.NoData, verdict.NoData},
		{"5 of 5", Bin{5, 5, 5, 1_000_000}, verdict.Fail, verdict.Fail},
	} {
		for kind, want := range map[BinKind]verdict.Verdict{WarmUp: c.warm, Judged: c.judged} {
			r := NewRate("http-errors", Defaults(), 1, Frozen{})
			r.Add(c.bin, kind)
			if got := r.Verdict(); got != want {
				t.Errorf("%s, warm-up %t: %s, want %s (%+v)", c.name, kind == WarmUp, got, want, r.Result())
			}
		}
	}
	// The same without a concurrent baseline: the excess is against the rate before.
	for bad, want := range map[int64]verdict.Verdict{50: verdict.NoData, 52: verdict.Fail} {
		r := NewRate("http-errors", Defaults(), 1, Frozen{Bad: 1000, Total: 1_000_000})
		r.Add(Bin{KC: bad, NC: 1000}, WarmUp|Alone)
		if got := r.Verdict(); got != want {
			t.Errorf("alone, %d of 1000: %s, want %s", bad, got, want)
		}
	}
}

// The least excess of FAIL is 0.2 percentage points.
func TestLeastExcess(t *testing.T) {
	for bad, want := range map[int64]bool{299: false, 301: true} {
		r := NewRate("http-errors", Defaults(), 1, Frozen{})
		for range 100 { // 0.1 % of the stable, and 0.299 or 0.301 % of the canary
			r.Add(Bin{bad, 100_000, 1000, 1_000_000}, Judged)
		}
		if got := r.Verdict() == verdict.Fail; got != want {
			t.Errorf("an excess of %d in 100 000: fails %t", bad-100, got)
		}
	}
}

// A bake can be extended three times: a canary without errors passes after 367 to
// 437 requests. In bakes of 120 requests that is the fourth, in bakes of 90 none.
func TestPlanKnowsThreeExtensions(t *testing.T) {
	s := Defaults()
	s.WarmUp = 0
	of := func(bake time.Duration) PlanOutput {
		return planned(t, PlanInput{Settings: s, Share: 0.1, RPS: 10, Bake: bake})
	}
	if out := of(2 * time.Minute); out.ChanceOfExtension != 1 || out.ExpectedSecondsToPass < 367 || out.ExpectedSecondsToPass > 480 {
		t.Errorf("bakes of 2 minutes: %+v", out)
	}
	out := of(90 * time.Second)
	if out.ExpectedSecondsToPass != NeverPasses || !strings.Contains(strings.Join(out.Advice, "\n"), "half of them do not pass even after three") {
		t.Errorf("bakes of 90 seconds: %+v", out)
	}
}

// In a file, too, warm-up counts from the canary's first request: bins before it
// take nothing off.
func TestWarmUpOfAFileBeginsWithTheFirstRequest(t *testing.T) {
	const bad = "[3,20,10,380]" // no catastrophe
	of := func(bins ...string) verdict.Verdict {
		return judge(t, `{"metrics":[{"name":"m","kind":"rate","bins":[`+strings.Join(bins, ",")+`]}],"options":{"binSeconds":10,"warmUpSeconds":100}}`).Verdict
	}
	quiet := slices.Repeat([]string{"[0,0,2,380]"}, 10)
	if got := of(append(quiet, slices.Repeat([]string{bad}, 10)...)...); got != verdict.NoData {
		t.Errorf("all of its requests are of the warm-up: %s", got)
	}
	if got := of(append(quiet, slices.Repeat([]string{bad}, 30)...)...); got != verdict.Fail {
		t.Errorf("20 bins after warm-up: %s", got)
	}
}
