package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Bounds of what is read.
const (
	maxBytes    = 1 << 20
	maxDepth    = 64
	maxValues   = 50_000
	maxProblems = 500
	maxItems    = 500
)

// Option changes what Parse checks.
type Option func(*parser)

// WithGateCheck has every CEL gate's expression checked. An error becomes a
// problem at the expression.
func WithGateCheck(check func(expr string) error) Option {
	return func(p *parser) { p.checkGate = check }
}

// WithQueryCheck has every PromQL query of the analysis checked. Queries still
// hold $revision and its like.
func WithQueryCheck(check func(query string) error) Option {
	return func(p *parser) { p.checkQuery = check }
}

// Parse reads a sluice.yaml. file is only a name for messages. The definition is
// to be used only when the problems have no error; it is then complete. Warnings
// and notes of [Lint] are among the problems.
func Parse(file string, src []byte, opts ...Option) (Definition, Problems) {
	p := &parser{file: file, positions: Positions{}, homes: sync.OnceValue(keyHomes), bad: map[string]bool{}, seen: map[Problem]bool{}}
	for _, o := range opts {
		o(p)
	}
	root := p.load(src)
	if root == nil {
		return Definition{}, p.finish()
	}
	def, _ := model.read(p, root, "")
	if !p.full() {
		p.complete(&def)
		p.check(&def)
		for _, w := range Lint(def, p.positions) {
			if p.worthTelling(w) {
				p.at(Position{w.Line, w.Column}, w.Path, w.Severity, w.Rule, w.Message, w.Mend)
			}
		}
	}
	return def, p.finish()
}

// Position is a place in a file; both count from 1, columns in characters.
type Position struct{ Line, Column int }

// place is where a path's key and value stand, and the lines that a block of
// text takes.
type place struct {
	key, value Position
	literal    bool // a block of text whose lines are the file's
	indent     int  // of its lines, in characters
}

// Positions tells where the elements of a definition stand, by path, such as
// environments[0].target.listen.
type Positions map[string]place

// Value returns where the value at path stands, or else that of the nearest
// element that holds it.
func (ps Positions) Value(path string) Position {
	for {
		if at, ok := ps[path]; ok {
			return at.value
		}
		if path == "" {
			return Position{1, 1}
		}
		path = parent(path)
	}
}

// Key returns where the key of path stands, as Value.
func (ps Positions) Key(path string) Position {
	for {
		if at, ok := ps[path]; ok {
			return at.key
		}
		if path == "" {
			return Position{1, 1}
		}
		path = parent(path)
	}
}

// Has reports whether the file says something at path itself.
func (ps Positions) Has(path string) bool {
	_, ok := ps[path]
	return ok
}

func parent(path string) string {
	i := strings.LastIndexAny(path, ".[")
	if i < 0 {
		return ""
	}
	return path[:i]
}

// parser reads one file. It never stops at a problem, only at too many.
type parser struct {
	file       string
	lines      []string
	widths     []int // of the lines, in characters
	checkGate  func(string) error
	checkQuery func(string) error
	checkReady func(Check) error
	platform   *Platform                  // whose standards services may name; nil: none is known
	decided    map[string]bool            // paths that a standard decided
	homes      func() map[string][]string // objects that have a key

	positions Positions
	bad       map[string]bool // paths with an error, and what holds them
	problems  Problems
	seen      map[Problem]bool
	errors    int
	stopped   bool // by a bound; the rest was not read
	dropped   bool // problems, because there were too many
	values    int
	depth     int
}

