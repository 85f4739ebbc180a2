package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// StatementType is the _type of every statement.
const StatementType = "https://in-toto.io/Statement/v1"

// Limits of one statement. Whatever is larger belongs into a payload.
const (
	MaxStatement = 512 << 10 // bytes of canonical JSON
	MaxSubjects  = 256
	maxName      = 512 // bytes of a subject's name
)

// ErrInvalid reports a statement, envelope or key that isn't well-formed.
var ErrInvalid = errors.New("invalid evidence")

// Stamp is a moment as RFC 3339 in UTC. It is a fact that the caller passes in.
type Stamp string

// StampOf returns t as a stamp.
func StampOf(t time.Time) Stamp { return Stamp(t.UTC().Format(time.RFC3339Nano)) }

// Time returns the moment that s names.
func (s Stamp) Time() (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: time %.40q is not RFC 3339", ErrInvalid, string(s))
	}
	if !strings.HasSuffix(string(s), "Z") {
		return time.Time{}, fmt.Errorf("%w: time %.40q is not in UTC", ErrInvalid, string(s))
	}
	return t, nil
}

// Subject is what a statement is about: a name and a digest.
//
// The name says what the digest is of and in which project, so that a statement
// of one project proves nothing in another: release/PROJECT/SERVICE,
// artifact/PROJECT/SERVICE/NAME, or KIND/PROJECT/NAME for anything else.
type Subject struct {
	Name   string
	Digest release.Digest
}

// subjectJSON is the in-toto form: a digest set with bare hex.
type subjectJSON struct {
	Digest map[string]string `json:"digest"`
	Name   string            `json:"name"`
}

// MarshalJSON writes the in-toto form.
func (s Subject) MarshalJSON() ([]byte, error) {
	return json.Marshal(subjectJSON{Name: s.Name, Digest: map[string]string{"sha256": s.Digest.Hex()}})
}

// UnmarshalJSON reads the in-toto form and checks the digest.
func (s *Subject) UnmarshalJSON(b []byte) error {
	var j subjectJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	d, err := release.ParseDigest("sha256:" + j.Digest["sha256"])
	if err != nil {
		return fmt.Errorf("subject %.80q: %w", j.Name, err)
	}
	*s = Subject{Name: j.Name, Digest: d}
	return nil
}

// Project returns the project that the subject's name carries.
func (s Subject) Project() string {
	parts := strings.SplitN(s.Name, "/", 3)
	if len(parts) < 3 {
		return ""
	}
	return parts[1]
}

// Kind returns what the subject's digest is of: release, artifact, payload, ….
func (s Subject) Kind() string {
	kind, _, _ := strings.Cut(s.Name, "/")
	return kind
}

// ReleaseSubject names a release.
func ReleaseSubject(project, service string, id release.ID) Subject {
	return Subject{Name: "release/" + project + "/" + service, Digest: id}
}

// ArtifactSubject names an artifact.
func ArtifactSubject(project, service string, a release.Artifact) Subject {
	return Subject{Name: "artifact/" + project + "/" + service + "/" + a.Name, Digest: a.Digest}
}

// Subjects returns what a statement about a release names: the release, then
// its artifacts.
func Subjects(m release.Manifest, id release.ID) []Subject {
	out := []Subject{ReleaseSubject(m.Project, m.Service, id)}
	for _, a := range m.Artifacts {
		out = append(out, ArtifactSubject(m.Project, m.Service, a))
	}
	return out
}

// ObjectSubject names an object that isn't a release by the digest of its
// canonical JSON.
func ObjectSubject(project, kind, name string, object any) (Subject, error) {
	b, err := release.Canonical(object)
	if err != nil {
		return Subject{}, err
	}
	return Subject{Name: kind + "/" + project + "/" + name, Digest: release.DigestOf(b)}, nil
}

// PayloadSubject names a payload beside the log; a [Redaction] is about it.
func PayloadSubject(project string, d release.Digest) Subject {
	return Subject{Name: "payload/" + project + "/" + d.Short(), Digest: d}
}

// Statement is an in-toto Statement v1.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Predicate is what a statement says of its subjects.
type Predicate interface {
	// PredicateType returns the URI that names the predicate's form.
	PredicateType() string
	// check returns what keeps the predicate from being a fact.
	check() error
}

// NewStatement returns a statement that p holds of the subjects.
func NewStatement(p Predicate, subjects ...Subject) (Statement, error) {
	if err := p.check(); err != nil {
		return Statement{}, fmt.Errorf("couldn't state %s: %w", p.PredicateType(), err)
	}
	raw, err := release.Canonical(p)
	if err != nil {
		return Statement{}, fmt.Errorf("couldn't state %s: %w", p.PredicateType(), err)
	}
	s := Statement{Type: StatementType, Subject: subjects, PredicateType: p.PredicateType(), Predicate: raw}
	if err := s.check(); err != nil {
		return Statement{}, fmt.Errorf("couldn't state %s: %w", p.PredicateType(), err)
	}
	return s, nil
}

