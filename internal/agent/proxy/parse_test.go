package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// smuggled are requests on whose end two servers could disagree. Each must be
// refused before anything is sent to a service.
var smuggled = map[string]string{
	"both lengths":              "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
	"both lengths, other order": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
	"two lengths":               "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
	"two equal lengths":         "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
	"list of lengths":           "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\na",
	"signed length":             "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
	"negative length":           "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\na",
	"hex length":                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\na",
	"empty length":              "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\na",
	"huge length":               "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\na",
	"coding list":               "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"coding twice":              "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"coding twice, identity":    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
	"odd coding":                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"quoted coding":             "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
	"coding with tab inside":    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chu\tnked\r\n\r\n0\r\n\r\n",
	"vertical tab in coding":    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
	"space before colon":        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"tab before colon":          "POST / HTTP/1.1\r\nHost: x\r\nContent-Length\t: 1\r\n\r\na",
	"folded line":               "POST / HTTP/1.1\r\nHost: x\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"first line folded":         "POST / HTTP/1.1\r\n Host: x\r\n\r\n",
	"bare LF":                   "POST / HTTP/1.1\nHost: x\nContent-Length: 1\n\na",
	"one bare LF":               "POST / HTTP/1.1\r\nHost: x\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"bare CR":                   "POST / HTTP/1.1\r\nHost: x\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
	"zero byte in value":        "GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
	"zero byte in name":         "GET / HTTP/1.1\r\nHost: x\r\nX\x00: a\r\n\r\n",
	"no colon":                  "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding chunked\r\n\r\n",
	"empty name":                "GET / HTTP/1.1\r\nHost: x\r\n: chunked\r\n\r\n",
	"non-ASCII name":            "GET / HTTP/1.1\r\nHost: x\r\nTransfer\xe2\x80\x90Encoding: chunked\r\n\r\n",
	"no host":                   "GET / HTTP/1.1\r\nX: y\r\n\r\n",
	"two hosts":                 "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
	"host with space":           "GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
	"host with path":            "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
	"host with user":            "GET / HTTP/1.1\r\nHost: u@x\r\n\r\n",
	"absolute with user":        "GET http://u@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
	"space in target":           "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
	"two spaces":                "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
	"tab for space":             "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
	"space at end of line":      "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
	"control in target":         "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
	"version 1.2":               "GET / HTTP/1.2\r\nHost: x\r\n\r\n",
	"version 2.0":               "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
	"HTTP/2 preface":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"version 0.9":               "GET /\r\n\r\n",
	"lower-case version":        "GET / http/1.1\r\nHost: x\r\n\r\n",
	"relative target":           "GET a HTTP/1.1\r\nHost: x\r\n\r\n",
	"star for GET":              "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
	"authority for GET":         "GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
	"chunks in 1.0":             "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"method with space":         " GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"method with colon":         "G:T / HTTP/1.1\r\nHost: x\r\n\r\n",
}

// badChunks are bodies that must be refused, behind a good head.
var badChunks = map[string]string{
	"size with sign":        "+1\r\na\r\n0\r\n\r\n",
	"size with 0x":          "0x1\r\na\r\n0\r\n\r\n",
	"size with space":       " 1\r\na\r\n0\r\n\r\n",
	"size with space after": "1 \r\na\r\n0\r\n\r\n",
	"size with underscore":  "1_0\r\na\r\n0\r\n\r\n",
	"no size":               "\r\na\r\n0\r\n\r\n",
	"only an extension":     ";a=b\r\na\r\n0\r\n\r\n",
	"size over 64 bits":     "10000000000000001\r\na\r\n0\r\n\r\n",
	"size of 16 digits":     "0000000000000001\r\na\r\n0\r\n\r\n",
	"bare LF behind size":   "1\na\r\n0\r\n\r\n",
	"bare LF behind data":   "1\r\na\n0\r\n\r\n",
	"data longer than size": "1\r\nab\r\n0\r\n\r\n",
	"bare CR in extension":  "1;a\rb\r\na\r\n0\r\n\r\n",
	"LF ends the last":      "1\r\na\r\n0\n\n",
	"bad trailer":           "1\r\na\r\n0\r\nno colon\r\n\r\n",
	"folded trailer":        "1\r\na\r\n0\r\nA: b\r\n c\r\n\r\n",
	"space in trailer":      "1\r\na\r\n0\r\nA : b\r\n\r\n",
}

