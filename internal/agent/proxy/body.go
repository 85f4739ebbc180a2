package proxy

import (
	"bytes"
	"errors"
	"io"
)

var (
	errChunk   = syntax("a chunk is not hex digits, CRLF, that many bytes and CRLF")
	errTrailer = syntax("a trailer line is malformed")
)

const (
	maxChunkLine = 4 << 10
	maxTrailers  = 16 << 10
)

// framing says how a body ends.
type framing uint8

const (
	noBody framing = iota
	byLength
	byChunks
	byClose
)

// body takes one body apart, piece by piece as it arrives.
type body struct {
	framing framing
	left    int64  // of the body or of the chunk
	inside  bool   // a chunk's CRLF is still to come
	done    bool   // all of it was returned
	trailer []byte // after done: checked trailer lines, each with CRLF
}

func newBody(f framing, length int64) body {
	b := body{framing: f, left: length}
	if f == noBody || f == byLength && length == 0 {
		b.done = true
	}
	if f == byChunks {
		b.left = 0
	}
	return b
}

// next returns the next bytes of the body, waiting for them when none are
// buffered. It returns none only together with b.done or an error. The slice is
// valid until r is filled again.
func (b *body) next(r *reader) ([]byte, error) {
	if b.done {
		return nil, nil
	}
	if b.framing == byChunks && b.left == 0 {
		if err := b.chunk(r); err != nil || b.done {
			return nil, err
		}
	}
	if r.r == r.w {
		if err := r.fill(); err != nil {
			if b.framing == byClose && errors.Is(err, io.EOF) {
				b.done = true
				return nil, nil
			}
			return nil, eof(err)
		}
	}
	p := r.buffered()
	if b.framing != byClose {
		if int64(len(p)) > b.left {
			p = p[:b.left]
		}
		b.left -= int64(len(p))
		b.done = b.framing == byLength && b.left == 0
	}
	r.r += len(p)
	return p, nil
}

// chunk reads up to the data of the next chunk, or through the trailers.
func (b *body) chunk(r *reader) error {
	if b.inside {
		line, err := r.line(2)
		if errors.Is(err, errTooLarge) || err == nil && len(line) != 0 {
			return errChunk
		}
		if err != nil {
			return err
		}
		b.inside = false
	}
	line, err := r.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, ok := parseChunkSize(line)
	if !ok {
		return errChunk
	}
	if size > 0 {
		b.left, b.inside = size, true
		return nil
	}
	b.trailer = nil
	for {
		line, err := r.line(maxTrailers)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.done = true
			return nil
		}
		f, err := parseField(line)
		if err != nil || len(b.trailer)+len(line) > maxTrailers {
			return errTrailer
		}
		if !framingField(f.name) {
			b.trailer = append(append(b.trailer, line...), "\r\n"...)
		}
	}
}

// parseChunkSize reads 1 to 15 hex digits and ignores an extension after ";".
func parseChunkSize(line []byte) (int64, bool) {
	var n int64
	i := 0
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			c = 255
		}
		if c == 255 {
			break
		}
		n = n<<4 | int64(c)
		if i >= 15 {
			return 0, false
		}
	}
	if i == 0 || i < len(line) && line[i] != ';' || !all(line[i:], isValue) {
		return 0, false
	}
	return n, true
}

// framingField says whether a trailer of this name could change how a message is
// read or routed, or what it says in our name; such trailers are dropped.
func framingField(name []byte) bool {
	for _, n := range [...]string{"transfer-encoding", "content-length", "host", "connection", "trailer", "te", "upgrade", "authorization", "cookie", "set-cookie", "content-encoding", "content-type", "content-range", "expect"} {
		if foldEqual(name, n) {
			return true
		}
	}
	for _, n := range saysProxy {
		if means(name, n) {
			return true
		}
	}
	return hasPrefixFold(name, "proxy-")
}

// appendChunk appends p as one chunk.
func appendChunk(out, p []byte) []byte {
	if len(p) == 0 {
		return out
	}
	out = appendHex(out, uint64(len(p)))
	out = append(out, "\r\n"...)
	out = append(out, p...)
	return append(out, "\r\n"...)
}

// appendEnd appends the last chunk and the trailers.
func appendEnd(out, trailer []byte) []byte {
	out = append(out, "0\r\n"...)
	out = append(out, trailer...)
	return append(out, "\r\n"...)
}

func appendHex(out []byte, n uint64) []byte {
	var b [16]byte
	i := len(b)
	for {
		i--
		b[i] = "0123456789abcdef"[n&15]
		if n >>= 4; n == 0 {
			return append(out, b[i:]...)
		}
	}
}

// emptyLine says whether b begins with an empty line, which RFC 9112 2.2 lets a
// server skip before a request.
func emptyLine(b []byte) bool { return bytes.HasPrefix(b, []byte("\r\n")) }
