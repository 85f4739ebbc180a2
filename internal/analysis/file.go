package analysis

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/verdict"
)

// Bounds of a file that is judged.
const (
	maxFile    = 16 << 20
	maxMetrics = 100
	maxPoints  = 20_000 // per side
)

// Report is what JudgeFile answers.
type Report struct {
	Verdict verdict.Verdict `json:"verdict"`
	Score   *float64        `json:"score,omitempty"` // judge kayenta
	Metrics []FileMetric    `json:"metrics"`
}

// FileMetric is one metric's answer; the pointers are those of points only.
type FileMetric struct {
	Metric
	Classification string   `json:"classification,omitempty"`
	Effect         *float64 `json:"effect,omitempty"` // absent where it is not defined
	Lower          *float64 `json:"lower,omitempty"`
	Upper          *float64 `json:"upper,omitempty"`
	Score          *float64 `json:"score,omitempty"` // of the metric's group
}

type fileInput struct {
	Metrics []fileMetric `json:"metrics"`
	Options fileOptions  `json:"options"`
}

type fileMetric struct {
	Name         string    `json:"name"`
	Kind         string    `json:"kind"`
	Direction    string    `json:"direction"`
	Bins         []fileBin `json:"bins"`
	Control      []sample  `json:"control"`
	Canary       []sample  `json:"canary"`
	Critical     bool      `json:"critical"`
	MustHaveData bool      `json:"mustHaveData"`

	Quantile float64  `json:"quantile"` // latency: bad is slower than a bound at this quantile
	Min      *float64 `json:"min"`      // limit
	Max      *float64 `json:"max"`
	Samples  int      `json:"samples"` // limit: that many in a row fail; default 3

	Group            string  `json:"group"` // points, and what follows
	NaN              string  `json:"nanStrategy"`
	Outliers         string  `json:"outliers"`
	OutlierFactor    float64 `json:"outlierFactor"`
	EffectSize       string  `json:"effectSize"`
	AllowedIncrease  float64 `json:"allowedIncrease"`
	AllowedDecrease  float64 `json:"allowedDecrease"`
	CriticalIncrease float64 `json:"criticalIncrease"`
	CriticalDecrease float64 `json:"criticalDecrease"`
}

type fileOptions struct {
	Alpha             *float64           `json:"alpha"`
	Beta              *float64           `json:"beta"`
	R0                *float64           `json:"r0"`
	RMax              *float64           `json:"rMax"`
	MaxExcess         *float64           `json:"maxExcess"` // percentage points, as in sluice.yaml
	MinBad            *int64             `json:"minBad"`
	MinEvents         *int64             `json:"minEvents"`
	BinSeconds        *float64           `json:"binSeconds"`
	WarmUpSeconds     *float64           `json:"warmUpSeconds"` // default 0: each bin is judged
	Phi               *float64           `json:"phi"`
	Seed              uint64             `json:"seed"`
	Judge             string             `json:"judge"`
	PassThreshold     *float64           `json:"passThreshold"`     // kayenta, default 95
	MarginalThreshold *float64           `json:"marginalThreshold"` // kayenta, default 75
	GroupWeights      map[string]float64 `json:"groupWeights"`      // kayenta, percent
}

// fileBin is [bad canary, all canary, bad baseline, all baseline]. What is wrong
// with it is kept, to be told with the metric's name and the bin's number.
type fileBin struct {
	bin     Bin
	problem string
}

func (b *fileBin) UnmarshalJSON(data []byte) error {
	*b = fileBin{}
	const form = "[bad canary, all canary, bad baseline, all baseline]"
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil || raw == nil {
		b.problem = "is " + shown(data) + ", not four counts: " + form
		return nil
	}
	if len(raw) != 4 {
		b.problem = fmt.Sprintf("has %s, not four counts: %s", plural(len(raw), "number"), form)
		return nil
	}
	for i, to := range []*int64{&b.bin.KC, &b.bin.NC, &b.bin.KB, &b.bin.NB} {
		if err := json.Unmarshal(raw[i], to); err != nil || string(raw[i]) == "null" {
			b.problem = fmt.Sprintf("has %s for its %s count: counts are whole numbers", shown(raw[i]), []string{"first", "second", "third", "fourth"}[i])
			return nil
		}
	}
	if c := b.bin; c.KC < 0 || c.KB < 0 || c.KC > c.NC || c.KB > c.NB {
		b.problem = fmt.Sprintf("is [%d,%d,%d,%d]: counts are not negative, and no more are bad than there are", c.KC, c.NC, c.KB, c.NB)
	}
	return nil
}

