package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/sluicehq/sluice/internal/release"
)

// VerifyOptions says what a bundle is held against. The zero value verifies it
// by its own keys, which proves only that it agrees with itself.
type VerifyOptions struct {
	// TrustedKeys are the only keys that count, if there are any.
	TrustedKeys []KeyRef
	// MinCheckpoint is a checkpoint of the log that was kept from before: a log
	// that doesn't continue it is refused.
	MinCheckpoint *Checkpoint
	// Project, if set, is the project that the log must be of.
	Project string
	// Release, if set, must be the bundle's release, or be in the whole log.
	Release release.ID
	// Whole refuses anything less than the whole log.
	Whole bool
	// MaxBytes bounds the file; 0 means 8 GiB.
	MaxBytes int64
	// Workers verify signatures at once; 0 means one per CPU.
	Workers int
	// Output, if set, is handed each output that is what an entry names, at each
	// place where one does. An error of it ends the verification.
	Output func(Place, []byte) error
}

// verifyBatch is the number of entries that are verified together.
const verifyBatch = 1024

// verifier holds what one verification has learned so far.
type verifier struct {
	opts   VerifyOptions
	report Report
	lines  *lineReader

	keys    *KeySet
	trusted map[string]bool // nil: all of the bundle's
	whole   bool
	sealed  bool // the checkpoint is good: what it commits to is the log

	order order
	tree  rebuilt

	about     relation
	pending   []related
	consists  []consistencyLine
	promised  map[release.Digest]*promise
	redacted  map[release.Digest]redacted
	unproved  []int // findings where only the inclusion proof failed
	mentioned bool  // an entry is about opts.Release

	withOutputs bool // the format says so
	named       map[release.Digest]*named
	namings     int
	full        int // outputs that had no room
}

// promise is a payload that an entry commits to.
type promise struct {
	index   uint64
	name    string
	typ     string
	subject string
	seen    bool
}

type redacted struct {
	index uint64
	rule  string
}

// Verify verifies a bundle, offline and with nothing else. What is wrong with
// the bundle is in the report; the error tells that there is none: the file
// can't be read, or isn't a bundle, or is larger than allowed.
func Verify(r io.Reader, opts VerifyOptions) (Report, error) {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = maxBundle
	}
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	v := &verifier{
		opts:     opts,
		report:   Report{OK: true, Findings: []Finding{}, KeyFingerprints: []string{}},
		lines:    newLineReader(r, opts.MaxBytes),
		promised: map[release.Digest]*promise{},
		redacted: map[release.Digest]redacted{},
		named:    map[release.Digest]*named{},
	}
	err := v.run()
	var stop *stopped
	switch {
	case errors.As(err, &stop):
		v.report.add(stop.Finding)
	case errors.Is(err, errShort):
		v.report.add(Finding{Kind: KindTruncated, Index: -1, Line: v.lines.no, Message: "the file ends early: what follows is missing"})
	case err != nil:
		v.report.OK = false
		return v.report, fmt.Errorf("couldn't verify evidence: %w", err)
	}
	return v.report, nil
}

// stopped is a finding after which nothing more can be read.
type stopped struct{ Finding }

func (s *stopped) Error() string { return s.Message }

func (v *verifier) run() error {
	if err := v.header(); err != nil {
		return err
	}
	if err := v.consistency(); err != nil {
		return err
	}
	if err := v.entries(); err != nil {
		return err
	}
	v.completeness()
	v.relations()
	v.witnessed()
	if err := v.payloads(); err != nil {
		return err
	}
	if err := v.outputs(); err != nil {
		return err
	}
	end, err := v.lines.atEnd()
	if err != nil {
		return err
	}
	if !end {
		v.report.add(Finding{Kind: KindMalformed, Index: -1, Line: v.lines.no + 1, Message: "something follows the end of the bundle"})
	}
	return nil
}

func (v *verifier) find(k Kind, format string, args ...any) {
	v.report.add(Finding{Kind: k, Index: -1, Message: fmt.Sprintf(format, args...)})
}

