package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/sluicehq/sluice/internal/release"
)

// How much of what checks left a bundle holds, in bytes. Newer outputs come
// first: what a bundle of a whole log has no room for, that of its release has.
const (
	MaxOutput  = 8 << 20  // of one
	MaxOutputs = 64 << 20 // of all
)

// maxOutputCount bounds how many a bundle holds: each is one more to fetch.
const maxOutputCount = 10_000

const maxOutputLine = MaxOutput/3*4 + 1<<10

// Output is a blob that a statement names by its digest: what a check was
// answered or printed, or the picture of a page. It has no salt, and stays
// beside the log, so that it can be erased by a [Redaction].
type Output struct {
	Name      string         `json:"name"` // output/CHECK, screenshot/CHECK
	Digest    release.Digest `json:"digest"`
	MediaType string         `json:"mediaType,omitempty"`
}

// Outputs returns the outputs that the statement names. Extension fields of
// somebody else's form name none.
func (s Statement) Outputs() []Output {
	if s.PredicateType != TypeTestResult {
		return nil
	}
	var p struct {
		Byproducts []Resource `json:"sluice_byproducts"`
	}
	if json.Unmarshal(s.Predicate, &p) != nil {
		return nil
	}
	var out []Output
	for _, r := range p.Byproducts {
		if d, err := release.ParseDigest("sha256:" + r.Digest["sha256"]); err == nil {
			out = append(out, Output{Name: r.Name, Digest: d, MediaType: r.MediaType})
		}
	}
	return out
}

// beside returns the digests of what is kept beside the log.
func beside(cs []Commitment, outputs []Output) []release.Digest {
	out := make([]release.Digest, 0, len(cs)+len(outputs))
	for _, c := range cs {
		out = append(out, c.Digest)
	}
	for _, o := range outputs {
		out = append(out, o.Digest)
	}
	return out
}

// Left says why a bundle lacks an output. Empty: it does not.
type Left string

// Why an output is left out.
const (
	LeftLarge   Left = "large"   // it has more than MaxOutput
	LeftFull    Left = "full"    // newer ones filled MaxOutputs, or are too many
	LeftAbsent  Left = "absent"  // whoever exported did not have it
	LeftAltered Left = "altered" // where it is kept it is not what the digest names
)

// outputLine is an output, or why it is left out. Neither is an empty output.
type outputLine struct {
	Blob   []byte         `json:"blob,omitempty"`
	Digest release.Digest `json:"digest"`
	Left   Left           `json:"left,omitempty"`
}

// output is an output of at most limit bytes, or why it is left out.
func output(e Export, d release.Digest, limit int) ([]byte, Left, error) {
	content, left, err := e.Output(d, limit)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("output %s: %w", d, err)
	case left == LeftLarge && limit < MaxOutput:
		return nil, LeftFull, nil
	case left == "" && (len(content) > limit || release.DigestOf(content) != d):
		return nil, LeftAltered, nil
	case left != "":
		return nil, left, nil
	}
	return content, "", nil
}

// outputs writes the section of outputs, the newest first. Of one that was to be erased
// there is no line, wherever its bytes may still be. Once there is no room no older one
// is even opened.
func (b *bundleWriter) outputs(e Export, held beyond) error {
	written := map[release.Digest]bool{}
	room, count, full := MaxOutputs, 0, false
	for _, d := range slices.Backward(held.outputs) {
		if written[d] || held.erased[d] {
			continue
		}
		written[d] = true
		var content []byte
		left := LeftFull
		if !full {
			var err error
			if content, left, err = output(e, d, min(MaxOutput, room)); err != nil {
				return err
			}
		}
		if left == "" {
			room, count = room-len(content), count+1
		}
		full = full || left == LeftFull || count == maxOutputCount
		if b.line(outputLine{Blob: content, Digest: d, Left: left}); b.err != nil {
			return b.err
		}
	}
	return nil
}

// Place is an output that an entry names.
type Place struct {
	Index uint64
	Output
}

// named is an output, and the entries that name it.
type named struct {
	promise
	places []Place
	order  int // among all that entries name; the newest naming counts
}

// names learns of the outputs of an entry that is right.
func (v *verifier) names(c checked) {
	for _, o := range c.outputs {
		v.namings++
		n := v.named[o.Digest]
		if n == nil {
			n = &named{}
			v.named[o.Digest] = n
		}
		n.promise = promise{index: c.index, name: o.Name, typ: c.st.PredicateType, subject: name(c.st)}
		n.places, n.order = append(n.places, Place{c.index, o}), v.namings
	}
}

