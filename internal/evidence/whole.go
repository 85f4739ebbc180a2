package evidence

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sluicehq/sluice/internal/release"
)

// completeness says what is here and what isn't, once all entries were read.
func (v *verifier) completeness() {
	c := v.report.Checkpoint
	if !v.whole {
		v.report.Completeness = fmt.Sprintf("%d entries about release %s: each is proved to be in the log, but not that the log holds no other about it; only a bundle of the whole log proves that",
			v.report.Statements, v.report.Scope.Release.Short())
		if v.report.Statements == 0 {
			v.find(KindMissing, "the bundle holds no entry about release %s", v.report.Scope.Release.Short())
		}
		return
	}
	if v.sealed && v.order.next < c.Size {
		v.order.gaps = append(v.order.gaps, gap{v.order.next, c.Size})
	}
	for _, g := range v.order.gaps {
		f := Finding{Kind: KindMissing, Index: int64(g.from), Message: "the entry is missing"}
		if g.to > g.from+1 {
			f.Message = fmt.Sprintf("the entries from %d to %d are missing", g.from, g.to-1)
		}
		v.report.add(f)
	}
	complete := v.sealed && v.tree.complete(c)
	switch {
	case complete && v.report.OK:
		v.report.Completeness = fmt.Sprintf("the whole log: all %d entries up to the checkpoint", c.Size)
	case complete:
		for _, i := range v.unproved {
			if i < len(v.report.Findings) {
				v.report.Findings[i].Message = "its inclusion proof was altered; the entry itself is what the log holds"
			}
		}
		v.report.Completeness = fmt.Sprintf("all %d entries up to the checkpoint, but not all is right with them", c.Size)
	default:
		v.report.Completeness = "not the whole log that it claims to be"
		if v.sealed && v.report.OK {
			v.find(KindAltered, "the entries don't make up the tree of the checkpoint")
		}
	}
	if v.opts.Release != "" && !v.mentioned {
		v.find(KindMissing, "no entry that is right is about release %s", v.opts.Release.Short())
	}
}

// relations refuses entries that a bundle of one release has no reason to hold.
func (v *verifier) relations() {
	for _, r := range v.pending {
		if v.about.about(r.subjects) { // its artifact was named by a later entry
			v.about.keeps(r.beside)
		}
	}
	for _, r := range v.pending {
		if v.about.about(r.subjects) || r.kind == TypeRedaction && v.about.redacts(r) {
			continue
		}
		v.report.add(Finding{Kind: KindForeign, Index: int64(r.index), Line: r.line, Type: r.kind, Subject: r.subjects[0].Name + "@" + r.subjects[0].Digest.Short(),
			Message: fmt.Sprintf("is not about release %s", v.about.id.Short())})
	}
	if !v.whole && v.report.Statements > 0 && v.about.artifacts == nil && v.report.OK {
		v.find(KindMissing, "no entry is about release %s itself", v.about.id.Short())
	}
}

// witnessed holds the log against the checkpoint that was kept from before.
func (v *verifier) witnessed() {
	m, c := v.opts.MinCheckpoint, v.report.Checkpoint
	if m == nil || !v.sealed {
		return
	}
	switch {
	case m.Origin != c.Origin:
		v.find(KindForeign, "the log is %.100q, the witnessed checkpoint is of %.100q", c.Origin, m.Origin)
	case c.Size < m.Size:
		v.find(KindTruncated, "the log was cut: it had %d entries when it was witnessed, and has %d", m.Size, c.Size)
	case c.Size == m.Size:
		if c.Root != m.Root {
			v.find(KindTruncated, "the log was replaced: with %d entries it had another root when it was witnessed", m.Size)
		}
	case v.tree.tree != nil && !v.tree.lost && v.tree.reached && v.tree.complete(c):
		if v.tree.witness != m.Root {
			v.find(KindTruncated, "the log was replaced: its first %d entries are not those that were witnessed", m.Size)
		}
	default:
		for _, p := range v.consists {
			if p.From != m.Size {
				continue
			}
			if p.Root != m.Root {
				v.find(KindTruncated, "the log was replaced: its first %d entries are not those that were witnessed", m.Size)
			}
			return
		}
		v.find(KindUnproven, "nothing here proves that the log continues the one witnessed with %d entries: export it with --witness %d", m.Size, m.Size)
	}
}

