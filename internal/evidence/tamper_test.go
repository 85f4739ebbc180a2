package evidence_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

// bundles are a whole log and one release of it, with everything in them.
func bundles(t testing.TB) map[string][]byte {
	l := newLog(t, "default")
	id := l.ship("default", "c1")
	l.ship("default", "c2")
	for d := range l.blobs {
		l.add(evidence.Redaction{Event: event("system:control", ""), Rule: "gdpr-17", Payload: d}, evidence.PayloadSubject("default", d))
		delete(l.blobs, d)
		break
	}
	m, _ := manifest(t, "default", "c1")
	l.check(m, id, "shell", []byte("could not log in\n"))
	l.check(m, id, "home", []byte("200 OK\n"))
	l.check(m, id, "gone", []byte("elsewhere\n"))
	delete(l.outputs, release.DigestOf([]byte("elsewhere\n")))
	since := func(e *evidence.Export) { e.Witnessed = []uint64{0, 5, 8} }
	return map[string][]byte{
		evidence.ScopeLog: l.export(since), evidence.ScopeRelease: l.exportRelease(id, since),
		"outputs of a log": l.export(since, l.withOutputs), "outputs of a release": l.exportRelease(id, since, l.withOutputs),
	}
}

// Whichever byte is changed to whatever: it is seen, and where it is in an
// entry, that entry is named.
func TestAnyChangedByteIsSeen(t *testing.T) {
	for scope, bundle := range bundles(t) {
		starts := []int{}
		for off, line := 0, 0; ; line++ {
			i := bytes.Index(bundle[off:], []byte("\n"))
			if i < 0 {
				break
			}
			starts, off = append(starts, off), off+i+1
		}
		lines := strings.SplitAfter(string(bundle), "\n")
		t.Run(scope, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				// A line first, so that short lines are met as often as long ones.
				line := rapid.IntRange(0, len(starts)-1).Draw(t, "line")
				at := starts[line] + rapid.IntRange(0, len(lines[line])-1).Draw(t, "column")
				to := rapid.Byte().Filter(func(b byte) bool { return b != bundle[at] }).Draw(t, "byte")
				bad := bytes.Clone(bundle)
				bad[at] = to
				r, err := evidence.Verify(bytes.NewReader(bad), evidence.VerifyOptions{})
				if err == nil && r.OK {
					t.Fatalf("byte %d of line %d (%q → %q) changed unseen:\n%s", at, line+1, bundle[at], to, lines[line])
				}
				if r.OK {
					t.Fatalf("the report is OK beside the error %v", err)
				}
				named := strings.HasPrefix(lines[line], `{"envelope":`) && at != starts[line]+len(lines[line])-1 && to != '\n'
				if !named || lines[line][at-starts[line]] == ',' && at >= starts[line]+len(lines[line])-2 {
					return
				}
				if !slices.ContainsFunc(r.Findings, func(f evidence.Finding) bool { return f.Line == line+1 && f.Kind.Fails() }) {
					t.Fatalf("line %d isn't named: %+v", line+1, r.Findings)
				}
				if strings.HasSuffix(scope, evidence.ScopeRelease) {
					return
				}
				index := int64(line) - int64(entryLine(lines, 0))
				if !slices.ContainsFunc(r.Findings, func(f evidence.Finding) bool { return f.Index == index }) {
					t.Fatalf("entry %d isn't named: %+v", index, r.Findings)
				}
				for _, f := range r.Findings {
					if f.Index >= 0 && f.Index != index && f.Line != 0 && strings.HasPrefix(lines[f.Line-1], `{"envelope":`) {
						t.Fatalf("entry %d is blamed for a change of entry %d: %+v", f.Index, index, f)
					}
				}
			})
		})
	}
}

