package proxy

import (
	"bytes"
	"errors"
	"fmt"
)

// errSyntax is wrapped by every refusal of the parser.
var errSyntax = errors.New("malformed HTTP")

func syntax(why string) error { return fmt.Errorf("%w: %s", errSyntax, why) }

var (
	errBareLF     = syntax("a line ends with LF alone")
	errFold       = syntax("a header line begins with white space")
	errName       = syntax("a header name holds a character that is not allowed")
	errValue      = syntax("a header value holds a control character")
	errLength     = syntax("Content-Length is not one plain number")
	errLengths    = syntax("both Content-Length and Transfer-Encoding")
	errCoding     = syntax("Transfer-Encoding is not exactly chunked")
	errStartLine  = syntax("the start line is not method, target and HTTP/1.x")
	errStatusLine = syntax("the status line is not HTTP/1.x and a status")
	errHost       = syntax("not exactly one valid Host")
	errTooMany    = syntax("too many header lines")
)

const maxFields = 200

// field is one header line; its slices point into the reader's buffer.
type field struct {
	name, value []byte
	hop         bool // of this connection only: not sent on
}

// head is a parsed request or response head. It is reused; its slices are valid
// until the reader's buffer is filled again.
type head struct {
	method, target []byte // of a request
	status         int    // of a response
	reason         []byte
	minor          int // HTTP/1.minor
	fields         []field

	host     []byte
	length   int64 // -1: none was given
	chunked  bool
	close    bool   // Connection: close
	alive    bool   // Connection: keep-alive
	upgrade  []byte // the protocol, when Connection has the token upgrade
	expect   bool   // Expect: 100-continue
	trailers bool   // TE: trailers
	token    []byte // of Sluice-Synthetic

	ends []int // scratch: ends of lines
}

// flags of bytes.
const (
	isToken = 1 << iota
	isValue
	isTarget
	isHost
)

var class = func() (t [256]byte) {
	for c := 0; c < 256; c++ {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
			bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0 {
			t[c] |= isToken
		}
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= isValue
		}
		if c > 0x20 && c != 0x7f {
			t[c] |= isTarget
		}
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
			bytes.IndexByte([]byte("-._~!$&'()*+,;=:[]%"), byte(c)) >= 0 {
			t[c] |= isHost
		}
	}
	return t
}()

func all(b []byte, flag byte) bool {
	for _, c := range b {
		if class[c]&flag == 0 {
			return false
		}
	}
	return true
}

// scan looks for the end of a head in b and remembers where its lines end. It
// returns the head's length, or 0 when b does not hold all of it yet. from is how
// much an earlier call has already seen, and next what to pass the next time.
func (h *head) scan(b []byte, from int) (n, next int, err error) {
	if from == 0 {
		h.ends = h.ends[:0]
	}
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, from, nil
		}
		i += from
		if i == 0 || b[i-1] != '\r' {
			return 0, 0, errBareLF
		}
		start := 0
		if k := len(h.ends); k > 0 {
			start = h.ends[k-1] + 2
		}
		if i-1 == start && len(h.ends) > 0 {
			return i + 1, 0, nil
		}
		if len(h.ends) > maxFields {
			return 0, 0, errTooMany
		}
		h.ends = append(h.ends, i-1)
		from = i + 1
	}
}

// parseRequest reads the head that scan found in b.
func (h *head) parseRequest(b []byte) error {
	line := b[:h.ends[0]]
	sp := bytes.IndexByte(line, ' ')
	if sp <= 0 || len(line) < sp+1+1+len(" HTTP/1.1") {
		return errStartLine
	}
	h.method = line[:sp]
	end := len(line) - len(" HTTP/1.1")
	if end <= sp || string(line[end:len(line)-1]) != " HTTP/1." {
		return errStartLine
	}
	h.target = line[sp+1 : end]
	switch line[len(line)-1] {
	case '0':
		h.minor = 0
	case '1':
		h.minor = 1
	default:
		return errStartLine
	}
	if !all(h.method, isToken) || len(h.target) == 0 || !all(h.target, isTarget) {
		return errStartLine
	}
	if err := h.parseFields(b, true); err != nil {
		return err
	}
	if h.chunked && h.minor == 0 {
		return errCoding
	}
	return h.parseTarget()
}

// parseTarget brings the target to the form that a server is sent: a path.
func (h *head) parseTarget() error {
	switch {
	case h.target[0] == '/':
	case len(h.target) == 1 && h.target[0] == '*' && string(h.method) == "OPTIONS":
	case hasPrefixFold(h.target, "http://"), hasPrefixFold(h.target, "https://"):
		rest := h.target[bytes.IndexByte(h.target, ':')+3:]
		i := bytes.IndexAny(rest, "/?#")
		if i < 0 {
			i = len(rest)
		}
		// RFC 9112 3.2.2: the target's host wins over the Host header.
		h.host = rest[:i]
		switch {
		case i == len(rest):
			h.target = []byte("/")
		case rest[i] == '/':
			h.target = rest[i:]
		default:
			return errStartLine
		}
	default:
		return errStartLine
	}
	if len(h.host) == 0 && h.minor == 1 || !all(h.host, isHost) {
		return errHost
	}
	return nil
}

