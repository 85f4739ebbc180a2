package evidence_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

// read verifies a bundle and returns what its outputs say, by entry.
func read(t *testing.T, bundle []byte) (evidence.Report, map[string]string) {
	t.Helper()
	got := map[string]string{}
	r := verify(t, bundle, evidence.VerifyOptions{Output: func(p evidence.Place, b []byte) error {
		got[fmt.Sprintf("%d %s %s", p.Index, p.Name, p.MediaType)] = string(b)
		return nil
	}})
	return r, got
}

// What a check said is in the bundle and can be read offline, held against the
// digest that was signed; a bundle from before has none, and says so.
func TestABundleCarriesWhatChecksSaid(t *testing.T) {
	l := newLog(t, "default")
	id := l.ship("default", "c1")
	m, _ := manifest(t, "default", "c1")
	l.check(m, id, "shell", []byte("could not log in\n"))
	l.check(m, id, "again", []byte("could not log in\n")) // the same bytes
	l.check(m, id, "silent", nil)
	l.ship("default", "c2")
	for name, b := range map[string][]byte{"log": l.export(l.withOutputs), "release": l.exportRelease(id, l.withOutputs)} {
		r, got := read(t, b)
		want := map[string]string{"10 output/shell text/plain": "could not log in\n", "11 output/again text/plain": "could not log in\n", "12 output/silent text/plain": ""}
		if !r.OK || r.Outputs != 2 || r.OutputsLeft != 0 || len(r.Findings) != 0 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v\n%q", name, r, got)
		}
	}
	r, got := read(t, l.export())
	if !r.OK || r.Outputs != 0 || r.OutputsLeft != 2 || len(got) != 0 {
		t.Errorf("without outputs: %+v %q", r, got)
	}
	if !bytes.HasPrefix(l.export(), []byte(`{"format":"https://sluice.dev/evidence-bundle/v1",`)) {
		t.Error("a bundle without outputs is one that a sluice from before can't read")
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "2 outputs not in this bundle") {
		t.Errorf("%v\n%s", err, &text)
	}
	full := errors.New("disk full")
	if _, err := evidence.Verify(bytes.NewReader(l.export(l.withOutputs)), evidence.VerifyOptions{Output: func(evidence.Place, []byte) error { return full }}); !errors.Is(err, full) {
		t.Errorf("whoever takes the outputs failed: %v", err)
	}
}

