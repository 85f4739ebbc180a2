package evidence

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Limits of a bundle that is read.
const (
	maxBundle      = 8 << 30 // bytes in all, unless VerifyOptions says otherwise
	maxHeaderLine  = 64 << 10
	maxEntryLine   = MaxEnvelope + 16<<10
	maxPayloadLine = (MaxPayload+SaltSize)/3*4 + 1<<10
	maxKeys        = 256
	maxConsistency = 256
)

// ErrNotBundle reports a file that isn't an evidence bundle that this build knows.
var ErrNotBundle = errors.New("not an evidence bundle")

// errShort reports a file that ends before its end.
var errShort = errors.New("the file ends early")

// lineReader reads a bundle line by line, in bounded memory.
type lineReader struct {
	r     *bufio.Reader
	left  int64
	limit int64
	no    int    // of the last line read, from 1
	held  []byte // a line that was put back
}

func newLineReader(r io.Reader, limit int64) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10), left: limit, limit: limit}
}

// next returns the next line without its line feed. It is the caller's to keep.
func (l *lineReader) next(limit int) ([]byte, error) {
	l.no++
	if l.held != nil {
		b := l.held
		l.held = nil
		return b, nil
	}
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		l.left -= int64(len(part))
		if l.left < 0 {
			return nil, fmt.Errorf("%w: it has more than %d bytes", ErrNotBundle, l.limit)
		}
		if len(line)+len(part) > limit+1 {
			return nil, fmt.Errorf("%w: line %d has more than %d bytes", ErrNotBundle, l.no, limit)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, errShort
		default:
			return nil, fmt.Errorf("couldn't read bundle: %w", err)
		}
	}
}

// back puts a line back, so that next returns it again.
func (l *lineReader) back(line []byte) {
	l.no--
	l.held = line
}

// atEnd reports whether nothing follows.
func (l *lineReader) atEnd() (bool, error) {
	_, err := l.r.Peek(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("couldn't read bundle: %w", err)
	}
	return false, nil
}

// strict reads the canonical JSON of v, and only that.
func strict(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	again, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("%w: not in canonical form", ErrInvalid)
	}
	return nil
}

// field reads a line `"name":VALUE,`.
func (l *lineReader) field(name string, v any) error {
	line, err := l.next(maxHeaderLine)
	if err != nil {
		return err
	}
	value, ok := bytes.CutPrefix(line, []byte(`"`+name+`":`))
	if ok {
		value, ok = bytes.CutSuffix(value, []byte(","))
	}
	if !ok {
		return fmt.Errorf("%w: line %d is not %q", ErrInvalid, l.no, name)
	}
	if err := strict(value, v); err != nil {
		return fmt.Errorf("line %d, %s: %w", l.no, name, err)
	}
	return nil
}

// element is one line of a section.
type element struct {
	line int
	data []byte
	// problem says what is wrong with the layout around the element.
	problem string
}

// section reads the lines of a section one by one. An altered line between
// good ones is an element like others, which its reader then refuses.
type section struct {
	l       *lineReader
	name    string
	end     string // the line that ends it
	after   string // how the line after that begins
	limit   int
	started bool
	comma   bool // the element before ended with one
	done    bool
}

// next returns the next element, or false at the section's end.
func (s *section) next() (element, bool, error) {
	if s.done {
		return element{}, false, nil
	}
	if !s.started {
		s.started = true
		line, err := s.l.next(maxHeaderLine)
		if err != nil {
			return element{}, false, err
		}
		if string(line) != `"`+s.name+`":[` {
			return element{line: s.l.no, problem: fmt.Sprintf("this is not the beginning of the %s", s.name)}, true, nil
		}
	}
	line, err := s.l.next(s.limit)
	if err != nil {
		return element{}, false, err
	}
	e := element{line: s.l.no}
	switch {
	case string(line) == s.end:
		s.done = true
		if s.comma {
			e.problem = fmt.Sprintf("a comma stands before the end of the %s", s.name)
			return e, true, nil
		}
		return e, false, nil
	case s.after != "" && bytes.HasPrefix(line, []byte(s.after)):
		s.done = true
		s.l.back(line)
		e.problem = fmt.Sprintf("the end of the %s is missing", s.name)
		return e, true, nil
	}
	e.data, s.comma = cutComma(line)
	if !s.comma {
		// Only the last element has no comma: the next line must be the end.
		following, err := s.l.next(s.limit)
		if err != nil && !errors.Is(err, errShort) {
			return element{}, false, err
		}
		if err != nil || string(following) != s.end {
			e.problem = "no comma stands after it"
		}
		if err == nil {
			s.l.back(following)
		} else {
			s.l.no--
		}
	}
	return e, true, nil
}

func cutComma(line []byte) ([]byte, bool) {
	if n := len(line); n > 0 && line[n-1] == ',' {
		return line[:n-1], true
	}
	return line, false
}