// outputs reads the outputs and holds them against the digests that entries name.
func (v *verifier) outputs() error {
	if v.withOutputs {
		s := section{l: v.lines, name: "outputs", end: "]}", limit: maxOutputLine}
		last := v.namings + 1
		err := v.each(s, func(e element) (err error) {
			last, err = v.output(e, last)
			return err
		})
		if err != nil {
			return err
		}
	}
	if v.full > 0 {
		v.find(KindNote, "outputs left out for room: %d; newer ones filled the %d MiB, or are the %d, that a bundle holds of them, and the bundle of one release holds its own", v.full, MaxOutputs>>20, maxOutputCount)
	}
	for _, n := range slices.SortedFunc(maps.Values(v.named), func(a, b *named) int { return a.order - b.order }) {
		f := Finding{Index: int64(n.index), Type: n.typ, Subject: n.subject}
		r, erased := v.redacted[n.places[0].Digest]
		switch {
		case n.seen:
			continue
		case erased:
			v.report.Redacted++
			f.Kind, f.Message = KindRedacted, fmt.Sprintf("its %s was erased under rule %s (entry %d)", n.name, r.rule, r.index)
		case v.withOutputs:
			f.Kind, f.Message = KindMissing, fmt.Sprintf("its %s is missing, and the bundle doesn't say that it was left out", n.name)
		default:
			v.report.OutputsLeft++
			continue
		}
		v.report.add(f)
	}
	return nil
}

// output checks one output. It returns its place in the order of namings, which
// must fall.
func (v *verifier) output(e element, last int) (int, error) {
	f := Finding{Kind: KindAltered, Index: -1, Line: e.line}
	var l outputLine
	err := strict(e.data, &l)
	if err != nil {
		l.Digest = salvageDigest(e.data)
	}
	actual := release.DigestOf(l.Blob)
	n := v.named[l.Digest]
	if n == nil && len(l.Blob) > 0 {
		n = v.named[actual] // then the digest beside it was altered
	}
	if n != nil {
		f.Index, f.Type, f.Subject = int64(n.index), n.typ, n.subject
	}
	r, erased := v.redacted[l.Digest]
	switch {
	case err != nil && n != nil:
		f.Message = fmt.Sprintf("its %s was altered: %v", n.name, err)
	case err != nil:
		f.Message = "an output: " + err.Error()
	case n == nil:
		f.Kind, f.Message = KindForeign, fmt.Sprintf("no entry that is right names the output %s", l.Digest.Short())
	case l.Left == "" && actual != l.Digest:
		f.Message = fmt.Sprintf("its %s was altered: what is here has digest %s, the entry names another", n.name, actual.Short())
	case n.order >= last:
		f.Kind, f.Message = KindReordered, fmt.Sprintf("its %s doesn't stand in the order of the entries, the newest first", n.name)
	case l.Left == "":
		v.report.Outputs++
		if n.seen, last = true, n.order; erased {
			f.Kind, f.Message = KindNote, fmt.Sprintf("its %s is here although it was to be erased under rule %s (entry %d)", n.name, r.rule, r.index)
			v.report.add(f)
		}
		return last, v.hand(n, l.Blob)
	case l.Left == LeftAbsent && erased:
		f.Kind, f.Message = KindMalformed, fmt.Sprintf("its %s was erased under rule %s (entry %d), so that no line stands for it", n.name, r.rule, r.index)
	default:
		n.seen, last = true, n.order
		v.left(f, n, l)
		return last, nil
	}
	if n != nil {
		n.seen = true
	}
	v.report.add(f)
	return last, nil
}

// left reports an output that the bundle says is left out.
func (v *verifier) left(f Finding, n *named, l outputLine) {
	v.report.OutputsLeft++
	f.Kind = KindNote
	switch {
	case len(l.Blob) > 0:
		f.Kind, f.Message = KindMalformed, fmt.Sprintf("its %s is here, and the bundle says that it is left out", n.name)
	case l.Left == LeftFull:
		v.full++
		return
	case l.Left == LeftLarge:
		f.Message = fmt.Sprintf("its %s is left out: it has more than the %d MiB that a bundle holds of one", n.name, MaxOutput>>20)
	case l.Left == LeftAbsent:
		f.Message = fmt.Sprintf("its %s is left out: the control plane that exported the bundle didn't have it; another one may", n.name)
	case l.Left == LeftAltered:
		f.Kind, f.Message = KindAltered, fmt.Sprintf("its %s was altered where the control plane keeps it, which left it out", n.name)
	default:
		f.Kind, f.Message = KindMalformed, fmt.Sprintf("its %s is left out for a reason that this build doesn't know: %.40q", n.name, string(l.Left))
	}
	v.report.add(f)
}

// hand gives an output that is right to whoever asked for it.
func (v *verifier) hand(n *named, content []byte) error {
	if v.opts.Output == nil {
		return nil
	}
	for _, p := range n.places {
		if err := v.opts.Output(p, content); err != nil {
			return err
		}
	}
	return nil
}

// salvageDigest returns the digest of a line that can't be read as a whole.
func salvageDigest(line []byte) release.Digest {
	const key = `"digest":"`
	i := bytes.LastIndex(line, []byte(key))
	if i < 0 {
		return ""
	}
	text, _, _ := bytes.Cut(line[i+len(key):], []byte(`"`))
	d, err := release.ParseDigest(string(text))
	if err != nil {
		return ""
	}
	return d
}