// header reads everything before the entries.
func (v *verifier) header() error {
	first, err := v.lines.next(maxHeaderLine)
	if errors.Is(err, errShort) || err == nil && !bytes.HasPrefix(first, []byte(formatPrefix)) {
		return fmt.Errorf("%w: it doesn't begin with %s", ErrNotBundle, formatPlain)
	}
	if err != nil {
		return err
	}
	switch string(first) {
	case formatPlain:
	case formatOutputs:
		v.withOutputs = true
	default:
		return fmt.Errorf("%w: its format is %.100q, and this build knows v1 and v2: a newer sluice may read it", ErrNotBundle, first)
	}
	if err := v.field("scope", &v.report.Scope); err != nil {
		return err
	}
	scope := v.report.Scope
	if err := scope.check(); err != nil {
		return &stopped{Finding{Kind: KindMalformed, Index: -1, Line: v.lines.no, Message: err.Error()}}
	}
	v.whole, v.about.id = scope.Kind == ScopeLog, scope.Release
	if err := v.readKeys(); err != nil {
		return err
	}
	var signed string
	if err := v.field("checkpoint", &signed); err != nil {
		return err
	}
	v.checkpoint([]byte(signed))
	v.demands()
	return nil
}

// field reads a header field, without which nothing more makes sense.
func (v *verifier) field(name string, to any) error {
	err := v.lines.field(name, to)
	if errors.Is(err, ErrInvalid) {
		return &stopped{Finding{Kind: KindMalformed, Index: -1, Line: v.lines.no, Message: err.Error()}}
	}
	return err
}

func (v *verifier) readKeys() error {
	s := section{l: v.lines, name: "keys", end: "],", after: `"checkpoint":`, limit: maxHeaderLine}
	var good []PublicKey
	for n := 0; ; n++ {
		e, ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if n >= maxKeys {
			return &stopped{Finding{Kind: KindMalformed, Index: -1, Line: e.line, Message: fmt.Sprintf("more than %d keys", maxKeys)}}
		}
		v.layout(e)
		if e.data == nil {
			continue
		}
		var k PublicKey
		err = strict(e.data, &k)
		if err == nil {
			_, err = k.open()
		}
		if err == nil {
			_, err = NewKeySet(append(slices.Clone(good), k)...)
		}
		if err != nil {
			v.report.add(Finding{Kind: KindAltered, Index: -1, Line: e.line, Message: "a public key: " + err.Error()})
			continue
		}
		good = append(good, k)
		v.report.KeyFingerprints = append(v.report.KeyFingerprints, k.Ref().String())
	}
	keys, err := NewKeySet(good...)
	if err != nil {
		return err // can't be: each was tried
	}
	v.keys = keys
	if len(v.opts.TrustedKeys) == 0 {
		v.report.Trust = "the keys are the bundle's own: compare the fingerprints with ones that you got another way, and pass them to be sure"
		return nil
	}
	v.report.Trust = fmt.Sprintf("only the %d keys that were passed count", len(v.opts.TrustedKeys))
	v.trusted = map[string]bool{}
	for _, k := range good {
		if slices.Contains(v.opts.TrustedKeys, k.Ref()) {
			v.trusted[k.ID] = true
		}
	}
	return nil
}

func (v *verifier) trusts(id string) bool { return v.trusted == nil || v.trusted[id] }

// layout reports what is wrong around an element.
func (v *verifier) layout(e element) {
	if e.problem != "" {
		v.report.add(Finding{Kind: KindMalformed, Index: -1, Line: e.line, Message: e.problem})
	}
}

