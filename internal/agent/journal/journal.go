// Package journal is the agent's memory of which generations it applied: an
// append-only file of one JSON [Entry] per line.
//
// An entry is written and synced after the generation is durable in the agent's
// state and before it has any effect; [Outcome] applied stands at most once for a
// key and generation, also when the agent died in between, because the agent
// writes a missing entry at its next start. A line that a crash tore is cut off
// when the journal is opened.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// Outcome is what became of a generation.
type Outcome string

// Outcomes.
const (
	Applied Outcome = "applied" // accepted; its effects follow
	Refused Outcome = "refused" // lower than the applied one, or not understood
	Resumed Outcome = "resumed" // taken up again after a restart of the agent
)

// Entry is one line.
type Entry struct {
	Time time.Time `json:"time"`
	release.Key
	Generation int64              `json:"generation"`
	Weights    map[release.ID]int `json:"weights,omitempty"` // basis points that were asked for
	Outcome    Outcome            `json:"outcome"`
	Reason     string             `json:"reason,omitempty"`
}

// maxLine bounds a line that is read.
const maxLine = 1 << 20

// Journal appends entries. It is not safe for concurrent use.
type Journal struct{ f *os.File }

// Open opens or creates the journal and cuts off a torn last line.
func Open(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the journal: %w", err)
	}
	if err := mend(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("couldn't mend the journal %s: %w", path, err)
	}
	return &Journal{f: f}, nil
}

// mend truncates f behind its last line feed.
func mend(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	buf := make([]byte, 4096)
	for end := size; end > 0; {
		n := min(int64(len(buf)), end)
		if _, err := f.ReadAt(buf[:n], end-n); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			if keep := end - n + int64(i) + 1; keep < size {
				return f.Truncate(keep)
			}
			return nil
		}
		end -= n
	}
	return f.Truncate(0)
}

// Append writes e and makes it durable. After an error the file has either all of
// the line or none of it.
func (j *Journal) Append(e Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("couldn't encode a journal entry: %w", err)
	}
	info, err := j.f.Stat()
	if err != nil {
		return fmt.Errorf("couldn't write the journal: %w", err)
	}
	if _, err := j.f.Write(append(b, '\n')); err != nil {
		_ = j.f.Truncate(info.Size())
		return fmt.Errorf("couldn't write the journal: %w", err)
	}
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("couldn't write the journal: %w", err)
	}
	return nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.f.Close() }

// Read returns all entries of the journal at path; none if there is no file.
func Read(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't open the journal: %w", err)
	}
	defer f.Close()
	return Parse(f)
}

// Parse reads entries from r. A last line without line feed is not one yet.
func Parse(r io.Reader) ([]Entry, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var out []Entry
	for n := 1; ; n++ {
		line, err := readLine(br)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("couldn't read line %d of the journal: %w", n, err)
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return out, fmt.Errorf("couldn't read line %d of the journal: %w", n, err)
		}
		out = append(out, e)
	}
}

func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}
