package runner

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const stars = "***"

// minEncoded is the shortest encoded form that is looked for: shorter ones
// would blank ordinary words.
const minEncoded = 6

// secrets are the texts that must not leave, in every form that is looked for.
type secrets struct {
	byFirst [256][][]byte // by first byte, longest first
	any     bool
}

// newSecrets prepares the values: as they are, and as base64 (also inside a
// longer base64 text), hex, URL, JSON and quoted text. The lines of a secret
// with several are secrets too.
func newSecrets(values []string) *secrets {
	forms := map[string]bool{}
	for _, v := range values {
		for _, v := range []string{v, strings.TrimSpace(v)} {
			if strings.TrimSpace(v) == "" {
				continue
			}
			forms[v] = true
			for _, f := range encodings(v) {
				if len(f) >= minEncoded {
					forms[f] = true
				}
			}
		}
		if strings.Contains(strings.TrimSpace(v), "\n") {
			for line := range strings.Lines(v) {
				if line = strings.TrimSpace(line); len(line) >= 8 {
					forms[line] = true
				}
			}
		}
	}
	s := &secrets{any: len(forms) > 0}
	for f := range forms {
		s.byFirst[f[0]] = append(s.byFirst[f[0]], []byte(f))
	}
	for i := range s.byFirst {
		slices.SortFunc(s.byFirst[i], func(a, b []byte) int { return len(b) - len(a) })
	}
	return s
}

// encodings returns the forms in which tools print a value.
func encodings(v string) []string {
	raw := []byte(v)
	lower := func(s string) string { // %2F and %2f are the same
		b := []byte(s)
		for i := 0; i+2 < len(b); i++ {
			if b[i] == '%' {
				copy(b[i:], bytes.ToLower(b[i:i+3]))
			}
		}
		return string(b)
	}
	quoted := func(b []byte) string { return strings.Trim(string(b), `"`) }
	js, _ := json.Marshal(v) // a string has no error
	all := []string{
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		url.QueryEscape(v), lower(url.QueryEscape(v)), url.PathEscape(v), lower(url.PathEscape(v)),
		quoted(js), quoted([]byte(strconv.Quote(v))),
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		all = append(all, enc.EncodeToString(raw))
		// Inside a longer text the value begins at any of three alignments; the
		// digits that mix with its neighbours are left out.
		for shift := range 3 {
			digits := enc.EncodeToString(append(make([]byte, shift), raw...))
			from, to := []int{0, 2, 3}[shift], len(digits)
			if (shift+len(raw))%3 != 0 {
				to--
			}
			if to > from {
				all = append(all, digits[from:to])
			}
		}
	}
	return all
}

// Text returns s without secrets.
func (x *secrets) Text(s string) string {
	r := redactor{secrets: x}
	return string(append(r.Push([]byte(s)), r.Flush()...))
}

// redactor takes secrets out of a stream. It holds back the shortest end that
// may still become a secret.
type redactor struct {
	*secrets
	held  []byte
	cover int // how many of the held bytes belong to a secret already blanked
}

// Push adds output and returns what is safe to show; valid until the next call.
func (r *redactor) Push(p []byte) []byte { return r.step(p, false) }

// Flush returns the rest: the stream has ended.
func (r *redactor) Flush() []byte { return r.step(nil, true) }

func (r *redactor) step(p []byte, final bool) []byte {
	if !r.any {
		return p
	}
	buf := append(r.held, p...)
	out := make([]byte, 0, len(buf))
	i, cover := 0, r.cover
scan:
	for i < len(buf) {
		for _, secret := range r.byFirst[buf[i]] {
			rest := buf[i:]
			if bytes.HasPrefix(rest, secret) {
				if cover <= i {
					out = append(out, stars...)
				}
				cover = max(cover, i+len(secret))
				break // the longest: the others are inside it
			}
			if !final && len(rest) < len(secret) && bytes.HasPrefix(secret, rest) {
				break scan // it may become one
			}
		}
		if i >= cover {
			out = append(out, buf[i])
		}
		i++
	}
	r.held = append([]byte(nil), buf[i:]...)
	r.cover = max(0, cover-i)
	return out
}

// Redactor returns what takes the values out of a text, in every form in which
// logs show them.
func Redactor(values []string) func(string) string { return newSecrets(values).Text }

// BeginningRedactor is Redactor for texts whose end was cut off: what may be the
// beginning of a value there is taken out too.
func BeginningRedactor(values []string) func(string) string {
	x := newSecrets(values)
	return func(s string) string {
		r := redactor{secrets: x}
		return string(r.Push([]byte(s)))
	}
}
