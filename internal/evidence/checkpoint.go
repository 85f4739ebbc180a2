package evidence

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/sluicehq/sluice/internal/release"
)

// MaxCheckpoint bounds a signed checkpoint in bytes.
const MaxCheckpoint = 16 << 10

// originPrefix starts the origin of every log.
const originPrefix = "sluice.dev/log/"

// Origin names a log: sluice.dev/log/PROJECT/ID. The id is made once with the
// log, so that the log of another installation can't stand in for it.
func Origin(project, id string) (string, error) {
	if err := release.CheckName(project); err != nil {
		return "", fmt.Errorf("couldn't name log: project %w", err)
	}
	if id == "" || len(id) > 64 || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz-") != "" {
		return "", fmt.Errorf("%w: log id %.80q is not 1 to 64 lower-case letters, digits and hyphens", ErrInvalid, id)
	}
	return originPrefix + project + "/" + id, nil
}

// Checkpoint is the log at one moment: it commits to every entry before Size.
type Checkpoint struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   Hash   `json:"root"`
}

// Project returns the project that the log is of.
func (c Checkpoint) Project() string {
	rest, _ := strings.CutPrefix(c.Origin, originPrefix)
	project, _, _ := strings.Cut(rest, "/")
	return project
}

// Checkpoint returns the unsigned checkpoint of the tree.
func (s TreeState) Checkpoint(origin string) (Checkpoint, error) {
	root, err := s.Root()
	return Checkpoint{Origin: origin, Size: s.Size, Root: root}, err
}

// SignCheckpoint returns the checkpoint as a signed note (C2SP tlog-checkpoint).
func (r *KeyRing) SignCheckpoint(c Checkpoint) ([]byte, error) {
	k, err := r.key(PurposeCheckpoints)
	if err != nil {
		return nil, fmt.Errorf("couldn't sign checkpoint: %w", err)
	}
	v, err := noteVerifier(c.Origin, k.pub)
	if err != nil {
		return nil, fmt.Errorf("couldn't sign checkpoint: %w", err)
	}
	text := log.Checkpoint{Origin: c.Origin, Size: c.Size, Hash: c.Root[:]}.Marshal()
	b, err := note.Sign(&note.Note{Text: string(text)}, noteSigner{Verifier: v, key: k})
	if err != nil {
		return nil, fmt.Errorf("couldn't sign checkpoint: %w", err)
	}
	return b, nil
}

// noteSigner lets any signer, also one in a KMS, sign notes.
type noteSigner struct {
	note.Verifier
	key *Key
}

// Sign implements note.Signer.
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return s.key.sign(msg) }

func noteVerifier(origin string, pub any) (note.Verifier, error) {
	ed, ok := pub.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: checkpoints are signed by Ed25519 keys only", ErrInvalid)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, ed)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(vkey)
}

// ParseCheckpoint reads a checkpoint without looking at its signatures: for one
// that the caller kept and trusts because of that.
func ParseCheckpoint(signed []byte) (Checkpoint, error) {
	if len(signed) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint has %d bytes, more than %d", ErrInvalid, len(signed), MaxCheckpoint)
	}
	text, _, _ := strings.Cut(string(signed), "\n\n")
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 3 {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint has %d lines, not origin, size and root", ErrInvalid, len(lines))
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint size is %.40q", ErrInvalid, lines[1])
	}
	c := Checkpoint{Origin: lines[0], Size: size}
	if err := c.Root.UnmarshalText([]byte(lines[2])); err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint root: %w", err)
	}
	if !strings.HasPrefix(c.Origin, originPrefix) || c.Project() == "" {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint origin %.80q is not that of a Sluice log", ErrInvalid, c.Origin)
	}
	return c, nil
}

// OpenCheckpoint verifies a signed checkpoint by the keys for checkpoints. All
// its signatures must be good and by such keys. On an error it returns what the
// checkpoint says as far as it can be read, so that it can be named.
func (s *KeySet) OpenCheckpoint(signed []byte) (Checkpoint, error) {
	c, _, err := s.openCheckpoint(signed)
	return c, err
}

// openCheckpoint also returns the ids of the keys that signed.
func (s *KeySet) openCheckpoint(signed []byte) (Checkpoint, []string, error) {
	c, err := ParseCheckpoint(signed)
	if err != nil {
		return c, nil, err
	}
	var vs []note.Verifier
	byHash := map[uint32]string{}
	for _, k := range s.keys {
		if k.Purpose != PurposeCheckpoints {
			continue
		}
		v, err := noteVerifier(c.Origin, k.pub)
		if err != nil {
			return c, nil, err
		}
		vs = append(vs, v)
		byHash[v.KeyHash()] = k.ID
	}
	n, err := note.Open(signed, note.VerifierList(vs...))
	var unverified *note.UnverifiedNoteError
	var bad *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		return c, nil, fmt.Errorf("checkpoint: %w", ErrUnknownKey)
	case errors.As(err, &bad):
		return c, nil, fmt.Errorf("checkpoint: %w", ErrSignature)
	case err != nil:
		return c, nil, fmt.Errorf("%w: couldn't read checkpoint: %w", ErrInvalid, err)
	case len(n.UnverifiedSigs) > 0:
		return c, nil, fmt.Errorf("checkpoint: %w: %.80q", ErrUnknownKey, n.UnverifiedSigs[0].Name)
	}
	// The note package skips repeated signatures and reads base64 loosely; there
	// shall be one form only.
	var signers []string
	again := n.Text + "\n"
	for _, sig := range n.Sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return c, nil, fmt.Errorf("%w: checkpoint signature is not strict base64", ErrInvalid)
		}
		signers = append(signers, byHash[sig.Hash])
		again += "\u2014 " + sig.Name + " " + sig.Base64 + "\n"
	}
	if again != string(signed) {
		return c, nil, fmt.Errorf("%w: checkpoint is not in canonical form", ErrInvalid)
	}
	return c, signers, nil
}
