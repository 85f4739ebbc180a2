package evidence_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/evidence"
)

// The roots of Certificate Transparency's own test data.
func TestRootsAreThoseOfRFC6962(t *testing.T) {
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var all [][]byte
	for _, l := range leaves {
		b, err := hex.DecodeString(l)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	for n, want := range roots {
		state, _, err := evidence.Integrate(evidence.TreeState{}, all[:n])
		if err != nil {
			t.Fatal(err)
		}
		root, err := state.Root()
		if err != nil || hex.EncodeToString(root[:]) != want {
			t.Errorf("root of %d leaves is %x, want %s (%v)", n, root, want, err)
		}
	}
}

// disk is what survives a crash: committed rows, and only those.
type disk struct {
	leaves [][]byte // inserted, in order; those from size on have no index yet
	size   uint64
	nodes  map[evidence.NodeID]evidence.Hash
	points []evidence.Checkpoint
}

func (d *disk) read(ids []evidence.NodeID) ([]evidence.Hash, error) {
	out := make([]evidence.Hash, len(ids))
	for i, id := range ids {
		h, ok := d.nodes[id]
		if !ok {
			return nil, fmt.Errorf("no node %v", id)
		}
		out[i] = h
	}
	return out, nil
}

// The store's life: leaves are inserted, a sequencer integrates them in batches
// of any size, and dies before, or right after, any of its commits. It goes on
// from what is on disk, and each proof against each checkpoint ever published
// holds.
func TestAStoreThatCrashesAnywhereKeepsOneLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &disk{nodes: map[evidence.NodeID]evidence.Hash{}}
		var state *evidence.TreeState // in the sequencer's memory
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"insert", "integrate", "crash"}).Draw(t, "step") {
			case "insert":
				for range rapid.IntRange(1, 9).Draw(t, "leaves") {
					d.leaves = append(d.leaves, fmt.Appendf(nil, "leaf %d", len(d.leaves)))
				}
			case "crash":
				state = nil
			case "integrate":
				if state == nil {
					s, err := evidence.StateAt(d.size, d.read)
					if err != nil {
						t.Fatal(err)
					}
					state = &s
				}
				end := rapid.IntRange(int(d.size), len(d.leaves)).Draw(t, "end")
				before := fmt.Sprint(*state)
				next, nodes, err := evidence.Integrate(*state, d.leaves[d.size:end])
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(*state) != before {
					t.Fatal("Integrate changed the state that it was given")
				}
				if rapid.Bool().Draw(t, "dies before the commit") {
					state = nil
					continue
				}
				c, err := next.Checkpoint("sluice.dev/log/default/x")
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range nodes {
					if had, ok := d.nodes[n.NodeID]; ok && had != n.Hash {
						t.Fatalf("node %v changed", n.NodeID)
					}
					d.nodes[n.NodeID] = n.Hash
				}
				d.size, d.points = next.Size, append(d.points, c)
				state = &next
				if rapid.Bool().Draw(t, "dies after the commit") {
					state = nil
				}
			}
		}
		once, _, err := evidence.Integrate(evidence.TreeState{}, d.leaves[:d.size])
		if err != nil {
			t.Fatal(err)
		}
		again, err := evidence.StateAt(d.size, d.read)
		if err != nil {
			t.Fatal(err)
		}
		if len(once.Hashes)+len(again.Hashes) > 0 && !reflect.DeepEqual(once, again) {
			t.Fatalf("the log isn't what its leaves make: %v, %v", once, again)
		}
		for _, c := range d.points {
			for i := range c.Size {
				p, err := evidence.InclusionProof(i, c.Size, d.read)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.VerifyInclusion(i, evidence.LeafHash(d.leaves[i]), p); err != nil {
					t.Fatal(err)
				}
				if c.VerifyInclusion(i, evidence.LeafHash([]byte("other")), p) == nil {
					t.Fatal("another leaf has the same proof")
				}
			}
			for _, earlier := range d.points {
				if earlier.Size > c.Size {
					continue
				}
				p, err := evidence.ConsistencyProof(earlier.Size, c.Size, d.read)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.VerifyConsistency(earlier, p); err != nil {
					t.Fatal(err)
				}
				forged := earlier
				forged.Root[0] ^= 1
				if earlier.Size > 0 && c.VerifyConsistency(forged, p) == nil {
					t.Fatal("another history has the same proof")
				}
			}
		}
	})
}

