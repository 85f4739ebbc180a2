package proxy

import (
	"bytes"
	"errors"
	"io"
)

// errTooLarge reports a head or line that is longer than the buffer may grow.
var errTooLarge = errors.New("the message head is too large")

const (
	startBuffer = 4 << 10
	maxBuffer   = 64 << 10
)

// reader is a growing buffer over a connection. Unlike bufio.Reader it lends out
// slices of a whole head and tells how a read failed.
type reader struct {
	src   func([]byte) (int, error)
	block func() error // if set, called before each read: it may have to wait
	buf   []byte
	r, w  int
}

func (b *reader) buffered() []byte { return b.buf[b.r:b.w] }

// fill reads once. It may move or replace the buffer: slices lent before are void.
func (b *reader) fill() error {
	switch {
	case b.buf == nil:
		b.buf = make([]byte, startBuffer)
	case b.r == b.w:
		if b.w == len(b.buf) && len(b.buf) < maxBuffer {
			b.buf = make([]byte, 2*len(b.buf)) // it came full: more will come
		}
		b.r, b.w = 0, 0
	case b.w == len(b.buf) && b.r > 0:
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
	case b.w == len(b.buf):
		if len(b.buf) >= maxBuffer {
			return errTooLarge
		}
		grown := make([]byte, 2*len(b.buf))
		b.w = copy(grown, b.buf[:b.w])
		b.buf = grown
	}
	if b.block != nil {
		if err := b.block(); err != nil {
			return err
		}
	}
	n, err := b.src(b.buf[b.w:])
	b.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// head reads until h holds a whole head and returns the bytes of it, which are
// taken out of the buffer but stay valid until the next fill.
func (b *reader) head(h *head) (raw []byte, err error) {
	from := 0
	for {
		if b.w > b.r {
			n, next, err := h.scan(b.buf[b.r:b.w], from)
			if err != nil {
				return nil, err
			}
			if n > 0 {
				raw = b.buf[b.r : b.r+n]
				b.r += n
				return raw, nil
			}
			from = next
		}
		if err := b.fill(); err != nil {
			return nil, err
		}
	}
}

// line returns the next line without its CRLF. Bounds what it waits for to max.
func (b *reader) line(max int) ([]byte, error) {
	from := 0
	for {
		if i := bytes.IndexByte(b.buf[b.r+from:b.w], '\n'); i >= 0 {
			i += from
			if i == 0 || b.buf[b.r+i-1] != '\r' {
				return nil, errBareLF
			}
			if i > max {
				return nil, errTooLarge
			}
			line := b.buf[b.r : b.r+i-1]
			b.r += i + 1
			return line, nil
		}
		from = b.w - b.r
		if from > max {
			return nil, errTooLarge
		}
		if err := b.fill(); err != nil {
			return nil, eof(err)
		}
	}
}

// eof turns an end of stream inside of a message into an error that says so.
func eof(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