// parseResponse reads the head that scan found in b.
func (h *head) parseResponse(b []byte) error {
	line := b[:h.ends[0]]
	if len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." || line[8] != ' ' ||
		line[7] != '0' && line[7] != '1' || len(line) > 12 && line[12] != ' ' {
		return errStatusLine
	}
	h.minor = int(line[7] - '0')
	h.status = 0
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return errStatusLine
		}
		h.status = h.status*10 + int(c-'0')
	}
	h.reason = nil
	if len(line) > 13 {
		h.reason = line[13:]
	}
	if h.status < 100 || h.status > 599 || !all(h.reason, isValue) {
		return errStatusLine
	}
	return h.parseFields(b, false)
}

// parseFields reads the lines after the first.
func (h *head) parseFields(b []byte, request bool) error {
	h.fields = h.fields[:0]
	h.host, h.length, h.chunked, h.close, h.alive = nil, -1, false, false, false
	h.upgrade, h.expect, h.trailers, h.token = nil, false, false, nil
	var hosts int
	var upgrade []byte
	var tokens, upgradeToken bool
	for k := 1; k < len(h.ends); k++ {
		f, err := parseField(b[h.ends[k-1]+2 : h.ends[k]])
		if err != nil {
			return err
		}
		switch len(f.name) {
		case 2:
			if foldEqual(f.name, "te") {
				f.hop = true
				h.trailers = h.trailers || hasToken(f.value, "trailers")
			}
		case 4:
			if request && foldEqual(f.name, "host") {
				hosts++
				h.host, f.hop = f.value, true
			}
		case 6:
			switch {
			case !request:
			case foldEqual(f.name, "cookie"):
				f.value = withoutSession(f.value)
				f.hop = len(f.value) == 0
			case foldEqual(f.name, "expect") && foldEqual(f.value, "100-continue"):
				h.expect = true
			}
		case 7:
			if foldEqual(f.name, "upgrade") {
				f.hop, upgrade = true, f.value
			}
		case 10:
			switch {
			case foldEqual(f.name, "connection"):
				f.hop = true
				eachToken(f.value, func(t []byte) {
					switch {
					case foldEqual(t, "close"):
						h.close = true
					case foldEqual(t, "keep-alive"):
						h.alive = true
					case foldEqual(t, "upgrade"):
						upgradeToken = true
					default:
						tokens = true
					}
				})
			case foldEqual(f.name, "keep-alive"):
				f.hop = true
			case !request && foldEqual(f.name, "set-cookie"):
				f.hop = setsSession(f.value)
			}
		case 13:
			f.hop = request && means(f.name, shadowHeader)
		case 14:
			if foldEqual(f.name, "content-length") {
				n, ok := parseLength(f.value)
				if !ok || h.length >= 0 {
					return errLength
				}
				h.length, f.hop = n, true
			}
		case 15:
			f.hop = request && forged(f.name)
		case 16:
			f.hop = foldEqual(f.name, "proxy-connection") || request && forged(f.name)
			if request && foldEqual(f.name, syntheticHeader) {
				f.hop, h.token = true, f.value
			}
		case 17:
			f.hop = request && forged(f.name)
			if foldEqual(f.name, "transfer-encoding") {
				if h.chunked || !foldEqual(f.value, "chunked") {
					return errCoding
				}
				h.chunked, f.hop = true, true
			}
		case 18:
			f.hop = foldEqual(f.name, "proxy-authenticate")
		case 19:
			f.hop = foldEqual(f.name, "proxy-authorization")
		}
		h.fields = append(h.fields, f)
	}
	if h.chunked && h.length >= 0 {
		return errLengths
	}
	if request && (hosts > 1 || hosts == 0 && h.minor == 1) {
		return errHost
	}
	if upgradeToken && len(upgrade) > 0 {
		h.upgrade = upgrade
	}
	if tokens {
		h.dropNamed()
	}
	return nil
}

// dropNamed marks the fields that Connection names as of this connection only.
func (h *head) dropNamed() {
	for i := range h.fields {
		if c := &h.fields[i]; foldEqual(c.name, "connection") {
			eachToken(c.value, func(t []byte) {
				for j := range h.fields {
					if bytes.EqualFold(h.fields[j].name, t) {
						h.fields[j].hop = true
					}
				}
			})
		}
	}
}

func parseField(line []byte) (field, error) {
	colon := bytes.IndexByte(line, ':')
	if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		return field{}, errFold
	}
	if colon <= 0 || !all(line[:colon], isToken) {
		return field{}, errName
	}
	f := field{name: line[:colon], value: trim(line[colon+1:])}
	if !all(f.value, isValue) {
		return field{}, errValue
	}
	return f, nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// foldEqual compares without regard to the case of ASCII letters; lower must be
// in lower case.
func foldEqual(b []byte, lower string) bool {
	return len(b) == len(lower) && hasPrefixFold(b, lower)
}

func hasPrefixFold(b []byte, lower string) bool {
	if len(b) < len(lower) {
		return false
	}
	for i := 0; i < len(lower); i++ {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func eachToken(list []byte, f func([]byte)) {
	for len(list) > 0 {
		t, rest, _ := bytes.Cut(list, []byte(","))
		if t = trim(t); len(t) > 0 {
			f(t)
		}
		list = rest
	}
}

func hasToken(list []byte, lower string) (found bool) {
	eachToken(list, func(t []byte) { found = found || foldEqual(t, lower) })
	return found
}