// shown is a piece of a file in an error.
func shown(b []byte) string {
	s := strings.Join(strings.Fields(string(b)), " ")
	if r := []rune(s); len(r) > 40 {
		s = string(r[:40]) + "…"
	}
	return s
}

// sample is a number; null and "NaN" are a missing one. Anything else is kept as
// what is wrong with it.
type sample struct {
	value   float64
	problem string
}

func (s *sample) UnmarshalJSON(b []byte) error {
	*s = sample{value: math.NaN()}
	switch {
	case string(b) == "null" || string(b) == `"NaN"`:
	case b[0] == '[' || b[0] == '{':
		s.problem = "is " + shown(b) + ": one series a side is compared; join them before, or make a metric of each"
	case json.Unmarshal(b, &s.value) != nil:
		s.value, s.problem = math.NaN(), "is "+shown(b)+": a point is a number, null or \"NaN\""
	}
	return nil
}

func floats(xs []sample) []float64 {
	out := make([]float64, len(xs))
	for i, x := range xs {
		out[i] = x.value
	}
	return out
}

// JudgeFile judges recorded samples, in the form at the end of judge.md.
// Unknown keys, missing values and more than 16 MiB are errors. maxExcess is in
// percentage points, as in sluice.yaml.
func JudgeFile(r io.Reader) (Report, error) {
	in, err := readFile(r)
	if err != nil {
		return Report{}, fmt.Errorf("couldn't read the samples: %w", err)
	}
	s, err := in.Options.settings()
	if err != nil {
		return Report{}, fmt.Errorf("couldn't judge with these options: %w", err)
	}
	if in.Options.Judge == "kayenta" {
		return in.kayenta()
	}
	out := Report{Metrics: make([]FileMetric, 0, len(in.Metrics))}
	var all []Metric
	var cs []Comparison
	var groups []string
	for _, m := range in.Metrics {
		var f FileMetric
		switch m.Kind {
		case "points":
			c := m.points(in.Options.Seed).Compare()
			cs, groups = append(cs, c), append(groups, m.Group)
			f = c.file(m.Name)
		case "limit":
			l, err := NewLimit(m.Name, m.Min, m.Max, m.Samples, s.MinEvents)
			if err != nil {
				return Report{}, fmt.Errorf("couldn't judge: %w", err)
			}
			for _, x := range m.Canary {
				l.Add(x.value)
			}
			f.Metric = l.Result()
		default:
			f.Metric = m.rate(s, len(in.Metrics)).Result()
		}
		f.Kind, f.Phi = "", 0 // the answer has the keys of judge.md and no others
		out.Metrics = append(out.Metrics, f)
		all = append(all, f.Metric)
	}
	out.score(cs, groups, in.Options.GroupWeights, in.Metrics)
	out.Verdict = Combine(all).Verdict
	return out, nil
}

// kayenta compares every metric's points, rates bin by bin, and decides by the
// score. Too little data is no-data, not the fail that Kayenta makes of it.
func (in fileInput) kayenta() (Report, error) {
	out := Report{Metrics: make([]FileMetric, 0, len(in.Metrics))}
	var cs []Comparison
	var groups []string
	nodata, critical, missing := 0, false, false
	for i := range in.Metrics {
		m := &in.Metrics[i]
		if m.Kind == "limit" {
			return Report{}, fmt.Errorf("couldn't judge metric %q: the kayenta judge knows no limits; use the sequential one", m.Name)
		}
		if m.Kind != "points" {
			for _, b := range m.Bins {
				c := b.bin
				if c.NC > 0 {
					m.Canary = append(m.Canary, sample{value: share(c.KC, c.NC)})
				}
				if c.NB > 0 {
					m.Control = append(m.Control, sample{value: share(c.KB, c.NB)})
				}
			}
			m.Kind = "points"
		}
		c := m.points(in.Options.Seed).Compare()
		cs, groups = append(cs, c), append(groups, m.Group)
		f := c.file(m.Name)
		f.Kind = ""
		if f.Verdict == verdict.NoData {
			nodata++
			missing = missing || c.Critical
		}
		critical = critical || c.Critical && f.Verdict == verdict.Fail
		out.Metrics = append(out.Metrics, f)
	}
	total := out.score(cs, groups, in.Options.GroupWeights, in.Metrics)
	out.Score = &total
	pass, marginal := 95.0, 75.0
	if p := in.Options.PassThreshold; p != nil {
		pass = *p
	}
	if p := in.Options.MarginalThreshold; p != nil {
		marginal = *p
	}
	switch {
	case critical:
		out.Verdict = verdict.Fail
	case missing || 2*nodata >= len(cs):
		out.Verdict = verdict.NoData
	case total >= pass:
		out.Verdict = verdict.Pass
	case total >= marginal:
		out.Verdict = verdict.Inconclusive
	default:
		out.Verdict = verdict.Fail
	}
	return out, nil
}

