package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/transparency-dev/merkle/compact"
)

// checked is what one entry, looked at alone, came to.
type checked struct {
	indexed    bool // index could be read
	index      uint64
	leaf       Hash
	st         Statement
	commits    []Commitment
	outputs    []Output
	redaction  *Redaction
	signature  error // nil: signed by a key that may
	inclusion  error // nil: the log of the checkpoint holds it at index
	unreadable error
}

// entry verifies one line. It changes nothing, so that many run at once.
func (v *verifier) entry(line []byte) checked {
	var c checked
	var e entryLine
	if err := json.Unmarshal(line, &e); err != nil {
		c.unreadable = fmt.Errorf("can't be read: %w", err)
		c.index, c.indexed = salvageIndex(line)
		if st, err := ParseStatement(e.Envelope.Payload); err == nil {
			c.st = st // to name it, no more
		}
		return c
	}
	c.indexed, c.index = true, e.Index
	envelope, err := e.Envelope.Canonical()
	if err != nil {
		c.unreadable = err
		return c
	}
	c.leaf = LeafHash(envelope)
	c.st, c.signature = v.keys.verify(e.Envelope)
	if !bytes.Equal(line, e.append(nil, envelope)) {
		c.unreadable = errors.New("is not in canonical form")
		return c
	}
	if c.signature == nil && !v.trusts(e.Envelope.Signatures[0].KeyID) {
		c.signature = fmt.Errorf("%w: %.12s… is not among the keys that were passed", ErrUnknownKey, e.Envelope.Signatures[0].KeyID)
	}
	c.inclusion = v.report.Checkpoint.VerifyInclusion(e.Index, c.leaf, e.Proof)
	if c.signature != nil {
		return c
	}
	if c.commits, err = c.st.Commitments(); err != nil {
		c.unreadable = err
		return c
	}
	if err := checkPayloads(c.commits); err != nil {
		c.unreadable = err
		return c
	}
	c.outputs = c.st.Outputs()
	if c.st.PredicateType == TypeRedaction {
		r, err := Decode[Redaction](c.st)
		if err != nil {
			c.unreadable = err
			return c
		}
		c.redaction = &r
	}
	return c
}

// salvageIndex returns the index of a line that can't be read as a whole.
func salvageIndex(line []byte) (uint64, bool) {
	_, rest, ok := bytes.Cut(line, []byte(`,"index":`))
	if !ok {
		return 0, false
	}
	digits, _, _ := bytes.Cut(rest, []byte(","))
	n, err := strconv.ParseUint(string(digits), 10, 63)
	return n, err == nil
}

// append appends the entry's canonical line.
func (e entryLine) append(b, envelope []byte) []byte {
	b = append(b, `{"envelope":`...)
	b = append(b, envelope...)
	b = append(b, `,"index":`...)
	b = strconv.AppendUint(b, e.Index, 10)
	b = append(b, `,"proof":[`...)
	for i, h := range e.Proof {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, h.String()...)
		b = append(b, '"')
	}
	return append(b, `]}`...)
}

// fold takes one entry after the other, in the file's order.
func (v *verifier) fold(el element, c checked) {
	v.layout(el)
	if el.data == nil {
		return
	}
	v.report.Statements++
	f := Finding{Index: -1, Line: el.line, Type: c.st.PredicateType, Subject: name(c.st)}
	if c.unreadable != nil {
		f.Kind, f.Message = KindAltered, c.unreadable.Error()
		f.Index = v.order.guess(v.whole, c)
		if v.whole {
			v.tree.lose()
		}
		v.report.add(f)
		return
	}
	included := c.inclusion == nil
	if v.whole && !included && v.sealed && c.index != v.order.next {
		// Whatever index it claims, it stands where another one belongs.
		f.Index, f.Kind = int64(v.order.next), KindAltered
		f.Message = fmt.Sprintf("stands in the place of entry %d, says that it is entry %d, and the log holds it at neither", v.order.next, c.index)
		v.order.next++
		v.tree.lose()
		v.report.add(f)
		return
	}
	f.Index = int64(c.index)
	switch v.order.place(v.whole, c.index) {
	case placeDuplicate:
		f.Kind, f.Message = KindDuplicate, "stands in the bundle twice"
		v.report.add(f)
		return
	case placeLate:
		v.report.add(Finding{Kind: KindReordered, Index: f.Index, Line: el.line, Type: f.Type, Subject: f.Subject, Message: "stands after later entries"})
		v.tree.lose()
	case placeGap:
		v.tree.lose()
	}
	if v.whole {
		v.tree.append(c.leaf)
	}
	good := v.judge(f, c)
	if !good {
		return
	}
	if v.sealed {
		v.report.Verified++
	}
	v.accept(el, c)
}

