package supervise

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	maxLog     = 10 << 20
	tailBytes  = 8 << 10
	tailLines  = 20
	maxTailOut = 4 << 10
)

// openLog opens the file that a service writes to. The service holds the file
// itself, not a pipe, so that it outlives the agent. When the file can't be
// opened, for instance because the disk is full, the service runs without a log.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		// O_APPEND: after rotate has emptied the file the service goes on at its start.
		if f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
			return f, nil
		}
	}
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("couldn't open a log: %w", err)
	}
	return f, nil
}

// rotate copies a log that is too long to path.1 and empties it. What is written
// in between is lost; so is the older part of what does not fit.
func rotate(path string, limit int64) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() <= limit {
		return nil
	}
	copyErr := copyTail(path+".1", path, limit)
	if copyErr != nil {
		_ = os.Remove(path + ".1") // on a full disk the room is worth more
	}
	if err := os.Truncate(path, 0); err != nil {
		return fmt.Errorf("couldn't cut the log %s: %w", path, err)
	}
	return nil
}

func copyTail(to, from string, limit int64) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := src.Seek(-limit, io.SeekEnd); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(dst, src, limit)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	return err
}

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
