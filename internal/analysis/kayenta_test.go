package analysis

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/verdict"
)

// from is n points that rise by 1.
func from(x float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = x + float64(i)
	}
	return out
}

// Percentiles are R-7: of n sorted values the one at q·(n−1), interpolated. Of the
// ten below, 1 to 9 and one more that is the largest, Q1 is 3.25 and Q3 7.75, so the
// fence is at 7.75 + 3·4.5 = 21.25, and P99 is 9 + 0.91·(x − 9).
func TestOutliers(t *testing.T) {
	for _, c := range []struct {
		name   string
		points []float64
		factor float64
		left   int
	}{
		{"below the fence", append(from(1, 9), 21), 3, 10},
		{"above the fence of 21.25 and P99 of 20.83", append(from(1, 9), 22), 3, 9},
		{"below the fence of factor 4, 25.75", append(from(1, 9), 22), 4, 10},
		{"factor 3 is the default", append(from(1, 9), 22), 0, 9},
		{"above P99, far", append(from(1, 9), 1e6), 3, 9},
		{"P99 itself, as two are so", append(from(1, 8), 1000, 1000), 3, 10},
		{"above the fence of −11.25", append(from(1, 9), -11), 3, 10},
		{"below the fence of −11.25 and P1 of −10.83", append(from(1, 9), -12), 3, 9},
		{"P1 itself, as two are so", append(from(1, 8), -1000, -1000), 3, 10},
		{"none", nil, 3, 0},
		{"one", []float64{5}, 3, 1},
	} {
		control := from(100, 7)
		with := Points{Canary: c.points, Control: control, DropOutliers: true, OutlierFactor: c.factor}.Compare()
		if with.M != c.left || with.N != len(control) {
			t.Errorf("%s: %d of %d points are left, want %d", c.name, with.M, len(c.points), c.left)
		}
		if kept := (Points{Canary: c.points, Control: control, OutlierFactor: c.factor}).Compare(); kept.M != len(c.points) {
			t.Errorf("%s: %d of %d points are left though none are to be dropped", c.name, kept.M, len(c.points))
		}
		if of := (Points{Canary: control, Control: c.points, DropOutliers: true, OutlierFactor: c.factor}).Compare(); of.N != c.left {
			t.Errorf("%s: the control keeps %d", c.name, of.N)
		}
	}
}

// Five points a side, 0 to 4 and the same c higher. There D is 12.5 while all of the
// canary lie above: z = 12/√(25/12·11) = 2.507; with one pair the other way round it
// is 11/4.787 = 2.298, below 2.326. The interval so begins at the least difference,
// c − 4, and ends at c + 4; the estimate is c. High needs c − 4 > 0.25·c: c > 5⅓.
func TestTheIntervalMustClearAQuarterOfTheShift(t *testing.T) {
	control := from(0, 5)
	for _, c := range []struct {
		by   float64
		want string
	}{{5, ClassPass}, {5.25, ClassPass}, {5.35, ClassHigh}, {6, ClassHigh}, {-5, ClassPass}, {-5.25, ClassPass}, {-5.35, ClassLow}, {-6, ClassLow}} {
		canary, stable := from(math.Max(0, c.by), 5), control
		if c.by < 0 { // all above 0, so that the ratio of means is what it seems
			canary, stable = control, from(-c.by, 5)
		}
		got := Points{Canary: canary, Control: stable}.Compare()
		near := func(a, b float64) bool { return math.Abs(a-b) < 1e-3 }
		if got.Class != c.want || !near(got.Lower, c.by-4) || !near(got.Upper, c.by+4) || !near(got.Shift, c.by) {
			t.Errorf("by %v: %+v, want %s in %v to %v", c.by, got, c.want, c.by-4, c.by+4)
		}
	}
}

