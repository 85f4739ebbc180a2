package evidence_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	provenancev1 "github.com/in-toto/attestation/go/predicates/provenance/v1"
	testresultv0 "github.com/in-toto/attestation/go/predicates/test_result/v0"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// What we call standard is read by the standards' own types.
func TestStatementsAreInTotoStatements(t *testing.T) {
	l := newLog(t, "default")
	l.ship("default", "c1")
	loose := protojson.UnmarshalOptions{DiscardUnknown: true} // for extension fields
	seen := 0
	for _, leaf := range l.leaves {
		e, err := evidence.ParseEnvelope(leaf)
		if err != nil {
			t.Fatal(err)
		}
		var st intoto.Statement
		if err := protojson.Unmarshal(e.Payload, &st); err != nil {
			t.Fatalf("%v\n%s", err, e.Payload)
		}
		if err := st.Validate(); err != nil {
			t.Errorf("%v\n%s", err, e.Payload)
		}
		raw, err := protojson.Marshal(st.Predicate)
		if err != nil {
			t.Fatal(err)
		}
		var p proto.Message
		switch st.PredicateType {
		case evidence.TypeProvenance:
			p = &provenancev1.Provenance{}
		case evidence.TypeTestResult:
			p = &testresultv0.TestResult{}
		default:
			continue
		}
		seen++
		if err := loose.Unmarshal(raw, p); err != nil {
			t.Errorf("%v\n%s", err, raw)
		} else if v, ok := p.(interface{ Validate() error }); ok && v.Validate() != nil {
			t.Errorf("%v\n%s", v.Validate(), raw)
		}
	}
	if seen != 2 {
		t.Errorf("%d standard predicates, want 2", seen)
	}
}

