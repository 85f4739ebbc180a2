package main

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

func firstGroup(pattern, text string) (string, error) {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return "", err
	}
	m := re.FindStringSubmatch(text)
	if len(m) < 2 {
		return "", fmt.Errorf("no match of %q in:\n%s", pattern, text)
	}
	return m[1], nil
}

// load URL sends requests at a steady pace until it is ended.
func load() {
	c := http.Client{Timeout: 2 * time.Second}
	for range time.Tick(5 * time.Millisecond) {
		res, err := c.Get(os.Args[1])
		if err != nil {
			continue // what is served is the server's matter
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}

// bundle FILE [OUTPUT] writes an evidence bundle of three gate decisions about a
// release, then with OUTPUT a check that was answered that, and sets ROOT to the root of its log and KEY_PURPOSE to the keys that signed it.
func bundle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: bundle FILE [OUTPUT]")
	}
	var keys []*evidence.Key
	for _, p := range evidence.Purposes() {
		k, err := evidence.Generate(p)
		ts.Check(err)
		keys = append(keys, k)
		ts.Setenv("KEY_"+string(p), k.Public().Ref().String())
	}
	ring, err := evidence.NewKeyRing(keys...)
	ts.Check(err)
	origin, err := evidence.Origin(release.DefaultProject, "0b5e")
	ts.Check(err)
	subject := evidence.ReleaseSubject(release.DefaultProject, "checkout", release.DigestOf([]byte("a manifest")))
	var leaves [][]byte
	for _, gate := range []string{"tests-passed", "size", "quiet"} {
		s, err := ring.State(evidence.GateDecision{
			Event: evidence.Event{At: evidence.StampOf(time.Unix(1767322800, 0)), Actor: "system:control", Environment: "production"},
			Gate:  gate, Outcome: evidence.GatePass,
		}, subject)
		ts.Check(err)
		leaves = append(leaves, s.Envelope)
	}
	var output func(release.Digest, int) ([]byte, evidence.Left, error)
	if len(args) == 2 {
		said := []byte(args[1])
		sum := map[string]string{"sha256": release.DigestOf(said).Hex()}
		s, err := ring.State(evidence.TestResult{
			Result: evidence.TestsFailed, FailedTests: []string{"smoke"}, At: evidence.StampOf(time.Unix(1767322800, 0)),
			Configuration: []evidence.Resource{{Name: "check/smoke"}},
			Byproducts:    []evidence.Resource{{Name: "output/smoke", Digest: sum, MediaType: "text/plain"}},
		}, subject)
		ts.Check(err)
		leaves = append(leaves, s.Envelope)
		output = func(release.Digest, int) ([]byte, evidence.Left, error) { return said, "", nil }
	}
	state, nodes, err := evidence.Integrate(evidence.TreeState{}, leaves)
	ts.Check(err)
	known := map[evidence.NodeID]evidence.Hash{}
	for _, n := range nodes {
		known[n.NodeID] = n.Hash
	}
	c, err := state.Checkpoint(origin)
	ts.Check(err)
	signed, err := ring.SignCheckpoint(c)
	ts.Check(err)
	var b bytes.Buffer
	ts.Check(evidence.WriteBundle(&b, evidence.Export{
		Checkpoint: signed, Keys: ring.Public(), Entries: entries(leaves), Output: output,
		Nodes: func(ids []evidence.NodeID) ([]evidence.Hash, error) {
			out := make([]evidence.Hash, len(ids))
			for i, id := range ids {
				out[i] = known[id]
			}
			return out, nil
		},
	}))
	ts.Setenv("ROOT", c.Root.String())
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("checkpoint"), signed, 0o600))
}

func entries(leaves [][]byte) iter.Seq2[evidence.Entry, error] {
	return func(yield func(evidence.Entry, error) bool) {
		for i, b := range leaves {
			if !yield(evidence.Entry{Index: uint64(i), Envelope: b}, nil) {
				return
			}
		}
	}
}

// tamper FROM TO N changes one character of the payload of entry N of a bundle.
func tamper(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: tamper FROM TO N")
	}
	b := []byte(ts.ReadFile(args[0]))
	at := regexp.MustCompile(`"index":` + args[2] + `[,}]`).FindIndex(b)
	if at == nil {
		ts.Fatalf("%s has no entry %s", args[0], args[2])
	}
	line := bytes.LastIndexByte(b[:at[0]], '\n') + 1
	payload := bytes.Index(b[line:], []byte(`"payload":"`))
	if payload < 0 {
		ts.Fatalf("entry %s has no payload", args[2])
	}
	i := line + payload + len(`"payload":"`) + 40
	b[i] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}