// Altered, missing, left out and redacted are told apart, each with its entry.
func TestOutputsThatAreNotWhatWasSigned(t *testing.T) {
	l := newLog(t, "default")
	id := l.ship("default", "c1")
	m, _ := manifest(t, "default", "c1")
	shell := l.check(m, id, "shell", []byte("could not log in\n"))
	home := l.check(m, id, "home", []byte("200 OK\n"))
	whole := string(l.export(l.withOutputs))
	line := func(s string) string {
		i := strings.Index(whole, fmt.Sprintf(`{"blob":%q,"digest":"%s"}`, b64([]byte(s)), release.DigestOf([]byte(s))))
		return strings.SplitAfter(whole[i:], "\n")[0]
	}
	said := func(bundle string, kind evidence.Kind, index uint64, words string) {
		t.Helper()
		r := refused(t, []byte(bundle), evidence.VerifyOptions{}, kind, int64(index))
		for _, f := range r.Findings {
			if f.Kind.Fails() && (f.Index != int64(index) || f.Kind != kind || !strings.Contains(f.Message, words)) {
				t.Errorf("want %s at entry %d with %q, got %+v", kind, index, words, f)
			}
		}
	}
	said(strings.Replace(whole, b64([]byte("could not log in\n")), b64([]byte("could now log in\n")), 1), evidence.KindAltered, shell, "output/shell was altered")
	said(strings.Replace(whole, b64([]byte("200 OK\n")), "!"+b64([]byte("200 OK\n"))[1:], 1), evidence.KindAltered, home, "output/home was altered")
	said(strings.Replace(whole, line("200 OK\n"), strings.Replace(line("200 OK\n"), `"blob":"`, `"blob":`, 1), 1), evidence.KindAltered, home, "output/home was altered")
	// Somebody who knows the format gives the digest of what they put there.
	forged := strings.Replace(line("200 OK\n"), b64([]byte("200 OK\n")), b64([]byte("404 no\n")), 1)
	forged = strings.Replace(forged, string(release.DigestOf([]byte("200 OK\n"))), string(release.DigestOf([]byte("404 no\n"))), 1)
	refused(t, []byte(strings.Replace(whole, line("200 OK\n"), forged, 1)), evidence.VerifyOptions{}, evidence.KindForeign, -1)
	refused(t, []byte(strings.Replace(whole, line("200 OK\n"), forged, 1)), evidence.VerifyOptions{}, evidence.KindMissing, int64(home))
	said(strings.Replace(whole, line("200 OK\n"), "", 1), evidence.KindMissing, home, "output/home is missing")
	a, b := line("200 OK\n"), line("could not log in\n")
	swapped := strings.Replace(whole, a+b, strings.TrimSuffix(b, "\n")+",\n"+strings.TrimSuffix(a, ",\n")+"\n", 1)
	refused(t, []byte(swapped), evidence.VerifyOptions{}, evidence.KindReordered, int64(home))
	both := strings.Replace(whole, `"digest":"`+string(release.DigestOf([]byte("200 OK\n")))+`"}`, `"digest":"`+string(release.DigestOf([]byte("200 OK\n")))+`","left":"large"}`, 1)
	said(both, evidence.KindMalformed, home, "is here, and the bundle says that it is left out")
	why := strings.Replace(both, fmt.Sprintf(`"blob":%q,`, b64([]byte("200 OK\n"))), "", 1)
	said(strings.Replace(why, `"left":"large"`, `"left":"lazy"`, 1), evidence.KindMalformed, home, `for a reason that this build doesn't know: "lazy"`)

	// One that is not where it was kept is said to be left out, and fails nothing.
	kept := l.outputs[release.DigestOf([]byte("200 OK\n"))]
	delete(l.outputs, release.DigestOf(kept))
	r, got := read(t, l.export(l.withOutputs))
	if !r.OK || r.Outputs != 1 || r.OutputsLeft != 1 || len(r.Findings) != 1 || r.Findings[0].Kind != evidence.KindNote || r.Findings[0].Index != int64(home) ||
		!strings.Contains(r.Findings[0].Message, "output/home is left out: the control plane that exported the bundle didn't have it") || len(got) != 1 {
		t.Errorf("%+v %q", r, got)
	}
	// Altered where it is kept, it is not carried, and not excused.
	l.outputs[release.DigestOf(kept)] = []byte("201 OK\n")
	said(string(l.export(l.withOutputs)), evidence.KindAltered, home, "was altered where the control plane keeps it")

	delete(l.outputs, release.DigestOf(kept))
	at := l.add(evidence.Redaction{Event: event("system:control", ""), Rule: "gdpr-17", Payload: release.DigestOf(kept)}, evidence.PayloadSubject("default", release.DigestOf(kept)))
	for name, b := range map[string][]byte{"log": l.export(l.withOutputs), "release": l.exportRelease(id, l.withOutputs), "v1": l.exportRelease(id)} {
		r := verify(t, b, evidence.VerifyOptions{})
		if !r.OK || r.Redacted != 1 || len(r.Findings) != 1 || r.Findings[0].Index != int64(home) || r.Findings[0].Message != fmt.Sprintf("its output/home was erased under rule gdpr-17 (entry %d)", at) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// Where it is still kept it is not handed on; a bundle that has it is told apart.
	l.outputs[release.DigestOf(kept)] = kept
	whole = string(l.export(l.withOutputs))
	if r := verify(t, []byte(whole), evidence.VerifyOptions{}); !r.OK || r.Redacted != 1 || strings.Contains(whole, b64(kept)) {
		t.Errorf("%+v", r)
	}
	r = verify(t, []byte(strings.Replace(whole, b, a+b, 1)), evidence.VerifyOptions{})
	if !r.OK || r.Outputs != 2 || len(r.Findings) != 1 || r.Findings[0].Kind != evidence.KindNote || !strings.Contains(r.Findings[0].Message, "although it was to be erased") {
		t.Errorf("%+v", r)
	}
}

// A bundle holds so much and no more: it says what it has no room for, and the
// newest come first.
func TestOutputsAreBounded(t *testing.T) {
	l := newLog(t, "default")
	id := l.ship("default", "c1")
	m, _ := manifest(t, "default", "c1")
	whole := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, evidence.MaxOutput) }
	n := evidence.MaxOutputs/evidence.MaxOutput + 1
	for i := range 3 {
		l.check(m, id, fmt.Sprintf("old%d", i), fmt.Appendf(nil, "small %d", i))
	}
	for i := range n {
		l.check(m, id, fmt.Sprintf("c%d", i), whole(i))
	}
	l.check(m, id, "huge", append(whole(0), 'x'))
	opened := 0
	r, got := read(t, l.export(l.withOutputs, func(e *evidence.Export) {
		output := e.Output
		e.Output = func(d release.Digest, limit int) ([]byte, evidence.Left, error) {
			opened++
			return output(d, limit)
		}
	}))
	if opened != n+1 { // the huge one, and the first that has no room; none of the small ones
		t.Errorf("%d outputs were opened", opened)
	}
	if !r.OK || r.Outputs != n-1 || r.OutputsLeft != 5 || len(got) != n-1 || got["13 output/c0 text/plain"] != "" || len(got["14 output/c1 text/plain"]) != evidence.MaxOutput {
		t.Fatalf("%+v, %d outputs", r, len(got))
	}
	all := ""
	for _, f := range r.Findings {
		all += string(f.Kind) + " " + f.Message + "\n"
	}
	if !strings.Contains(all, "note its output/huge is left out: it has more than the 8 MiB") || !strings.Contains(all, "note outputs left out for room: 4; newer ones filled the 64 MiB") {
		t.Error(all)
	}
	small := newLog(t, "default")
	small.check(m, id, "shell", []byte("could not log in\n"))
	long := strings.Replace(string(small.export(small.withOutputs)), b64([]byte("could not log in\n")), b64(append(whole(1), whole(1)...)), 1)
	if _, err := evidence.Verify(strings.NewReader(long), evidence.VerifyOptions{}); !errors.Is(err, evidence.ErrNotBundle) {
		t.Errorf("an output that is longer than any may be: %v", err)
	}
}