func readerOf(s string) *reader {
	r := &reader{}
	r.src = strings.NewReader(s).Read
	return r
}

func parse(s string) (*head, *reader, error) {
	h, r := new(head), readerOf(s)
	raw, err := r.head(h)
	if err == nil {
		err = h.parseRequest(raw)
	}
	return h, r, err
}

func TestSmuggledRequestsAreRefused(t *testing.T) {
	for name, s := range smuggled {
		if _, _, err := parse(s); !errors.Is(err, errSyntax) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestBadChunksAreRefused(t *testing.T) {
	for name, s := range badChunks {
		b, r := newBody(byChunks, 0), readerOf(s)
		var err error
		for err == nil && !b.done {
			_, err = b.next(r)
		}
		if !errors.Is(err, errSyntax) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestTrailersThatCouldChangeFramingAreDropped(t *testing.T) {
	b, r := newBody(byChunks, 0), readerOf("0\r\nTransfer-Encoding: chunked\r\nX-Sum: 1\r\nContent-Length: 5\r\n\r\n")
	if _, err := b.next(r); err != nil || !b.done {
		t.Fatalf("%v, done %v", err, b.done)
	}
	if got := string(b.trailer); got != "X-Sum: 1\r\n" {
		t.Errorf("trailers %q", got)
	}
}

// FuzzRequest holds the parser against net/http's: what it accepts, net/http
// accepts, with the same method, path, host, length, coding and body, and with
// the next request beginning at the same byte.
func FuzzRequest(f *testing.F) {
	for _, s := range smuggled {
		f.Add([]byte(s))
	}
	for _, s := range badChunks {
		f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + s))
	}
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://y/a?b HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: x:80\r\nContent-Length: 3\r\n\r\nabcGET",
		"POST /a HTTP/1.1\r\nHost: [::1]\r\ntransfer-encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nGET",
		"GET / HTTP/1.0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if emptyLine(in) {
			return // skipped before the parser
		}
		h, r, err := parse(string(in))
		if err != nil {
			return
		}
		method, target, host, length, chunked := string(h.method), string(h.target), string(h.host), h.length, h.chunked
		absolute := !bytes.HasPrefix(bytes.SplitN(in, []byte(" "), 3)[1], []byte("/"))
		fr := noBody
		switch {
		case chunked:
			fr = byChunks
		case length >= 0:
			fr = byLength
		}
		b := newBody(fr, length)
		var body []byte
		for !b.done {
			p, err := b.next(r)
			if err != nil {
				return // refused later: nothing to compare
			}
			body = append(body, p...)
			if len(body) > 1<<20 {
				return
			}
		}
		rest := append([]byte(nil), r.buffered()...)

		br := bufio.NewReader(bytes.NewReader(in))
		theirs, err := http.ReadRequest(br)
		if err != nil {
			// net/http is stricter about what a URL or a host may hold, which has no
			// part in framing.
			if strings.Contains(err.Error(), "parse") || strings.Contains(err.Error(), "invalid URI") ||
				strings.Contains(err.Error(), "malformed Host") || strings.Contains(err.Error(), "invalid method") {
				return
			}
			t.Fatalf("accepted what net/http refuses: %v", err)
		}
		if theirs.Method != method {
			t.Errorf("method %q, net/http %q", method, theirs.Method)
		}
		if !absolute && theirs.RequestURI != target {
			t.Errorf("target %q, net/http %q", target, theirs.RequestURI)
		}
		if theirs.Host != host {
			t.Errorf("host %q, net/http %q", host, theirs.Host)
		}
		if (len(theirs.TransferEncoding) == 1) != chunked {
			t.Errorf("chunked %v, net/http %v", chunked, theirs.TransferEncoding)
		}
		theirBody, err := io.ReadAll(theirs.Body)
		if err != nil {
			t.Fatalf("accepted a body that net/http refuses: %v", err)
		}
		if !bytes.Equal(body, theirBody) {
			t.Errorf("body %q, net/http %q", body, theirBody)
		}
		theirRest, _ := io.ReadAll(br)
		if !bytes.Equal(rest, theirRest) {
			t.Errorf("next request begins at %q, net/http %q", rest, theirRest)
		}
	})
}

