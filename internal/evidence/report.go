package evidence

import (
	"fmt"
	"io"
	"strings"
)

// Kind is what a finding is.
type Kind string

// Kinds of findings. All but redacted and note make a verification fail.
const (
	KindAltered   Kind = "altered"   // not what was signed or logged
	KindMissing   Kind = "missing"   // an entry or payload that should be here
	KindTruncated Kind = "truncated" // the log was cut, or replaced by another one
	KindDuplicate Kind = "duplicate" // the same entry twice
	KindReordered Kind = "reordered" // not in the log's order
	KindForeign   Kind = "foreign"   // of another project, log or release
	KindUntrusted Kind = "untrusted" // signed by a key that isn't trusted
	KindPurpose   Kind = "purpose"   // signed by a key that may not sign this
	KindMalformed Kind = "malformed" // can't be read
	KindUnproven  Kind = "unproven"  // may be right, but nothing here proves it
	KindRedacted  Kind = "redacted"  // erased under a rule, as a signed statement says
	KindNote      Kind = "note"      // worth knowing
)

// Fails reports whether a finding of this kind makes the verification fail.
func (k Kind) Fails() bool { return k != KindRedacted && k != KindNote }

// Finding is one thing that a verification found.
type Finding struct {
	Kind    Kind   `json:"kind"`
	Index   int64  `json:"index"`          // of the entry; -1: not about one entry
	Line    int    `json:"line,omitempty"` // in the file, from 1
	Type    string `json:"type,omitempty"` // the statement's predicate type
	Subject string `json:"subject,omitempty"`
	Message string `json:"message"`
}

// maxFindings bounds the findings that a report lists; More counts the rest.
const maxFindings = 1000

// Report is what a verification came to.
type Report struct {
	OK         bool `json:"ok"`
	Statements int  `json:"statements"` // entries in the bundle
	Verified   int  `json:"verified"`   // signed by a right key, and proved to be in the log
	Payloads   int  `json:"payloads"`   // payloads that match their commitment
	Redacted   int  `json:"redacted"`   // payloads that were erased under a rule
	Withheld   int  `json:"withheld"`   // payloads that the bundle doesn't claim to hold
	// Outputs of checks that are what an entry names, and those that the bundle
	// doesn't hold and doesn't claim to.
	Outputs     int        `json:"outputs,omitempty"`
	OutputsLeft int        `json:"outputsLeft,omitempty"`
	Scope       Scope      `json:"scope"`
	Checkpoint  Checkpoint `json:"checkpoint"`
	// Completeness says in one sentence what the bundle proves to be complete.
	Completeness string `json:"completeness"`
	// KeyFingerprints are the bundle's keys as PURPOSE:FINGERPRINT.
	KeyFingerprints []string `json:"keyFingerprints"`
	// Trust says in one sentence why the keys are believed.
	Trust    string    `json:"trust"`
	Findings []Finding `json:"findings"`
	More     int       `json:"more,omitempty"` // findings beyond those listed
}

// add keeps a finding; the first failing one makes the report fail for good.
func (r *Report) add(f Finding) {
	if f.Kind.Fails() {
		r.OK = false
	}
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, f)
		return
	}
	// A failure is never hidden behind a thousand redactions.
	if f.Kind.Fails() && !r.Findings[maxFindings-1].Kind.Fails() {
		r.Findings[maxFindings-1] = f
	}
	r.More++
}

// WriteText writes the report for people. Text that comes from the bundle is
// cleaned of control characters, which could otherwise rewrite the terminal.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	verdict := "OK"
	if !r.OK {
		verdict = "NOT OK"
	}
	fmt.Fprintf(&b, "evidence  %s\n", verdict)
	if r.Checkpoint.Origin != "" {
		fmt.Fprintf(&b, "log       %s, %d entries, root %s\n", clean(r.Checkpoint.Origin), r.Checkpoint.Size, r.Checkpoint.Root)
	}
	fmt.Fprintf(&b, "verified  %d of %d statements", r.Verified, r.Statements)
	for _, part := range []struct {
		n         int
		one, many string
	}{
		{r.Payloads, "payload matches", "payloads match"}, {r.Redacted, "redacted", "redacted"}, {r.Withheld, "payload not in this bundle", "payloads not in this bundle"},
		{r.Outputs, "output matches", "outputs match"}, {r.OutputsLeft, "output not in this bundle", "outputs not in this bundle"},
	} {
		switch part.n {
		case 0:
		case 1:
			fmt.Fprintf(&b, ", 1 %s", part.one)
		default:
			fmt.Fprintf(&b, ", %d %s", part.n, part.many)
		}
	}
	b.WriteString("\n")
	if r.Completeness != "" {
		fmt.Fprintf(&b, "holds     %s\n", r.Completeness)
	}
	for i, k := range r.KeyFingerprints {
		label := "keys      "
		if i > 0 {
			label = "          "
		}
		fmt.Fprintf(&b, "%s%s\n", label, clean(k))
	}
	if r.Trust != "" {
		fmt.Fprintf(&b, "trust     %s\n", r.Trust)
	}
	for _, f := range r.Findings {
		where := "bundle"
		if f.Index >= 0 {
			where = fmt.Sprintf("entry %d", f.Index)
		}
		if f.Line > 0 {
			where += fmt.Sprintf(" (line %d)", f.Line)
		}
		what := strings.TrimSpace(shortType(f.Type) + " " + f.Subject)
		if what != "" {
			what += ": "
		}
		fmt.Fprintf(&b, "%-10s%s: %s%s\n", f.Kind, where, clean(what), clean(f.Message))
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "… and %d more\n", r.More)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shortType is a predicate type as people say it.
func shortType(t string) string {
	t = strings.TrimPrefix(t, "https://")
	t = strings.TrimPrefix(t, "sluice.dev/")
	t = strings.TrimPrefix(t, "in-toto.io/attestation/")
	name, _, _ := strings.Cut(strings.TrimPrefix(t, "slsa.dev/"), "/v")
	return name
}

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, s)
}