// load screens the bytes and returns the root of the only document, or nil.
func (p *parser) load(src []byte) *yaml.Node {
	start := Position{1, 1}
	if len(src) > maxBytes {
		p.lines, p.widths = []string{""}, []int{0}
		p.at(start, "", Error, "too-large", fmt.Sprintf("the file has %d bytes; at most %d are read", len(src), maxBytes), "a definition is a page or two; move what it embeds into the repository")
		return nil
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	p.lines = splitLines(src)
	p.widths = each(p.lines, utf8.RuneCountInString)
	if !p.screen(src) {
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(src), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthFunc(func(depth int, _ *yaml.DepthContext) error {
		if depth > maxDepth {
			return errTooDeep
		}
		return nil
	}))))
	if err != nil {
		p.at(start, "", Error, "syntax", "the YAML reader refused its own options: "+err.Error(), "report this as a bug")
		return nil
	}
	var doc, next yaml.Node
	if err := loader.Load(&doc); err != nil && !errors.Is(err, io.EOF) {
		p.syntax(err)
		return nil
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].ShortTag() == "!!null" {
		p.at(start, "", Error, "empty", "the file says nothing", "begin with version: 1, or have `sluice init` write one")
		return nil
	}
	switch err := loader.Load(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		p.syntax(err)
	default:
		at := Position{next.Line, next.Column}
		if len(next.Content) > 0 {
			at = Position{next.Content[0].Line, next.Content[0].Column}
		}
		p.at(at, "", Error, "second-document", "the file holds a second YAML document", "keep one service per file; remove the line --- and what follows, or merge it")
	}
	p.positions[""] = place{key: start, value: start}
	return doc.Content[0]
}

var errTooDeep = errors.New("the file is nested too deeply")

// screen reports bytes that must not be in a definition, by position.
func (p *parser) screen(src []byte) bool {
	line, col := 1, 1
	for i := 0; i < len(src); {
		r, size := utf8.DecodeRune(src[i:])
		var c *complaint
		switch {
		case r == utf8.RuneError && size == 1:
			c = &complaint{"encoding", fmt.Sprintf("byte 0x%02x is not UTF-8", src[i]), "save the file as UTF-8"}
		case hidden(r):
			c = &complaint{"hidden-character", fmt.Sprintf("character U+%04X hides what the file says", r), "remove it; it changes how editors show the line"}
		case unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t':
			c = &complaint{"hidden-character", fmt.Sprintf("control character U+%04X", r), "remove it"}
		}
		if c != nil {
			p.at(Position{line, col}, "", Error, c.rule, c.message, c.mend)
			return false
		}
		i += size
		if r == '\n' || r == '\r' && (i >= len(src) || src[i] != '\n') {
			line, col = line+1, 1
		} else if r != '\r' {
			col++
		}
	}
	return true
}

// syntax reports what the YAML reader stumbled over. It stops at the first.
func (p *parser) syntax(err error) {
	at, message := Position{1, 1}, err.Error()
	var le *yaml.LoadError
	if errors.As(err, &le) {
		message = le.Message
		mark := le.Mark
		if mark.Line == 0 {
			mark = le.ContextMark
		}
		if mark.Line > 0 {
			at = Position{mark.Line, mark.Column}
		}
		if le.ContextMsg != "" && !strings.Contains(message, le.ContextMsg) {
			message += " (" + le.ContextMsg + " that begins on line " + strconv.Itoa(max(1, le.ContextMark.Line)) + ")"
		}
	}
	if errors.Is(err, errTooDeep) || strings.Contains(message, errTooDeep.Error()) {
		p.at(at, "", Error, "too-deep", fmt.Sprintf("the file is nested more than %d levels deep", maxDepth), "a definition needs about eight")
		return
	}
	mend := "mend the YAML here; problems after this place are found on the next try"
	switch {
	case strings.Contains(message, "tab character"), at.Line <= len(p.lines) && strings.HasPrefix(p.lines[at.Line-1], "\t"):
		mend = "indent with spaces; YAML does not allow tabs there"
	case strings.Contains(message, "mapping values are not allowed"):
		mend = "put the value in quotes when it holds a colon and a space, or check the indentation"
	case strings.Contains(message, "unknown anchor"):
		mend = "put a value that begins with * in quotes, or define the anchor with & before"
	}
	p.at(at, "", Error, "syntax", "not YAML: "+message, mend)
}

