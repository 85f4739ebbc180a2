package supervise

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	tailBytes  = 8 << 10
	tailLines  = 20
	maxTailOut = 4 << 10
)

// tail returns the last lines of a log, without the secrets.
func tail(path string, secrets []string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	from := max(0, info.Size()-tailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, tailBytes))
	if err != nil {
		return ""
	}
	if i := bytes.IndexByte(b, '\n'); from > 0 && i >= 0 {
		b = b[i+1:] // the first line is not whole
	} else if from > 0 {
		b = b[endOfSecret(b, secrets):] // nor is this one, the only
	}
	// Before anything is cut off: a part of a secret would not be recognised.
	s := redact(strings.ToValidUTF8(string(b), "\uFFFD"), secrets)
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	s = strings.Join(lines, "\n")
	if len(s) > maxTailOut {
		s = strings.ToValidUTF8(s[len(s)-maxTailOut:], "")
	}
	return s
}

// redact strikes the secrets out, also where one has several lines; the longest
// first, as one may be the beginning of another.
func redact(s string, secrets []string) string {
	for _, part := range parts(secrets) {
		s = strings.ReplaceAll(s, part, "***")
	}
	return s
}

// parts are the texts that must not be shown.
func parts(secrets []string) []string {
	var out []string
	for _, secret := range secrets {
		for part := range strings.SplitSeq(secret, "\n") {
			if part = strings.TrimSpace(part); len(part) >= 4 {
				out = append(out, part)
			}
		}
	}
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}

// endOfSecret is how much of the beginning of b is, or may be, the rest of a secret
// whose beginning was cut off.
func endOfSecret(b []byte, secrets []string) int {
	end := 0
	for _, part := range parts(secrets) {
		for n := min(len(part)-1, len(b)); n > end; n-- {
			if bytes.HasPrefix(b, []byte(part[len(part)-n:])) {
				end = n
			}
		}
	}
	return end
}