func TestPredicatesComeBackAsTheyWere(t *testing.T) {
	l := newLog(t, "default")
	m, id := manifest(t, "default", "c1")
	want := evidence.Approval{Event: event(l.person("local:alice"), "prod"), Decision: evidence.Approved, Packet: id}
	want.Payloads = []evidence.Commitment{l.commit("comment", "yes")}
	l.add(want, evidence.Subjects(m, id)...)
	st, err := evidence.Peek(l.leaves[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := evidence.Decode[evidence.Approval](st)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := evidence.Decode[evidence.Promotion](st); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("an approval was read as a promotion: %v", err)
	}
	if !st.Has(id) || !st.Has(m.Artifacts[0].Digest) || st.Project() != "default" {
		t.Errorf("got %+v", st)
	}
	cs, err := st.Commitments()
	if err != nil || len(cs) != 2 {
		t.Fatalf("got %v, %v", cs, err)
	}
	for _, c := range cs {
		if _, err := c.Open(l.blobs[c.Digest]); err != nil {
			t.Error(err)
		}
	}
	if bytes.Contains(l.leaves[0], []byte("alice")) || strings.Contains(string(st.Predicate), "yes") {
		t.Error("a name or a comment is in the log")
	}
}

func TestWhatIsNoFactCanNotBeStated(t *testing.T) {
	m, id := manifest(t, "default", "c1")
	about := evidence.Subjects(m, id)
	ok := event("system:control", "prod")
	long := strings.Repeat("x", 3000)
	local := ok
	local.At = evidence.Stamp(noon.In(time.FixedZone("", 3600)).Format(time.RFC3339))
	nobody := ok
	nobody.Actor = "local:alice"
	nowhere := ok
	nowhere.Environment = ""
	bare := ok
	bare.Payloads = []evidence.Commitment{{Name: "x", Digest: id}}
	for name, c := range map[string]struct {
		p evidence.Predicate
		s []evidence.Subject
	}{
		"no subject":                {evidence.Release{Event: ok}, nil},
		"subjects of two projects":  {evidence.Release{Event: ok}, append(about[:1:1], evidence.ReleaseSubject("bank", "shop", id))},
		"a name that isn't one":     {evidence.Release{Event: ok}, []evidence.Subject{{Name: "shop", Digest: id}}},
		"no digest":                 {evidence.Release{Event: ok}, []evidence.Subject{{Name: "release/default/shop"}}},
		"no time":                   {evidence.Release{Event: evidence.Event{Actor: "system:control"}}, about},
		"time of a zone":            {evidence.Release{Event: local}, about},
		"a person's name":           {evidence.Release{Event: nobody}, about},
		"payload without algorithm": {evidence.Release{Event: bare}, about},
		"no environment":            {evidence.GateDecision{Event: nowhere, Outcome: evidence.GatePass}, about},
		"no outcome":                {evidence.GateDecision{Event: ok}, about},
		"a long reason":             {evidence.GateDecision{Event: ok, Outcome: evidence.GatePass, Reason: long}, about},
		"no decision":               {evidence.Approval{Event: ok, Packet: id}, about},
		"no packet":                 {evidence.Approval{Event: ok, Decision: evidence.Approved}, about},
		"no release":                {evidence.Promotion{Event: ok}, about},
		"no kind":                   {evidence.RolloutStep{Event: ok}, about},
		"no verdict":                {evidence.Verdict{Event: ok}, about},
		"no verdict of a metric":    {evidence.Verdict{Event: ok, Verdict: "pass", Metrics: []evidence.MetricVerdict{{}}}, about},
		"no stage":                  {evidence.Rollback{Event: ok}, about},
		"no change":                 {evidence.Quarantine{Event: ok}, about},
		"no rule":                   {evidence.Redaction{Event: ok, Payload: id}, about},
		"no payload":                {evidence.Redaction{Event: ok, Rule: "x"}, about},
		"nothing overridden":        {evidence.Override{Event: ok}, about},
		"recovery without a time":   {evidence.Recovery{}, about},
		"no build type":             {evidence.Provenance{}, about},
		"no configuration":          {evidence.TestResult{Result: evidence.TestsPassed, At: ok.At}, about},
		"no result":                 {evidence.TestResult{Configuration: []evidence.Resource{{Name: "x"}}, At: ok.At}, about},
	} {
		if st, err := evidence.NewStatement(c.p, c.s...); err == nil || !strings.HasPrefix(err.Error(), "couldn't state ") {
			t.Errorf("%s: got %+v, %v", name, st, err)
		}
	}
	if evidence.Finite(math.NaN()) != nil || evidence.Finite(math.Inf(-1)) != nil || *evidence.Finite(2) != 2 {
		t.Error("Finite lets through what JSON has no word for")
	}
}

// A predicate of somebody else may have an actor or payloads of its own.
func TestOthersFieldsMeanWhatTheySay(t *testing.T) {
	for predicate, want := range map[string]int{
		`{"actor":{"id":1},"payloads":"none"}`:                       0,
		`{"actor":"sha256:` + strings.Repeat("0", 64) + `"}`:         0,
		`{"sluice_payloads":[{"alg":"sha256-salt32","digest":"x"}]}`: 1,
		`{"sluice_payloads":7}`:                                      0,
		`[]`:                                                         0,
	} {
		st := evidence.Statement{PredicateType: "https://spdx.dev/Document/v2.3", Predicate: []byte(predicate)}
		if cs, err := st.Commitments(); err != nil || len(cs) != want {
			t.Errorf("%s: got %v, %v", predicate, cs, err)
		}
	}
}

// In one of ours they mean what we say, or it isn't one.
func TestOurFieldsHaveOurForm(t *testing.T) {
	for _, predicate := range []string{`[]`, `{"payloads":7}`, `{"actor":{}}`} {
		st := evidence.Statement{PredicateType: evidence.TypeApproval, Predicate: []byte(predicate)}
		if cs, err := st.Commitments(); !errors.Is(err, evidence.ErrInvalid) {
			t.Errorf("%s: got %v, %v", predicate, cs, err)
		}
	}
}

// Two blobs of the same content, or of the same person, have nothing in common.
func TestCommitmentsCanNotBeGuessed(t *testing.T) {
	a, blob := evidence.Commit(evidence.NewSalt(), "comment", "text/plain", []byte("yes"))
	b, _ := evidence.Commit(evidence.NewSalt(), "comment", "text/plain", []byte("yes"))
	if a.Digest == b.Digest || a.Digest == release.DigestOf([]byte("yes")) {
		t.Error("the commitment tells the content")
	}
	if got, err := a.Open(blob); err != nil || string(got) != "yes" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []evidence.Blob{nil, blob[:31], append(bytes.Clone(blob), 'x')} {
		if _, err := a.Open(bad); err == nil {
			t.Errorf("opened %q", bad)
		}
	}
	salt := evidence.NewSalt()
	alice, name := evidence.Opaque(salt, "local:alice")
	again, _ := evidence.Opaque(salt, "local:alice")
	bob, _ := evidence.Opaque(evidence.NewSalt(), "local:bob")
	if alice != again || alice == bob || name == nil {
		t.Error("one salt is one person")
	}
	if sys, blob := evidence.Opaque(salt, release.System); string(sys) != string(release.System) || blob != nil {
		t.Errorf("got %s, %q", sys, blob)
	}
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// foreignVerifier lets the DSSE library verify by our keys.
type foreignVerifier struct {
	id  string
	pub crypto.PublicKey
}

func (v foreignVerifier) KeyID() (string, error)   { return v.id, nil }
func (v foreignVerifier) Public() crypto.PublicKey { return v.pub }
func (v foreignVerifier) Verify(_ context.Context, data, sig []byte) error {
	switch pub := v.pub.(type) {
	case ed25519.PublicKey:
		if ed25519.Verify(pub, data, sig) {
			return nil
		}
	case *ecdsa.PublicKey:
		h := crypto.SHA256.New()
		h.Write(data)
		if ecdsa.VerifyASN1(pub, h.Sum(nil), sig) {
			return nil
		}
	}
	return errors.New("no")
}

func TestEnvelopesAreDSSE(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m, id := manifest(t, "default", "c1")
	for _, signer := range []crypto.Signer{ed, p256(t)} {
		k, err := evidence.NewKey(evidence.PurposeStatements, signer)
		if err != nil {
			t.Fatal(err)
		}
		ring, err := evidence.NewKeyRing(k)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ring.State(evidence.Quarantine{Event: event("system:control", "prod"), Change: evidence.Lifted}, evidence.Subjects(m, id)...)
		if err != nil {
			t.Fatal(err)
		}
		var e dsse.Envelope
		if err := json.Unmarshal(s.Envelope, &e); err != nil {
			t.Fatal(err)
		}
		v, err := dsse.NewEnvelopeVerifier(foreignVerifier{k.Public().ID, signer.Public()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(context.Background(), &e); err != nil {
			t.Errorf("%T: %v", signer, err)
		}
		keys, err := evidence.NewKeySet(ring.Public()...)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := keys.Verify(s.Envelope); err != nil || !reflect.DeepEqual(st, s.Statement) || release.DigestOf(s.Envelope) != s.Digest {
			t.Errorf("%T: %v, %+v", signer, err, st)
		}
		canonical, err := release.Canonical(e)
		if err != nil || !bytes.Equal(canonical, s.Envelope) {
			t.Errorf("the leaf is not canonical JSON: %v", err)
		}
		if _, err := ring.State(evidence.Promotion{Event: event("system:control", "prod"), Release: id}, evidence.Subjects(m, id)...); !errors.Is(err, evidence.ErrNoKey) {
			t.Errorf("a promotion was signed without the key for it: %v", err)
		}
		if _, err := ring.SignCheckpoint(evidence.Checkpoint{}); !errors.Is(err, evidence.ErrNoKey) {
			t.Errorf("a checkpoint was signed without the key for it: %v", err)
		}
	}
}

func TestTheAgentBelievesThePromotionKeyAboutThisReleaseHereOnly(t *testing.T) {
	l := newLog(t, "default")
	m, id := manifest(t, "default", "c1")
	_, other := manifest(t, "default", "c2")
	here := release.Key{Project: "default", Service: "shop", Environment: "prod"}
	promote := func(env string, p evidence.Promotion, subjects ...evidence.Subject) []byte {
		p.Event = event("system:control", env)
		s, err := l.keys.State(p, subjects...)
		if err != nil {
			t.Fatal(err)
		}
		return s.Envelope
	}
	good := evidence.Promotion{Project: "default", Service: "shop", Release: id}
	envelope := promote("prod", good, evidence.Subjects(m, id)...)

	var keys []evidence.PublicKey
	for _, k := range l.keys.Public() {
		if k.Purpose == evidence.PurposePromotion {
			keys = append(keys, k)
		}
	}
	agent, err := evidence.NewKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.VerifyPromotion(envelope, here, id); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.VerifyPromotion(envelope, here, other); err == nil {
		t.Error("the promotion of another release was believed")
	}
	for _, k := range []release.Key{{Project: "bank", Service: "shop", Environment: "prod"}, {Project: "default", Service: "cart", Environment: "prod"}, {Project: "default", Service: "shop", Environment: "dev"}} {
		if _, err := agent.VerifyPromotion(envelope, k, id); err == nil {
			t.Errorf("the promotion was believed in %s", k)
		}
	}
	lying := promote("prod", good, evidence.Subjects(m, other)...)
	if _, err := agent.VerifyPromotion(lying, here, id); err == nil {
		t.Error("a promotion whose subject is another release was believed")
	}
	gate, err := l.keys.State(evidence.GateDecision{Event: event("system:control", "prod"), Gate: "x", Outcome: evidence.GatePass}, evidence.Subjects(m, id)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.VerifyPromotion(gate.Envelope, here, id); !errors.Is(err, evidence.ErrUnknownKey) {
		t.Errorf("a statement by another key: %v", err)
	}
	stranger, err := evidence.NewKeySet(newKeys(t).Public()...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.VerifyPromotion(envelope, here, id); !errors.Is(err, evidence.ErrUnknownKey) {
		t.Errorf("a promotion by another control plane: %v", err)
	}
	broken := bytes.Replace(envelope, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
	if _, err := agent.VerifyPromotion(broken, here, id); !errors.Is(err, evidence.ErrSignature) {
		t.Errorf("a broken signature: %v", err)
	}
}

func TestKeysAreWhatTheyClaim(t *testing.T) {
	if _, err := evidence.NewKey(evidence.PurposeCheckpoints, p256(t)); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("the note format has no ECDSA: %v", err)
	}
	if _, err := evidence.NewKey("everything", p256(t)); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("a purpose that is none: %v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := evidence.NewKey(evidence.PurposeStatements, p384); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("P-384: %v", err)
	}
	one := p256(t)
	a, _ := evidence.NewKey(evidence.PurposeStatements, one)
	b, _ := evidence.NewKey(evidence.PurposePromotion, one)
	if _, err := evidence.NewKeyRing(a, b); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("one key for two purposes: %v", err)
	}
	if _, err := evidence.NewKeyRing(a, a); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("two keys for one purpose: %v", err)
	}
	if _, err := evidence.NewKeySet(a.Public(), b.Public()); !errors.Is(err, evidence.ErrInvalid) {
		t.Errorf("a set with one key for two purposes: %v", err)
	}
	public, err := evidence.ParsePublicKey(evidence.PurposeStatements, a.Public().PEM())
	if err != nil || !reflect.DeepEqual(public, a.Public()) {
		t.Errorf("got %+v, %v", public, err)
	}
	private, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := evidence.ParseKey(evidence.PurposeStatements, private)
	if err != nil || !reflect.DeepEqual(again.Public(), a.Public()) {
		t.Errorf("got %+v, %v", again, err)
	}
	ref, err := evidence.ParseKeyRef(a.Public().Ref().String())
	if err != nil || ref != a.Public().Ref() {
		t.Errorf("got %v, %v", ref, err)
	}
	for _, bad := range []string{"", "statements", "statements:ab", "all:" + strings.Repeat("a", 64), "statements:" + strings.Repeat("A", 64)} {
		if _, err := evidence.ParseKeyRef(bad); !errors.Is(err, evidence.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	der, _ := x509.MarshalPKIXPublicKey(p384.Public())
	for _, bad := range [][]byte{nil, private, append(a.Public().PEM(), private...), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})} {
		if _, err := evidence.ParsePublicKey(evidence.PurposeStatements, bad); !errors.Is(err, evidence.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range [][]byte{nil, a.Public().PEM(), append(private, private...), []byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")} {
		if _, err := evidence.ParseKey(evidence.PurposeStatements, bad); err == nil {
			t.Errorf("%q was read as a key", bad)
		}
	}
}