// each hands over what a section's elements hold, and reports what is wrong around them.
func (v *verifier) each(s section, f func(e element) error) error {
	for {
		e, ok, err := s.next()
		if err != nil || !ok {
			return err
		}
		v.layout(e)
		if e.data == nil {
			continue
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

func (v *verifier) checkpoint(signed []byte) {
	c, signers, err := v.keys.openCheckpoint(signed)
	v.report.Checkpoint = c
	f := Finding{Index: -1, Line: v.lines.no}
	switch {
	case errors.Is(err, ErrUnknownKey):
		f.Kind, f.Message = KindUntrusted, "the checkpoint is not signed by a key for checkpoints of this bundle: "+err.Error()
	case err != nil:
		f.Kind, f.Message = KindAltered, err.Error()
	case !slices.ContainsFunc(signers, v.trusts):
		f.Kind, f.Message = KindUntrusted, "the checkpoint is not signed by a trusted key"
	case c.Origin != v.report.Scope.Origin:
		f.Kind, f.Message = KindAltered, fmt.Sprintf("the bundle says that it is of the log %.100q, its checkpoint is of %.100q", v.report.Scope.Origin, c.Origin)
	default:
		v.sealed = true
		return
	}
	v.report.add(f)
}

// demands checks what the caller asked for and the header can tell.
func (v *verifier) demands() {
	c, o := v.report.Checkpoint, v.opts
	if o.Project != "" && c.Project() != o.Project {
		v.find(KindForeign, "the log is of project %.80q, not %s", c.Project(), o.Project)
	}
	if o.Whole && !v.whole {
		v.find(KindUnproven, "the bundle is not of the whole log, so that nothing proves that no entry is left out")
	}
	if o.Release != "" && !v.whole && v.report.Scope.Release != o.Release {
		v.find(KindForeign, "the bundle is of release %s, not %s", v.report.Scope.Release.Short(), o.Release.Short())
	}
	if v.whole {
		v.tree.start(o.MinCheckpoint)
	}
}

func (v *verifier) consistency() error {
	s := section{l: v.lines, name: "consistency", end: "],", after: `"entries":[`, limit: maxHeaderLine}
	for n := 0; ; n++ {
		e, ok, err := s.next()
		if err != nil || !ok {
			return err
		}
		if n >= maxConsistency {
			return &stopped{Finding{Kind: KindMalformed, Index: -1, Line: e.line, Message: fmt.Sprintf("more than %d consistency proofs", maxConsistency)}}
		}
		v.layout(e)
		if e.data == nil {
			continue
		}
		var c consistencyLine
		if err := strict(e.data, &c); err != nil {
			v.report.add(Finding{Kind: KindMalformed, Index: -1, Line: e.line, Message: "a consistency proof: " + err.Error()})
			continue
		}
		if !v.sealed {
			continue
		}
		earlier := Checkpoint{Size: c.From, Root: c.Root}
		if err := v.report.Checkpoint.continues(earlier, c.Proof); err != nil {
			v.report.add(Finding{Kind: KindAltered, Index: -1, Line: e.line, Message: "a consistency proof: " + err.Error()})
			continue
		}
		v.consists = append(v.consists, c)
	}
}

// continues is VerifyConsistency that also holds the empty log to its root.
func (c Checkpoint) continues(earlier Checkpoint, p []Hash) error {
	if earlier.Size == 0 && earlier.Root != EmptyRoot() {
		return errors.New("the log without entries has another root")
	}
	return c.VerifyConsistency(earlier, p)
}

func (v *verifier) entries() error {
	s := section{l: v.lines, name: "entries", end: "],", after: `"payloads":[`, limit: maxEntryLine}
	batch := make([]element, 0, verifyBatch)
	bytes := 0
	for {
		e, ok, err := s.next()
		if ok {
			batch = append(batch, e)
			bytes += len(e.data)
		}
		if !ok || len(batch) == verifyBatch || bytes > maxPayloadLine {
			for i, c := range v.check(batch) {
				v.fold(batch[i], c)
			}
			if len(v.order.gaps) > maxGaps {
				return &stopped{Finding{Kind: KindMissing, Index: -1, Line: v.lines.no, Message: "too many entries are missing or out of order to go on"}}
			}
			batch, bytes = batch[:0], 0
		}
		if err != nil || !ok {
			return err
		}
	}
}

// check verifies entries, each on its own, on all workers. It waits for them.
func (v *verifier) check(batch []element) []checked {
	out := make([]checked, len(batch))
	workers := min(v.opts.Workers, (len(batch)+63)/64)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(batch); i += workers {
				if batch[i].data != nil {
					out[i] = v.entry(batch[i].data)
				}
			}
		})
	}
	wg.Wait()
	return out
}