// open follows aliases, counts the value against the bounds and goes one level
// down; each true is followed by close.
func (p *parser) open(n *yaml.Node, path string) (*yaml.Node, bool) {
	p.values++
	if p.values > maxValues || p.depth >= maxDepth {
		if p.values == maxValues+1 || p.depth >= maxDepth {
			p.report(n, path, "too-large", fmt.Sprintf("the file has more than %d values after its aliases are followed", maxValues), "write the values out where they are needed")
		}
		p.stopped = true
		return n, false
	}
	n = p.follow(n)
	if n.Style&yaml.TaggedStyle != 0 {
		p.report(n, path, "tag", fmt.Sprintf("YAML tag %s is not allowed", clip(n.Tag)), "remove the tag; put the value in quotes where text is meant")
		return n, false
	}
	p.depth++
	return n, true
}

func (p *parser) close() { p.depth-- }

// follow returns what an alias stands for.
func (p *parser) follow(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && n.Alias != nil && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

// scalar opens a scalar that accept takes.
func (p *parser) scalar(n *yaml.Node, path, want string, accept func(*yaml.Node) bool, mend func(*yaml.Node) string) (*yaml.Node, bool) {
	n, ok := p.open(n, path)
	if !ok {
		return n, false
	}
	p.close()
	if n.Kind != yaml.ScalarNode || !accept(n) {
		advice := ""
		if mend != nil && n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
			advice = mend(n)
		}
		p.wrongType(n, path, want, advice)
		return n, false
	}
	return n, true
}

// pairs calls visit for the keys of a mapping, in order, and reports doubled ones.
func (p *parser) pairs(n *yaml.Node, path string, visit func(k *yaml.Node, child string, v *yaml.Node)) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content) && !p.full(); i += 2 {
		k, v := p.follow(n.Content[i]), n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode:
			p.report(n.Content[i], path, "wrong-type", "a key must be plain text", "write key: value")
			continue
		case k.ShortTag() == "!!merge":
			p.report(n.Content[i], path, "merge-key", "merge keys (<<) are not part of YAML 1.2", "write the keys out, or use an alias for a whole value")
			continue
		}
		child := pathWord(k.Value)
		if path != "" {
			child = path + "." + child
		}
		if line, twice := first[k.Value]; twice {
			p.report(n.Content[i], child, "duplicate-key", fmt.Sprintf("key %q is here a second time; the first is on line %d", clip(k.Value), line), "remove one of them")
			continue
		}
		first[k.Value] = n.Content[i].Line
		p.mark(child, n.Content[i], v)
		visit(n.Content[i], child, v)
	}
}

// pathWord returns a key as part of a path. A path is taken apart at its dots
// and brackets, so that a key must not bring its own, nor be without end.
func pathWord(key string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '[' || r == ']' {
			return '_'
		}
		return r
	}, clip(key))
}

// mark remembers where a path stands.
func (p *parser) mark(path string, k, v *yaml.Node) {
	if p.values > maxValues {
		return
	}
	at := place{key: Position{k.Line, k.Column}, value: Position{v.Line, v.Column}, literal: v.Style&yaml.LiteralStyle != 0}
	if at.literal && v.Line < len(p.lines) {
		line := p.lines[v.Line]
		at.indent = len(line) - len(strings.TrimLeft(line, " "))
	}
	p.positions[path] = at
}

func (p *parser) keyAt(path string) Position   { return p.positions.Key(path) }
func (p *parser) valueAt(path string) Position { return p.positions.Value(path) }

// full reports whether so much is wrong that reading on helps nobody.
func (p *parser) full() bool { return p.stopped || p.errors >= maxProblems }

// report adds an error at a node.
func (p *parser) report(n *yaml.Node, path, rule, message, mend string) {
	p.at(Position{n.Line, n.Column}, path, Error, rule, message, mend)
}

