package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
)

// h2c is a client that speaks nothing but HTTP/2 without TLS.
func h2c(t testing.TB) *http.Client {
	t.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: machinetest.Patience}
}

// service2 starts a real server that speaks both.
func service2(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestHTTP2ToEitherKindOfService(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(500)
			return
		}
		w.Header().Set("Set-Cookie", "sluice-session=mine")
		w.Header().Set("X-Saw", fmt.Sprintf("%d %s %s?%s cookie=%s for=%s forwarded=%s proto=%s host=%s tail=%s shadow=%s", r.ProtoMajor, r.Method, r.URL.Path, r.URL.RawQuery,
			strings.Join(r.Header["Cookie"], ";"), r.Header.Get("X-Forwarded-For"), r.Header.Get("Forwarded"), r.Header.Get("X-Forwarded-Proto"), r.Host, r.Trailer.Get("Tail"), r.Header.Get("Sluice-Shadow")))
		w.Header().Set("Trailer", "Sum")
		w.WriteHeader(201)
		_, _ = w.Write(body)
		w.Header().Set("Sum", "1")
		w.Header().Set(http.TrailerPrefix+"Late", "2")
	}
	for major, addrOf := range map[int]func(testing.TB, http.HandlerFunc) string{1: service, 2: service2} {
		s, addr := start(t, proxy.Options{Name: "both"})
		r := only(addrOf(t, h))
		r.Sticky.Cookie = "user"
		s.Set(r)
		body := strings.Repeat("0123456789", 100<<10)
		req, err := http.NewRequest("POST", "http://"+addr+"/a%2Fb?x=1;y=2", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.example"
		req.ContentLength = -1
		req.Trailer = http.Header{"Tail": {"t"}}
		req.Header.Set("Cookie", "a=1; sluice-session=secret; b=2")
		req.Header.Set("Sluice-Shadow", "forged")
		req.Header.Set("X-Forwarded-For", "10.0.0.9")
		req.Header.Set("Forwarded", "for=10.0.0.9")
		res, err := h2c(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || string(got) != body || res.StatusCode != 201 || res.ProtoMajor != 2 {
			t.Errorf("%d bytes, %v, %s", len(got), err, res.Status)
		}
		saw := fmt.Sprintf("%d POST /a/b?x=1;y=2 cookie=a=1; b=2 for=10.0.0.9, 127.0.0.1 forwarded=for=10.0.0.9 proto=http host=shop.example tail=t shadow=", major)
		if res.Header.Get("X-Saw") != saw {
			t.Errorf("the service saw %q; want %q", res.Header.Get("X-Saw"), saw)
		}
		if res.Trailer.Get("Sum") != "1" || res.Trailer.Get("Late") != "2" {
			t.Errorf("trailers %v", res.Trailer)
		}
		if c := res.Header.Values("Set-Cookie"); len(c) != 1 || !strings.HasPrefix(c[0], "user=") {
			t.Errorf("Set-Cookie %q", c)
		}
		want(t, s, stable, 1, 0, 0)
	}
}

// An instance that was too busy to say that it speaks HTTP/2 is asked again; one that
// never says it is not asked for ever.
func TestHTTP2InstanceThatIsBusy(t *testing.T) {
	for name, c := range map[string]struct {
		deaf int64 // so many questions are not answered
		in   time.Duration
		saw  string
	}{"once": {1, 3 * time.Second, "1 2 2 2 2"}, "always": {1000, 50 * time.Millisecond, "1 1 1 1 1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := service(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.ProtoMajor) })
			two := service2(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.ProtoMajor) })
			var asked atomic.Int64
			front := raw(t, func(nc net.Conn) {
				in := bufio.NewReader(nc)
				to := one
				if first, err := in.Peek(3); err == nil && string(first) == "PRI" {
					if asked.Add(1) <= c.deaf {
						_, _ = io.Copy(io.Discard, in)
						return
					}
					to = two
				}
				back, err := net.Dial("tcp", to)
				if err != nil {
					t.Error(err)
					return
				}
				defer back.Close()
				var wait sync.WaitGroup
				wait.Go(func() { _, _ = io.Copy(nc, back); _ = nc.Close() })
				_, _ = io.Copy(back, in)
				_ = back.Close()
				wait.Wait()
			})
			s, addr := start(t, proxy.Options{Name: "busy"}.Asking(c.in))
			s.Set(only(front))
			client, saw := h2c(t), []string{}
			for range 5 {
				res, err := client.Get("http://" + addr)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				saw = append(saw, string(b))
			}
			if got := strings.Join(saw, " "); got != c.saw {
				t.Errorf("it was spoken to in HTTP/ %s, want %s", got, c.saw)
			}
			if n := asked.Load(); c.deaf > 1 && n != 3 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}

func TestHTTP2StatusesAreCounted(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	slow := service(t, func(http.ResponseWriter, *http.Request) { <-hang })
	for name, c := range map[string]struct {
		addrs         []string
		status        int
		requests, bad uint64
	}{
		"fine":     {[]string{service(t, says("x"))}, 200, 1, 0},
		"missing":  {[]string{service(t, http.NotFound)}, 404, 1, 0},
		"broken":   {[]string{service(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })}, 500, 1, 1},
		"refused":  {[]string{porttest.Refused(t)}, 502, 1, 1},
		"reset":    {[]string{raw(t, func(net.Conn) {})}, 502, 1, 1},
		"rubbish":  {[]string{raw(t, reply("what?\r\n\r\n"))}, 502, 1, 1},
		"no ready": {nil, 503, 1, 1},
		"slow":     {[]string{slow}, 504, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, addr := start(t, proxy.Options{Name: "statuses", HeaderTimeout: silence(c.status)})
			s.Set(only(c.addrs...))
			res, err := h2c(t).Get("http://" + addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != c.status {
				t.Errorf("%d; want %d", res.StatusCode, c.status)
			}
			want(t, s, stable, c.requests, c.bad, 0)
		})
	}
}

