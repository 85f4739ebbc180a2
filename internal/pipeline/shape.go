package pipeline

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// form is the kind of YAML that a shape takes.
type form string

const (
	formObject   form = "object"
	formList     form = "list"
	formMap      form = "map"
	formText     form = "text"
	formInteger  form = "integer"
	formNumber   form = "number"
	formBoolean  form = "boolean"
	formDuration form = "duration"
	formScalar   form = "scalar" // text, number or boolean, kept as it is written
	formEither   form = "either"
)

// shape describes what a value may be. The strict parser, the JSON Schema and
// the reference page are all made from it.
type shape struct {
	form     form
	name     string // of an object, in the schema
	keys     []keyShape
	item     *shape  // of a list or map
	either   []shape // by form
	enum     []string
	pattern  string
	examples []string
	least    int      // items of a list, keys of a map
	oneOf    []string // exactly one of these keys of an object
	anyOf    []string // at least one of these keys of an object
	min, max float64
	above    bool // min itself is not allowed
	below    bool // max itself is not allowed
	refused  []refusal
}

// keyShape is one key of an object.
type keyShape struct {
	key, doc, def string
	required      bool
	shape         *shape
	refusal       *refusal
}

// refusal names something that Sluice knows and this build cannot do.
type refusal struct {
	word    string // the key or value
	cannot  string // completes "this build cannot … yet"
	nearest string // what can be done instead
}

func (r refusal) message() string { return "this build cannot " + r.cannot + " yet" }

// codec is a shape and how a value of it is read. A read that reports a problem
// returns false, and as much of the value as was good.
type codec[T any] struct {
	shape shape
	read  func(p *parser, n *yaml.Node, path string) (T, bool)
}

// member is one key of an object that is read into an S.
type member[S any] struct {
	shape keyShape
	read  func(p *parser, n *yaml.Node, path string, s *S) bool
}

// option changes a key.
type option func(*keyShape)

func required(k *keyShape) { k.required = true }

// byDefault says what holds when the key is absent. It is shown only; the value
// is filled in by the object's initial value or by complete.
func byDefault(s string) option { return func(k *keyShape) { k.def = s } }

// key makes a member whose value is stored by set.
func key[S, T any](name, doc string, c codec[T], set func(*S, T), opts ...option) member[S] {
	k := keyShape{key: name, doc: doc, shape: &c.shape}
	for _, o := range opts {
		o(&k)
	}
	return member[S]{shape: k, read: func(p *parser, n *yaml.Node, path string, s *S) bool {
		v, ok := c.read(p, n, path)
		set(s, v)
		return ok
	}}
}

// notYet makes a member that is known and refused.
func notYet[S any](name, cannot, nearest string) member[S] {
	r := refusal{word: name, cannot: cannot, nearest: nearest}
	return member[S]{
		shape: keyShape{key: name, doc: "Not in this build: it cannot " + cannot + " yet. Instead: " + nearest + ".", refusal: &r},
		read: func(p *parser, n *yaml.Node, path string, _ *S) bool {
			p.refuse(p.keyAt(path), path, r)
			return false
		},
	}
}

// object reads a mapping into a copy of initial. Unknown, doubled and missing
// keys are problems.
func object[S any](name string, initial S, members ...member[S]) codec[S] {
	sh := shape{form: formObject, name: name}
	byKey := map[string]member[S]{}
	var names []string
	for _, m := range members {
		sh.keys = append(sh.keys, m.shape)
		byKey[m.shape.key] = m
		if m.shape.refusal == nil {
			names = append(names, m.shape.key)
		}
	}
	return codec[S]{shape: sh, read: func(p *parser, n *yaml.Node, path string) (S, bool) {
		s := initial
		n, ok := p.open(n, path)
		if !ok {
			return s, false
		}
		defer p.close()
		if n.Kind != yaml.MappingNode {
			p.wrongType(n, path, "a mapping of keys", "it takes "+listing(names, "and"))
			return s, false
		}
		seen := map[string]bool{}
		p.pairs(n, path, func(k *yaml.Node, child string, v *yaml.Node) {
			m, known := byKey[k.Value]
			if !known {
				// A mistyped key is not missing too.
				seen[p.unknownKey(k, path, child, names)] = true
				ok = false
				return
			}
			seen[k.Value] = true
			if !m.read(p, v, child, &s) {
				ok = false
			}
		})
		for _, m := range members {
			if m.shape.required && !seen[m.shape.key] && !p.full() {
				p.at(p.keyAt(path), path, Error, "missing-key",
					fmt.Sprintf("%s has no %s", label(path), m.shape.key),
					"add "+m.shape.key+": "+firstSentence(m.shape.doc))
				ok = false
			}
		}
		return s, ok
	}}
}