func (r *Report) score(cs []Comparison, groups []string, weights map[string]float64, ms []fileMetric) float64 {
	if len(cs) == 0 {
		return 0
	}
	total, byGroup := Score(cs, groups, weights)
	for i, m := range ms {
		if m.Kind == "points" {
			g := math.Round(byGroup[m.Group]*100) / 100
			r.Metrics[i].Score = &g
		}
	}
	return total
}

func (c Comparison) file(name string) FileMetric {
	f := FileMetric{Metric: c.Metric(name), Classification: c.Class}
	number := func(x float64) *float64 {
		if math.IsNaN(x) {
			return nil
		}
		x = finite(x)
		return &x
	}
	f.Effect, f.Lower, f.Upper = number(c.Effect), number(c.Lower), number(c.Upper)
	return f
}

func readFile(r io.Reader) (fileInput, error) {
	var in fileInput
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return in, err
	}
	if len(b) > maxFile {
		return in, fmt.Errorf("the file is larger than %d MiB: join bins, or judge fewer metrics at a time", maxFile>>20)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return in, placed(b, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return in, errors.New("there is more after the first JSON value: give one document")
	}
	if len(in.Metrics) == 0 {
		return in, errors.New(`"metrics" is empty: give at least one metric`)
	}
	if len(in.Metrics) > maxMetrics {
		return in, fmt.Errorf("there are %d metrics: at most %d can be judged together", len(in.Metrics), maxMetrics)
	}
	names := map[string]bool{}
	for i, m := range in.Metrics {
		if m.Name == "" {
			return in, fmt.Errorf("metric %d has no name", i+1)
		}
		if names[m.Name] {
			return in, fmt.Errorf("there are two metrics named %q", m.Name)
		}
		names[m.Name] = true
		if err := m.validate(); err != nil {
			return in, fmt.Errorf("metric %q: %w", m.Name, err)
		}
	}
	return in, in.Options.validate()
}

// placed says where in the file an error is, in words of this form.
func placed(b []byte, err error) error {
	at := func(offset int64) string {
		before := b[:max(0, min(offset, int64(len(b))))]
		line := bytes.Count(before, []byte("\n")) + 1
		return fmt.Sprintf("line %d, column %d", line, len(before)-bytes.LastIndexByte(before, '\n')-1)
	}
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case len(bytes.TrimSpace(b)) == 0:
		return errors.New(`the file is empty: give {"metrics": […]}`)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the file ends in the middle of the JSON")
	case errors.As(err, &syntax):
		mend := ""
		if near := b[max(0, min(syntax.Offset-1, int64(len(b)))):]; bytes.HasPrefix(near, []byte("NaN")) || bytes.HasPrefix(near, []byte("Inf")) {
			mend = ": JSON has no NaN; a missing point is null"
		}
		return fmt.Errorf("%s: %w%s", at(syntax.Offset), err, mend)
	case errors.As(err, &wrong):
		field := wrong.Field
		if field == "" {
			field = "the file"
		}
		return fmt.Errorf("%s: %s is of the type %s, which it cannot be", at(wrong.Offset), field, wrong.Value)
	}
	if key, ok := unknownKey(err); ok {
		if offset, ok := whereUnknown(b, key); ok {
			return fmt.Errorf("%s: there is no key %q here", at(offset), key)
		}
		return fmt.Errorf("there is no key %q where it stands", key)
	}
	return err
}