func TestHTTP2ClientThatLeavesIsInNeitherCount(t *testing.T) {
	came, left := make(chan struct{}), make(chan struct{})
	s, addr := start(t, proxy.Options{Name: "leaves"})
	s.Set(only(service(t, func(w http.ResponseWriter, r *http.Request) {
		close(came)
		<-r.Context().Done()
		close(left)
	})))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-came; cancel() }()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := h2c(t).Do(req); err == nil {
		_ = res.Body.Close()
		t.Error("there was an answer")
	}
	want(t, s, stable, 0, 0, 1)
	<-left
}

func TestHTTP2StreamsAreCopiedToAShadow(t *testing.T) {
	var copies atomic.Int64
	a := service2(t, says("stable"))
	b := service2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" && r.Header.Get("Sluice-Shadow") == "1" && r.URL.Path == "/x" {
			copies.Add(1)
		}
	})
	s, addr := start(t, proxy.Options{Name: "shadow"})
	s.Set(withShadow(wire.FullWeight, a, b))
	client := h2c(t)
	for range 5 {
		for _, method := range []string{"GET", "POST"} {
			req, err := http.NewRequest(method, "http://"+addr+"/x", strings.NewReader(map[bool]string{true: "body"}[method == "POST"]))
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
		}
	}
	machinetest.Until(t, "all copies counted", func() bool { return shadowed(s).Requests == 5 })
	if copies.Load() != 5 || shadowed(s).Bad != 0 {
		t.Errorf("%d copies, %+v", copies.Load(), shadowed(s))
	}
	want(t, s, stable, 10, 0, 0)
	want(t, s, candidate, 0, 0, 0)
}