// payloads reads the payloads and holds them against their commitments.
func (v *verifier) payloads() error {
	s := section{l: v.lines, name: "payloads", end: "]}", limit: maxPayloadLine}
	if v.withOutputs {
		s.end, s.after = "],", `"outputs":[`
	}
	var last release.Digest
	err := v.each(s, func(e element) error {
		last = v.payload(e, last)
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range slices.SortedFunc(maps.Keys(v.promised), v.byIndex) {
		p := v.promised[d]
		if p.seen {
			continue
		}
		f := Finding{Index: int64(p.index), Type: p.typ, Subject: p.subject}
		r, erased := v.redacted[d]
		switch {
		case erased:
			v.report.Redacted++
			f.Kind, f.Message = KindRedacted, fmt.Sprintf("its %s was erased under rule %s (entry %d)", p.name, r.rule, r.index)
		case v.report.Scope.Payloads == PayloadsAll:
			f.Kind, f.Message = KindMissing, fmt.Sprintf("its %s is missing, and no redaction says why", p.name)
		default:
			v.report.Withheld++
			continue
		}
		v.report.add(f)
	}
	return nil
}

func (v *verifier) byIndex(a, b release.Digest) int {
	pa, pb := v.promised[a], v.promised[b]
	switch {
	case pa.index != pb.index:
		if pa.index < pb.index {
			return -1
		}
		return 1
	case a < b:
		return -1
	}
	return 1
}

// payload checks one payload and returns its digest.
func (v *verifier) payload(e element, last release.Digest) release.Digest {
	f := Finding{Kind: KindAltered, Index: -1, Line: e.line}
	var l payloadLine
	err := strict(e.data, &l)
	if err != nil {
		l.Digest = salvageDigest(e.data)
	}
	actual := release.DigestOf(l.Blob)
	p := v.promised[l.Digest]
	if p == nil {
		p = v.promised[actual] // then the digest beside it was altered
	}
	if p != nil {
		f.Index, f.Type, f.Subject = int64(p.index), p.typ, p.subject
		p.seen = true
	}
	switch {
	case err != nil:
		f.Message = "a payload: " + err.Error()
	case v.report.Scope.Payloads != PayloadsAll:
		f.Kind, f.Message = KindMalformed, "a payload in a bundle that says that it holds none"
	case actual != l.Digest && p != nil:
		f.Message = fmt.Sprintf("its %s was altered: the payload has digest %s, the entry commits to another", p.name, actual.Short())
	case actual != l.Digest:
		f.Message = fmt.Sprintf("a payload was altered: it says that it is %.12s and is %s", l.Digest.Hex(), actual.Short())
	case p == nil:
		f.Kind, f.Message = KindForeign, fmt.Sprintf("no entry that is right commits to the payload %s", actual.Short())
	case len(l.Blob) < SaltSize:
		f.Message = errors.Join(ErrInvalid, errors.New("payload is shorter than its salt")).Error()
	case l.Digest <= last:
		f.Kind, f.Message = KindReordered, "the payloads don't stand in the order of their digests"
	default:
		v.report.Payloads++
		if r, ok := v.redacted[l.Digest]; ok {
			f.Kind, f.Message = KindNote, fmt.Sprintf("its %s is here although it was to be erased under rule %s (entry %d)", p.name, r.rule, r.index)
			v.report.add(f)
		}
		return l.Digest
	}
	v.report.add(f)
	return max(last, l.Digest)
}
