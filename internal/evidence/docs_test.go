package evidence_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

func readDocs(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/evidence.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Each predicate has its section, each of its fields stands there, and its
// example is one.
func TestTheDocsNameEachPredicateAndField(t *testing.T) {
	docs := readDocs(t)
	documented[evidence.Provenance](t, docs)
	documented[evidence.TestResult](t, docs)
	documented[evidence.Release](t, docs)
	documented[evidence.GateDecision](t, docs)
	documented[evidence.Approval](t, docs)
	documented[evidence.Promotion](t, docs)
	documented[evidence.RolloutStep](t, docs)
	documented[evidence.Verdict](t, docs)
	documented[evidence.Rollback](t, docs)
	documented[evidence.Quarantine](t, docs)
	documented[evidence.Override](t, docs)
	documented[evidence.Run](t, docs)
	documented[evidence.Rehearsal](t, docs)
	documented[evidence.Redaction](t, docs)
	documented[evidence.Recovery](t, docs)
	for _, k := range []evidence.Kind{
		evidence.KindAltered, evidence.KindMissing, evidence.KindTruncated, evidence.KindDuplicate, evidence.KindReordered, evidence.KindForeign,
		evidence.KindUntrusted, evidence.KindPurpose, evidence.KindMalformed, evidence.KindUnproven, evidence.KindRedacted, evidence.KindNote,
	} {
		if !strings.Contains(docs, "`"+string(k)+"`") {
			t.Errorf("finding %s is not documented", k)
		}
	}
}

var example = regexp.MustCompile("(?s)```json\n(.*?)\n```")

func documented[P evidence.Predicate](t *testing.T, docs string) {
	t.Helper()
	var p P
	_, section, ok := strings.Cut(docs, "### "+p.PredicateType()+"\n")
	if !ok {
		t.Errorf("%s has no section", p.PredicateType())
		return
	}
	if i := strings.Index(section, "\n##"); i >= 0 {
		section = section[:i]
	}
	_, shared, _ := strings.Cut(docs, "### Fields that all of our own predicates have\n")
	shared = shared[:strings.Index(shared, "\n##")]
	for _, f := range fields(reflect.TypeOf(p)) {
		text := section
		if strings.Contains(p.PredicateType(), "sluice.dev") {
			text += shared
		}
		if !strings.Contains(text, "`"+f+"`") && !strings.Contains(text, `"`+f+`"`) {
			t.Errorf("%s: field %s is not documented", p.PredicateType(), f)
		}
	}
	m := example.FindStringSubmatch(section)
	if m == nil {
		t.Errorf("%s has no example", p.PredicateType())
		return
	}
	d := json.NewDecoder(strings.NewReader(m[1]))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Errorf("%s: example: %v", p.PredicateType(), err)
		return
	}
	mf, id := manifest(t, "default", "c1")
	st, err := evidence.NewStatement(p, evidence.Subjects(mf, id)...)
	if err != nil {
		t.Errorf("%s: example: %v", p.PredicateType(), err)
	} else if string(st.Predicate) != m[1] {
		t.Errorf("%s: the example is not what would be signed:\n%s\n%s", p.PredicateType(), m[1], st.Predicate)
	}
}

// fields returns the JSON names of a predicate's own structs.
func fields(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[evidence.Commitment]() {
		return nil
	}
	var out []string
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			out = append(out, name)
		}
		out = append(out, fields(f.Type)...)
	}
	return out
}

// The commands of the docs verify a real bundle, and refuse an altered one.
func TestTheDocsVerifyABundleByHand(t *testing.T) {
	for _, tool := range []string{"bash", "openssl", "jq", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: the commands of docs/evidence.md need %s", tool)
		}
	}
	_, section, _ := strings.Cut(readDocs(t), "### By hand\n")
	_, script, _ := strings.Cut(section, "```sh\n")
	script, _, ok := strings.Cut(script, "```")
	if !ok {
		t.Fatal("the commands are gone")
	}
	l := newLog(t, "default")
	id := l.ship("default", "c1")
	m, _ := manifest(t, "default", "c1")
	l.check(m, id, "shell", []byte("could not log in\n"))
	bundle := string(l.export(l.withOutputs))
	run := func(bundle, n string) (string, error) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "bundle"), []byte(bundle), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "B=bundle", "N="+n, "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, n := range []string{"0", "4", "5", "9", "10"} {
		out, err := run(bundle, n)
		if err != nil || strings.Count(out, "Signature Verified Successfully") != 2 || !strings.Contains(out, "entry "+n+" is in the log") {
			t.Errorf("entry %s: %v\n%s", n, err, out)
		}
		if n == "4" && !strings.Contains(out, "looks good, c1") {
			t.Errorf("the comment isn't shown:\n%s", out)
		}
	}
	out, err := run(strings.Replace(bundle, b64([]byte("could not log in\n")), b64([]byte("could now log in\n")), 1), "10")
	if err == nil || !strings.Contains(out, "blob: FAILED") {
		t.Errorf("an altered output was accepted: %s", out)
	}
	if out, _ := run(bundle, "10"); !strings.Contains(out, "blob: OK\ncould not log in\n") {
		t.Errorf("the output isn't shown:\n%s", out)
	}
	other := release.DigestOf([]byte("packet"))
	st, err := evidence.Peek(l.leaves[4])
	if err != nil || !strings.Contains(string(st.Predicate), string(other)) {
		t.Fatal("the fixture changed")
	}
	old, _ := json.Marshal(mustEnvelope(t, l.leaves[4]).Payload)
	forged := mustEnvelope(t, l.leaves[4]).Payload
	forged = []byte(strings.Replace(string(forged), "approved", "rejected", 1))
	now, _ := json.Marshal(forged)
	if out, err := run(strings.Replace(bundle, string(old), string(now), 1), "4"); err == nil {
		t.Errorf("an altered entry was accepted:\n%s", out)
	}
}

func mustEnvelope(t *testing.T, b []byte) evidence.Envelope {
	t.Helper()
	e, err := evidence.ParseEnvelope(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
