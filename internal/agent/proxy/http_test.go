package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/machinetest"
)

func TestHeadersOnTheWay(t *testing.T) {
	var got http.Header
	var host string
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		got, host = r.Header.Clone(), r.Host
		w.Header().Set("Connection", "X-Secret")
		w.Header().Set("X-Secret", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Add("X-Many", "1")
		w.Header().Add("X-Many", "2")
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	answer := talk(t, addr, "GET /p?q HTTP/1.1\r\nhost: shop.example\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: trailers, gzip\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nAccept: a\r\nAccept: b\r\n\r\n")
	if host != "shop.example" {
		t.Errorf("host %q", host)
	}
	for k, v := range map[string]string{
		"X-Forwarded-For": "10.0.0.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example", "Forwarded": "for=10.0.0.1",
		"X-Hop": "", "Keep-Alive": "", "Proxy-Connection": "", "Te": "trailers", "Accept": "a|b",
	} {
		if g := strings.Join(got[textproto.CanonicalMIMEHeaderKey(k)], "|"); g != v {
			t.Errorf("%s: %q, want %q", k, g, v)
		}
	}
	for _, bad := range []string{"X-Secret: 1", "Keep-Alive"} {
		if strings.Contains(answer, bad) {
			t.Errorf("%s came through:\n%s", bad, answer)
		}
	}
	if strings.Count(answer, "X-Many: ") != 2 {
		t.Errorf("not both X-Many:\n%s", answer)
	}
}

func TestBodiesBothWays(t *testing.T) {
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b)
			return
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		n, _ := io.Copy(w, r.Body)
		w.Header().Set("X-Sum", fmt.Sprint(n, r.Trailer.Get("X-Client")))
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	sent := uint64(0)
	for _, n := range []int{0, 1, 1000, 16 << 10, 16<<10 + 1, 100 << 10, 5 << 20} {
		for _, chunked := range []bool{false, true} {
			for _, path := range []string{"/length", "/chunks"} {
				var body io.Reader = strings.NewReader(strings.Repeat("x", n))
				if chunked {
					body = struct{ io.Reader }{body}
				}
				req, _ := http.NewRequest("POST", "http://"+addr+path, body)
				if chunked {
					req.Trailer = http.Header{"X-Client": {"t"}}
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				sent++
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || len(b) != n {
					t.Errorf("%s, %d bytes, chunked %v: %d came back, %v", path, n, chunked, len(b), err)
				}
				if path == "/chunks" {
					sum := fmt.Sprint(n, "")
					if chunked {
						sum = fmt.Sprint(n, "t")
					}
					if got := res.Trailer.Get("X-Sum"); got != sum {
						t.Errorf("%d bytes, chunked %v: trailer %q, want %q", n, chunked, got, sum)
					}
				}
			}
		}
	}
	want(t, s, stable, sent, 0, 0)
}

func TestEachEventIsSentAtOnce(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for e := range next {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
		}
	})
	const headers = 4 * time.Second
	s, addr := start(t, proxy.Options{HeaderTimeout: headers})
	s.Set(only(a))
	res, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 3 {
		if i == 2 {
			time.Sleep(headers * 5 / 4) // that timeout is not for streams: it has to pass
		}
		next <- "data: x\n"
		if line, err := br.ReadString('\n'); line != "data: x\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	close(next)
}