// Each byte of a small bundle, so that no spare bit of an encoding and no case
// of a key is left to chance.
func TestEachByteCounts(t *testing.T) {
	l := newLog(t, "default")
	m, id := manifest(t, "default", "c1")
	e := event(l.person("local:bo"), "prod")
	l.add(evidence.Approval{Event: e, Decision: evidence.Rejected, Packet: id}, evidence.Subjects(m, id)...)
	each := func(bundle []byte, from int) {
		t.Helper()
		if r := verify(t, bundle, evidence.VerifyOptions{}); !r.OK {
			t.Fatalf("got %+v", r)
		}
		for at := from; at < len(bundle); at++ {
			for _, bit := range []int{0, 1, 5} { // 5 is the case of letters
				bundle[at] ^= 1 << bit
				if r, err := evidence.Verify(bytes.NewReader(bundle), evidence.VerifyOptions{Workers: 1}); err == nil && r.OK {
					t.Fatalf("bit %d of byte %d flipped unseen: …%q…", bit, at, bundle[max(0, at-40):at+1])
				}
				bundle[at] ^= 1 << bit
			}
		}
	}
	each(l.export(func(e *evidence.Export) { e.Witnessed = []uint64{0} }), 0)
	l.check(m, id, "shell", []byte("no"))
	b := l.export(l.withOutputs)
	each(b, bytes.Index(b, []byte(`"outputs":[`)))
}

func TestAnyTruncationIsSeen(t *testing.T) {
	for scope, bundle := range bundles(t) {
		t.Run(scope, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(0, len(bundle)-1).Draw(t, "length")
				if r, err := evidence.Verify(bytes.NewReader(bundle[:n]), evidence.VerifyOptions{}); err == nil && r.OK {
					t.Fatalf("cut at %d of %d unseen", n, len(bundle))
				}
			})
			if r := verify(t, append(bytes.Clone(bundle), '\n'), evidence.VerifyOptions{}); r.OK {
				t.Error("something appended unseen")
			}
		})
	}
}

// Whole lines removed, repeated, swapped: never unseen, whatever the section.
func TestLinesRemovedRepeatedOrMovedAreSeen(t *testing.T) {
	for scope, bundle := range bundles(t) {
		lines := strings.SplitAfter(string(bundle), "\n")
		lines = lines[:len(lines)-1]
		t.Run(scope, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				a := rapid.IntRange(0, len(lines)-1).Draw(t, "a")
				b := rapid.IntRange(0, len(lines)-1).Draw(t, "b")
				bad := slices.Clone(lines)
				switch rapid.SampledFrom([]string{"remove", "repeat", "swap"}).Draw(t, "how") {
				case "remove":
					bad = slices.Delete(bad, a, a+1)
				case "repeat":
					bad = slices.Insert(bad, b, lines[a])
				case "swap":
					bad[a], bad[b] = bad[b], bad[a]
				}
				text := strings.Join(bad, "")
				// An entry that a release's bundle leaves out can't be missed, which
				// it says; all else can.
				removed := strings.HasSuffix(scope, evidence.ScopeRelease) && strings.HasPrefix(lines[a], `{"envelope":`) && len(bad) < len(lines)
				keys := len(bad) < len(lines) && strings.HasPrefix(lines[a], `{"id":`)
				proofs := len(bad) < len(lines) && strings.HasPrefix(lines[a], `{"from":`)
				if text == string(bundle) || removed || keys || proofs {
					return
				}
				// Public keys and consistency proofs are a set.
				if sorted(bad) == sorted(lines) && (strings.HasPrefix(lines[a], `{"id":`) || strings.HasPrefix(lines[a], `{"from":`)) {
					return
				}
				if strings.HasPrefix(lines[a], `{"id":`) || strings.HasPrefix(lines[a], `{"from":`) {
					return // repeated: the same key, the same proof
				}
				if r, err := evidence.Verify(strings.NewReader(text), evidence.VerifyOptions{}); err == nil && r.OK {
					t.Fatalf("unseen:\n%s", text)
				}
			})
		})
	}
}

func sorted(lines []string) string { return strings.Join(slices.Sorted(slices.Values(lines)), "") }

// tampered changes the entries of a bundle as somebody who can write the
// file, and knows the format, would.
func tampered(bundle []byte, change func(lines []string, first int) []string) []byte {
	lines := strings.SplitAfter(string(bundle), "\n")
	return []byte(strings.Join(change(lines, entryLine(lines, 0)), ""))
}

