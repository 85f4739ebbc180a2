package analysis

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/verdict"
)

func judge(t *testing.T, doc string) Report {
	t.Helper()
	r, err := JudgeFile(strings.NewReader(doc))
	if err != nil {
		t.Fatalf("%v: %s", err, doc)
	}
	return r
}

func repeat(item string, n int) string {
	return strings.TrimSuffix(strings.Repeat(item+",", n), ",")
}

func TestJudgeFile(t *testing.T) {
	for _, c := range []struct {
		name, metric, options string
		want                  verdict.Verdict
	}{
		{"bad rate", `"kind":"rate","bins":[` + repeat("[1,20,2,380]", 20) + `]`, ``, verdict.Fail},
		{"healthy without errors", `"kind":"rate","bins":[` + repeat("[0,20,0,380]", 21) + `]`, ``, verdict.Pass},
		{"in one bin", `"kind":"rate","bins":[[0,420,0,7980]]`, ``, verdict.Pass},
		{"too little", `"kind":"rate","bins":[[0,49,0,931]]`, ``, verdict.NoData},
		{"not proved", `"kind":"rate","bins":[[0,200,0,3800]]`, ``, verdict.Inconclusive},
		{"wider excess", `"kind":"rate","bins":[[0,85,0,1615]]`, `"maxExcess":5`, verdict.Pass},
		{"all in warm-up", `"kind":"rate","bins":[` + repeat("[1,20,2,380]", 20) + `]`, `"warmUpSeconds":200`, verdict.NoData},
		{"catastrophe in warm-up", `"kind":"rate","bins":[` + repeat("[15,20,2,380]", 20) + `]`, `"warmUpSeconds":200`, verdict.Fail},
		{"no bins", `"kind":"rate"`, ``, verdict.NoData},
		{"slow", `"kind":"latency","bins":[` + repeat("[4,20,4,380]", 20) + `]`, ``, verdict.Fail},
		{"slow, but within its quantile", `"kind":"latency","quantile":0.5,"bins":[` + repeat("[4,20,4,380]", 20) + `]`, ``, verdict.Pass},
		{"limit", `"kind":"limit","max":3,"canary":[` + repeat("1", 50) + `]`, ``, verdict.Pass},
		{"limit broken", `"kind":"limit","max":3,"samples":2,"canary":[1,4,4]`, ``, verdict.Fail},
		{"limit missing", `"kind":"limit","max":3,"canary":[null,"NaN",null]`, ``, verdict.NoData},
		{"points", `"kind":"points","canary":[1,2,3,4,5,6],"control":[2,1,3,4,6,5]`, ``, verdict.Pass},
		{"points higher", `"kind":"points","canary":[11,12,13,14,15,16],"control":[2,1,3,4,6,5]`, ``, verdict.Fail},
		{"points higher is fine", `"kind":"points","direction":"decrease","canary":[11,12,13,14,15,16],"control":[2,1,3,4,6,5]`, ``, verdict.Pass},
		{"few points", `"kind":"points","canary":[11,12],"control":[2,1]`, ``, verdict.NoData},
		{"kayenta", `"kind":"rate","bins":[` + repeat("[2,20,2,380],[3,20,3,380],[1,20,1,380]", 5) + `]`, `"judge":"kayenta"`, verdict.Fail},
	} {
		r := judge(t, fmt.Sprintf(`{"metrics":[{"name":"m",%s}],"options":{%s}}`, c.metric, c.options))
		if r.Verdict != c.want || len(r.Metrics) != 1 || r.Metrics[0].Sentence == "" {
			t.Errorf("%s: want %s, got %+v", c.name, c.want, r)
		}
	}
}

// The answer has the keys of judge.md and no others.
func TestJudgeFileKeys(t *testing.T) {
	keys := func(doc string) string {
		b, err := json.Marshal(judge(t, doc))
		if err != nil {
			t.Fatal(err)
		}
		var out struct {
			Verdict verdict.Verdict              `json:"verdict"`
			Metrics []map[string]json.RawMessage `json:"metrics"`
		}
		if err := json.Unmarshal(b, &out); err != nil {
			t.Fatal(err)
		}
		var ks []string
		for k := range out.Metrics[0] {
			ks = append(ks, k)
		}
		slices.Sort(ks)
		return strings.Join(ks, " ")
	}
	const common = "basis bound decidedAtBin detectable estimate kb kc logFail logPass name nb nc sentence verdict"
	if got := keys(`{"metrics":[{"name":"m","kind":"rate","bins":[[0,1,0,1]]}]}`); got != common {
		t.Errorf("rate: %s", got)
	}
	want := strings.Fields(common + " classification effect lower score upper")
	slices.Sort(want)
	if got := keys(`{"metrics":[{"name":"m","kind":"points","canary":[1,2,3,4,5],"control":[2,3,4,5,6]}]}`); got != strings.Join(want, " ") {
		t.Errorf("points: %s", got)
	}
}

