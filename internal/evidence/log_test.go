package evidence_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// memLog keeps a log as the store would: leaves, nodes and payloads.
type memLog struct {
	t      testing.TB
	keys   *evidence.KeyRing
	origin string
	leaves [][]byte
	state  evidence.TreeState
	nodes  map[evidence.NodeID]evidence.Hash
	blobs  map[release.Digest]evidence.Blob

	outputs map[release.Digest][]byte // what checks left
}

func newKeys(t testing.TB) *evidence.KeyRing {
	t.Helper()
	var keys []*evidence.Key
	for _, p := range evidence.Purposes() {
		k, err := evidence.Generate(p)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	ring, err := evidence.NewKeyRing(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func newLog(t testing.TB, project string) *memLog {
	t.Helper()
	origin, err := evidence.Origin(project, "0b5e")
	if err != nil {
		t.Fatal(err)
	}
	return &memLog{t: t, keys: newKeys(t), origin: origin, nodes: map[evidence.NodeID]evidence.Hash{}, blobs: map[release.Digest]evidence.Blob{}, outputs: map[release.Digest][]byte{}}
}

// add signs a statement and integrates it, and returns its index.
func (l *memLog) add(p evidence.Predicate, subjects ...evidence.Subject) uint64 {
	l.t.Helper()
	s, err := l.keys.State(p, subjects...)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.addEnvelope(s.Envelope)
}

func (l *memLog) addEnvelope(b []byte) uint64 {
	l.t.Helper()
	state, nodes, err := evidence.Integrate(l.state, [][]byte{b})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, n := range nodes {
		l.nodes[n.NodeID] = n.Hash
	}
	l.state = state
	l.leaves = append(l.leaves, b)
	return state.Size - 1
}

func (l *memLog) commit(name, content string) evidence.Commitment {
	c, b := evidence.Commit(evidence.NewSalt(), name, "text/plain", []byte(content))
	l.blobs[c.Digest] = b
	return c
}

// check records what a check of a release was answered.
func (l *memLog) check(m release.Manifest, id release.ID, name string, output []byte) uint64 {
	l.t.Helper()
	d := release.DigestOf(output)
	l.outputs[d] = output
	return l.add(evidence.TestResult{
		Result: evidence.TestsFailed, FailedTests: []string{name}, Run: "r1", Step: name, Environment: "prod", At: evidence.StampOf(noon),
		Configuration: []evidence.Resource{{Name: "check/" + name, Digest: map[string]string{"sha256": m.Definition.Hex()}}},
		Byproducts:    []evidence.Resource{{Name: "output/" + name, Digest: map[string]string{"sha256": d.Hex()}, MediaType: "text/plain"}},
	}, evidence.ReleaseSubject(m.Project, m.Service, id))
}

// withOutputs has a bundle carry what checks left.
func (l *memLog) withOutputs(e *evidence.Export) {
	e.Output = func(d release.Digest, limit int) ([]byte, evidence.Left, error) {
		b, ok := l.outputs[d]
		switch {
		case !ok:
			return nil, evidence.LeftAbsent, nil
		case len(b) > limit:
			return nil, evidence.LeftLarge, nil
		}
		return b, "", nil
	}
}

func (l *memLog) person(name string) evidence.ActorID {
	id, b := evidence.Opaque(evidence.NewSalt(), release.Actor(name))
	l.blobs[b.Digest()] = b
	return id
}

func (l *memLog) read(ids []evidence.NodeID) ([]evidence.Hash, error) {
	out := make([]evidence.Hash, len(ids))
	for i, id := range ids {
		h, ok := l.nodes[id]
		if !ok {
			return nil, fmt.Errorf("no node %v", id)
		}
		out[i] = h
	}
	return out, nil
}

func (l *memLog) all() iter.Seq2[evidence.Entry, error] {
	return func(yield func(evidence.Entry, error) bool) {
		for i, b := range l.leaves {
			if !yield(evidence.Entry{Index: uint64(i), Envelope: b}, nil) {
				return
			}
		}
	}
}

func (l *memLog) some(indexes []uint64) iter.Seq2[evidence.Entry, error] {
	return func(yield func(evidence.Entry, error) bool) {
		for _, i := range indexes {
			if !yield(evidence.Entry{Index: i, Envelope: l.leaves[i]}, nil) {
				return
			}
		}
	}
}

func (l *memLog) checkpoint() (evidence.Checkpoint, []byte) {
	l.t.Helper()
	c, err := l.state.Checkpoint(l.origin)
	if err != nil {
		l.t.Fatal(err)
	}
	signed, err := l.keys.SignCheckpoint(c)
	if err != nil {
		l.t.Fatal(err)
	}
	return c, signed
}

func (l *memLog) export(change ...func(*evidence.Export)) []byte {
	l.t.Helper()
	_, signed := l.checkpoint()
	e := evidence.Export{
		Checkpoint: signed, Keys: l.keys.Public(), Entries: l.all(), Nodes: l.read,
		Payload: func(d release.Digest) (evidence.Blob, error) { return l.blobs[d], nil },
	}
	for _, c := range change {
		c(&e)
	}
	var b bytes.Buffer
	if err := evidence.WriteBundle(&b, e); err != nil {
		l.t.Fatal(err)
	}
	return b.Bytes()
}

func (l *memLog) exportRelease(id release.ID, change ...func(*evidence.Export)) []byte {
	l.t.Helper()
	indexes, err := evidence.Select(l.all(), id)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.export(append([]func(*evidence.Export){func(e *evidence.Export) {
		e.Release, e.Entries = id, l.some(indexes)
	}}, change...)...)
}

func (l *memLog) refs() []evidence.KeyRef {
	var out []evidence.KeyRef
	for _, k := range l.keys.Public() {
		out = append(out, k.Ref())
	}
	return out
}

func manifest(t testing.TB, project, commit string) (release.Manifest, release.ID) {
	t.Helper()
	m := release.Manifest{
		Version: 1, Project: project, Service: "shop", Repository: "https://git.example/shop", Path: "sluice.yaml", Commit: commit,
		Definition: release.DigestOf([]byte("definition")),
		Artifacts:  []release.Artifact{{Name: "main", Type: "files", Digest: release.DigestOf([]byte("artifact " + commit)), Size: 8}},
	}
	id, err := m.ID()
	if err != nil {
		t.Fatal(err)
	}
	return m, id
}

func event(actor evidence.ActorID, env string) evidence.Event {
	return evidence.Event{At: evidence.StampOf(noon), Actor: actor, Run: "r1", Environment: env}
}

// ship records the whole story of one release that is rolled back.
func (l *memLog) ship(project, commit string) release.ID {
	l.t.Helper()
	m, id := manifest(l.t, project, commit)
	about := evidence.Subjects(m, id)
	sys := evidence.ActorID(release.System)
	alice := l.person("local:alice")
	l.add(evidence.Provenance{
		BuildDefinition: evidence.BuildDefinition{
			BuildType:            evidence.BuildType,
			ExternalParameters:   evidence.BuildParameters{Project: project, Service: m.Service, Repository: m.Repository, Path: m.Path, Commit: commit, Definition: m.Definition},
			InternalParameters:   evidence.InternalParameters{Isolation: "namespaces", Steps: []string{"unit", "package"}},
			ResolvedDependencies: []evidence.Resource{{URI: "git+" + m.Repository, Digest: map[string]string{"gitCommit": fmt.Sprintf("%040x", commit)}}},
		},
		RunDetails: evidence.RunDetails{
			Builder:  evidence.Builder{ID: "https://sluice.dev/builder/local/v1", Version: map[string]string{"sluice": "v0.1.0"}},
			Metadata: evidence.BuildMetadata{InvocationID: "r1", StartedOn: evidence.StampOf(noon), FinishedOn: evidence.StampOf(noon.Add(time.Minute))},
		},
		Payloads: []evidence.Commitment{l.commit("log", "building "+commit)},
	}, about[1])
	l.add(evidence.Release{Event: event(sys, ""), Service: m.Service, Commit: commit, Definition: m.Definition, Engine: 1}, about...)
	l.add(evidence.TestResult{
		Result: evidence.TestsPassed, Configuration: []evidence.Resource{{Name: "unit", Digest: map[string]string{"sha256": m.Definition.Hex()}}},
		Run: "r1", Step: "unit", At: evidence.StampOf(noon), Counts: &evidence.TestCounts{Passed: 12}, Payloads: []evidence.Commitment{l.commit("report", "ok")},
	}, about...)
	l.add(evidence.GateDecision{Event: event(sys, "prod"), Gate: "tests-passed", Outcome: evidence.GatePass, Reason: "12 tests passed"}, about...)
	approval := event(alice, "prod")
	approval.Payloads = []evidence.Commitment{l.commit("comment", "looks good, "+commit)}
	l.add(evidence.Approval{Event: approval, Decision: evidence.Approved, Packet: release.DigestOf([]byte("packet"))}, about...)
	l.add(evidence.Promotion{Event: event(sys, "prod"), Project: project, Service: m.Service, Release: id}, about...)
	weight, zero, millis := 500, 0, int64(41)
	l.add(evidence.RolloutStep{Event: event(sys, "prod"), Rollout: "ro1", Revision: 4, Kind: evidence.StepWeight, Step: 1, Weight: &weight, Observed: true, Host: "local"}, about...)
	l.add(evidence.Verdict{
		Event: event(sys, "prod"), Rollout: "ro1", Revision: 5, Step: 1, Verdict: verdict.Fail,
		Metrics: []evidence.MetricVerdict{{Name: "errors", Kind: "http-errors", Verdict: verdict.Fail, CanaryBad: 9, CanaryTotal: 60, BaselineTotal: 1100, LogFail: evidence.Finite(7.25)}},
	}, about...)
	l.add(evidence.Rollback{Event: event(sys, "prod"), Rollout: "ro1", Stage: evidence.RollbackCompleted, Cause: "verdict", Weight: &zero, Millis: &millis}, about...)
	l.add(evidence.Quarantine{Event: event(sys, "prod"), Change: evidence.Quarantined, Cause: "rolled back"}, about...)
	return id
}

func verify(t testing.TB, bundle []byte, opts evidence.VerifyOptions) evidence.Report {
	t.Helper()
	r, err := evidence.Verify(bytes.NewReader(bundle), opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// refused asserts that a bundle is refused, and for an entry by name.
func refused(t testing.TB, bundle []byte, opts evidence.VerifyOptions, kind evidence.Kind, index int64) evidence.Report {
	t.Helper()
	r := verify(t, bundle, opts)
	if r.OK {
		t.Fatalf("the bundle was accepted, want %s at %d", kind, index)
	}
	for _, f := range r.Findings {
		if f.Kind == kind && f.Index == index {
			return r
		}
	}
	t.Fatalf("want %s at entry %d, got %+v", kind, index, r.Findings)
	return r
}

var errDisk = errors.New("disk on fire")