// unknownKey is the key that a decoder did not know, which it tells in words only.
func unknownKey(err error) (string, bool) {
	quoted, ok := strings.CutPrefix(err.Error(), "json: unknown field ")
	if !ok {
		return "", false
	}
	key, err := strconv.Unquote(quoted)
	return key, err == nil
}

// whereUnknown finds the first place where a key stands that is unknown there. The same
// key may be known elsewhere. So each is given a name that is known nowhere: up to the
// place that is looked for the decoder stumbles on that name, and afterwards on the key.
func whereUnknown(b []byte, key string) (offset int64, ok bool) {
	const nowhere = "\x7f"
	found := regexp.MustCompile(`"`+regexp.QuoteMeta(key)+`"\s*:`).FindAllIndex(b, -1)
	past := sort.Search(len(found), func(i int) bool {
		at := found[i][0] + 1
		d := json.NewDecoder(io.MultiReader(bytes.NewReader(b[:at]), strings.NewReader(nowhere), bytes.NewReader(b[at+len(key):])))
		d.DisallowUnknownFields()
		var in fileInput
		err := d.Decode(&in)
		if err == nil {
			return false
		}
		stumbled, ok := unknownKey(err)
		return !ok || stumbled != nowhere
	})
	if past == 0 {
		return 0, false
	}
	return int64(found[past-1][0]) + 1, true
}

func (m fileMetric) validate() error {
	switch m.Direction {
	case "", "increase", "decrease", "either":
	default:
		return fmt.Errorf("direction is %q: it is increase, decrease or either", m.Direction)
	}
	points := len(m.Canary)+len(m.Control) > 0
	tuned := m.Group != "" || m.NaN != "" || m.Outliers != "" || m.OutlierFactor != 0 || m.EffectSize != "" ||
		m.AllowedIncrease != 0 || m.AllowedDecrease != 0 || m.CriticalIncrease != 0 || m.CriticalDecrease != 0
	limits := m.Min != nil || m.Max != nil || m.Samples != 0
	switch m.Kind {
	case "rate", "latency":
		if m.Direction == "decrease" || m.Direction == "either" {
			return fmt.Errorf("direction is %q: bins count bad events, of which more are worse; turn the count around, or leave direction away", m.Direction)
		}
		if points || limits || m.Kind == "rate" && m.Quantile != 0 {
			return fmt.Errorf("kind %s has bins, not control, canary, min, max, samples or (but for latency) quantile", m.Kind)
		}
		if m.Quantile != 0 && !(m.Quantile >= 0.5 && m.Quantile <= 0.9999) {
			return fmt.Errorf("quantile is %v: it is from 0.5 to 0.9999", m.Quantile)
		}
		for i, b := range m.Bins {
			if b.problem != "" {
				return fmt.Errorf("bin %d %s", i+1, b.problem)
			}
		}
	case "limit":
		if len(m.Bins) > 0 || len(m.Control) > 0 || m.Quantile != 0 || tuned {
			return errors.New("kind limit has canary, min, max and samples, and nothing else")
		}
		if m.Samples < 0 || m.Samples > maxPoints {
			return fmt.Errorf("samples is %d: it is how many in a row fail, for instance 3", m.Samples)
		}
	case "points":
		if len(m.Bins) > 0 || limits || m.Quantile != 0 {
			return errors.New("kind points has control and canary, not bins, min, max, samples or quantile")
		}
	case "":
		return errors.New("kind is missing: it is rate, latency, limit or points")
	default:
		return fmt.Errorf("kind is %q: it is rate, latency, limit or points", m.Kind)
	}
	if len(m.Canary) > maxPoints || len(m.Control) > maxPoints || len(m.Bins) > 1_000_000 {
		return fmt.Errorf("there are too many samples: at most %d points a side, or a million bins", maxPoints)
	}
	for _, side := range []struct {
		name   string
		points []sample
	}{{"canary", m.Canary}, {"control", m.Control}} {
		for i, x := range side.points {
			if x.problem != "" {
				return fmt.Errorf("point %d of %s %s", i+1, side.name, x.problem)
			}
		}
	}
	for _, v := range []struct{ key, value, a, b string }{
		{"nanStrategy", m.NaN, "remove", "replace"}, {"outliers", m.Outliers, "keep", "remove"}, {"effectSize", m.EffectSize, "meanRatio", "cles"},
	} {
		if v.value != "" && v.value != v.a && v.value != v.b {
			return fmt.Errorf("%s is %q: it is %s or %s", v.key, v.value, v.a, v.b)
		}
	}
	for _, x := range []float64{m.OutlierFactor, m.AllowedIncrease, m.AllowedDecrease, m.CriticalIncrease, m.CriticalDecrease} {
		if x < 0 {
			return fmt.Errorf("%v is negative: factors and effects are not", x)
		}
	}
	return nil
}