func TestEntriesRemovedSwappedAndReplayedAreNamed(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	other := newLog(t, "bank")
	other.keys = l.keys
	other.ship("bank", "c1")
	whole := l.export()
	foreign := strings.SplitAfter(string(other.export()), "\n")

	r := refused(t, tampered(whole, func(s []string, at int) []string { return slices.Delete(s, at+3, at+5) }), evidence.VerifyOptions{}, evidence.KindMissing, 3)
	if r.Verified != 8 {
		t.Errorf("removed: %d verified, want 8", r.Verified)
	}
	refused(t, tampered(whole, func(s []string, at int) []string { return slices.Insert(s, at+3, s[at+2]) }), evidence.VerifyOptions{}, evidence.KindDuplicate, 2)
	r = refused(t, tampered(whole, func(s []string, at int) []string { s[at+3], s[at+6] = s[at+6], s[at+3]; return s }), evidence.VerifyOptions{}, evidence.KindReordered, 3)
	for _, f := range r.Findings {
		if f.Kind == evidence.KindMissing {
			t.Errorf("swapped entries are called missing: %+v", f)
		}
	}
	// The envelopes change places, indexes and proofs don't.
	swap := tampered(whole, func(s []string, at int) []string {
		envelope := func(line string) (string, string) {
			i := strings.Index(line, `,"index":`)
			return line[:i], line[i:]
		}
		a, ra := envelope(s[at+3])
		b, rb := envelope(s[at+6])
		s[at+3], s[at+6] = b+ra, a+rb
		return s
	})
	refused(t, swap, evidence.VerifyOptions{}, evidence.KindAltered, 3)
	r = refused(t, swap, evidence.VerifyOptions{}, evidence.KindAltered, 6)
	if r.Verified != 8 {
		t.Errorf("swapped: %d verified, want 8", r.Verified)
	}
	// A statement of another project, with its own proof, by the same keys.
	refused(t, tampered(whole, func(s []string, at int) []string { s[at+4] = foreign[entryLine(foreign, 4)]; return s }), evidence.VerifyOptions{}, evidence.KindForeign, 4)
	// An index that lies is named by the place that it stands in.
	refused(t, tampered(whole, func(s []string, at int) []string {
		s[at+4] = strings.Replace(s[at+4], `"index":4,`, `"index":9,`, 1)
		return s
	}), evidence.VerifyOptions{}, evidence.KindAltered, 4)
	// A proof that lies is told apart from an entry that does.
	r = refused(t, tampered(whole, func(s []string, at int) []string {
		i := strings.Index(s[at+4], `"proof":["`) + len(`"proof":["`)
		s[at+4] = s[at+4][:i] + "AAAA" + s[at+4][i+4:]
		return s
	}), evidence.VerifyOptions{}, evidence.KindAltered, 4)
	if !strings.Contains(r.Findings[0].Message, "inclusion proof was altered") {
		t.Errorf("got %+v", r.Findings)
	}
	// Half of the entries in the wrong order: followed to a limit, not forever.
	r = verify(t, tampered(whole, func(s []string, at int) []string { slices.Reverse(s[at : at+9]); return s }), evidence.VerifyOptions{})
	if r.OK || len(r.Findings) > 20 {
		t.Errorf("reversed: %+v", r.Findings)
	}
}

func TestPayloadsThatDoNotMatchAreNamed(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	whole := l.export()
	var comment release.Digest
	for d, b := range l.blobs {
		if content, _ := b.Content(); strings.HasPrefix(string(content), "looks good") {
			comment = d
		}
	}
	real := l.blobs[comment]
	l.blobs[comment] = append(bytes.Clone(real), '!')
	r := refused(t, l.export(), evidence.VerifyOptions{}, evidence.KindAltered, 4)
	if !strings.Contains(r.Findings[0].Message, "its comment was altered") {
		t.Errorf("got %+v", r.Findings)
	}
	l.blobs[comment] = real
	// A line that is no JSON any more is told by the digest that stands in it.
	r = refused(t, []byte(strings.Replace(string(whole), `{"blob":"`+b64(real), `{"blob":`+b64(real), 1)), evidence.VerifyOptions{}, evidence.KindAltered, 4)
	if len(r.Findings) != 1 {
		t.Errorf("got %+v", r.Findings)
	}
	// One that nobody committed to.
	_, stray := evidence.Commit(evidence.NewSalt(), "x", "", nil)
	text := string(whole)
	i := strings.Index(text, "\"payloads\":[\n") + len("\"payloads\":[\n")
	line := strings.TrimSuffix(strings.SplitAfter(text[i:], "\n")[0], ",\n")
	if r := verify(t, []byte(strings.Replace(text, line, `{"blob":"`+b64(stray)+`","digest":"`+string(stray.Digest())+`"}`, 1)), evidence.VerifyOptions{}); r.OK {
		t.Error("a payload that nobody committed to was accepted")
	}
	// Payloads in a bundle that says that it has none.
	if r := verify(t, []byte(strings.Replace(text, `"payloads":"all"`, `"payloads":"none"`, 1)), evidence.VerifyOptions{}); r.OK {
		t.Error("payloads were accepted in a bundle that says that it has none")
	}
}