// With TLS the client chooses by ALPN, and HTTP/1.1 goes its usual way.
func TestALPNChoosesTheProtocol(t *testing.T) {
	from := httptest.NewTLSServer(nil) // for its certificate
	defer from.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := proxy.New(proxy.Options{Name: "tls"})
	s.Set(only(service(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	})))
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = s.Serve(tls.NewListener(l, &tls.Config{Certificates: from.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}))
	})
	defer wait.Wait()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), machinetest.Patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	for _, major := range []int{1, 2} {
		tr := from.Client().Transport.(*http.Transport).Clone()
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetHTTP1(major == 1)
		tr.Protocols.SetHTTP2(major == 2)
		for range 3 {
			res, err := (&http.Client{Transport: tr}).Get("https://" + l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.ProtoMajor != major || string(body) != "https" {
				t.Errorf("%s, proto %q; want HTTP/%d", res.Proto, body, major)
			}
		}
		tr.CloseIdleConnections()
	}
	want(t, s, stable, 6, 0, 0)
}

// Shutdown says GOAWAY: open streams end, and no client is left with a dead
// connection.
func TestShutdownLetsOpenStreamsEnd(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := proxy.New(proxy.Options{Name: "shutdown"})
	s.Set(only(service(t, func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(w, "whole")
	})))
	var wait sync.WaitGroup
	wait.Go(func() { _ = s.Serve(l) })
	answer := make(chan string, 1)
	client := h2c(t)
	wait.Go(func() {
		res, err := client.Get("http://" + l.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		answer <- string(b)
	})
	<-began
	done := make(chan error, 1)
	wait.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), machinetest.Patience)
		defer cancel()
		done <- s.Shutdown(ctx)
	})
	machinetest.Until(t, "it takes no new connections", func() bool {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			_ = nc.Close()
		}
		return err != nil
	})
	close(finish)
	if got := <-answer; got != "whole" {
		t.Errorf("the open stream got %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	wait.Wait()
	want(t, s, stable, 1, 0, 0)
}

// frames speaks HTTP/2 by hand.
func frames(t testing.TB, addr string) *http2.Framer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(machinetest.Patience))
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(nc, nc)
	if err := fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return fr
}

func headers(pairs ...string) []byte {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return []byte(b.String())
}