// 6 to 10 against 0 to 4: the means are 8 and 2, the ratio 4, and all are above: the
// common-language effect is 1.
func TestEffects(t *testing.T) {
	high, low := from(6, 5), from(0, 5)
	for _, c := range []struct {
		name     string
		p        Points
		class    string
		critical bool
		effect   float64
	}{
		{"just allowed", Points{AllowedIncrease: 4.01}, ClassPass, false, 4},
		{"reached", Points{AllowedIncrease: 4}, ClassHigh, false, 4},
		{"reached, and critical by default", Points{AllowedIncrease: 4, Critical: true}, ClassHigh, true, 4},
		{"critical is more", Points{Critical: true, CriticalIncrease: 4.01}, ClassHigh, false, 4},
		{"critical is reached", Points{Critical: true, CriticalIncrease: 4}, ClassHigh, true, 4},
		{"CLES", Points{CLES: true, AllowedIncrease: 1, Critical: true, CriticalIncrease: 1}, ClassHigh, true, 1},
		{"CLES can't be more than 1", Points{CLES: true, AllowedIncrease: 1.01}, ClassPass, false, 1},
		{"not the direction", Points{Direction: "decrease", Critical: true}, ClassPass, false, 4},
	} {
		c.p.Canary, c.p.Control = high, low
		if got := c.p.Compare(); got.Class != c.class || got.Critical != c.critical || math.Abs(got.Effect-c.effect) > 1e-9 {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	for _, c := range []struct {
		name     string
		p        Points
		class    string
		critical bool
	}{
		{"a quarter, just allowed", Points{AllowedDecrease: 0.24}, ClassPass, false},
		{"a quarter, reached", Points{AllowedDecrease: 0.25}, ClassLow, false},
		{"critical is less", Points{Critical: true, CriticalDecrease: 0.24}, ClassLow, false},
		{"critical is reached", Points{Critical: true, CriticalDecrease: 0.25}, ClassLow, true},
		{"not the direction", Points{Direction: "increase", Critical: true}, ClassPass, false},
	} {
		c.p.Canary, c.p.Control = low, high
		if got := c.p.Compare(); got.Class != c.class || got.Critical != c.critical {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// Below five points a side nothing is said, below fifty it is said with a warning.
func TestFewPoints(t *testing.T) {
	for _, c := range []struct {
		m, n  int
		want  verdict.Verdict
		warns bool
	}{{4, 60, verdict.NoData, false}, {60, 4, verdict.NoData, false}, {5, 60, verdict.Pass, true}, {49, 50, verdict.Pass, true}, {50, 49, verdict.Pass, true}, {50, 50, verdict.Pass, false}} {
		m := Comparison{Class: ClassPass, M: c.m, N: c.n}.Metric("m")
		if m.Verdict != c.want || strings.Contains(m.Sentence, "50 or more a side are advised") != c.warns {
			t.Errorf("%d against %d: %s, %q", c.m, c.n, m.Verdict, m.Sentence)
		}
		// The other traps are told with every verdict.
		if told := strings.Contains(m.Sentence, "minority") && strings.Contains(m.Sentence, "depends on the unit"); told != (c.want == verdict.Pass) {
			t.Errorf("%d against %d: %q", c.m, c.n, m.Sentence)
		}
	}
}

// The score decides: from 95 on it passes, from 75 on it is inconclusive, and both
// can be set. Half of the metrics without data are no-data, one critical metric that
// doesn't pass fails whatever the others say.
func TestTheScoreDecides(t *testing.T) {
	const (
		pass     = `"canary":[1,2,3,4,5],"control":[1,2,3,4,5]`
		high     = `"canary":[6,7,8,9,10],"control":[0,1,2,3,4]`
		nothing  = `"canary":[null],"control":[0,1,2,3,4]`
		few      = `"canary":[1,2,3,4],"control":[1,2,3,4]`
		must     = nothing + `,"mustHaveData":true`
		critical = `,"critical":true`
	)
	of := func(n int, points string) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = points
		}
		return out
	}
	for _, c := range []struct {
		name    string
		metrics [][]string
		options string
		score   float64
		want    verdict.Verdict
	}{
		{"19 of 20", [][]string{of(19, pass), of(1, high)}, ``, 95, verdict.Pass},
		{"18 of 20", [][]string{of(18, pass), of(2, high)}, ``, 90, verdict.Inconclusive},
		{"15 of 20", [][]string{of(15, pass), of(5, high)}, ``, 75, verdict.Inconclusive},
		{"14 of 20", [][]string{of(14, pass), of(6, high)}, ``, 70, verdict.Fail},
		{"pass from 90", [][]string{of(18, pass), of(2, high)}, `,"passThreshold":90`, 90, verdict.Pass},
		{"pass from 90.1", [][]string{of(18, pass), of(2, high)}, `,"passThreshold":90.1`, 90, verdict.Inconclusive},
		{"marginal from 70", [][]string{of(14, pass), of(6, high)}, `,"marginalThreshold":70`, 70, verdict.Inconclusive},
		{"marginal from 75.1", [][]string{of(15, pass), of(5, high)}, `,"marginalThreshold":75.1`, 75, verdict.Fail},
		{"one of three without data", [][]string{of(2, pass), of(1, nothing)}, ``, 100, verdict.Pass},
		{"one of two without data", [][]string{of(1, pass), of(1, nothing)}, ``, 0, verdict.NoData},
		{"half without data, the rest bad", [][]string{of(1, high), of(1, nothing)}, ``, 0, verdict.NoData},
		{"half with too few points", [][]string{of(1, pass), of(1, few)}, ``, 100, verdict.NoData},
		{"one of four that must have data", [][]string{of(3, pass), of(1, must)}, ``, 75, verdict.Inconclusive},
		{"critical and high", [][]string{of(19, pass), of(1, high+critical)}, ``, 0, verdict.Fail},
		{"critical and high, the rest without data", [][]string{of(3, nothing), of(1, high+critical)}, ``, 0, verdict.Fail},
		{"critical and well", [][]string{of(19, pass+critical), of(1, high)}, ``, 95, verdict.Pass},
		{"critical, which has no data", [][]string{of(19, pass), of(1, nothing+critical)}, ``, 0, verdict.NoData},
	} {
		var ms []string
		for _, group := range c.metrics {
			for _, points := range group {
				ms = append(ms, fmt.Sprintf(`{"name":"m%d","kind":"points",%s}`, len(ms), points))
			}
		}
		r := judge(t, `{"metrics":[`+strings.Join(ms, ",")+`],"options":{"judge":"kayenta"`+c.options+`}}`)
		if r.Score == nil || *r.Score != c.score || r.Verdict != c.want {
			t.Errorf("%s: score %v and %s, want %v and %s", c.name, *r.Score, r.Verdict, c.score, c.want)
		}
	}
}