// list reads a sequence with at least so many items.
func list[T any](c codec[T], least int) codec[[]T] {
	return codec[[]T]{shape: shape{form: formList, item: &c.shape, least: least}, read: func(p *parser, n *yaml.Node, path string) ([]T, bool) {
		n, ok := p.open(n, path)
		if !ok {
			return nil, false
		}
		defer p.close()
		if n.Kind != yaml.SequenceNode {
			mend := "put it into [ ], or on lines that begin with -"
			if n.Kind == yaml.ScalarNode {
				mend = "write [" + clip(n.Value) + "]"
			}
			p.wrongType(n, path, "a list", mend)
			return nil, false
		}
		if len(n.Content) < least {
			p.report(n, path, "empty", label(path)+" is empty", "give it at least one item, or remove the key where it may be absent")
			return nil, false
		}
		if len(n.Content) > maxItems {
			p.report(n, path, "too-large", fmt.Sprintf("%s has %d items; at most %d are read", label(path), len(n.Content), maxItems), "split the service")
			return nil, false
		}
		var out []T
		for i, item := range n.Content {
			if p.full() {
				return out, false
			}
			child := path + "[" + strconv.Itoa(i) + "]"
			p.mark(child, item, item)
			v, good := c.read(p, item, child)
			// A bad item keeps its place, so that paths stay true.
			out = append(out, v)
			ok = ok && good
		}
		return out, ok
	}}
}

// mapOf reads a mapping with free keys that check accepts.
func mapOf[T any](check func(string) *complaint, c codec[T]) codec[map[string]T] {
	return codec[map[string]T]{shape: shape{form: formMap, item: &c.shape}, read: func(p *parser, n *yaml.Node, path string) (map[string]T, bool) {
		n, ok := p.open(n, path)
		if !ok {
			return nil, false
		}
		defer p.close()
		if n.Kind != yaml.MappingNode {
			p.wrongType(n, path, "a mapping", "write {NAME: value}")
			return nil, false
		}
		out := map[string]T{}
		p.pairs(n, path, func(k *yaml.Node, child string, v *yaml.Node) {
			if c := check(k.Value); c != nil {
				p.complain(k, child, *c)
				ok = false
			}
			val, good := c.read(p, v, child)
			out[k.Value] = val
			ok = ok && good
		})
		return out, ok
	}}
}

// complaint is what a check of a single value finds wrong.
type complaint struct{ rule, message, mend string }

// text reads a string that all checks accept.
func text(checks ...func(string) *complaint) codec[string] {
	return codec[string]{shape: shape{form: formText}, read: func(p *parser, n *yaml.Node, path string) (string, bool) {
		n, ok := p.scalar(n, path, "text", func(n *yaml.Node) bool {
			return n.ShortTag() == "!!str" || n.ShortTag() == "!!timestamp"
		}, func(n *yaml.Node) string { return "put it in quotes: '" + clip(n.Value) + "'" })
		if !ok {
			return "", false
		}
		for _, check := range checks {
			if c := check(n.Value); c != nil {
				p.complain(n, path, *c)
				return n.Value, false
			}
		}
		return n.Value, true
	}}
}

// plain reads any scalar as it is written: numbers and booleans too.
func plain() codec[string] {
	return codec[string]{shape: shape{form: formScalar}, read: func(p *parser, n *yaml.Node, path string) (string, bool) {
		n, ok := p.scalar(n, path, "text", func(n *yaml.Node) bool { return n.ShortTag() != "!!null" }, nil)
		if !ok {
			return "", false
		}
		if strings.ContainsRune(n.Value, 0) {
			p.complain(n, path, complaint{"bad-value", "a value cannot hold a NUL character", "remove it"})
			return "", false
		}
		return n.Value, true
	}}
}

// oneOf reads a word of a closed list; refused words are known but not built.
func oneOf[T ~string](what string, words []T, refused ...refusal) codec[T] {
	var known []string
	for _, w := range words {
		known = append(known, string(w))
	}
	inner := text()
	return codec[T]{shape: shape{form: formText, enum: known, refused: refused}, read: func(p *parser, n *yaml.Node, path string) (T, bool) {
		s, ok := inner.read(p, n, path)
		if !ok {
			return T(s), false
		}
		if slices.Contains(known, s) {
			return T(s), true
		}
		if r, found := refusedWord(refused, s); found {
			p.refuse(p.valueAt(path), path, r)
			return T(s), false
		}
		p.at(p.valueAt(path), path, Error, "unknown-value", fmt.Sprintf("%q is not %s", clip(s), what), didYouMean(s, known))
		return T(s), false
	}}
}

