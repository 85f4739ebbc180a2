package pipeline

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// UnknownStandard is the rule of a standard that is not known where a file is
// read. Another place, such as the server, may know it.
const UnknownStandard = "unknown-standard"

// Platform is a validated platform.yaml: what the platform's owners decide for
// all services.
type Platform struct {
	Version   int        `json:"version"`
	Owner     string     `json:"owner"`
	Standards []Standard `json:"standards,omitempty"`
}

// Standard is a rollout that services name instead of writing it.
type Standard struct {
	Name     string   `json:"name"`
	Version  int      `json:"version"`
	Purpose  string   `json:"purpose,omitempty"`
	Rollout  Rollout  `json:"rollout"`
	Analysis Analysis `json:"analysis"`

	written map[string]bool // keys that it decides, such as rollout.timeout
}

// ID is the standard's name and version, as services write it.
func (s Standard) ID() string { return s.Name + "@" + strconv.Itoa(s.Version) }

// Standard returns the standard that a service names: NAME@VERSION, or the newest
// version of NAME.
func (pl *Platform) Standard(ref string) (Standard, bool) {
	var found Standard
	ok := false
	if pl == nil {
		return found, false
	}
	for _, s := range pl.Standards {
		if s.ID() == ref || s.Name == ref && s.Version > found.Version {
			found, ok = s, true
		}
	}
	return found, ok
}

// WithPlatform lets services name the platform's standards, and holds them to
// these.
func WithPlatform(pl Platform) Option {
	return func(p *parser) { p.platform = &pl }
}