func TestTreesThatCanNotBeAreErrors(t *testing.T) {
	broken := evidence.TreeState{Size: 3, Hashes: make([]evidence.Hash, 1)}
	if _, err := broken.Root(); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if _, _, err := evidence.Integrate(broken, nil); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	d := &disk{}
	if _, err := evidence.StateAt(3, d.read); err == nil {
		t.Error("a tree without nodes was read")
	}
	if _, err := evidence.InclusionProof(3, 3, d.read); err == nil {
		t.Error("an entry after the end was proved")
	}
	if _, err := evidence.ConsistencyProof(4, 3, d.read); err == nil {
		t.Error("a log was proved to be longer than itself")
	}
}

func TestCheckpointsAreSignedNotes(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	c, signed := l.checkpoint()
	keys, err := evidence.NewKeySet(l.keys.Public()...)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keys.OpenCheckpoint(signed); err != nil || got != c {
		t.Fatalf("got %+v, %v", got, err)
	}
	if want := fmt.Sprintf("sluice.dev/log/default/0b5e\n10\n%s\n\n\u2014 sluice.dev/log/default/0b5e ", c.Root); !strings.HasPrefix(string(signed), want) {
		t.Errorf("got %q", signed)
	}
	if got, err := evidence.ParseCheckpoint(signed); err != nil || got != c || got.Project() != "default" {
		t.Errorf("got %+v, %v", got, err)
	}
	strangers, err := evidence.NewKeySet(newKeys(t).Public()...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := strangers.OpenCheckpoint(signed); !errors.Is(err, evidence.ErrUnknownKey) {
		t.Errorf("got %v", err)
	}
	// A second signature by somebody unknown could say anything.
	skey, _, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), "witness")
	if err != nil {
		t.Fatal(err)
	}
	witness, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	extra, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)}, witness)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := bytes.Cut(extra, []byte("\n\n"))
	for name, bad := range map[string][]byte{
		"a second signature":  append(bytes.Clone(signed), line...),
		"the signature twice": append(bytes.Clone(signed), signed[bytes.Index(signed, []byte("\n\n"))+2:]...),
		"another size":        bytes.Replace(signed, []byte("\n10\n"), []byte("\n9\n"), 1),
		"a size with a zero":  bytes.Replace(signed, []byte("\n10\n"), []byte("\n010\n"), 1),
		"another origin":      bytes.ReplaceAll(signed, []byte("default"), []byte("bank")),
		"no origin":           bytes.Replace(signed, []byte("sluice.dev/log/default/0b5e\n"), []byte("x\n"), 1),
		"a fourth line":       bytes.Replace(signed, []byte("\n\n"), []byte("\nx\n\n"), 1),
		"a short root":        bytes.Replace(signed, []byte(c.Root.String()), []byte("AAAA"), 1),
		"nothing":             nil,
		"too much":            bytes.Repeat([]byte("x"), evidence.MaxCheckpoint+1),
	} {
		if _, err := keys.OpenCheckpoint(bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for _, bad := range []string{"", "A", "a/b", "a b", "a+b", strings.Repeat("a", 65)} {
		if _, err := evidence.Origin("default", bad); err == nil {
			t.Errorf("log id %q was accepted", bad)
		}
	}
	if _, err := evidence.Origin("No Project", "x"); err == nil {
		t.Error("a project that is none was accepted")
	}
}
