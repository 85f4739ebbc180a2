package evidence_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

func TestAWholeLogVerifiesByItself(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	r := verify(t, l.export(), evidence.VerifyOptions{})
	if !r.OK || r.Statements != 10 || r.Verified != 10 || len(r.Findings) != 0 {
		t.Fatalf("got %+v", r)
	}
	if r.Payloads != 4 { // log, report, comment, and who approved
		t.Errorf("%d payloads, want 4", r.Payloads)
	}
	if !strings.Contains(r.Trust, "bundle's own") || len(r.KeyFingerprints) != 3 {
		t.Errorf("trust: %q %q", r.Trust, r.KeyFingerprints)
	}
	if !strings.Contains(r.Completeness, "whole log: all 10 entries") {
		t.Errorf("completeness: %q", r.Completeness)
	}
	r = verify(t, l.export(), evidence.VerifyOptions{TrustedKeys: l.refs(), Whole: true, Project: "default"})
	if !r.OK || strings.Contains(r.Trust, "bundle's own") {
		t.Fatalf("got %+v", r)
	}
}

func TestABundleIsOneJSONDocumentAndOneSequenceOfBytes(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	_, signed := l.checkpoint() // Ed25519 is deterministic, so that all else is too
	a := l.export(func(e *evidence.Export) { e.Checkpoint, e.Witnessed = signed, []uint64{3, 1, 3} })
	b := l.export(func(e *evidence.Export) { e.Checkpoint, e.Witnessed = signed, []uint64{1, 3} })
	if !bytes.Equal(a, b) {
		t.Error("two exports of the same content differ")
	}
	var doc struct {
		Format  string
		Entries []struct{ Index int }
	}
	if err := json.Unmarshal(a, &doc); err != nil || len(doc.Entries) != 10 || doc.Entries[9].Index != 9 {
		t.Fatalf("not one JSON document: %v %+v", err, doc)
	}
}

func TestAnEmptyLogVerifies(t *testing.T) {
	l := newLog(t, "default")
	if r := verify(t, l.export(), evidence.VerifyOptions{}); !r.OK || r.Statements != 0 {
		t.Fatalf("got %+v", r)
	}
}

func TestAReleaseBundleHoldsWhatIsAboutTheReleaseAndSaysWhatItDoesNotProve(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	id := l.ship("default", "c2")
	l.ship("default", "c3")
	b := l.exportRelease(id)
	r := verify(t, b, evidence.VerifyOptions{TrustedKeys: l.refs(), Release: id})
	if !r.OK || r.Verified != 10 || r.Checkpoint.Size != 30 {
		t.Fatalf("got %+v", r)
	}
	if !strings.Contains(r.Completeness, "not that the log holds no other") {
		t.Errorf("completeness: %q", r.Completeness)
	}
	refused(t, b, evidence.VerifyOptions{Whole: true}, evidence.KindUnproven, -1)
	refused(t, b, evidence.VerifyOptions{Release: release.DigestOf(nil)}, evidence.KindForeign, -1)
	refused(t, l.export(), evidence.VerifyOptions{Release: release.DigestOf(nil)}, evidence.KindMissing, -1)

	// An entry about another release has no business here.
	refused(t, l.export(func(e *evidence.Export) {
		indexes, _ := evidence.Select(l.all(), id)
		e.Release, e.Entries = id, l.some(append(indexes, 25))
	}), evidence.VerifyOptions{}, evidence.KindForeign, 25)
}

func TestErasedPayloadsAreRedactedNotAltered(t *testing.T) {
	l := newLog(t, "default")
	id := l.ship("default", "c1")
	var comment release.Digest
	for d, b := range l.blobs {
		if content, _ := b.Content(); strings.HasPrefix(string(content), "looks good") {
			comment = d
		}
	}
	whole := l.export()
	delete(l.blobs, comment)
	refused(t, l.export(), evidence.VerifyOptions{}, evidence.KindMissing, 4)

	at := l.add(evidence.Redaction{Event: event("system:control", ""), Rule: "gdpr-17", Payload: comment}, evidence.PayloadSubject("default", comment))
	for name, b := range map[string][]byte{"log": l.export(), "release": l.exportRelease(id)} {
		r := verify(t, b, evidence.VerifyOptions{TrustedKeys: l.refs()})
		if !r.OK || r.Redacted != 1 || r.Payloads != 3 || len(r.Findings) != 1 {
			t.Fatalf("%s: got %+v", name, r)
		}
		f := r.Findings[0]
		if f.Kind != evidence.KindRedacted || f.Index != 4 || f.Type != evidence.TypeApproval || f.Message != fmt.Sprintf("its comment was erased under rule gdpr-17 (entry %d)", at) {
			t.Errorf("%s: got %+v", name, f)
		}
	}
	if r := verify(t, whole, evidence.VerifyOptions{}); !r.OK || r.Redacted != 0 {
		t.Errorf("the bundle from before: %+v", r)
	}
	// A bundle without payloads claims none, and still tells what is redacted.
	r := verify(t, l.export(func(e *evidence.Export) { e.Payload = nil }), evidence.VerifyOptions{})
	if !r.OK || r.Withheld != 3 || r.Redacted != 1 {
		t.Errorf("without payloads: %+v", r)
	}
}