func TestJudgeFileErrorsSayWhatIsWrong(t *testing.T) {
	metric := func(s string) string { return `{"metrics":[{"name":"m",` + s + `}]}` }
	option := func(s string) string {
		return `{"metrics":[{"name":"m","kind":"rate"}],"options":{` + s + `}}`
	}
	for doc, says := range map[string]string{
		``:                              "the file is empty",
		`{}`:                            "at least one metric",
		`{"metrics":[]}`:                "at least one metric",
		`{"metrics":[{"kind":"rate"}]}`: "no name",
		`{"metrics":[{"name":"m","kind":"rate"}]} x`:        "more after",
		`{"metrics":[{"name":"m","kind":"rate","bin":[]}]}`: `line 1, column 39: there is no key "bin" here`,
		// A key that is known elsewhere, before and behind: the place is the one where it is not.
		"{\"metrics\":[{\"name\":\"m\",\"kind\":\"limit\",\"max\":1}],\n\"options\":{\"alpha\":0.1,\n  \"max\" : 2}}": `line 3, column 3: there is no key "max" here`,
		"{\"max\":1,\"metrics\":[{\"name\":\"m\",\"kind\":\"limit\",\"max\":1}]}":                                     `line 1, column 2: there is no key "max" here`,
		metric(`"kind":"rates"`):                                              "rate, latency, limit or points",
		metric(`"bins":[]`):                                                   "kind is missing",
		metric(`"kind":"rate","direction":"decrease"`):                        "more are worse",
		metric(`"kind":"rate","direction":"up"`):                              "increase, decrease or either",
		metric(`"kind":"rate","bins":[[1,2,3]]`):                              "bin 1 has 3 numbers, not four counts",
		metric(`"kind":"rate","bins":[[1,2,3,4,5]]`):                          "bin 1 has 5 numbers, not four counts",
		metric(`"kind":"rate","bins":[[0,2,3,4],[1,2,3,null]]`):               "bin 2 has null for its fourth count",
		metric(`"kind":"rate","bins":[[3,2,0,4]]`):                            "no more are bad",
		metric(`"kind":"rate","bins":[[-3,2,0,4]]`):                           "not negative",
		metric(`"kind":"rate","bins":[[0.5,2,0,4]]`):                          "has 0.5 for its first count: counts are whole numbers",
		metric(`"kind":"rate","canary":[1]`):                                  "has bins",
		metric(`"kind":"latency","quantile":99`):                              "quantile is 99",
		metric(`"kind":"limit","canary":[1]`):                                 "neither min nor max",
		metric(`"kind":"limit","max":1,"bins":[[0,1,0,1]]`):                   "and nothing else",
		metric(`"kind":"rate","bins":[[1,2,"much",4]]`):                       `has "much" for its third count`,
		metric(`"kind":"rate","bins":[7]`):                                    "bin 1 is 7, not four counts",
		metric(`"kind":"rate","bins":[[1,NaN,3,4]]`):                          "JSON has no NaN",
		metric(`"kind":"points","canary":[1,[2,3]],"control":[]`):             "point 2 of canary is [2,3]: one series a side is compared",
		metric(`"kind":"rate","bins":"none"`):                                 "metrics.bins is of the type string, which it cannot be",
		`[]`:                                                                  "the file is of the type array, which it cannot be",
		`{"metrics":[`:                                                        "ends in the middle",
		metric(`"kind":"points","canary":["x"],"control":[]`):                 "a point is a number",
		metric(`"kind":"points","nanStrategy":"drop"`):                        "remove or replace",
		`{"metrics":[{"name":"m","kind":"rate"},{"name":"m","kind":"rate"}]}`: "two metrics",
		option(`"alpha":2`):                                                   "alpha",
		option(`"maxExcess":100`):                                             "percentage points",
		option(`"binSeconds":0`):                                              "binSeconds",
		option(`"judge":"bayes"`):                                             "sequential or kayenta",
		option(`"passThreshold":101`):                                         "passThreshold",
		option(`"groupWeights":{"a":101}`):                                    "groupWeights",
	} {
		if _, err := JudgeFile(strings.NewReader(doc)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s\n gives: %v\n want: %s", doc, err, says)
		}
	}
	if _, err := JudgeFile(strings.NewReader(strings.Repeat(" ", maxFile+2))); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a huge file: %v", err)
	}
}