// FuzzResponse is the same for what services answer.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"HTTP/1.0 204 No Content\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 099 X\r\n\r\n",
		"HTTP/1.1 200 OK\nX: y\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h, r := new(head), readerOf(string(in))
		raw, err := r.head(h)
		if err == nil {
			err = h.parseResponse(raw)
		}
		if err != nil {
			return
		}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), nil)
		if err != nil {
			t.Fatalf("accepted what net/http refuses: %v", err)
		}
		if theirs.StatusCode != h.status {
			t.Errorf("status %d, net/http %d", h.status, theirs.StatusCode)
		}
		bodyless := h.status < 200 || h.status == 204 || h.status == 304
		if !bodyless && h.length >= 0 && theirs.ContentLength != h.length {
			t.Errorf("length %d, net/http %d", h.length, theirs.ContentLength)
		}
		if !bodyless && h.chunked != (len(theirs.TransferEncoding) == 1) {
			t.Errorf("chunked %v, net/http %v", h.chunked, theirs.TransferEncoding)
		}
	})
}

// FuzzChunks: what comes out as our own chunks is what net/http's reader reads.
func FuzzChunks(f *testing.F) {
	for _, s := range badChunks {
		f.Add([]byte(s))
	}
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, r := newBody(byChunks, 0), readerOf(string(in))
		var again, plain []byte
		for !b.done {
			p, err := b.next(r)
			if err != nil {
				return
			}
			plain = append(plain, p...)
			again = appendChunk(again, p)
		}
		again = appendEnd(again, b.trailer)
		got, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(again)))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%q became %q: %v", in, again, err)
		}
	})
}

// FuzzGRPCTimeout holds the reading of grpc-timeout against what the protocol says:
// never negative, never over the bound, and what is not one is none.
func FuzzGRPCTimeout(f *testing.F) {
	for _, s := range []string{"1S", "00000001n", "99999999H", "5", "S", "-1S", "1 S", "123456789m", "0m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := grpcTimeout(s)
		if d < 0 || d > maxGRPCTimeout {
			t.Errorf("%q is %s", s, d)
		}
		if valid := regexp.MustCompile(`\A[0-9]{1,8}[HMSmun]\z`).MatchString(s); valid != (d > 0) {
			t.Errorf("%q is %s", s, d)
		}
	})
}

func FuzzGRPCStatus(f *testing.F) {
	for _, s := range []string{"", "0", "00", "14", "-1", "1,2", "999999999", "9999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := grpcStatus(s)
		if m, err := strconv.Atoi(s); err == nil && len(s) <= 9 && s[0] != '-' && s[0] != '+' {
			if n != m {
				t.Errorf("%q is %d", s, n)
			}
		} else if n != grpcUnknown {
			t.Errorf("%q is %d", s, n)
		}
	})
}

// FuzzSettings holds isSettings against the framer of golang.org/x/net/http2.
func FuzzSettings(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add([]byte("\x00\x00\x00\x04\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		is := isSettings(b)
		head, err := http2.ReadFrameHeader(bytes.NewReader(b))
		want := err == nil && head.Type == http2.FrameSettings && head.Flags == 0 && head.StreamID == 0 && head.Length%6 == 0 && head.Length <= 16<<10
		if is != want {
			t.Errorf("%q: %v; want %v", b, is, want)
		}
	})
}

func TestWhatIsGRPC(t *testing.T) {
	for s, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;x": true,
		"application/grpc-web": false, "application/grpc-web+proto": false, "application/json": false, "": false,
	} {
		if isGRPC(s) != want {
			t.Errorf("%q", s)
		}
	}
}

// Where a request came from is believed of a private address alone, where a proxy
// of ours may be.
func TestForwardedByStrangers(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		h, _, err := parse("GET / HTTP/1.1\r\nHost: shop\r\nForwarded: for=10.9.9.9\r\nX-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Host: other\r\nX-Forwarded-Proto: https\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		c := conn{head: *h, proto: "http", peer: "203.0.113.7", trusted: trusted}
		c.buildRequest(false)
		got := string(c.out)
		for _, claim := range []string{"Forwarded: for=10.9.9.9", "10.9.9.9, 203.0.113.7", "X-Forwarded-Host: other", "X-Forwarded-Proto: https"} {
			if strings.Contains(got, claim) != trusted {
				t.Errorf("trusted %v: %q in\n%s", trusted, claim, got)
			}
		}
	}
}