func TestExpectContinue(t *testing.T) {
	read := true
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		if !read {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	var continued atomic.Bool
	ask := func() int {
		continued.Store(false)
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued.Store(true) }})
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr, strings.NewReader(strings.Repeat("x", 100)))
		req.Header.Set("Expect", "100-continue")
		res, err := (&http.Client{Transport: &http.Transport{ExpectContinueTimeout: machinetest.Patience, DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if code := ask(); code != 200 || !continued.Load() {
		t.Errorf("answered %d, continued %v", code, continued.Load())
	}
	read = false
	if code := ask(); code != http.StatusRequestEntityTooLarge || continued.Load() {
		t.Errorf("refused: answered %d, continued %v", code, continued.Load())
	}
	want(t, s, stable, 2, 0, 0)
}

func TestEarlyHints(t *testing.T) {
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(103)
		_, _ = io.WriteString(w, "ok")
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	got := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 103 ") || !strings.Contains(got, "HTTP/1.1 200 ") {
		t.Errorf("got:\n%s", got)
	}
	if old := talk(t, addr, "GET / HTTP/1.0\r\n\r\n"); !strings.HasPrefix(old, "HTTP/1.1 200 ") {
		t.Errorf("an old client got:\n%s", old)
	}
}

func TestBodylessAnswers(t *testing.T) {
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", "x")
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	// All on one connection: a body where none belongs would be read as an answer.
	got := talk(t, addr, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /204 HTTP/1.1\r\nHost: x\r\n\r\nGET /304 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	br := bufio.NewReader(strings.NewReader(got))
	for i, w := range []struct {
		method string
		status int
		length int64
		body   string
	}{{"HEAD", 200, 5, ""}, {"GET", 204, 0, ""}, {"GET", 304, 0, ""}, {"GET", 200, 5, "hello"}} {
		res, err := http.ReadResponse(br, &http.Request{Method: w.method})
		if err != nil {
			t.Fatalf("answer %d: %v\n%s", i, err, got)
		}
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode != w.status || string(b) != w.body || w.length > 0 && res.ContentLength != w.length {
			t.Errorf("answer %d: %d, length %d, %q", i, res.StatusCode, res.ContentLength, b)
		}
	}
	want(t, s, stable, 4, 0, 0)
}

func TestOldClientsAndOldServices(t *testing.T) {
	chunked := service(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "hello")
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(chunked))
	got := talk(t, addr, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	if !strings.HasSuffix(got, "\r\n\r\nhello") || strings.Contains(strings.ToLower(got), "transfer-encoding") {
		t.Errorf("a 1.0 client got:\n%s", got)
	}
	s.Set(only(raw(t, reply("HTTP/1.0 200 OK\r\n\r\nuntil the end"))))
	for range 2 {
		if code, body := fetch(t, "http://"+addr); code != 200 || body != "until the end" {
			t.Errorf("from a 1.0 service: %d %q", code, body)
		}
	}
}

func TestBrokenAnswerIsNotTakenForWhole(t *testing.T) {
	s, addr := start(t, proxy.Options{})
	for name, answer := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		s.Set(only(raw(t, reply(answer))))
		res, err := http.Get("http://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: %q looks whole", name, b)
		}
		_ = res.Body.Close()
	}
}

func TestUpgrade(t *testing.T) {
	a := raw(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		req, err := http.ReadRequest(br)
		if err != nil || !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst")
		_, _ = io.Copy(nc, br)
		_, _ = io.WriteString(nc, "bye")
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(machinetest.Patience))
	_, _ = io.WriteString(nc, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	_, _ = io.WriteString(nc, " and late")
	_ = nc.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(b), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "Sec-WebSocket-Accept: x") || rest != "firstearly and latebye" {
		t.Errorf("%s\n%q", head, rest)
	}
	want(t, s, stable, 1, 0, 0)
}

// A client must not get past the counters by speaking HTTP/2 inside of HTTP/1.
func TestHTTP2UpgradeIsNotPassedOn(t *testing.T) {
	var got string
	a := service(t, func(w http.ResponseWriter, r *http.Request) { got = r.Header.Get("Upgrade") })
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	// Services look for the protocol in a list, in any case.
	for _, to := range []string{"h2c", "websocket, h2c", "H2C,websocket", "h2c/1", "h2", "HTTP/2.0"} {
		if answer := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: "+to+"\r\nHTTP2-Settings: x\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200 ") || got != "" {
			t.Errorf("upgrade %q passed on for %q; answer:\n%s", got, to, answer)
		}
	}
	if answer := talk(t, addr, "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
		t.Errorf("CONNECT:\n%s", answer)
	}
}