func FuzzJudgeFile(f *testing.F) {
	for _, doc := range []string{
		`{"metrics":[{"name":"m","kind":"rate","bins":[[1,20,2,380]]}],"options":{"r0":1,"phi":3,"seed":1}}`,
		`{"metrics":[{"name":"m","kind":"latency","quantile":0.99,"bins":[[1,20,2,380],[9223372036854775807,9223372036854775807,0,9223372036854775807]]}]}`,
		`{"metrics":[{"name":"m","kind":"limit","max":3,"canary":[null,1e308,4]}]}`,
		`{"metrics":[{"name":"m","kind":"points","critical":true,"canary":[1,2,3,4,5,1e308],"control":[-1e308,2,2,2,2,2],"outliers":"remove","effectSize":"cles"}]}`,
		`{"metrics":[{"name":"m","kind":"points","canary":[7,7,7,7,7],"control":[9,9,9,9,9]}],"options":{"judge":"kayenta","groupWeights":{"a":30}}}`,
		`{"metrics":[{"name":"m","kind":"rate","bins":[[1]]}]}`,
	} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		r, err := JudgeFile(strings.NewReader(doc))
		if err != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatalf("the answer is no JSON: %v", err)
		}
		for _, m := range r.Metrics {
			if m.Verdict == verdict.Pass && m.NC < 1 || m.Verdict == "" || r.Verdict == "" {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func FuzzRateState(f *testing.F) {
	r := NewRate("http-errors", Defaults(), 1, Frozen{Bad: 7, Total: 1000})
	r.Add(Bin{1, 20, 2, 380}, Judged)
	r.StartStep()
	r.Add(Bin{1, 20, 0, 0}, Alone)
	b, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Rate
		if json.Unmarshal(b, &r) != nil {
			return
		}
		r.Add(Bin{1, 20, 2, 380}, Judged)
		r.Add(Bin{1, 20, 0, 0}, Alone)
		r.StartStep()
		if _, err := json.Marshal(r.Result()); err != nil {
			t.Fatal(err)
		}
	})
}

// A brute-force rank sum over the pairs.
func slowRankSum(x, y []float64, mu float64) float64 {
	s := float64(len(x)*(len(x)+1)) / 2
	for _, a := range x {
		for _, b := range y {
			switch {
			case a-mu > b:
				s++
			case a-mu == b:
				s += 0.5
			}
		}
	}
	return s
}

func TestMannWhitney(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		series := func(name string) []float64 {
			xs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) float64 { return float64(rapid.IntRange(-20, 20).Draw(t, "x")) }), 2, 30).Draw(t, name)
			slices.Sort(xs)
			return xs
		}
		x, y := series("x"), series("y")
		mu := float64(rapid.IntRange(-5, 5).Draw(t, "mu"))
		got, _ := rankSum(x, y, mu)
		if want := slowRankSum(x, y, mu); math.Abs(got-want) > 1e-9 {
			t.Fatalf("rank sum %v, want %v", got, want)
		}
		lower, upper, shift := mannWhitney(x, y)
		if lower > shift+1e-3 || shift > upper+1e-3 {
			t.Fatalf("%v ≤ %v ≤ %v does not hold", lower, shift, upper)
		}
		// Moving the canary moves the interval with it, and the estimate, which is any of
		// those that split the pairs evenly.
		even := func(mu float64) bool { return rankZ(x, y, mu) == 0 }
		moved := slices.Clone(x)
		for i := range moved {
			moved[i] += 100
		}
		l2, u2, s2 := mannWhitney(moved, y)
		if math.Abs(l2-lower-100) > 1e-2 || math.Abs(u2-upper-100) > 1e-2 || math.Abs(s2-shift-100) > 1e-2 && !even((s2-100+shift)/2) {
			t.Fatalf("moved by 100: %v %v %v became %v %v %v", lower, shift, upper, l2, s2, u2)
		}
	})
}

// Without ties, the interval's ends are where the normal score of the rank sum
// crosses ±2.326, and the estimate is the median of all differences.
func TestMannWhitneyAgainstItsDefinition(t *testing.T) {
	rng := newRandom(9)
	x, y := make([]float64, 40), make([]float64, 30)
	for i := range x {
		x[i] = 10 + 3*rng.NormFloat64()
	}
	for i := range y {
		y[i] = 8 + 3*rng.NormFloat64()
	}
	slices.Sort(x)
	slices.Sort(y)
	lower, upper, shift := mannWhitney(x, y)
	var differences []float64
	for _, a := range x {
		for _, b := range y {
			differences = append(differences, a-b)
		}
	}
	slices.Sort(differences)
	n := len(differences)
	if median := (differences[n/2-1] + differences[n/2]) / 2; math.Abs(shift-median) > 0.02 {
		t.Errorf("Hodges-Lehmann is %v, the median difference %v", shift, median)
	}
	for _, e := range []float64{lower, upper} {
		want := pointsZ
		if e == upper {
			want = -pointsZ
		}
		if a, b := rankZ(x, y, e-2e-4), rankZ(x, y, e+2e-4); a < want-1e-9 || b > want+1e-9 {
			t.Errorf("z goes from %v to %v at %v, not through %v", a, b, e, want)
		}
	}
}