func TestALogThatWasCutOrReplacedIsRefused(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	early, _ := l.checkpoint()
	id := l.ship("default", "c2")
	late, _ := l.checkpoint()
	now := l.export()

	for _, m := range []evidence.Checkpoint{early, late, {Origin: l.origin, Root: evidence.EmptyRoot()}} {
		if r := verify(t, now, evidence.VerifyOptions{MinCheckpoint: &m}); !r.OK {
			t.Errorf("the log continues %d: %+v", m.Size, r.Findings)
		}
	}
	// The control plane's own keys sign a shorter log, and another history.
	short := newLog(t, "default")
	short.keys, short.blobs = l.keys, l.blobs
	for _, b := range l.leaves[:12] {
		short.addEnvelope(b)
	}
	refused(t, short.export(), evidence.VerifyOptions{MinCheckpoint: &late}, evidence.KindTruncated, -1)
	if r := verify(t, short.export(), evidence.VerifyOptions{MinCheckpoint: &early}); !r.OK {
		t.Errorf("a shorter log that continues the witnessed one: %+v", r.Findings)
	}
	fork := newLog(t, "default")
	fork.keys, fork.blobs = l.keys, l.blobs
	for _, b := range append(l.leaves[1:], l.leaves[0]) {
		fork.addEnvelope(b)
	}
	forked := fork.export()
	if r := verify(t, forked, evidence.VerifyOptions{}); !r.OK {
		t.Fatalf("without a witness a fork agrees with itself: %+v", r.Findings)
	}
	refused(t, forked, evidence.VerifyOptions{MinCheckpoint: &early}, evidence.KindTruncated, -1)
	refused(t, forked, evidence.VerifyOptions{MinCheckpoint: &late}, evidence.KindTruncated, -1)
	other := late
	other.Origin += "x"
	refused(t, now, evidence.VerifyOptions{MinCheckpoint: &other}, evidence.KindForeign, -1)

	// A bundle of one release carries consistency proofs for that.
	refused(t, l.exportRelease(id), evidence.VerifyOptions{MinCheckpoint: &early}, evidence.KindUnproven, -1)
	since := func(e *evidence.Export) { e.Witnessed = []uint64{0, early.Size, late.Size} }
	for _, m := range []evidence.Checkpoint{early, late} {
		if r := verify(t, l.exportRelease(id, since), evidence.VerifyOptions{MinCheckpoint: &m}); !r.OK {
			t.Errorf("witnessed %d: %+v", m.Size, r.Findings)
		}
	}
	refused(t, fork.exportRelease(id, since), evidence.VerifyOptions{MinCheckpoint: &early}, evidence.KindTruncated, -1)
}

func TestOnlyTheRightKeysCount(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	l.ship("default", "c2")
	stranger := newLog(t, "default")
	b := l.export()
	r := refused(t, b, evidence.VerifyOptions{TrustedKeys: stranger.refs()}, evidence.KindUntrusted, 0)
	if r.Verified != 0 {
		t.Errorf("%d verified by keys that aren't trusted", r.Verified)
	}
	// A key is trusted for its purpose only.
	swapped := l.refs()
	for i := range swapped {
		swapped[i].Purpose = evidence.PurposeCheckpoints
	}
	refused(t, b, evidence.VerifyOptions{TrustedKeys: swapped}, evidence.KindUntrusted, 0)

	// Somebody with the log's database, but not its keys, adds an approval.
	forged := newLog(t, "default")
	m, id := manifest(t, "default", "c2")
	s, err := forged.keys.State(evidence.Approval{Event: event("system:control", "prod"), Decision: evidence.Approved, Packet: id}, evidence.Subjects(m, id)...)
	if err != nil {
		t.Fatal(err)
	}
	at := int64(l.addEnvelope(s.Envelope))
	refused(t, l.export(), evidence.VerifyOptions{}, evidence.KindUntrusted, at)
	// Even when they put their key into the bundle, it isn't one of those passed.
	withKey := l.export(func(e *evidence.Export) { e.Keys = append(e.Keys, forged.keys.Public()...) })
	refused(t, withKey, evidence.VerifyOptions{TrustedKeys: l.refs()}, evidence.KindUntrusted, at)
}

