package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
)

// ErrBadDigest reports text that is not "sha256:" and 64 lower-case hex digits.
var ErrBadDigest = errors.New("not a sha256 digest")

// Digest names content: "sha256:" and 64 lower-case hex digits.
type Digest string

// DigestOf returns the SHA-256 digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// ParseDigest checks that s has the form of a digest.
func ParseDigest(s string) (Digest, error) {
	rest, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(rest) != 64 || strings.Trim(rest, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w: %.80q (want sha256: and 64 hex digits)", ErrBadDigest, s)
	}
	return Digest(s), nil
}

// Hex returns the digest's hex digits without the algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Short returns the first twelve hex digits, for people.
func (d Digest) Short() string {
	h := d.Hex()
	if len(h) > 12 {
		return h[:12]
	}
	return h
}

// ID names a release: the digest of its manifest.
type ID = Digest

// DefaultProject is the project of everything that names none.
const DefaultProject = "default"

// Key names a service in one environment of a project: what a rollout is of.
type Key struct {
	Project     string `json:"project"`
	Service     string `json:"service"`
	Environment string `json:"environment"`
}

// String returns project/service/environment.
func (k Key) String() string { return k.Project + "/" + k.Service + "/" + k.Environment }

var name = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName reports whether s can name a project, service, environment or step:
// lower-case letters, digits and inner hyphens, a letter first, at most 63.
func CheckName(s string) error {
	if !name.MatchString(s) {
		return fmt.Errorf("%.80q is not a name: use lower-case letters, digits and hyphens, a letter first, at most 63 characters", s)
	}
	return nil
}

// Actor is who did something: "local:alice" (an operating-system user) or
// "system:control" (Sluice itself).
type Actor string

// System is the actor of what Sluice does by itself.
const System Actor = "system:control"

// Artifact is one built thing, named by the digest of its OCI manifest.
type Artifact struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes of content
}

// SecretRef names a secret and the version that was current when the release
// was made; never its value.
type SecretRef struct {
	Ref     string `json:"ref"`
	Version string `json:"version,omitempty"`
}

// Config is what one environment adds to the artifact.
type Config struct {
	Run     string               `json:"run,omitempty"` // command of an instance
	Env     map[string]string    `json:"env,omitempty"`
	Secrets map[string]SecretRef `json:"secrets,omitempty"`
}

// Manifest is a release in full. Its canonical bytes are stored as an OCI
// artifact; their digest is the release's [ID].
type Manifest struct {
	Version      int               `json:"version"` // 1
	Project      string            `json:"project"`
	Service      string            `json:"service"`
	Repository   string            `json:"repository"`
	Path         string            `json:"path"` // of the definition inside the repository
	Commit       string            `json:"commit"`
	Definition   Digest            `json:"definition"`
	Artifacts    []Artifact        `json:"artifacts"`
	Environments map[string]Config `json:"environments"`
	Engine       int               `json:"engine"`
}

// Canonical returns the manifest's canonical JSON (RFC 8785).
func (m Manifest) Canonical() ([]byte, error) { return Canonical(m) }

// ID returns the release's name.
func (m Manifest) ID() (ID, error) {
	b, err := m.Canonical()
	if err != nil {
		return "", err
	}
	return DigestOf(b), nil
}

// ParseManifest reads a manifest's bytes and checks that they are what id names.
func ParseManifest(b []byte, id ID) (Manifest, error) {
	if got := DigestOf(b); got != id {
		return Manifest{}, fmt.Errorf("release manifest has digest %s, not %s: it was altered", got, id)
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return Manifest{}, fmt.Errorf("couldn't read release manifest %s: %w", id, err)
	}
	return m, nil
}

// Canonical returns v as canonical JSON (RFC 8785), the only form that is hashed.
func Canonical(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("couldn't encode: %w", err)
	}
	b, err = jsoncanonicalizer.Transform(b)
	if err != nil {
		return nil, fmt.Errorf("couldn't canonicalise: %w", err)
	}
	return b, nil
}
