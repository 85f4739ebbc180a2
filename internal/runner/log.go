package runner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// Bounds of one step's log.
const (
	maxLog  = 10 << 20 // kept from the beginning
	tailLog = 64 << 10 // and from the end, when there is more
	maxLine = 64 << 10 // longer lines are cut into several
)

// Line is one line of a step's output, without secrets.
type Line struct {
	Number int       `json:"number"` // from 1
	Time   time.Time `json:"time"`
	Text   string    `json:"text"` // valid UTF-8, without the line's end
}

// sink takes what one step prints.
type sink struct {
	step   string
	redact redactor
	file   io.Writer // may be nil
	show   func(string, Line)
	now    func() time.Time
	max    int64

	kept    int64 // bytes in the log
	dropped int64
	tail    []byte // the end of what was dropped
	partial []byte // a line without its end
	lines   int
	digest  hash.Hash
	err     error // of the file
	clues   clues
}

func newSink(step string, x *secrets, file io.Writer, show func(string, Line), now func() time.Time, limit int64) *sink {
	return &sink{step: step, redact: redactor{secrets: x}, file: file, show: show, now: now, max: limit, digest: sha256.New()}
}

// Write never blocks on what the step does; its error is the log's own.
func (s *sink) Write(p []byte) (int, error) {
	s.clues.scan(p)
	s.take(s.redact.Push(p))
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

// take keeps redacted output within the bound.
func (s *sink) take(b []byte) {
	room := max(0, s.max-s.kept)
	if int64(len(b)) <= room && s.dropped == 0 {
		s.keep(b)
		return
	}
	if s.dropped == 0 {
		s.keep(b[:room])
		b = b[room:]
	}
	s.dropped += int64(len(b))
	s.tail = append(s.tail, b...)
	if len(s.tail) > 2*tailLog {
		s.tail = append(s.tail[:0], s.tail[len(s.tail)-tailLog:]...)
	}
}

// keep writes to the file and shows whole lines.
func (s *sink) keep(b []byte) {
	if len(b) == 0 || s.err != nil {
		return
	}
	if s.file != nil {
		if _, err := s.file.Write(b); err != nil {
			s.err = err
			return
		}
	}
	s.kept += int64(len(b))
	s.digest.Write(b)
	s.partial = append(s.partial, b...)
	for {
		end := bytes.IndexByte(s.partial, '\n')
		switch {
		case end >= 0 && end <= maxLine:
			s.line(s.partial[:end])
			s.partial = s.partial[end+1:]
		case len(s.partial) > maxLine:
			s.line(s.partial[:maxLine])
			s.partial = s.partial[maxLine:]
		default:
			s.partial = bytes.Clone(s.partial)
			return
		}
	}
}

func (s *sink) line(b []byte) {
	s.lines++
	if s.show != nil {
		text := strings.ToValidUTF8(strings.TrimSuffix(string(b), "\r"), "\uFFFD")
		s.show(s.step, Line{Number: s.lines, Time: s.now(), Text: text})
	}
}

// close ends the log. Notes are added on lines of their own.
func (s *sink) close(notes ...string) error {
	s.take(s.redact.Flush())
	if s.dropped > 0 {
		end := s.tail[len(s.tail)-min(len(s.tail), tailLog):]
		if nl := bytes.IndexByte(end, '\n'); nl >= 0 && nl+1 < len(end) && int64(len(end)) < s.dropped {
			end = end[nl+1:] // begin with a whole line
		}
		s.note(fmt.Sprintf("the log is longer than %s: %d bytes were dropped here", size(s.max), s.dropped-int64(len(end))))
		s.keep(end)
	}
	for _, n := range notes {
		s.note(n)
	}
	if len(s.partial) > 0 {
		s.line(s.partial)
		s.partial = nil
	}
	return s.err
}

func (s *sink) note(text string) {
	start := ""
	if len(s.partial) > 0 {
		start = "\n"
	}
	s.keep([]byte(start + "[sluice] " + text + "\n"))
}

// sum names the log as kept.
func (s *sink) sum() release.Digest {
	return release.Digest("sha256:" + hex.EncodeToString(s.digest.Sum(nil)))
}

func size(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

// clues are words in the output that tell why isolation made a step fail.
type clues struct {
	network, readOnly bool
	last              []byte // a clue may be cut in two
}

var (
	networkClues = [][]byte{
		[]byte("network is unreachable"), []byte("dial tcp"), []byte("temporary failure in name resolution"),
		[]byte("no such host"), []byte("could not resolve host"), []byte("disabled by goproxy=off"),
		[]byte("eai_again"), []byte("enotfound"), []byte("network unreachable"), []byte("name or service not known"),
	}
	readOnlyClues = [][]byte{[]byte("read-only file system"), []byte("erofs")}
	// Go warns so of a module cache that it may only read; that fails nothing.
	harmless = []byte("writing stat cache")
)

func (c *clues) scan(p []byte) {
	text := bytes.ToLower(append(c.last, p...))
	found := func(list [][]byte) bool {
		for _, clue := range list {
			if bytes.Contains(text, clue) {
				return true
			}
		}
		return false
	}
	c.network = c.network || found(networkClues)
	c.readOnly = c.readOnly || found(readOnlyClues) && !bytes.Contains(text, harmless)
	c.last = bytes.Clone(text[len(text)-min(len(text), 64):])
}