func TestARedactionErasesOnlyWhatItIsAbout(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	for d := range l.blobs {
		l.add(evidence.Redaction{Event: event("system:control", ""), Rule: "x", Payload: d}, evidence.PayloadSubject("default", release.DigestOf(nil)))
		delete(l.blobs, d)
		break
	}
	if r := verify(t, l.export(), evidence.VerifyOptions{}); r.OK || r.Redacted != 0 {
		t.Fatalf("got %+v", r)
	}
}

func TestWhatIsNotABundleIsAnError(t *testing.T) {
	for name, text := range map[string]string{
		"empty":          "",
		"other JSON":     "{}\n",
		"no line feed":   `{"format":"https://sluice.dev/evidence-bundle/v1",`,
		"a later format": "{\"format\":\"https://sluice.dev/evidence-bundle/v3\",\n",
		"one long line":  strings.Repeat("x", 1<<20),
	} {
		r, err := evidence.Verify(strings.NewReader(text), evidence.VerifyOptions{})
		if !errors.Is(err, evidence.ErrNotBundle) || r.OK {
			t.Errorf("%s: got %v, ok %v", name, err, r.OK)
		}
	}
	b := bundles(t)[evidence.ScopeLog]
	if r, err := evidence.Verify(bytes.NewReader(b), evidence.VerifyOptions{MaxBytes: 1000}); !errors.Is(err, evidence.ErrNotBundle) || r.OK {
		t.Errorf("too large: got %v, ok %v", err, r.OK)
	}
	if r, err := evidence.Verify(&failing{b[:4000]}, evidence.VerifyOptions{}); !errors.Is(err, errDisk) || r.OK {
		t.Errorf("a disk that fails: got %v, ok %v", err, r.OK)
	}
}

type failing struct{ left []byte }

func (f *failing) Read(p []byte) (int, error) {
	if len(f.left) == 0 {
		return 0, errDisk
	}
	n := copy(p, f.left)
	f.left = f.left[n:]
	return n, nil
}

func FuzzVerify(f *testing.F) {
	// Small ones: the fuzzer is slow on large seeds.
	l := newLog(f, "default")
	m, id := manifest(f, "default", "c1")
	l.add(evidence.Quarantine{Event: event("system:control", ""), Change: evidence.Lifted}, evidence.Subjects(m, id)...)
	good := []string{string(l.export()), string(l.exportRelease(id)), string(newLog(f, "default").export())}
	l.check(m, id, "shell", []byte("no"))
	l.check(m, id, "gone", nil)
	delete(l.outputs, release.DigestOf(nil))
	good = append(good, string(l.export(l.withOutputs)))
	for _, b := range good {
		f.Add([]byte(b))
	}
	f.Add([]byte("{\"format\":\"https://sluice.dev/evidence-bundle/v1\",\n\"scope\":{},\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := evidence.Verify(bytes.NewReader(b), evidence.VerifyOptions{MaxBytes: 1 << 20, Workers: 1})
		if err != nil && r.OK {
			t.Error("OK beside an error")
		}
		if err == nil && r.OK && r.Verified > 0 && !slices.Contains(good, string(b)) && r.Verified != r.Statements {
			t.Error("OK with statements that aren't verified")
		}
		var text strings.Builder
		if err := r.WriteText(&text); err != nil {
			t.Error(err)
		}
	})
}

func FuzzParseEnvelope(f *testing.F) {
	l := newLog(f, "default")
	l.ship("default", "c1")
	for _, b := range l.leaves {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := evidence.ParseEnvelope(b)
		if err != nil {
			return
		}
		again, err := e.Canonical()
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("accepted %q, which is not %q", b, again)
		}
		if st, err := evidence.Peek(b); err == nil {
			_, _ = st.Commitments()
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	l := newLog(f, "default")
	l.ship("default", "c1")
	_, signed := l.checkpoint()
	f.Add(signed)
	keys, err := evidence.NewKeySet(l.keys.Public()...)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := keys.OpenCheckpoint(b); err == nil && !bytes.Equal(b, signed) {
			t.Errorf("accepted %q", b)
		}
	})
}
