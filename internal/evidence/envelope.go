package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/sluicehq/sluice/internal/release"
)

// PayloadType is the DSSE payload type of in-toto statements.
const PayloadType = "application/vnd.in-toto+json"

// MaxEnvelope bounds an envelope's canonical bytes.
const MaxEnvelope = 1 << 20

// What can be wrong with a signature.
var (
	// ErrSignature reports that the bytes aren't those that were signed.
	ErrSignature = errors.New("signature doesn't match: altered after signing")
	// ErrUnknownKey reports a signature by a key that isn't trusted.
	ErrUnknownKey = errors.New("signed by an unknown key")
	// ErrWrongPurpose reports a good signature by a key that may not make it.
	ErrWrongPurpose = errors.New("signed by a key of another purpose")
)

// Envelope is a DSSE envelope. Its canonical JSON is the log's leaf: there is
// exactly one sequence of bytes for it.
type Envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []Signature `json:"signatures"`
}

// Signature is one signature of an envelope.
type Signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// Canonical returns the envelope's bytes: what is stored, hashed as the leaf,
// and handed to agents. (Its fields hold base64, hex and one fixed type, and
// stand in sorted order: Go's encoding is that of RFC 8785.)
func (e Envelope) Canonical() ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("couldn't encode envelope: %w", err)
	}
	return b, nil
}

// ParseEnvelope reads an envelope's canonical bytes, and only those.
func ParseEnvelope(b []byte) (Envelope, error) {
	var e Envelope
	if len(b) > MaxEnvelope {
		return e, fmt.Errorf("%w: envelope has %d bytes, more than %d", ErrInvalid, len(b), MaxEnvelope)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("%w: couldn't read envelope: %w", ErrInvalid, err)
	}
	again, err := e.Canonical()
	if err != nil {
		return e, err
	}
	if !bytes.Equal(b, again) {
		return e, fmt.Errorf("%w: envelope is not in canonical form", ErrInvalid)
	}
	return e, e.check()
}

func (e Envelope) check() error {
	if e.PayloadType != PayloadType {
		return fmt.Errorf("%w: payload type is %.80q, not %s", ErrInvalid, e.PayloadType, PayloadType)
	}
	if len(e.Signatures) != 1 {
		return fmt.Errorf("%w: envelope has %d signatures, not 1", ErrInvalid, len(e.Signatures))
	}
	return nil
}

// Signed is a statement with its signature, ready to be stored.
type Signed struct {
	Statement Statement
	Envelope  []byte         // canonical bytes: the log's leaf
	Digest    release.Digest // of Envelope: how other statements refer to it
}

// Sign signs a statement with the key that its type asks for.
func (r *KeyRing) Sign(s Statement) (Signed, error) {
	k, err := r.key(PurposeOf(s.PredicateType))
	if err != nil {
		return Signed{}, fmt.Errorf("couldn't sign %s: %w", s.PredicateType, err)
	}
	payload, err := s.Canonical()
	if err != nil {
		return Signed{}, fmt.Errorf("couldn't sign %s: %w", s.PredicateType, err)
	}
	sig, err := k.sign(dsse.PAE(PayloadType, payload))
	if err != nil {
		return Signed{}, fmt.Errorf("couldn't sign %s: %w", s.PredicateType, err)
	}
	e := Envelope{Payload: payload, PayloadType: PayloadType, Signatures: []Signature{{KeyID: k.public.ID, Sig: sig}}}
	b, err := e.Canonical()
	if err != nil {
		return Signed{}, err
	}
	return Signed{Statement: s, Envelope: b, Digest: release.DigestOf(b)}, nil
}

// State makes and signs a statement in one go.
func (r *KeyRing) State(p Predicate, subjects ...Subject) (Signed, error) {
	s, err := NewStatement(p, subjects...)
	if err != nil {
		return Signed{}, err
	}
	return r.Sign(s)
}

// Peek reads what an envelope says without looking at its signature: to show
// it, or to index it where it was verified before.
func Peek(envelope []byte) (Statement, error) {
	e, err := ParseEnvelope(envelope)
	if err != nil {
		return Statement{}, err
	}
	return ParseStatement(e.Payload)
}

// Verify checks an envelope's signature, and that its key may sign such a
// statement, and returns the statement. On ErrUnknownKey, ErrSignature and
// ErrWrongPurpose it returns what the envelope says too, so that it can be
// named; nothing else may be done with it.
func (s *KeySet) Verify(envelope []byte) (Statement, error) {
	e, err := ParseEnvelope(envelope)
	if err != nil {
		return Statement{}, err
	}
	return s.verify(e)
}

func (s *KeySet) verify(e Envelope) (Statement, error) {
	if err := e.check(); err != nil {
		return Statement{}, err
	}
	sig := e.Signatures[0]
	st, parseErr := ParseStatement(e.Payload)
	k, ok := s.keys[sig.KeyID]
	if !ok {
		return st, fmt.Errorf("%w: %.12s…", ErrUnknownKey, sig.KeyID)
	}
	if !verifySignature(k.pub, dsse.PAE(e.PayloadType, e.Payload), sig.Sig) {
		return st, ErrSignature
	}
	if parseErr != nil {
		return st, parseErr
	}
	if want := PurposeOf(st.PredicateType); k.Purpose != want {
		return st, fmt.Errorf("%w: %s needs the %s key, and %.12s… is the %s key", ErrWrongPurpose, st.PredicateType, want, k.ID, k.Purpose)
	}
	return st, nil
}

// VerifyPromotion checks that envelope lets release id into key's environment:
// a promotion, signed by the promotion key, of exactly that release there. It
// is the last check before anything runs.
func (s *KeySet) VerifyPromotion(envelope []byte, key release.Key, id release.ID) (Promotion, error) {
	st, err := s.Verify(envelope)
	if err != nil {
		return Promotion{}, fmt.Errorf("couldn't verify the promotion of %s into %s: %w", id.Short(), key, err)
	}
	p, err := Decode[Promotion](st)
	if err != nil {
		return Promotion{}, fmt.Errorf("couldn't verify the promotion of %s into %s: %w", id.Short(), key, err)
	}
	got := release.Key{Project: p.Project, Service: p.Service, Environment: p.Environment}
	if got != key {
		return Promotion{}, fmt.Errorf("%w: the promotion is into %s, not %s", ErrInvalid, got, key)
	}
	if p.Release != id || st.Subject[0] != ReleaseSubject(key.Project, key.Service, id) {
		return Promotion{}, fmt.Errorf("%w: the promotion into %s is of release %s, not %s", ErrInvalid, key, p.Release.Short(), id.Short())
	}
	return p, nil
}
