package evidence

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"

	"github.com/sluicehq/sluice/internal/release"
)

// The bundle's format. A bundle is one JSON document with a fixed layout: each
// entry, key, proof and payload is the canonical JSON of one line. There is one
// sequence of bytes for a content, it can be read line by line in bounded
// memory, and `jq`, `grep` and `diff` work on it.
//
//	{"format":"https://sluice.dev/evidence-bundle/v1",
//	"scope":{…},
//	"keys":[
//	{…},
//	{…}
//	],
//	"checkpoint":"…",
//	"consistency":[
//	],
//	"entries":[
//	{…}
//	],
//	"payloads":[
//	],
//	"outputs":[
//	{…}
//	]}
//
// Version 1 has no outputs and ends after the payloads. It is written still where
// none are asked for, so that a sluice from before reads it.
const (
	formatPrefix  = `{"format":"https://sluice.dev/evidence-bundle/`
	formatPlain   = formatPrefix + `v1",`
	formatOutputs = formatPrefix + `v2",`
)

// What a bundle claims to hold.
const (
	ScopeLog     = "log"     // every entry of the log
	ScopeRelease = "release" // the entries about one release

	PayloadsAll  = "all"  // every payload that wasn't erased
	PayloadsNone = "none" // commitments only
)

// Scope is what a bundle claims to hold.
type Scope struct {
	Kind     string     `json:"kind"`     // ScopeLog, ScopeRelease
	Origin   string     `json:"origin"`   // of the log
	Payloads string     `json:"payloads"` // PayloadsAll, PayloadsNone
	Release  release.ID `json:"release,omitempty"`
}

func (s Scope) check() error {
	if err := firstError(oneOf("scope kind", s.Kind, ScopeLog, ScopeRelease), oneOf("scope payloads", s.Payloads, PayloadsAll, PayloadsNone)); err != nil {
		return err
	}
	if s.Kind == ScopeLog {
		if s.Release != "" {
			return fmt.Errorf("%w: a bundle of a whole log names a release", ErrInvalid)
		}
		return nil
	}
	_, err := release.ParseDigest(string(s.Release))
	return err
}

// Entry is one entry of the log.
type Entry struct {
	Index    uint64
	Envelope []byte // canonical bytes
}

type entryLine struct {
	Envelope Envelope `json:"envelope"`
	Index    uint64   `json:"index"`
	Proof    []Hash   `json:"proof"`
}

type consistencyLine struct {
	From  uint64 `json:"from"`
	Proof []Hash `json:"proof"`
	Root  Hash   `json:"root"`
}

type payloadLine struct {
	Blob   []byte         `json:"blob"`
	Digest release.Digest `json:"digest"`
}

// Export is what [WriteBundle] writes, as the store hands it over.
type Export struct {
	// Release limits the bundle to the entries about one release; empty means
	// the whole log.
	Release release.ID
	// Checkpoint is a signed checkpoint. Entries after it aren't exported.
	Checkpoint []byte
	// Keys are all public keys that signed anything in the log.
	Keys []PublicKey
	// Entries yields the entries in rising order of index. For the whole log
	// that is each one below the checkpoint's size.
	Entries iter.Seq2[Entry, error]
	// Nodes reads the tree.
	Nodes Nodes
	// Witnessed are sizes of checkpoints that somebody may have kept: the
	// bundle proves that its log continues those.
	Witnessed []uint64
	// Payload returns a payload, or nil if it was erased. Nil: the bundle holds
	// no payloads.
	Payload func(release.Digest) (Blob, error)
	// Output returns an output of at most limit bytes, or why it is left out:
	// a longer one is [LeftLarge]. Nil: the bundle holds no outputs.
	Output func(d release.Digest, limit int) ([]byte, Left, error)
}

// proofBatch is the number of entries whose proofs are read together.
const proofBatch = 256

// WriteBundle writes a bundle. It holds one batch of entries in memory, and the
// digests of payloads. What it writes is complete, or it returns an error.
func WriteBundle(w io.Writer, e Export) error {
	if err := writeBundle(w, e); err != nil {
		return fmt.Errorf("couldn't export evidence: %w", err)
	}
	return nil
}