func TestBadHTTP2ClientsAreBounded(t *testing.T) {
	hang := make(chan struct{})
	var reached, open, most atomic.Int64 // of /hang: now, and at any time
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		if r.URL.Path == "/hang" {
			n := open.Add(1)
			defer open.Add(-1)
			for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
			}
			<-hang
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/endless" {
			_, _ = io.CopyN(w, zeros{}, 64<<20)
		}
	})
	defer close(hang)
	// Each has one bound that it comes to; the others would meet clients that are only late.
	bounded := func(o proxy.Options) (addr string) {
		s, addr := start(t, o)
		s.Set(only(a))
		return addr
	}
	addr := bounded(proxy.Options{Name: "bounds"})
	slow := bounded(proxy.Options{Name: "slow", ClientBody: 300 * time.Millisecond})
	get := func(path string) []byte {
		return headers(":method", "GET", ":scheme", "http", ":authority", "x", ":path", path)
	}
	// ends reads frames until the connection or the stream ends.
	ends := func(fr *http2.Framer, stream uint32) (how string) {
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return "closed"
			}
			switch f := f.(type) {
			case *http2.GoAwayFrame:
				return "goaway " + f.ErrCode.String()
			case *http2.RSTStreamFrame:
				if f.StreamID == stream {
					return "reset " + f.ErrCode.String()
				}
			case *http2.HeadersFrame:
				if f.StreamID == stream {
					list, err := hpack.NewDecoder(4096, nil).DecodeFull(f.HeaderBlockFragment())
					if err != nil {
						return err.Error()
					}
					if how = list[0].Value; how != "200" {
						return how
					}
				}
			}
		}
	}
	t.Run("an idle connection", func(t *testing.T) {
		fr := frames(t, bounded(proxy.Options{Name: "idle", KeepAlive: 300 * time.Millisecond}))
		if how := ends(fr, 1); !strings.HasPrefix(how, "goaway") && how != "closed" {
			t.Error(how)
		}
	})
	t.Run("a head without end", func(t *testing.T) {
		fr := frames(t, addr)
		block := headers(":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/")
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true})
		for i := range 400 {
			if fr.WriteContinuation(1, false, headers("x-"+strings.Repeat("y", i%50), strings.Repeat("z", 8000))) != nil {
				break
			}
		}
		if how := ends(fr, 1); !strings.HasPrefix(how, "goaway") && how != "closed" && how != "431" {
			t.Error(how)
		}
	})
	t.Run("a large head", func(t *testing.T) {
		req, _ := http.NewRequest("GET", "http://"+addr, nil)
		for i := range 100 {
			req.Header.Set(fmt.Sprint("X-", i), strings.Repeat("y", 1000))
		}
		res, err := h2c(t).Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode != 431 {
				t.Error(res.Status)
			}
		}
	})
	t.Run("a body that stops", func(t *testing.T) {
		fr := frames(t, slow)
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: headers(":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/")})
		_ = fr.WriteData(1, false, []byte("a little"))
		if how := ends(fr, 1); how != "408" && !strings.HasPrefix(how, "reset") {
			t.Error(how)
		}
	})
	t.Run("an answer that isn't taken", func(t *testing.T) {
		fr := frames(t, slow)
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: get("/endless")})
		if how := ends(fr, 1); !strings.HasPrefix(how, "reset") {
			t.Error(how)
		}
	})
	t.Run("too many streams", func(t *testing.T) {
		addr := bounded(proxy.Options{Name: "many", MaxConns: 400, HeaderTimeout: 2 * machinetest.Patience})
		before := reached.Load()
		var refused atomic.Int64
		var wait sync.WaitGroup
		for range 3 {
			fr := frames(t, addr)
			for i := range 250 {
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), EndHeaders: true, EndStream: true, BlockFragment: get("/hang")})
			}
			wait.Go(func() {
				dec := hpack.NewDecoder(4096, nil)
				for {
					f, err := fr.ReadFrame()
					if err != nil {
						return
					}
					if h, ok := f.(*http2.HeadersFrame); ok {
						if list, err := dec.DecodeFull(h.HeaderBlockFragment()); err == nil && list[0].Value == "503" {
							refused.Add(1)
						}
					}
				}
			})
		}
		// How many come first is the machine's matter; that more than 400 are never open, ours.
		machinetest.Until(t, "some are refused", func() bool { return refused.Load() > 0 })
		machinetest.Until(t, "more are open than one connection may have", func() bool { return reached.Load()-before > 250 })
		machinetest.Eventually(func() bool { return refused.Load() >= 350 }) // all of 750 have been looked at, unless one of them failed
		if n := most.Load(); n > 400 {
			t.Errorf("%d were open at a time", n)
		}
	})
}

// No bytes that follow the preface may harm the proxy.
func FuzzHTTP2(f *testing.F) {
	s, addr := start(f, proxy.Options{Name: "fuzz", ClientHead: time.Second, KeepAlive: time.Second})
	s.Set(only(service(f, says("x"))))
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	f.Add([]byte("SM\r\n\r\n"), []byte(settings))
	f.Add([]byte("SM\r\n\r\n"), []byte(settings+"\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x84\x86"))
	f.Add([]byte("SM\r\n\r"), []byte("x"))
	f.Fuzz(func(t *testing.T, magic, rest []byte) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = nc.Write(append(append([]byte("PRI * HTTP/2.0\r\n\r\n"), magic...), rest...))
		_ = nc.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, nc)
		if code, _ := fetch(t, "http://"+addr); code != 200 {
			t.Fatalf("afterwards the proxy answers %d", code)
		}
	})
}