// judge reports what is wrong with an entry that could be read.
func (v *verifier) judge(f Finding, c checked) bool {
	included := c.inclusion == nil || !v.sealed // an unsealed checkpoint has its own finding
	project := v.report.Checkpoint.Project()
	switch {
	case errors.Is(c.signature, ErrUnknownKey) && included:
		f.Kind, f.Message = KindUntrusted, c.signature.Error()
	case errors.Is(c.signature, ErrWrongPurpose) && included:
		f.Kind, f.Message = KindPurpose, c.signature.Error()
	case c.signature != nil && !included:
		f.Kind, f.Message = KindAltered, "the entry was altered: it is not what the log holds, and "+c.signature.Error()
	case c.signature != nil && v.sealed:
		f.Kind, f.Message = KindAltered, "the log holds it, but "+c.signature.Error()
	case c.signature != nil:
		f.Kind, f.Message = KindAltered, c.signature.Error()
	case c.st.Project() != project:
		f.Kind = KindForeign
		f.Message = fmt.Sprintf("the statement is of project %.80q, the log of %.80q", c.st.Project(), project)
		if !included {
			f.Message += ", which doesn't hold it"
		}
	case !included && c.index >= v.report.Checkpoint.Size:
		f.Kind = KindTruncated
		f.Message = fmt.Sprintf("the checkpoint has only %d entries: the log was cut, or the index altered", v.report.Checkpoint.Size)
	case !included:
		f.Kind = KindAltered
		f.Message = "it is signed, but is not what the log holds at this index: another entry was put here, or its index or proof was altered"
		v.unproved = append(v.unproved, len(v.report.Findings))
	default:
		return true
	}
	v.report.add(f)
	return false
}

// accept learns from an entry that is signed and in the log.
func (v *verifier) accept(el element, c checked) {
	for _, p := range c.commits {
		if v.promised[p.Digest] == nil {
			v.promised[p.Digest] = &promise{index: c.index, name: p.Name, typ: c.st.PredicateType, subject: name(c.st)}
		}
	}
	v.names(c)
	if c.redaction != nil && c.st.Has(c.redaction.Payload) {
		v.redacted[c.redaction.Payload] = redacted{index: c.index, rule: c.redaction.Rule}
	}
	if v.opts.Release != "" && c.st.Has(v.opts.Release) {
		v.mentioned = true
	}
	if v.whole {
		return
	}
	v.about.learn(c.st)
	if !v.about.direct(c.st) {
		v.pending = append(v.pending, related{line: el.line, index: c.index, kind: c.st.PredicateType, subjects: c.st.Subject, beside: beside(c.commits, c.outputs)})
		return
	}
	v.about.keeps(beside(c.commits, c.outputs))
}

func name(st Statement) string {
	if len(st.Subject) == 0 {
		return ""
	}
	return st.Subject[0].Name + "@" + st.Subject[0].Digest.Short()
}

// Places of an entry in the bundle's order.
const (
	placeNext      = iota
	placeGap       // entries before it are missing, or come late
	placeLate      // it fills a gap
	placeDuplicate // it was here already
)

// maxGaps bounds how much of a bundle's disorder is followed.
const maxGaps = 4096

// order follows the indexes of the entries.
type order struct {
	next uint64          // the index after the highest
	gaps []gap           // of a whole log: what is missing so far
	seen map[uint64]bool // of a selection
}

type gap struct{ from, to uint64 } // to is not in it

func (o *order) place(whole bool, index uint64) int {
	if !whole {
		if o.seen == nil {
			o.seen = map[uint64]bool{}
		}
		defer func() { o.seen[index], o.next = true, max(o.next, index+1) }()
		switch {
		case o.seen[index]:
			return placeDuplicate
		case index < o.next:
			return placeLate
		}
		return placeNext
	}
	switch {
	case index == o.next:
		o.next++
		return placeNext
	case index > o.next:
		o.gaps = append(o.gaps, gap{o.next, index})
		o.next = index + 1
		return placeGap
	}
	for i, g := range o.gaps {
		if index < g.from || index >= g.to {
			continue
		}
		var split []gap
		if g.from < index {
			split = append(split, gap{g.from, index})
		}
		if index+1 < g.to {
			split = append(split, gap{index + 1, g.to})
		}
		o.gaps = slices.Replace(o.gaps, i, i+1, split...)
		return placeLate
	}
	return placeDuplicate
}

// guess returns the index of an entry that can't be believed.
func (o *order) guess(whole bool, c checked) int64 {
	if whole {
		o.next++
		return int64(o.next - 1)
	}
	if c.indexed {
		o.place(whole, c.index)
		return int64(c.index)
	}
	return -1
}

// rebuilt is the tree as the entries of a whole log make it.
type rebuilt struct {
	tree    *compact.Range
	lost    bool  // an entry is missing or unreadable: there is no tree
	atSize  int64 // the witnessed size; -1: none
	witness Hash
	reached bool
}

func (t *rebuilt) start(witnessed *Checkpoint) {
	t.tree, t.atSize = factory.NewEmptyRange(0), -1
	if witnessed != nil {
		t.atSize = int64(witnessed.Size)
	}
	t.mark()
}

func (t *rebuilt) lose() { t.lost = true }

func (t *rebuilt) append(leaf Hash) {
	if t.lost {
		return
	}
	if err := t.tree.Append(leaf[:], nil); err != nil {
		t.lost = true
		return
	}
	t.mark()
}

// mark keeps the root at the witnessed size.
func (t *rebuilt) mark() {
	if int64(t.tree.End()) == t.atSize {
		t.witness, t.reached = t.root(), true
	}
}

func (t *rebuilt) root() Hash {
	root, err := t.tree.GetRootHash(nil)
	if err != nil || root == nil {
		return EmptyRoot()
	}
	return Hash(root)
}

// complete reports whether the entries make up the checkpoint's tree.
func (t *rebuilt) complete(c Checkpoint) bool {
	return t.tree != nil && !t.lost && t.tree.End() == c.Size && t.root() == c.Root
}