// Canonical returns the statement's canonical JSON (RFC 8785): what is signed.
func (s Statement) Canonical() ([]byte, error) {
	b, err := release.Canonical(s)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxStatement {
		return nil, fmt.Errorf("%w: statement has %d bytes, more than %d: commit to the large part as a payload", ErrInvalid, len(b), MaxStatement)
	}
	return b, nil
}

var subjectName = regexp.MustCompile(`^[a-z][a-z0-9-]*(/[^/\x00-\x1f\x7f]+){2,}$`)

func (s Statement) check() error {
	switch {
	case s.Type != StatementType:
		return fmt.Errorf("%w: _type is %.80q, not %s", ErrInvalid, s.Type, StatementType)
	case s.PredicateType == "":
		return fmt.Errorf("%w: no predicateType", ErrInvalid)
	case len(s.Subject) == 0:
		return fmt.Errorf("%w: no subject", ErrInvalid)
	case len(s.Subject) > MaxSubjects:
		return fmt.Errorf("%w: %d subjects, more than %d", ErrInvalid, len(s.Subject), MaxSubjects)
	}
	project := s.Subject[0].Project()
	for _, sub := range s.Subject {
		if len(sub.Name) > maxName || !subjectName.MatchString(sub.Name) {
			return fmt.Errorf("%w: subject name %.80q is not KIND/PROJECT/NAME", ErrInvalid, sub.Name)
		}
		if sub.Project() != project {
			return fmt.Errorf("%w: subjects of two projects, %.80q and %.80q", ErrInvalid, project, sub.Project())
		}
		if _, err := release.ParseDigest(string(sub.Digest)); err != nil {
			return fmt.Errorf("%w: subject %s: %w", ErrInvalid, sub.Name, err)
		}
	}
	return nil
}

// ParseStatement reads a statement and checks its form, not who signed it.
func ParseStatement(b []byte) (Statement, error) {
	if len(b) > MaxStatement {
		return Statement{}, fmt.Errorf("%w: statement has %d bytes, more than %d", ErrInvalid, len(b), MaxStatement)
	}
	var s Statement
	if err := json.Unmarshal(b, &s); err != nil {
		return Statement{}, fmt.Errorf("%w: couldn't read statement: %w", ErrInvalid, err)
	}
	if err := s.check(); err != nil {
		return Statement{}, err
	}
	return s, nil
}

// Project returns the project that the statement's subjects belong to.
func (s Statement) Project() string {
	if len(s.Subject) == 0 {
		return ""
	}
	return s.Subject[0].Project()
}

// Has reports whether d is one of the statement's subjects.
func (s Statement) Has(d release.Digest) bool {
	for _, sub := range s.Subject {
		if sub.Digest == d {
			return true
		}
	}
	return false
}

// Decode reads the statement's predicate into p, a pointer to the predicate
// type that the statement must have.
func Decode[P Predicate](s Statement) (P, error) {
	var p P
	if s.PredicateType != p.PredicateType() {
		return p, fmt.Errorf("%w: statement is a %s, not a %s", ErrInvalid, s.PredicateType, p.PredicateType())
	}
	if err := json.Unmarshal(s.Predicate, &p); err != nil {
		return p, fmt.Errorf("%w: couldn't read %s: %w", ErrInvalid, s.PredicateType, err)
	}
	if err := p.check(); err != nil {
		return p, fmt.Errorf("couldn't read %s: %w", s.PredicateType, err)
	}
	return p, nil
}

// Commitments returns the payloads that the statement commits to, the acting
// person's name included. In a predicate of somebody else's only our extension
// field counts, and only if it has our form: their fields mean what they say.
func (s Statement) Commitments() ([]Commitment, error) {
	if !strings.HasPrefix(s.PredicateType, ownPrefix) {
		var p struct {
			Extended []Commitment `json:"sluice_payloads"`
		}
		if json.Unmarshal(s.Predicate, &p) != nil {
			return nil, nil
		}
		return p.Extended, nil
	}
	var p struct {
		Actor    ActorID      `json:"actor"`
		Payloads []Commitment `json:"payloads"`
	}
	if err := json.Unmarshal(s.Predicate, &p); err != nil {
		return nil, fmt.Errorf("%w: couldn't read the payloads of a %s: %w", ErrInvalid, s.PredicateType, err)
	}
	out := p.Payloads
	if d, ok := p.Actor.Commitment(); ok {
		out = append(out, d)
	}
	return out, nil
}