func writeBundle(w io.Writer, e Export) error {
	c, err := ParseCheckpoint(e.Checkpoint)
	if err != nil {
		return err
	}
	scope := Scope{Kind: ScopeLog, Origin: c.Origin, Payloads: PayloadsNone, Release: e.Release}
	if e.Release != "" {
		scope.Kind = ScopeRelease
	}
	if e.Payload != nil {
		scope.Payloads = PayloadsAll
	}
	if err := scope.check(); err != nil {
		return err
	}
	b := &bundleWriter{w: bufio.NewWriter(w)}
	format := formatPlain
	if e.Output != nil {
		format = formatOutputs
	}
	b.text(format + "\n")
	b.text(`"scope":`).value(scope).text(",\n")
	b.open("keys")
	for _, k := range e.Keys {
		b.line(k)
	}
	b.close("],\n")
	b.text(`"checkpoint":`).value(string(e.Checkpoint)).text(",\n")
	b.open("consistency")
	if err := b.consistency(e, c); err != nil {
		return err
	}
	b.close("],\n")
	b.open("entries")
	held, err := b.entries(e, c)
	if err != nil {
		return err
	}
	b.close("],\n")
	b.open("payloads")
	if e.Payload != nil {
		for _, d := range slices.Sorted(maps.Keys(held.committed)) {
			blob, err := e.Payload(d)
			if err != nil {
				return fmt.Errorf("payload %s: %w", d, err)
			}
			if len(blob) > MaxPayload+SaltSize {
				return fmt.Errorf("payload %s has %d bytes, more than the %d that a bundle can hold: export without payloads", d, len(blob), MaxPayload+SaltSize)
			}
			if blob != nil {
				b.line(payloadLine{Blob: blob, Digest: d})
			}
		}
	}
	if e.Output != nil {
		b.close("],\n")
		b.open("outputs")
		if err := b.outputs(e, held); err != nil {
			return err
		}
	}
	b.close("]}\n")
	return b.flush()
}

// bundleWriter keeps the first error, like bufio.Writer.
type bundleWriter struct {
	w     *bufio.Writer
	err   error
	lines int // in the open section
}

func (b *bundleWriter) text(s string) *bundleWriter {
	_, _ = b.w.WriteString(s) // bufio keeps the error until Flush
	return b
}

func (b *bundleWriter) value(v any) *bundleWriter {
	j, err := json.Marshal(v)
	if err != nil && b.err == nil {
		b.err = err
	}
	_, _ = b.w.Write(j)
	return b
}

func (b *bundleWriter) open(section string) {
	b.text(`"` + section + "\":[\n")
	b.lines = 0
}

func (b *bundleWriter) line(v any) {
	if b.lines > 0 {
		b.text(",\n")
	}
	b.lines++
	b.value(v)
}

func (b *bundleWriter) close(end string) {
	if b.lines > 0 {
		b.text("\n")
	}
	b.text(end)
}

func (b *bundleWriter) flush() error {
	if b.err != nil {
		return b.err
	}
	return b.w.Flush()
}

func (b *bundleWriter) consistency(e Export, c Checkpoint) error {
	sizes := slices.Compact(slices.Sorted(slices.Values(e.Witnessed)))
	if len(sizes) > maxConsistency {
		return fmt.Errorf("%d witnessed sizes, more than %d", len(sizes), maxConsistency)
	}
	for _, from := range sizes {
		state, err := StateAt(from, e.Nodes)
		if err != nil {
			return err
		}
		root, err := state.Root()
		if err != nil {
			return err
		}
		p, err := ConsistencyProof(from, c.Size, e.Nodes)
		if err != nil {
			return err
		}
		if p == nil {
			p = []Hash{}
		}
		b.line(consistencyLine{From: from, Proof: p, Root: root})
	}
	return nil
}

// beyond is what entries refer to beside the log.
type beyond struct {
	committed map[release.Digest]bool
	outputs   []release.Digest // in the order in which they are named
	erased    map[release.Digest]bool
}

// entries writes the entries and returns what they refer to.
func (b *bundleWriter) entries(e Export, c Checkpoint) (held beyond, err error) {
	held.committed, held.erased = map[release.Digest]bool{}, map[release.Digest]bool{}
	nodes := cachedNodes{read: e.Nodes, have: map[NodeID]Hash{}}
	var next uint64
	batch := make([]Entry, 0, proofBatch)
	write := func() error {
		if err := nodes.fill(batch, c.Size); err != nil {
			return err
		}
		for _, entry := range batch {
			env, err := ParseEnvelope(entry.Envelope)
			if err != nil {
				return fmt.Errorf("entry %d: %w", entry.Index, err)
			}
			st, err := ParseStatement(env.Payload)
			if err != nil {
				return fmt.Errorf("entry %d: %w", entry.Index, err)
			}
			cs, err := st.Commitments()
			if err != nil {
				return fmt.Errorf("entry %d: %w", entry.Index, err)
			}
			for _, commitment := range cs {
				held.committed[commitment.Digest] = true
			}
			for _, o := range st.Outputs() {
				held.outputs = append(held.outputs, o.Digest)
			}
			if r, err := Decode[Redaction](st); err == nil && st.Has(r.Payload) {
				held.erased[r.Payload] = true
			}
			p, err := InclusionProof(entry.Index, c.Size, nodes.get)
			if err != nil {
				return err
			}
			if p == nil {
				p = []Hash{}
			}
			b.line(entryLine{Envelope: env, Index: entry.Index, Proof: p})
		}
		batch = batch[:0]
		return b.err
	}
	for entry, err := range e.Entries {
		if err != nil {
			return held, err
		}
		if entry.Index < next || e.Release == "" && entry.Index != next {
			return held, fmt.Errorf("got entry %d, want %d", entry.Index, next)
		}
		if entry.Index >= c.Size {
			return held, fmt.Errorf("entry %d is not in the checkpoint of size %d yet", entry.Index, c.Size)
		}
		next = entry.Index + 1
		if batch = append(batch, entry); len(batch) == proofBatch {
			if err := write(); err != nil {
				return held, err
			}
		}
	}
	if err := write(); err != nil {
		return held, err
	}
	if e.Release == "" && next != c.Size {
		return held, fmt.Errorf("the log has %d entries, got %d", c.Size, next)
	}
	return held, nil
}

