package evidence

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Hash is a SHA-256 hash of the log's Merkle tree (RFC 6962). As text it is
// standard base64.
type Hash [sha256.Size]byte

// String returns the hash in base64.
func (h Hash) String() string { return base64.StdEncoding.EncodeToString(h[:]) }

// MarshalText returns the hash in base64.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads a hash in base64.
func (h *Hash) UnmarshalText(b []byte) error {
	d, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || len(d) != len(h) {
		return fmt.Errorf("%w: %.60q is not 32 bytes in base64", ErrInvalid, b)
	}
	copy(h[:], d)
	return nil
}

var factory = &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// LeafHash returns the leaf hash of an envelope's canonical bytes.
func LeafHash(envelope []byte) Hash { return Hash(rfc6962.DefaultHasher.HashLeaf(envelope)) }

// EmptyRoot returns the root of a log without entries.
func EmptyRoot() Hash { return Hash(rfc6962.DefaultHasher.EmptyRoot()) }

// NodeID names a node of the tree: level 0 is the leaves, and node (l, i)
// covers leaves [i·2^l, (i+1)·2^l).
type NodeID struct {
	Level uint
	Index uint64
}

// Node is a node of a complete subtree. It never changes once its leaves exist,
// so storing it twice stores the same.
type Node struct {
	NodeID
	Hash Hash
}

// Nodes reads stored nodes, in the order of ids; a missing one is an error.
type Nodes func(ids []NodeID) ([]Hash, error)

// TreeState is the log's tree as of a size: the roots of the complete subtrees
// that cover its leaves, left to right.
type TreeState struct {
	Size   uint64 `json:"size"`
	Hashes []Hash `json:"hashes"`
}

// StateAt reads the state of the tree of that size from its nodes, as after a
// restart. It's the same state that Integrate returned.
func StateAt(size uint64, nodes Nodes) (TreeState, error) {
	hashes, err := read(nodes, compact.RangeNodes(0, size, nil))
	if err != nil {
		return TreeState{}, fmt.Errorf("couldn't read the tree of size %d: %w", size, err)
	}
	return TreeState{Size: size, Hashes: hashes}, nil
}

// Root returns the tree's root hash.
func (s TreeState) Root() (Hash, error) {
	if s.Size == 0 {
		return EmptyRoot(), nil
	}
	r, err := factory.NewRange(0, s.Size, raw(s.Hashes))
	if err != nil {
		return Hash{}, fmt.Errorf("%w: tree state: %w", ErrInvalid, err)
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		return Hash{}, fmt.Errorf("%w: tree state: %w", ErrInvalid, err)
	}
	return Hash(root), nil
}

// Integrate appends leaves, the canonical bytes of envelopes, to the tree. It
// returns the new state and the nodes to store with it in one transaction. The
// state passed in stays as it was.
func Integrate(s TreeState, leaves [][]byte) (TreeState, []Node, error) {
	r, err := factory.NewRange(0, s.Size, raw(s.Hashes))
	if err != nil {
		return TreeState{}, nil, fmt.Errorf("%w: tree state: %w", ErrInvalid, err)
	}
	nodes := make([]Node, 0, 2*len(leaves))
	keep := func(id compact.NodeID, hash []byte) {
		nodes = append(nodes, Node{NodeID: NodeID(id), Hash: Hash(hash)})
	}
	for _, l := range leaves {
		h := LeafHash(l)
		if err := r.Append(h[:], keep); err != nil {
			return TreeState{}, nil, fmt.Errorf("couldn't append to the tree: %w", err)
		}
	}
	return TreeState{Size: r.End(), Hashes: cooked(r.Hashes())}, nodes, nil
}

// InclusionNodes returns the nodes that the inclusion proof of an entry reads.
func InclusionNodes(index, size uint64) ([]NodeID, error) {
	p, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, fmt.Errorf("couldn't prove entry %d: %w", index, err)
	}
	return ids(p.IDs), nil
}

// InclusionProof proves that the entry at index is in the tree of that size.
func InclusionProof(index, size uint64, nodes Nodes) ([]Hash, error) {
	p, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, fmt.Errorf("couldn't prove entry %d: %w", index, err)
	}
	return prove(p, nodes)
}

// ConsistencyProof proves that the tree of size to begins with that of size from.
func ConsistencyProof(from, to uint64, nodes Nodes) ([]Hash, error) {
	p, err := proof.Consistency(from, to)
	if err != nil {
		return nil, fmt.Errorf("couldn't prove consistency: %w", err)
	}
	return prove(p, nodes)
}

func prove(p proof.Nodes, nodes Nodes) ([]Hash, error) {
	hashes, err := read(nodes, p.IDs)
	if err != nil {
		return nil, err
	}
	out, err := p.Rehash(raw(hashes), factory.Hash)
	if err != nil {
		return nil, fmt.Errorf("couldn't build proof: %w", err)
	}
	return cooked(out), nil
}

// VerifyInclusion checks an inclusion proof against the checkpoint.
func (c Checkpoint) VerifyInclusion(index uint64, leaf Hash, p []Hash) error {
	err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, leaf[:], raw(p), c.Root[:])
	if err != nil {
		return fmt.Errorf("entry %d is not in the log of size %d: %w", index, c.Size, err)
	}
	return nil
}

// VerifyConsistency checks a proof that the log of c is that of an earlier
// checkpoint with entries appended.
func (c Checkpoint) VerifyConsistency(earlier Checkpoint, p []Hash) error {
	err := proof.VerifyConsistency(rfc6962.DefaultHasher, earlier.Size, c.Size, raw(p), earlier.Root[:], c.Root[:])
	if err != nil {
		return fmt.Errorf("the log of size %d doesn't continue that of size %d: %w", c.Size, earlier.Size, err)
	}
	return nil
}

func read(nodes Nodes, want []compact.NodeID) ([]Hash, error) {
	if len(want) == 0 {
		return nil, nil
	}
	got, err := nodes(ids(want))
	if err != nil {
		return nil, fmt.Errorf("couldn't read tree nodes: %w", err)
	}
	if len(got) != len(want) {
		return nil, fmt.Errorf("couldn't read tree nodes: got %d, want %d", len(got), len(want))
	}
	return got, nil
}

func ids(in []compact.NodeID) []NodeID {
	out := make([]NodeID, len(in))
	for i, id := range in {
		out[i] = NodeID(id)
	}
	return out
}

func raw(in []Hash) [][]byte {
	out := make([][]byte, len(in))
	for i := range in {
		h := in[i] // a copy: the library writes into what it is given
		out[i] = h[:]
	}
	return out
}

func cooked(in [][]byte) []Hash {
	out := make([]Hash, len(in))
	for i := range in {
		out[i] = Hash(in[i])
	}
	return out
}
