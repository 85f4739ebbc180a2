// Package secret resolves references to secrets. Values are never logged and
// never part of an error.
package secret

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxSecret bounds a secret, in bytes.
const maxSecret = 64 << 10

// Resolve returns the value of a reference. This build reads file:PATH, with an
// absolute path: the content of a file that only its owner can read, without
// the newlines at its end.
func Resolve(_ context.Context, ref string) (string, error) {
	scheme, rest, _ := strings.Cut(ref, ":")
	if scheme != "file" {
		return "", fmt.Errorf("couldn't read secret %q: this build reads file:PATH only", ref)
	}
	if !filepath.IsAbs(rest) {
		return "", fmt.Errorf("couldn't read secret %q: give an absolute path", ref)
	}
	f, err := os.Open(rest)
	if err != nil {
		return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("couldn't read secret %q: others may read the file (mode %v); chmod 600 %s", ref, info.Mode().Perm(), rest)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("couldn't read secret %q: it has more than %d bytes", ref, maxSecret)
	}
	if strings.ContainsRune(string(b), 0) {
		return "", fmt.Errorf("couldn't read secret %q: it holds a zero byte, which no environment variable can", ref)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