// cachedNodes reads the nodes of a batch of proofs at once.
type cachedNodes struct {
	read Nodes
	have map[NodeID]Hash
}

func (n *cachedNodes) fill(batch []Entry, size uint64) error {
	var want []NodeID
	needed := map[NodeID]Hash{}
	for _, e := range batch {
		ids, err := InclusionNodes(e.Index, size)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if _, ok := needed[id]; ok {
				continue
			}
			h, ok := n.have[id]
			needed[id] = h
			if !ok {
				want = append(want, id)
			}
		}
	}
	n.have = needed // what this batch doesn't need is forgotten
	if len(want) == 0 {
		return nil
	}
	got, err := n.read(want)
	if err != nil {
		return fmt.Errorf("couldn't read tree nodes: %w", err)
	}
	if len(got) != len(want) {
		return fmt.Errorf("couldn't read tree nodes: got %d, want %d", len(got), len(want))
	}
	for i, id := range want {
		n.have[id] = got[i]
	}
	return nil
}

func (n *cachedNodes) get(ids []NodeID) ([]Hash, error) {
	out := make([]Hash, len(ids))
	for i, id := range ids {
		h, ok := n.have[id]
		if !ok {
			return nil, errors.New("tree node wasn't read")
		}
		out[i] = h
	}
	return out, nil
}

// Select returns the indexes of the entries that a bundle of a release holds,
// rising: those about the release or one of its artifacts, the redactions of
// their payloads, and every recovery. It reads the entries twice; a store with
// an index over subjects can do the same without reading all of them.
func Select(entries iter.Seq2[Entry, error], id release.ID) ([]uint64, error) {
	about := relation{id: id}
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		st, err := Peek(e.Envelope)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		about.learn(st)
	}
	chosen := map[uint64]bool{}
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		st, err := Peek(e.Envelope)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		if !about.direct(st) {
			if st.PredicateType == TypeRedaction {
				about.redactions = append(about.redactions, related{index: e.Index, subjects: st.Subject})
			}
			continue
		}
		chosen[e.Index] = true
		cs, err := st.Commitments()
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		about.keeps(beside(cs, st.Outputs()))
	}
	for _, r := range about.redactions {
		if about.redacts(r) {
			chosen[r.index] = true
		}
	}
	return slices.Sorted(maps.Keys(chosen)), nil
}

// relation tells what belongs to one release.
type relation struct {
	id         release.ID
	artifacts  map[release.Digest]bool
	beside     map[release.Digest]bool // payloads and outputs
	redactions []related
}

type related struct {
	line     int
	index    uint64
	kind     string
	subjects []Subject
	beside   []release.Digest
}

// learn takes the artifacts from a statement about the release.
func (r *relation) learn(st Statement) {
	if !st.Has(r.id) {
		return
	}
	if r.artifacts == nil {
		r.artifacts = map[release.Digest]bool{}
	}
	for _, s := range st.Subject {
		if s.Kind() == "artifact" {
			r.artifacts[s.Digest] = true
		}
	}
}

func (r *relation) keeps(beside []release.Digest) {
	if r.beside == nil {
		r.beside = map[release.Digest]bool{}
	}
	for _, d := range beside {
		r.beside[d] = true
	}
}

func (r *relation) direct(st Statement) bool {
	return st.PredicateType == TypeRecovery || r.about(st.Subject)
}

func (r *relation) about(subjects []Subject) bool {
	return slices.ContainsFunc(subjects, func(s Subject) bool { return s.Digest == r.id || r.artifacts[s.Digest] })
}

func (r *relation) redacts(x related) bool {
	return slices.ContainsFunc(x.subjects, func(s Subject) bool { return r.beside[s.Digest] })
}
