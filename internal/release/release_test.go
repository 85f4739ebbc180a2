package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDigest(t *testing.T) {
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	d := DigestOf(nil)
	if d != empty || d.Hex() != empty[7:] || d.Short() != "e3b0c44298fc" || Digest("sha256:abc").Short() != "abc" {
		t.Errorf("%s %s %s", d, d.Hex(), d.Short())
	}
	if got, err := ParseDigest(empty); err != nil || got != d {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"", "sha256:", "e3b0", empty[:70], empty + "0", strings.ToUpper(empty), "sha512:" + empty[7:], "sha256:" + strings.Repeat("g", 64), strings.Repeat("x", 1000)} {
		if _, err := ParseDigest(bad); !errors.Is(err, ErrBadDigest) || len(err.Error()) > 300 {
			t.Errorf("%.20s: %v", bad, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "shop", "team-shop-2", "a" + strings.Repeat("b", 62)} {
		if err := CheckName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "A", "1a", "a_b", "a/b", "a.b", "ä", "a\n", "a" + strings.Repeat("b", 63)} {
		if CheckName(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// The same manifest has one id, whatever the order that it was made in; another
// value anywhere is another release.
func TestManifest(t *testing.T) {
	m := Manifest{
		Version: 1, Project: "default", Service: "shop", Commit: "abc", Artifacts: []Artifact{{Name: "main", Digest: DigestOf(nil), Size: 1 << 40}},
		Environments: map[string]Config{"prod": {Env: map[string]string{"B": "é <&>", "A": "1"}, Secrets: map[string]SecretRef{"T": {Ref: "file:/t"}}}}, Engine: 1,
	}
	body, err := m.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.ID()
	if err != nil || id != DigestOf(body) {
		t.Errorf("%s, %v", id, err)
	}
	back, err := ParseManifest(body, id)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := back.ID(); err != nil || again != id {
		t.Errorf("read back it is %s, %v", again, err)
	}
	if _, err := ParseManifest(append(body, ' '), id); err == nil || !strings.Contains(err.Error(), "altered") {
		t.Errorf("altered: %v", err)
	}
	if _, err := ParseManifest([]byte("{"), DigestOf([]byte("{"))); err == nil {
		t.Error("half a manifest is taken")
	}
	m.Environments["prod"].Env["A"] = "2"
	if other, err := m.ID(); err != nil || other == id {
		t.Error("other configuration is the same release")
	}
	if got := (Key{Project: "a", Service: "b", Environment: "c"}).String(); got != "a/b/c" {
		t.Error(got)
	}
}

func TestCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.MapOf(rapid.String(), rapid.OneOf(rapid.Int32().AsAny(), rapid.String().AsAny(), rapid.Bool().AsAny())).Draw(t, "v")
		one, err := Canonical(v)
		if err != nil {
			t.Fatal(err)
		}
		two, err := Canonical(json.RawMessage(one))
		if err != nil || !bytes.Equal(one, two) {
			t.Fatalf("%s, then %s, %v", one, two, err)
		}
	})
	if _, err := Canonical(make(chan int)); err == nil {
		t.Error("a channel is JSON")
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(string(DigestOf(nil)))
	f.Add("sha256:")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDigest(s); err == nil && (string(d) != s || len(d.Hex()) != 64) {
			t.Errorf("%q became %q", s, d)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseManifest(b, DigestOf(b)); err == nil {
			if _, err := m.ID(); err != nil {
				t.Error(err)
			}
		}
	})
}
