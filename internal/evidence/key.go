package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Purpose says what a key may sign. A signature by a key of another purpose
// proves nothing, however good it is.
type Purpose string

// The purposes.
const (
	PurposeStatements  Purpose = "statements"
	PurposeCheckpoints Purpose = "checkpoints"
	PurposePromotion   Purpose = "promotion"
)

// Purposes lists all of them.
func Purposes() []Purpose {
	return []Purpose{PurposeCheckpoints, PurposePromotion, PurposeStatements}
}

// PurposeOf returns the purpose of the key that signs statements of that type.
func PurposeOf(predicateType string) Purpose {
	if predicateType == TypePromotion {
		return PurposePromotion
	}
	return PurposeStatements
}

// ErrNoKey reports that a key ring holds no key for a purpose.
var ErrNoKey = errors.New("no key for this purpose")

// PublicKey is a public key with its purpose. ID is the SHA-256 of SPKI in hex.
type PublicKey struct {
	ID      string  `json:"id"`
	Purpose Purpose `json:"purpose"`
	SPKI    []byte  `json:"spki"` // DER SubjectPublicKeyInfo
}

// NewPublicKey returns pub, an Ed25519 or ECDSA P-256 key, for a purpose.
func NewPublicKey(p Purpose, pub crypto.PublicKey) (PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return PublicKey{}, fmt.Errorf("couldn't encode public key: %w", err)
	}
	k := PublicKey{ID: spkiID(der), Purpose: p, SPKI: der}
	if _, err := k.open(); err != nil {
		return PublicKey{}, err
	}
	return k, nil
}

func spkiID(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// PEM returns the key as other tools read it.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.SPKI})
}

// ParsePublicKey reads a PEM public key that shall serve a purpose.
func ParsePublicKey(p Purpose, b []byte) (PublicKey, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return PublicKey{}, fmt.Errorf("%w: want one PEM block PUBLIC KEY", ErrInvalid)
	}
	k := PublicKey{ID: spkiID(block.Bytes), Purpose: p, SPKI: block.Bytes}
	if _, err := k.open(); err != nil {
		return PublicKey{}, err
	}
	return k, nil
}

// Ref returns the key's purpose and fingerprint.
func (k PublicKey) Ref() KeyRef { return KeyRef{Purpose: k.Purpose, ID: k.ID} }

// open checks the key and returns it ready to verify.
func (k PublicKey) open() (crypto.PublicKey, error) {
	if !slices.Contains(Purposes(), k.Purpose) {
		return nil, fmt.Errorf("%w: key purpose %.40q is not one of %q", ErrInvalid, k.Purpose, Purposes())
	}
	if got := spkiID(k.SPKI); got != k.ID {
		return nil, fmt.Errorf("%w: key says that it is %.12s… but is %.12s…", ErrInvalid, k.ID, got)
	}
	pub, err := x509.ParsePKIXPublicKey(k.SPKI)
	if err != nil {
		return nil, fmt.Errorf("%w: couldn't read public key %.12s…: %w", ErrInvalid, k.ID, err)
	}
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return pub, nil
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() && k.Purpose != PurposeCheckpoints {
			return pub, nil
		}
	}
	return nil, fmt.Errorf("%w: key %.12s… for %s is neither Ed25519 nor, other than for checkpoints, ECDSA P-256", ErrInvalid, k.ID, k.Purpose)
}

// KeyRef pins a key: its purpose and fingerprint. As text it is PURPOSE:HEX.
type KeyRef struct {
	Purpose Purpose
	ID      string
}

// String returns PURPOSE:HEX.
func (r KeyRef) String() string { return string(r.Purpose) + ":" + r.ID }

// ParseKeyRef reads PURPOSE:HEX.
func ParseKeyRef(s string) (KeyRef, error) {
	p, id, ok := strings.Cut(s, ":")
	if !ok || !slices.Contains(Purposes(), Purpose(p)) || len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return KeyRef{}, fmt.Errorf("%w: %.100q is not PURPOSE:FINGERPRINT (for instance statements: and 64 hex digits)", ErrInvalid, s)
	}
	return KeyRef{Purpose: Purpose(p), ID: id}, nil
}