func refusedWord(refused []refusal, s string) (refusal, bool) {
	for _, r := range refused {
		if strings.EqualFold(r.word, s) || strings.HasSuffix(r.word, "*") && strings.HasPrefix(s, strings.TrimSuffix(r.word, "*")) {
			return r, true
		}
	}
	return refusal{}, false
}

// boolean reads true or false, and nothing that merely looks like it.
func boolean() codec[bool] {
	return codec[bool]{shape: shape{form: formBoolean}, read: func(p *parser, n *yaml.Node, path string) (bool, bool) {
		n, ok := p.scalar(n, path, "true or false", func(n *yaml.Node) bool { return n.ShortTag() == "!!bool" },
			func(*yaml.Node) string { return "write true or false, without quotes" })
		if !ok {
			return false, false
		}
		return strings.EqualFold(n.Value, "true"), true
	}}
}

// integer reads a whole number of lo to hi.
func integer(lo, hi int) codec[int] {
	return codec[int]{shape: shape{form: formInteger, min: float64(lo), max: float64(hi)}, read: func(p *parser, n *yaml.Node, path string) (int, bool) {
		n, ok := p.scalar(n, path, "a whole number", func(n *yaml.Node) bool { return n.ShortTag() == "!!int" },
			func(*yaml.Node) string { return fmt.Sprintf("write a number of %d to %d, without quotes", lo, hi) })
		if !ok {
			return 0, false
		}
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil {
			p.report(n, path, "bad-number", fmt.Sprintf("%s is %s, which is not a plain decimal number", label(path), clip(n.Value)), fmt.Sprintf("write a number of %d to %d", lo, hi))
			return 0, false
		}
		if v < int64(lo) || v > int64(hi) {
			p.report(n, path, "out-of-range", fmt.Sprintf("%s is %d; it must be %d to %d", label(path), v, lo, hi), fmt.Sprintf("write a number of %d to %d", lo, hi))
			return int(max(int64(lo), min(v, int64(hi)))), false
		}
		return int(v), true
	}}
}

// number reads a finite number; bounds are checked as the shape says.
func number(bounds shape) codec[float64] {
	bounds.form = formNumber
	span := bounds.span()
	return codec[float64]{shape: bounds, read: func(p *parser, n *yaml.Node, path string) (float64, bool) {
		n, ok := p.scalar(n, path, "a number", func(n *yaml.Node) bool { return n.ShortTag() == "!!int" || n.ShortTag() == "!!float" },
			func(n *yaml.Node) string {
				if v, ok := strings.CutSuffix(n.Value, "%"); ok {
					return "percentages are written without a sign: " + clip(v)
				}
				return "write a number, without quotes or unit"
			})
		if !ok {
			return 0, false
		}
		v, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			p.report(n, path, "bad-number", fmt.Sprintf("%s is %s, which is not a finite decimal number", label(path), clip(n.Value)), "write a number "+span)
			return 0, false
		}
		if v < bounds.min || bounds.above && v == bounds.min || v > bounds.max || bounds.below && v == bounds.max {
			p.report(n, path, "out-of-range", fmt.Sprintf("%s is %s; it must be %s", label(path), clip(n.Value), span), "write a number "+span)
			return v, false
		}
		return v, true
	}}
}

// span says a number's bounds in words.
func (s shape) span() string {
	lo, hi := "at least ", "at most "
	if s.above {
		lo = "above "
	}
	if s.below {
		hi = "below "
	}
	format := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	var out []string
	if !math.IsInf(s.min, 0) {
		out = append(out, lo+format(s.min))
	}
	if !math.IsInf(s.max, 0) {
		out = append(out, hi+format(s.max))
	}
	return strings.Join(out, " and ")
}

// maxDuration bounds every duration: nothing in a release waits longer.
const maxDuration = 30 * 24 * time.Hour