func TestAKeyOfAnotherPurposeProvesNothing(t *testing.T) {
	// The statements key of this log is declared as one for promotion: what it
	// signs is then signed well, and by the wrong key.
	l := newLog(t, "default")
	l.ship("default", "c1")
	b := l.export(func(e *evidence.Export) {
		for i, k := range e.Keys {
			if k.Purpose == evidence.PurposeStatements {
				e.Keys[i].Purpose = evidence.PurposePromotion
			}
		}
	})
	r := refused(t, b, evidence.VerifyOptions{}, evidence.KindPurpose, 0)
	if r.Verified != 1 { // the promotion
		t.Errorf("%d verified, want 1", r.Verified)
	}
}

func TestAStatementOfAnotherProjectIsForeign(t *testing.T) {
	a, b := newLog(t, "default"), newLog(t, "bank")
	b.keys = a.keys // one installation
	a.ship("default", "c1")
	b.ship("bank", "c1")
	b.blobs = nil
	// Logged by whoever owns both.
	at := a.addEnvelope(b.leaves[4])
	refused(t, a.export(func(e *evidence.Export) { e.Payload = nil }), evidence.VerifyOptions{}, evidence.KindForeign, int64(at))
	refused(t, b.export(func(e *evidence.Export) { e.Payload = nil }), evidence.VerifyOptions{Project: "default"}, evidence.KindForeign, -1)
}

func TestExportRefusesToLeaveAnythingOut(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	_, signed := l.checkpoint()
	base := evidence.Export{Checkpoint: signed, Keys: l.keys.Public(), Entries: l.all(), Nodes: l.read}
	for name, change := range map[string]func(*evidence.Export){
		"an entry is missing": func(e *evidence.Export) { e.Entries = l.some([]uint64{0, 1, 3}) },
		"the end is missing":  func(e *evidence.Export) { e.Entries = l.some([]uint64{0, 1, 2}) },
		"entries in disorder": func(e *evidence.Export) { e.Entries = l.some([]uint64{1, 0}) },
		"the nodes can't be": func(e *evidence.Export) {
			e.Nodes = func([]evidence.NodeID) ([]evidence.Hash, error) { return nil, errDisk }
		},
		"too few nodes": func(e *evidence.Export) {
			e.Nodes = func([]evidence.NodeID) ([]evidence.Hash, error) { return nil, nil }
		},
		"a payload can't be": func(e *evidence.Export) {
			e.Payload = func(release.Digest) (evidence.Blob, error) { return nil, errDisk }
		},
		"a payload is too large": func(e *evidence.Export) {
			e.Payload = func(release.Digest) (evidence.Blob, error) {
				return make(evidence.Blob, evidence.MaxPayload+evidence.SaltSize+1), nil
			}
		},
		"no checkpoint":        func(e *evidence.Export) { e.Checkpoint = nil },
		"entry isn't an entry": func(e *evidence.Export) { l.leaves[0] = []byte("{}") },
		"not in the checkpoint": func(e *evidence.Export) {
			e.Release, e.Entries = "sha256:"+release.Digest(strings.Repeat("0", 64)), l.some([]uint64{9, 9})
		},
	} {
		e := base
		first := l.leaves[0]
		change(&e)
		if err := evidence.WriteBundle(&bytes.Buffer{}, e); err == nil || !strings.HasPrefix(err.Error(), "couldn't export evidence: ") {
			t.Errorf("%s: got %v", name, err)
		}
		l.leaves[0] = first
	}
}

func TestTheReportForPeople(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	lines := strings.SplitAfter(string(l.export()), "\n")
	entry := entryLine(lines, 7)
	lines[entry] = strings.Replace(lines[entry], `"payload":"ey`, `"payload":"eY`, 1)
	r := refused(t, []byte(strings.Join(lines, "")), evidence.VerifyOptions{}, evidence.KindAltered, 7)
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"evidence  NOT OK", "verified  9 of 10 statements", "altered   entry 7 (line ", "keys      checkpoints:"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	hostile := evidence.Report{Findings: []evidence.Finding{{Kind: evidence.KindAltered, Message: "\x1b[2Jall is well\u202e"}}}
	b.Reset()
	if err := hostile.WriteText(&b); err != nil || strings.ContainsAny(b.String(), "\x1b\u202e") {
		t.Errorf("control characters reach the terminal: %q", b.String())
	}
}

// entryLine returns where the entry of that index stands in a bundle's lines.
func entryLine(lines []string, index int) int {
	for i, l := range lines {
		if strings.HasPrefix(l, `{"envelope":`) && strings.Contains(l, fmt.Sprintf(`,"index":%d,`, index)) {
			return i
		}
	}
	return -1
}