// Nor may a service take a client there that asked for something else.
func TestHTTP2UpgradeIsNotAnswered(t *testing.T) {
	a := service(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "h2c")
		w.WriteHeader(http.StatusSwitchingProtocols)
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	if answer := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 502 ") {
		t.Errorf("answer:\n%s", answer)
	}
	want(t, s, stable, 1, 1, 0)
}

func TestAnswerBeforeTheBodyEnds(t *testing.T) {
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	for range 5 {
		res, err := http.Post("http://"+addr, "text/plain", struct{ io.Reader }{io.LimitReader(zeros{}, 4<<20)})
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("answered %d", res.StatusCode)
		}
	}
	want(t, s, stable, 5, 0, 0)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBadClientsAreBounded(t *testing.T) {
	s, addr := start(t, proxy.Options{})
	s.Set(only(service(t, says("ok"))))
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 70<<10)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Errorf("a huge head: %.80q", got)
	}
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\n"+strings.Repeat("A: b\r\n", 300)+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("300 lines: %.80q", got)
	}
	want(t, s, stable, 0, 0, 0)
	s, addr = start(t, proxy.Options{ClientHead: 200 * time.Millisecond, KeepAlive: 300 * time.Millisecond})
	s.Set(only(service(t, says("ok"))))
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHo"); !strings.HasPrefix(got, "HTTP/1.1 408 ") {
		t.Errorf("half a head: %.80q", got)
	}
	if got := talk(t, addr, ""); got != "" {
		t.Errorf("an idle connection: %.80q", got)
	}
	want(t, s, stable, 0, 0, 0)
}

func TestConnectionsAreBounded(t *testing.T) {
	s, addr := start(t, proxy.Options{MaxConns: 3})
	s.Set(only(service(t, says("ok"))))
	var open []net.Conn
	for range 3 {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, nc)
		_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := talk(t, addr, ""); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("one connection too many: %.80q", got)
	}
	for _, nc := range open {
		_ = nc.Close()
	}
}

func TestBadFramingNeverReachesTheService(t *testing.T) {
	var served atomic.Int64
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			served.Add(1)
			fmt.Fprintf(w, "%s %s %q", r.Method, r.URL, b)
		}
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	for _, req := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZZ\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;\nabcde\r\n0\r\n\r\n",
	} {
		got := talk(t, addr, req)
		if strings.Contains(got, " 200 ") {
			t.Errorf("%q was served:\n%s", req, got)
		}
	}
	if served.Load() != 0 {
		t.Errorf("%d requests reached the service whole", served.Load())
	}
}

// A client that is late with its body is not the service's fault.
func TestSlowUploadIsNotBad(t *testing.T) {
	t.Parallel()
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			fmt.Fprint(w, n)
		}
	})
	const answer = 4 * time.Second
	s, addr := start(t, proxy.Options{HeaderTimeout: answer, ClientBody: machinetest.Patience})
	s.Set(only(a))
	begin := func(addr string) net.Conn {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		_, _ = io.WriteString(nc, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
		return nc
	}
	nc := begin(addr)
	time.Sleep(answer * 5 / 4) // all that the service has for its answer has to pass
	_, _ = io.WriteString(nc, strings.Repeat("x", 100000))
	_ = nc.SetReadDeadline(time.Now().Add(machinetest.Patience))
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(b) != "100000" {
		t.Errorf("%d %q", res.StatusCode, b)
	}
	// And one that never comes with it counts nowhere.
	want(t, s, stable, 1, 0, 0)
	s, addr = start(t, proxy.Options{HeaderTimeout: answer, ClientBody: 100 * time.Millisecond})
	s.Set(only(a))
	begin(addr)
	want(t, s, stable, 0, 0, 1)
}