// duration reads a Go duration of at least lo.
func duration(lo time.Duration) codec[time.Duration] {
	return codec[time.Duration]{shape: shape{form: formDuration, min: lo.Seconds(), max: maxDuration.Seconds()}, read: func(p *parser, n *yaml.Node, path string) (time.Duration, bool) {
		n, ok := p.open(n, path)
		if !ok {
			return 0, false
		}
		defer p.close()
		if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
			p.wrongType(n, path, "a duration", "write it as 90s, 2m or 1h30m")
			return 0, false
		}
		v, err := time.ParseDuration(n.Value)
		if err != nil {
			p.report(n, path, "bad-duration", fmt.Sprintf("%s is %q, which is not a duration", label(path), clip(n.Value)), durationMend(n.Value))
			return 0, false
		}
		if v < lo || v > maxDuration {
			p.report(n, path, "out-of-range", fmt.Sprintf("%s is %s; it must be %s to %s", label(path), clip(n.Value), Short(lo), Short(maxDuration)), "write a duration in that range")
			return 0, false
		}
		return v, true
	}}
}

// durationMend guesses what was meant.
func durationMend(s string) string {
	if _, err := strconv.ParseFloat(s, 64); err == nil && len(s) < 16 {
		return fmt.Sprintf("say the unit: %ss or %sm", s, s)
	}
	if d, ok := strings.CutSuffix(s, "d"); ok {
		if v, err := strconv.Atoi(d); err == nil && v > 0 && v < 1000 {
			return fmt.Sprintf("days are written in hours: %dh", 24*v)
		}
	}
	if f := strings.Fields(s); len(f) == 2 && len(f[1]) > 0 && len(s) < 32 {
		unit := map[byte]string{'s': "s", 'm': "m", 'h': "h"}[strings.ToLower(f[1])[0]]
		if _, err := strconv.Atoi(f[0]); err == nil && unit != "" {
			return "did you mean " + f[0] + unit + "?"
		}
	}
	return "durations are Go's: 90s, 2m, 1h30m"
}

// Short returns a duration without zero units: 15m, not 15m0s.
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// either reads by the form of the YAML: a scalar by one codec, anything else by
// the other.
func either[T any](scalar, other codec[T]) codec[T] {
	return codec[T]{shape: shape{form: formEither, either: []shape{scalar.shape, other.shape}}, read: func(p *parser, n *yaml.Node, path string) (T, bool) {
		if t := p.follow(n); t.Kind == yaml.ScalarNode && t.ShortTag() != "!!null" {
			return scalar.read(p, n, path)
		}
		return other.read(p, n, path)
	}}
}

// as changes what a codec gives.
func as[T, U any](c codec[T], change func(T) U) codec[U] {
	return codec[U]{shape: c.shape, read: func(p *parser, n *yaml.Node, path string) (U, bool) {
		v, ok := c.read(p, n, path)
		return change(v), ok
	}}
}

// also runs a check that needs the parser on a value that was read well.
func also[T any](c codec[T], check func(p *parser, path string, v T) bool) codec[T] {
	return codec[T]{shape: c.shape, read: func(p *parser, n *yaml.Node, path string) (T, bool) {
		v, ok := c.read(p, n, path)
		if ok {
			ok = check(p, path, v)
		}
		return v, ok
	}}
}

// besides runs a check on every mapping, also one with problems of its own, so
// that all of them are told at once.
func besides[T any](c codec[T], check func(p *parser, path string, v T) bool) codec[T] {
	return codec[T]{shape: c.shape, read: func(p *parser, n *yaml.Node, path string) (T, bool) {
		v, ok := c.read(p, n, path)
		if p.follow(n).Kind == yaml.MappingNode && !p.full() {
			ok = check(p, path, v) && ok
		}
		return v, ok
	}}
}

// described adds what only the schema and the reference use.
func described[T any](c codec[T], change func(*shape)) codec[T] {
	change(&c.shape)
	return c
}

// clip shortens what a message quotes.
func clip(s string) string {
	if end := offsetOf(s, 60); end < len(s) {
		return s[:end] + "…"
	}
	return s
}

// oneLine returns an error as a part of a message.
func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if end := offsetOf(s, 400); end < len(s) {
		return s[:end] + "…"
	}
	return s
}

func firstSentence(s string) string {
	before, _, _ := strings.Cut(s, ". ")
	if strings.ToLower(before[:2]) != strings.ToLower(before[:1])+before[1:2] {
		return strings.TrimSuffix(before, ".") // an abbreviation
	}
	return strings.ToLower(before[:1]) + strings.TrimSuffix(before[1:], ".")
}

// label names a path in a sentence.
func label(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}
