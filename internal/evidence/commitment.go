package evidence

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/internal/release"
)

// SaltSize is the number of random bytes that a payload starts with.
const SaltSize = 32

// MaxPayload bounds one payload's content in bytes.
const MaxPayload = 16 << 20

// CommitmentAlg names how a payload is committed to: SHA-256 over 32 random
// bytes followed by the content.
const CommitmentAlg = "sha256-salt32"

// Salt keeps a short payload from being guessed from its digest. It lives in
// the payload, never in the log, so that erasing the payload erases it.
type Salt [SaltSize]byte

// NewSalt returns a random salt.
func NewSalt() Salt {
	var s Salt
	_, _ = rand.Read(s[:]) // never fails: it ends the program instead
	return s
}

// Commitment is what the log holds of a payload.
type Commitment struct {
	Name      string         `json:"name"` // log, report, comment, actor, …
	Alg       string         `json:"alg"`  // CommitmentAlg
	Digest    release.Digest `json:"digest"`
	MediaType string         `json:"mediaType,omitempty"`
}

// Blob is a payload as it is stored: the salt, then the content. Its SHA-256 is
// the digest of its commitment, so that a content-addressed store can keep it.
type Blob []byte

// Commit returns the commitment to content, at most [MaxPayload] bytes, and the
// blob to store beside it. A bundle can't hold a longer one: cut it before.
func Commit(salt Salt, name, mediaType string, content []byte) (Commitment, Blob) {
	b := append(Blob(bytes.Clone(salt[:])), content...)
	return Commitment{Name: name, Alg: CommitmentAlg, Digest: b.Digest(), MediaType: mediaType}, b
}

// Digest returns the digest that names the blob.
func (b Blob) Digest() release.Digest { return release.DigestOf(b) }

// Content returns the payload without its salt.
func (b Blob) Content() ([]byte, error) {
	if len(b) < SaltSize {
		return nil, fmt.Errorf("%w: payload of %d bytes is shorter than its salt", ErrInvalid, len(b))
	}
	return b[SaltSize:], nil
}

// Open returns the content of b if it is what c commits to.
func (c Commitment) Open(b Blob) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if got := b.Digest(); got != c.Digest {
		return nil, fmt.Errorf("payload %s has digest %s, not %s: it was altered", c.Name, got, c.Digest)
	}
	return b.Content()
}

func (c Commitment) check() error {
	if c.Alg != CommitmentAlg {
		return fmt.Errorf("%w: payload %.80q is committed to by %.40q, not %s", ErrInvalid, c.Name, c.Alg, CommitmentAlg)
	}
	if _, err := release.ParseDigest(string(c.Digest)); err != nil {
		return fmt.Errorf("%w: payload %.80q: %w", ErrInvalid, c.Name, err)
	}
	return nil
}

func checkPayloads(cs []Commitment) error {
	for _, c := range cs {
		if err := c.check(); err != nil {
			return err
		}
	}
	return nil
}

// ActorID names who acted without telling who it is: "system:…" for Sluice
// itself, otherwise the digest of a blob that holds the person's name. One
// person keeps one blob, so that two acts of one person are seen to be one's;
// with the blob erased nobody can tell whose.
type ActorID string

// Opaque returns the id of a, and the blob that tells who it is. Sluice itself
// has no secret to keep: its blob is nil.
func Opaque(salt Salt, a release.Actor) (ActorID, Blob) {
	if strings.HasPrefix(string(a), "system:") {
		return ActorID(a), nil
	}
	c, b := Commit(salt, "actor", "text/plain", []byte(a))
	return ActorID(c.Digest), b
}

// Commitment returns the commitment to the person's name, if a is a person.
func (a ActorID) Commitment() (Commitment, bool) {
	if !strings.HasPrefix(string(a), "sha256:") {
		return Commitment{}, false
	}
	return Commitment{Name: "actor", Alg: CommitmentAlg, Digest: release.Digest(a), MediaType: "text/plain"}, true
}

func (a ActorID) check() error {
	if strings.HasPrefix(string(a), "system:") && len(a) <= 80 {
		return nil
	}
	if _, err := release.ParseDigest(string(a)); err != nil {
		return fmt.Errorf("%w: actor %.80q is neither system:… nor opaque: pass it through Opaque", ErrInvalid, string(a))
	}
	return nil
}