var standardName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?(@[1-9][0-9]{0,8})?$`)

// standards lists what a platform has, for errors.
func (p *parser) standards() []string {
	var out []string
	if p.platform != nil {
		out = each(p.platform.Standards, Standard.ID)
	}
	slices.Sort(out)
	return out
}

// unknownStandard reports a name that the platform does not have.
func (p *parser) unknownStandard(at, ref, what string) {
	known := p.standards()
	switch {
	case p.platform == nil:
		p.at(p.valueAt(at), at, Error, UnknownStandard, fmt.Sprintf("%s, and no platform's standards are known here", what), "give the server's file: --platform platform.yaml")
	case len(known) == 0:
		p.at(p.valueAt(at), at, Error, UnknownStandard, fmt.Sprintf("%s: the platform of %s has none", what, clip(p.platform.Owner)), "write the strategy out, or ask "+clip(p.platform.Owner)+" for a standard")
	default:
		mend := "the platform has " + listing(known, "and")
		if n := nearest(ref, append(each(p.platform.Standards, func(s Standard) string { return s.Name }), known...)); n != "" {
			mend = "did you mean " + n + "? " + mend
		}
		p.at(p.valueAt(at), at, Error, UnknownStandard, what, mend)
	}
}

// resolve puts a standard in the place where an environment names it. What the
// service's file says beside may only be stricter.
func (p *parser) resolve(at string, e *Environment) {
	ref := e.Rollout.Standard
	if ref == "" {
		return
	}
	std, ok := p.platform.Standard(ref)
	if !ok {
		where := at + ".rollout"
		if p.positions.Has(where + ".standard") {
			where += ".standard"
		}
		if !p.isBad(where) {
			p.unknownStandard(where, ref, fmt.Sprintf("there is no rollout standard %q", clip(ref)))
		}
		return
	}
	t := tightening{p: p, at: at, std: std}
	t.strategy(&e.Rollout)
	t.fields(".rollout", reflect.ValueOf(&e.Rollout).Elem(), reflect.ValueOf(std.Rollout))
	t.fields(".analysis", reflect.ValueOf(&e.Analysis).Elem(), reflect.ValueOf(std.Analysis))
	if where := at + ".synthetic.count"; e.Synthetic != nil && e.Synthetic.Count && !p.isBad(where) {
		t.loosened(where, "count: true lets requests that Sluice makes itself speak for users")
	}
	e.Rollout.Standard = std.ID()
}

// says reports whether the file says something at path, or a standard in its place.
func (p *parser) says(path string) bool { return p.positions.Has(path) || p.decided[path] }

// tightening holds an environment to a standard.
type tightening struct {
	p   *parser
	at  string
	std Standard
}

// loosened reports a value that is laxer than the standard's.
func (t tightening) loosened(where, what string) {
	t.p.at(t.p.valueAt(where), where, Error, "loosens-standard",
		fmt.Sprintf("%s: standard %s of %s allows only what is stricter", what, t.std.ID(), clip(t.p.platform.Owner)),
		"remove it, write a stricter one, or ask "+clip(t.p.platform.Owner)+" for another standard")
}

// stricter says in which direction a number is stricter: -1 lower, 1 higher.
var stricter = map[string]int{
	"rollout.timeout": -1, "rollout.rollbackTimeout": -1, "rollout.retireAfter": 1,
	"analysis.warmUp": -1, "analysis.maxExcess": -1, "analysis.alpha": 1, "analysis.beta": -1, "analysis.minEvents": 1, "analysis.maxExtend": -1,
}

// strictWords are the answers of a key from lax to strict.
var strictWords = map[string][]string{
	"rollout.onFail":         {RollForward, Freeze, GoBack},
	"rollout.onDrift":        {DriftRestore, DriftHold},
	"rollout.onInconclusive": {"extend", "hold"},
	"rollout.onNoData":       {"extend", "hold"},
}

// innerRetireAfter is another place for rollout.retireAfter.
const innerRetireAfter = "rollout." + BlueGreen + ".retireAfter"

// strategyFields are taken or compared together.
var strategyFields = []string{"strategy", "named", "steps", "bake", "batches", "standard", "-"}

// fields takes what the service did not write and compares what it did.
func (t tightening) fields(part string, got, std reflect.Value) {
	for i := range got.NumField() {
		name, _, _ := strings.Cut(got.Type().Field(i).Tag.Get("json"), ",")
		key := strings.TrimPrefix(part, ".") + "." + name
		if part == ".rollout" && slices.Contains(strategyFields, name) || !t.std.written[key] {
			continue
		}
		where := t.at + "." + key
		if inner := t.at + "." + innerRetireAfter; key == "rollout.retireAfter" && t.p.positions.Has(inner) {
			where = inner
		}
		if !t.p.positions.Has(where) {
			got.Field(i).Set(std.Field(i))
			if t.p.decided == nil {
				t.p.decided = map[string]bool{}
			}
			t.p.decided[where] = true
			continue
		}
		if !t.p.isBad(where) {
			t.compare(key, where, got.Field(i), std.Field(i))
		}
	}
}

func (t tightening) compare(key, where string, got, std reflect.Value) {
	say := func(v reflect.Value) string {
		if d, ok := v.Interface().(time.Duration); ok {
			return Short(d)
		}
		if v.Kind() == reflect.String && v.String() == "" {
			return strictWords[key][map[string]int{"rollout.onFail": 2}[key]]
		}
		return fmt.Sprint(v.Interface())
	}
	_, name, _ := strings.Cut(key, ".")
	lax := false
	switch way, isNumber := stricter[key]; {
	case isNumber:
		lax = way*compareNumbers(got, std) < 0
	case strictWords[key] != nil:
		rank := func(v reflect.Value) int { return slices.Index(strictWords[key], say(v)) }
		lax = rank(got) < rank(std)
	case key == "analysis.metrics":
		t.metrics(where, got.Interface().([]Metric), std.Interface().([]Metric))
		return
	default:
		if !reflect.DeepEqual(got.Interface(), std.Interface()) {
			t.loosened(where, name+" is decided by the standard")
		}
		return
	}
	if lax {
		t.loosened(where, fmt.Sprintf("%s is %s and the standard's is %s", name, say(got), say(std)))
	}
}

func compareNumbers(a, b reflect.Value) int {
	if a.CanInt() {
		return cmp.Compare(a.Int(), b.Int())
	}
	return cmp.Compare(a.Float(), b.Float())
}

// metrics wants each of the standard's, no laxer; more are welcome.
func (t tightening) metrics(where string, got, std []Metric) {
	for _, s := range std {
		i := slices.IndexFunc(got, func(m Metric) bool { return m.Name == s.Name })
		if i < 0 {
			t.loosened(where, fmt.Sprintf("metric %s of the standard is missing", s.Name))
			return
		}
		g := got[i]
		lax := g.MaxRatio > s.MaxRatio || g.Quantile < s.Quantile ||
			s.Max != nil && (g.Max == nil || *g.Max > *s.Max) || s.Min != nil && (g.Min == nil || *g.Min < *s.Min)
		g.MaxRatio, g.Quantile, g.Max, g.Min = s.MaxRatio, s.Quantile, s.Max, s.Min
		switch at := fmt.Sprintf("%s[%d]", where, i); {
		case t.p.isBad(at):
		case lax:
			t.loosened(at, fmt.Sprintf("metric %s is laxer than the standard's", s.Name))
		case !reflect.DeepEqual(g, s):
			t.loosened(at, fmt.Sprintf("metric %s asks otherwise than the standard's", s.Name))
		}
	}
}

// strategy takes the standard's, or compares the one that the service wrote.
func (t tightening) strategy(r *Rollout) {
	s := t.std.Rollout
	where := t.at + ".rollout"
	written := ""
	for _, k := range rolloutKeys {
		if t.p.positions.Has(where + "." + k) {
			written = where + "." + k
		}
	}
	if written == "" {
		r.Strategy, r.Named, r.Steps, r.Bake, r.Batches = s.Strategy, s.Named, slices.Clone(s.Steps), s.Bake, s.Batches
		r.PreTraffic = slices.Clone(s.PreTraffic)
		return
	}
	if t.p.isBad(written) {
		return
	}
	if r.Strategy == Canary && len(r.Steps) == 0 {
		r.Steps = slices.Clone(defaultSteps)
	}
	switch {
	case r.Strategy != s.Strategy:
		t.loosened(written, fmt.Sprintf("strategy %s is not the standard's, which is %s", r.Strategy, s.Strategy))
	case r.Bake < s.Bake:
		t.loosened(written, fmt.Sprintf("bake %s is shorter than the standard's %s", Short(r.Bake), Short(s.Bake)))
	case !smaller(r.Batches, s.Batches):
		t.loosened(written, "batches may be larger than the standard's")
	default:
		t.steps(written, r.Steps, s.Steps)
	}
	for _, c := range slices.Backward(s.PreTraffic) {
		switch i := slices.IndexFunc(r.PreTraffic, func(x Check) bool { return x.Name == c.Name }); {
		case i < 0:
			r.PreTraffic = append([]Check{c}, r.PreTraffic...)
		case !reflect.DeepEqual(r.PreTraffic[i], c):
			t.loosened(written, fmt.Sprintf("check %s asks otherwise than the standard's", clip(c.Name)))
		}
	}
}

// steps wants at least the standard's bake on the way up to each of its weights.
func (t tightening) steps(where string, got, std []CanaryStep) {
	below := 0.0
	for _, s := range std {
		var baked time.Duration
		for _, g := range got {
			if g.Weight > below && g.Weight <= s.Weight {
				baked += g.Bake
			}
		}
		if baked < s.Bake {
			t.loosened(where, fmt.Sprintf("above %s %% and up to %s %% it bakes %s and the standard %s",
				strconv.FormatFloat(below, 'f', -1, 64), strconv.FormatFloat(s.Weight, 'f', -1, 64), Short(baked), Short(s.Bake)))
			return
		}
		below = s.Weight
	}
}

// smaller reports whether batches are sure to be no larger, and to take no more
// capacity away.
func smaller(got, std *Batches) bool {
	if std == nil || got == nil {
		return std == nil
	}
	less := func(a, b Amount) bool {
		return (a.Percent > 0) == (b.Percent > 0) && a.Percent <= b.Percent && a.Count <= b.Count
	}
	return less(got.Batch, std.Batch) && (got.Additional || !std.Additional) &&
		(got.MaxUnavailable == std.MaxUnavailable || got.MaxUnavailable != nil && std.MaxUnavailable != nil && less(*got.MaxUnavailable, *std.MaxUnavailable))
}