// at adds a problem, once, and within the file.
func (p *parser) at(pos Position, path string, s Severity, rule, message, mend string) {
	line := max(1, min(pos.Line, len(p.lines)))
	column := 1
	if line == pos.Line {
		column = max(1, min(pos.Column, p.widths[line-1]+1))
	}
	problem := Problem{File: p.file, Line: line, Column: column, Severity: s, Rule: rule, Path: path, Message: message, Mend: mend}
	key := problem
	key.Path = "" // a value under an alias has several paths, and one problem
	if s == Error {
		for q := path; ; q = parent(q) {
			p.bad[q] = true
			if q == "" {
				break
			}
		}
	}
	if p.seen[key] {
		return
	}
	if len(p.problems) >= maxProblems {
		p.dropped = true
		return
	}
	p.seen[key] = true
	p.problems = append(p.problems, problem)
	if s == Error {
		p.errors++
	}
}

// isBad reports whether an error stands at path or below it, so that what
// follows from it is not reported too.
func (p *parser) isBad(path string) bool { return path != "" && p.bad[path] }

// worthTelling reports whether a warning can be true beside the errors: one
// about a step whose errors are still to be mended often is not, nor one about
// environments while their path is broken. What a command line says stays.
func (p *parser) worthTelling(w Problem) bool {
	if p.isBad(w.Path) {
		return false
	}
	if slices.ContainsFunc(commandRules, func(r commandRule) bool { return r.rule == w.Rule }) {
		return true
	}
	if strings.HasPrefix(w.Path, "environments") {
		return !p.isBad("environments")
	}
	element, _, _ := strings.Cut(w.Path, "]")
	return !p.isBad(element + "]")
}

func (p *parser) complain(n *yaml.Node, path string, c complaint) {
	p.report(n, path, c.rule, c.message, c.mend)
}

func (p *parser) refuse(at Position, path string, r refusal) {
	p.at(at, path, Error, "not-yet", fmt.Sprintf("%s: %s", label(path), r.message()), r.nearest)
}

func (p *parser) wrongType(n *yaml.Node, path, want, mend string) {
	if mend == "" {
		mend = "write " + want + " here"
	}
	found := "nothing"
	switch t := p.follow(n); t.Kind {
	case yaml.MappingNode:
		found = "a mapping"
	case yaml.SequenceNode:
		found = "a list"
	case yaml.ScalarNode:
		switch t.ShortTag() {
		case "!!null":
			mend = "give it a value, or remove the key"
		case "!!int", "!!float":
			found = "the number " + clip(t.Value)
		case "!!bool":
			found = "the boolean " + clip(t.Value)
		default:
			found = fmt.Sprintf("the text %q", clip(t.Value))
		}
	}
	p.report(n, path, "wrong-type", fmt.Sprintf("%s is %s; it must be %s", label(path), found, want), mend)
}

// unknownKey reports a key that its object does not have, and returns the one
// that was probably meant, or "".
func (p *parser) unknownKey(k *yaml.Node, path, child string, known []string) string {
	meant := nearest(k.Value, known)
	mend := "did you mean " + meant + "?"
	if meant == "" {
		sorted := slices.Sorted(slices.Values(known))
		mend = label(path) + " takes " + listing(sorted, "and")
		homes := p.homes()
		word := k.Value
		if homes[word] == nil {
			word = nearest(k.Value, slices.Sorted(maps.Keys(homes)))
		}
		if at := homes[word]; len(at) > 0 {
			mend = word + " belongs to " + listing(at, "or")
		}
	}
	p.report(k, child, "unknown-key", fmt.Sprintf("unknown key %q in %s", clip(k.Value), label(path)), mend)
	return meant
}

// finish sorts the problems.
func (p *parser) finish() Problems {
	if p.dropped || p.errors >= maxProblems {
		severity := Warning
		if p.errors > 0 {
			severity = Error
		}
		p.problems = append(p.problems, Problem{File: p.file, Line: len(p.lines), Column: 1, Severity: severity, Rule: "too-many",
			Message: "there are more problems than these", Mend: "mend these first"})
	}
	p.problems.sort()
	if p.problems == nil {
		p.problems = Problems{}
	}
	return p.problems
}
