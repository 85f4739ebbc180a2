package supervise

import (
	"bytes"
	"io"
	"os"
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

// redact strikes the secrets out, also where one has several lines.
func redact(s string, secrets []string) string {
	for _, secret := range secrets {
		for _, part := range strings.Split(secret, "\n") {
			if part = strings.TrimSpace(part); len(part) >= 4 {
				s = strings.ReplaceAll(s, part, "***")
			}
		}
	}
	return s
}
