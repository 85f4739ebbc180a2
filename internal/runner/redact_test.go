package runner

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSecretsAreBlankedInTheFormsThatLogsMeet(t *testing.T) {
	const token = `p4ss/w0rd+"é`
	const key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nAgEAAoIBAQC7VJTUt9Us\n-----END KEY-----\n"
	x := newSecrets([]string{token, key, "", " \n", "ab"})
	for name, text := range map[string]string{
		"plain":            token,
		"in a word":        "x" + token + "y",
		"base64":           base64.StdEncoding.EncodeToString([]byte(token)),
		"url base64":       base64.RawURLEncoding.EncodeToString([]byte(token)),
		"basic auth":       base64.StdEncoding.EncodeToString([]byte("user:" + token)),
		"basic auth 2":     base64.StdEncoding.EncodeToString([]byte("me:" + token + ":x")),
		"basic auth 3":     base64.StdEncoding.EncodeToString([]byte("you:" + token + "!!")),
		"hex":              hex.EncodeToString([]byte(token)),
		"HEX":              strings.ToUpper(hex.EncodeToString([]byte(token))),
		"query":            "?t=" + url.QueryEscape(token),
		"lower-case query": "?t=" + strings.NewReplacer("%2F", "%2f", "%2B", "%2b", "%C3%A9", "%c3%a9").Replace(url.QueryEscape(token)),
		"path":             url.PathEscape(token),
		"json":             `{"t":"p4ss/w0rd+\"é"}`,
		"line of a key":    "key: MIIEvQIBADANBgkqhkiG",
		"short":            "ab",
	} {
		got := x.Text(text)
		if !strings.Contains(got, stars) {
			t.Errorf("%s: %q became %q", name, text, got)
		}
		if strings.Contains(got, "p4ss") || strings.Contains(got, "MIIE") {
			t.Errorf("%s: %q still shows it", name, got)
		}
	}
	if got := x.Text("nothing to see, a b c"); got != "nothing to see, a b c" {
		t.Errorf("harmless text became %q", got)
	}
	if got := newSecrets(nil).Text("free"); got != "free" {
		t.Errorf("without secrets: %q", got)
	}
}

func TestOverlappingSecretsLeaveNoRest(t *testing.T) {
	x := newSecrets([]string{"abcdef", "defghi", "cd"})
	if got := x.Text("-abcdefghi-cd-abc-"); got != "-***-***-abc-" {
		t.Errorf("got %q", got)
	}
}

// TestSplitWritesHideNothing: however the output is cut, the result is the same
// and contains no secret.
func TestSplitWritesHideNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringMatching(`[ab]{1,6}`)
		values := rapid.SliceOfN(letters, 1, 4).Draw(t, "secrets")
		text := rapid.StringMatching(`[abc]{0,80}`).Draw(t, "text")
		x := newSecrets(values)
		whole := x.Text(text)
		r := redactor{secrets: x}
		var out []byte
		for rest := []byte(text); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			out = append(out, r.Push(rest[:n])...)
			rest = rest[n:]
		}
		out = append(out, r.Flush()...)
		if string(out) != whole {
			t.Fatalf("cut: %q, whole: %q", out, whole)
		}
		for _, v := range values {
			if strings.Contains(whole, v) {
				t.Fatalf("%q shows %q", whole, v)
			}
		}
		// What is not part of a secret stays.
		if strings.Count(whole, "c") != strings.Count(text, "c") {
			t.Fatalf("%q lost text in %q", text, whole)
		}
	})
}

func FuzzRedact(f *testing.F) {
	f.Add("secret", []byte("a secret, c2VjcmV0"), 3)
	f.Fuzz(func(t *testing.T, value string, text []byte, cut int) {
		if strings.TrimSpace(value) == "" || strings.Contains(value, "*") || len(value) > 200 {
			return
		}
		r := redactor{secrets: newSecrets([]string{value})}
		cut = min(max(cut, 0), len(text))
		out := append(bytes.Clone(r.Push(text[:cut])), r.Push(text[cut:])...)
		out = append(out, r.Flush()...)
		if bytes.Contains(out, []byte(value)) {
			t.Errorf("%q still in %q", value, out)
		}
	})
}

func BenchmarkRedactFlood(b *testing.B) {
	x := newSecrets([]string{"a-secret-value-of-usual-length", "another-one"})
	r := redactor{secrets: x}
	chunk := bytes.Repeat([]byte("a line of a log that is not very long but long enough\n"), 600)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		r.Push(chunk)
	}
}