// Key signs for one purpose.
type Key struct {
	public PublicKey
	pub    crypto.PublicKey
	signer crypto.Signer
}

// NewKey returns a key that signs with s: Ed25519, or ECDSA P-256 unless it is
// for checkpoints, whose format knows only Ed25519.
func NewKey(p Purpose, s crypto.Signer) (*Key, error) {
	public, err := NewPublicKey(p, s.Public())
	if err != nil {
		return nil, fmt.Errorf("couldn't use key for %s: %w", p, err)
	}
	pub, err := public.open()
	if err != nil {
		return nil, err
	}
	return &Key{public: public, pub: pub, signer: s}, nil
}

// Generate returns a new Ed25519 key.
func Generate(p Purpose) (*Key, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("couldn't make a key for %s: %w", p, err)
	}
	return NewKey(p, priv)
}

// ParseKey reads a PEM PKCS#8 private key for a purpose.
func ParseKey(p Purpose, b []byte) (*Key, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: want one PEM block PRIVATE KEY (PKCS#8)", ErrInvalid)
	}
	priv, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("couldn't read private key for %s: %w", p, err)
	}
	s, ok := priv.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: private key for %s can't sign", ErrInvalid, p)
	}
	return NewKey(p, s)
}

// PEM returns the private key as PKCS#8.
func (k *Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return nil, fmt.Errorf("couldn't encode key for %s: %w", k.public.Purpose, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Public returns the key's public half.
func (k *Key) Public() PublicKey { return k.public }

func (k *Key) sign(msg []byte) ([]byte, error) {
	if _, ok := k.pub.(ed25519.PublicKey); ok {
		return k.signer.Sign(rand.Reader, msg, crypto.Hash(0))
	}
	sum := sha256.Sum256(msg)
	return k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
}

func verifySignature(pub crypto.PublicKey, msg, sig []byte) bool {
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(pub, msg, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		return ecdsa.VerifyASN1(pub, sum[:], sig)
	}
	return false
}

// KeyRing holds the signing keys, one per purpose. It doesn't change once made
// and may be used by many goroutines.
type KeyRing struct {
	keys map[Purpose]*Key
}

// NewKeyRing returns a ring of the keys. One key serves one purpose, and only
// that one.
func NewKeyRing(keys ...*Key) (*KeyRing, error) {
	r := &KeyRing{keys: map[Purpose]*Key{}}
	ids := map[string]Purpose{}
	for _, k := range keys {
		p := k.public.Purpose
		if r.keys[p] != nil {
			return nil, fmt.Errorf("%w: two keys for %s", ErrInvalid, p)
		}
		if other, ok := ids[k.public.ID]; ok {
			return nil, fmt.Errorf("%w: one key for both %s and %s: make one for each", ErrInvalid, other, p)
		}
		r.keys[p], ids[k.public.ID] = k, p
	}
	return r, nil
}

func (r *KeyRing) key(p Purpose) (*Key, error) {
	k := r.keys[p]
	if k == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoKey, p)
	}
	return k, nil
}

// Public returns the public keys in the order of their purposes.
func (r *KeyRing) Public() []PublicKey {
	var out []PublicKey
	for _, p := range Purposes() {
		if k := r.keys[p]; k != nil {
			out = append(out, k.public)
		}
	}
	return out
}

// KeySet is the public keys that signatures are verified by.
type KeySet struct {
	keys map[string]openKey
}

type openKey struct {
	PublicKey
	pub crypto.PublicKey
}

// NewKeySet returns a set of the keys. One key serves one purpose.
func NewKeySet(keys ...PublicKey) (*KeySet, error) {
	s := &KeySet{keys: make(map[string]openKey, len(keys))}
	for _, k := range keys {
		pub, err := k.open()
		if err != nil {
			return nil, err
		}
		if had, ok := s.keys[k.ID]; ok && had.Purpose != k.Purpose {
			return nil, fmt.Errorf("%w: key %.12s… is for both %s and %s", ErrInvalid, k.ID, had.Purpose, k.Purpose)
		}
		s.keys[k.ID] = openKey{PublicKey: k, pub: pub}
	}
	return s, nil
}