func (m fileMetric) points(seed uint64) Points {
	return Points{
		Canary: floats(m.Canary), Control: floats(m.Control), Direction: m.Direction,
		Critical: m.Critical, MustHaveData: m.MustHaveData, ReplaceNaN: m.NaN == "replace",
		DropOutliers: m.Outliers == "remove", OutlierFactor: m.OutlierFactor, CLES: m.EffectSize == "cles",
		AllowedIncrease: m.AllowedIncrease, AllowedDecrease: m.AllowedDecrease,
		CriticalIncrease: m.CriticalIncrease, CriticalDecrease: m.CriticalDecrease, Seed: seed,
	}
}

// rate plays the bins of a rate or latency metric.
func (m fileMetric) rate(s Settings, metrics int) Rate {
	var frozen Frozen
	if m.Quantile > 0 {
		frozen.Floor = 1 - m.Quantile
	}
	r := NewRate(m.Name, s, metrics, frozen)
	r.Plain = true
	if m.Kind == "latency" {
		r.Kind, r.Noun = m.Kind, "requests were slow"
	}
	warm := time.Duration(0) // since the canary's first request
	for _, b := range m.Bins {
		kind := Judged
		if warm < s.WarmUp {
			kind = WarmUp
			if warm > 0 || b.bin.NC > 0 {
				warm += s.Bin
			}
		}
		r.Add(b.bin, kind)
	}
	return r
}

func (o fileOptions) validate() error {
	switch o.Judge {
	case "", "sequential", "kayenta":
	default:
		return fmt.Errorf("options.judge is %q: it is sequential or kayenta", o.Judge)
	}
	for key, p := range map[string]*float64{"passThreshold": o.PassThreshold, "marginalThreshold": o.MarginalThreshold} {
		if p != nil && !(*p >= 0 && *p <= 100) {
			return fmt.Errorf("options.%s is %v: it is from 0 to 100", key, *p)
		}
	}
	sum := 0.0
	for g, w := range o.GroupWeights {
		if !(w >= 0 && w <= 100) {
			return fmt.Errorf("options.groupWeights: %q weighs %v: it is from 0 to 100 percent", g, w)
		}
		sum += w
	}
	if sum > 100 {
		return fmt.Errorf("options.groupWeights sum to %v: at most 100", sum)
	}
	return nil
}

func (o fileOptions) settings() (Settings, error) {
	s := Defaults()
	s.WarmUp = 0
	for _, v := range []struct {
		from *float64
		to   *float64
	}{{o.Alpha, &s.Alpha}, {o.Beta, &s.Beta}, {o.R0, &s.R0}, {o.RMax, &s.RMax}, {o.Phi, &s.Phi}} {
		if v.from != nil {
			*v.to = *v.from
		}
	}
	if o.MaxExcess != nil {
		s.MaxExcess = *o.MaxExcess / 100
	}
	if o.MinBad != nil {
		s.MinBad = *o.MinBad
	}
	if o.MinEvents != nil {
		s.MinEvents = *o.MinEvents
	}
	for _, v := range []struct {
		key  string
		from *float64
		to   *time.Duration
		zero bool
	}{{"binSeconds", o.BinSeconds, &s.Bin, false}, {"warmUpSeconds", o.WarmUpSeconds, &s.WarmUp, true}} {
		if v.from == nil {
			continue
		}
		if !(*v.from > 0 || v.zero && *v.from == 0) || *v.from > 1e6 {
			return s, fmt.Errorf("%s is %v: it is above 0 and at most 1 000 000", v.key, *v.from)
		}
		*v.to = time.Duration(*v.from * float64(time.Second))
	}
	return s, s.Validate()
}