func TestComparisonSteps(t *testing.T) {
	nan := math.NaN()
	spread := func(from float64, n int) []float64 {
		out := make([]float64, n)
		for i := range out {
			out[i] = from + float64(i%7)
		}
		return out
	}
	low, high := spread(10, 30), spread(30, 30)
	for _, c := range []struct {
		name     string
		p        Points
		want     string
		critical bool
	}{
		{"equal", Points{Canary: low, Control: low}, ClassPass, false},
		{"higher", Points{Canary: high, Control: low}, ClassHigh, false},
		{"lower", Points{Canary: low, Control: high}, ClassLow, false},
		{"lower is fine", Points{Canary: low, Control: high, Direction: "increase"}, ClassPass, false},
		{"higher and critical", Points{Canary: high, Control: low, Critical: true}, ClassHigh, true},
		{"not so much higher", Points{Canary: high, Control: low, AllowedIncrease: 5}, ClassPass, false},
		{"higher, not critically", Points{Canary: high, Control: low, Critical: true, CriticalIncrease: 5}, ClassHigh, false},
		{"by CLES", Points{Canary: high, Control: low, CLES: true, AllowedIncrease: 0.99}, ClassHigh, false},
		{"constants", Points{Canary: []float64{7, 7, 7, 7, 7, 7}, Control: []float64{9, 9, 9, 9, 9, 9}}, ClassLow, false},
		{"one value", Points{Canary: []float64{7, 7, 7}, Control: []float64{7, 7}}, ClassPass, false},
		{"empty", Points{Canary: []float64{nan}, Control: low}, ClassNodata, false},
		{"empty must not be", Points{Control: low, MustHaveData: true}, ClassNodataFail, false},
		{"empty and critical", Points{Control: low, MustHaveData: true, Critical: true}, ClassNodata, true},
		{"empty, replaced", Points{Control: low, ReplaceNaN: true}, ClassPass, false},
		{"a mean of zero", Points{Canary: high, Control: []float64{0, 0, 0, 0, 0, 0}}, ClassHigh, false},
	} {
		got := c.p.Compare()
		if got.Class != c.want || got.Critical != c.critical {
			t.Errorf("%s: %+v, want %s", c.name, got, c.want)
		}
	}
	if c := (Points{Canary: high, Control: low}).Compare(); math.Abs(c.Effect-33.0/13) > 0.1 || math.Abs(c.Shift-20) > 1 {
		t.Errorf("effect and shift: %+v", c)
	}
	if c := (Points{Canary: high, Control: low, CLES: true}).Compare(); c.Effect != 1 {
		t.Errorf("every canary point is above: effect %v, want 1", c.Effect)
	}
}

func TestScore(t *testing.T) {
	pass, high, nodata, must := Comparison{Class: ClassPass}, Comparison{Class: ClassHigh}, Comparison{Class: ClassNodata}, Comparison{Class: ClassNodataFail}
	critical := Comparison{Class: ClassHigh, Critical: true}
	for i, c := range []struct {
		cs      []Comparison
		groups  []string
		weights map[string]float64
		want    float64
	}{
		{[]Comparison{pass, pass, high}, nil, nil, 66.67},
		{[]Comparison{pass, must}, nil, nil, 50},
		{[]Comparison{pass, pass, nodata}, nil, nil, 100},
		{[]Comparison{pass, nodata}, nil, nil, 0},
		{[]Comparison{pass, pass, critical}, nil, nil, 0},
		{[]Comparison{pass, high, pass}, []string{"a", "b", "c"}, map[string]float64{"a": 50}, 75},
		{[]Comparison{pass, pass, nodata}, []string{"a", "b", "c"}, nil, 100},
		{nil, nil, nil, 0},
	} {
		if got, _ := Score(c.cs, c.groups, c.weights); got != c.want {
			t.Errorf("%d: score %v, want %v", i, got, c.want)
		}
	}
}

// What judge.md warns of: a part of the points being far worse can pass.
func TestAWorseMinorityPasses(t *testing.T) {
	var canary, control []float64
	for i := range 60 {
		v := 1 + float64(i%10)
		control = append(control, v)
		if i%10 == 9 {
			v *= 100
		}
		canary = append(canary, v)
	}
	c := Points{Canary: canary, Control: control}.Compare()
	if c.Class != ClassPass {
		t.Fatalf("%+v", c)
	}
	if m := c.Metric("m"); !strings.Contains(m.Sentence, "minority") {
		t.Errorf("the sentence does not warn: %s", m.Sentence)
	}
}
