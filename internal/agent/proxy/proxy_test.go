package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// start serves o on a free port until the test ends.
func start(t testing.TB, o proxy.Options) (*proxy.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := proxy.New(o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

// service starts a real HTTP server.
func service(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// raw starts a server that answers each connection by f.
func raw(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wait.Wait() })
	wait.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer nc.Close()
				_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
				f(nc)
			})
		}
	})
	return l.Addr().String()
}

func says(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, s) }
}

func at(addrs ...string) (out []proxy.Instance) {
	for _, a := range addrs {
		out = append(out, proxy.Instance{ID: a, Addr: a})
	}
	return out
}

func only(addrs ...string) proxy.Route {
	return proxy.Route{Revisions: []proxy.Revision{{Release: stable, Weight: wire.FullWeight, Instances: at(addrs...)}}}
}

func split(candidateWeight int, stableAddr, candidateAddr string) proxy.Route {
	return proxy.Route{Revisions: []proxy.Revision{
		{Release: stable, Weight: wire.FullWeight - candidateWeight, Instances: at(stableAddr)},
		{Release: candidate, Weight: candidateWeight, Candidate: true, Instances: at(candidateAddr)},
	}}
}

// counts sums a revision's counters and checks that they agree with each other.
func counts(t testing.TB, s *proxy.Server, id release.ID) (c wire.Counters) {
	t.Helper()
	for _, b := range s.Counters(id) {
		c.Requests += b.Requests
		c.Bad += b.Bad
		c.Cancelled += b.Cancelled
		if b.Bad > b.Requests {
			t.Errorf("bucket %d: %d bad of %d requests", b.Bucket, b.Bad, b.Requests)
		}
		if c.Latency == nil {
			c.Latency = make(map[int]uint64)
		}
		for i, n := range b.Latency {
			c.Latency[i] += n
		}
	}
	return c
}

func want(t testing.TB, s *proxy.Server, id release.ID, requests, bad, cancelled uint64) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	var c wire.Counters
	for {
		c = counts(t, s, id)
		if c.Requests == requests && c.Bad == bad && c.Cancelled == cancelled {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("counted %d requests, %d bad, %d cancelled; want %d, %d, %d", c.Requests, c.Bad, c.Cancelled, requests, bad, cancelled)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func fetch(t testing.TB, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// talk sends s on a connection and returns all that comes back until its end.
func talk(t testing.TB, addr, s string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(nc, s); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(nc)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Logf("after %q: %v", b, err)
	}
	return string(b)
}

// plausible fails when k of n is not what p explains: two-sided, 10⁻⁶, by the
// normal approximation (n·p is large).
func plausible(t testing.TB, k, n int, p float64) {
	t.Helper()
	sd := math.Sqrt(float64(n) * p * (1 - p))
	if z := (float64(k) - float64(n)*p) / sd; math.Abs(z) > 4.9 {
		t.Errorf("%d of %d for a share of %.4f: z = %.1f", k, n, p, z)
	}
}

func TestWeightsAreRealised(t *testing.T) {
	a, b := service(t, says("stable")), service(t, says("candidate"))
	for _, weight := range []int{0, 500, 2500, 5000, 10000} {
		s, addr := start(t, proxy.Options{Name: "weights"})
		s.Set(split(weight, a, b))
		const n = 4000
		got := 0
		for range n {
			if _, body := fetch(t, "http://"+addr); body == "candidate" {
				got++
			}
		}
		switch weight {
		case 0, wire.FullWeight:
			if got != n*weight/wire.FullWeight {
				t.Errorf("weight %d: %d of %d", weight, got, n)
			}
		default:
			plausible(t, got, n, float64(weight)/wire.FullWeight)
		}
		want(t, s, candidate, uint64(got), 0, 0)
		want(t, s, stable, uint64(n-got), 0, 0)
	}
}

// Raising the candidate's weight only moves users to it, lowering only away, and
// two hosts agree on each user.
func TestStickinessIsMonotone(t *testing.T) {
	a, b := service(t, says("stable")), service(t, says("candidate"))
	one, addrOne := start(t, proxy.Options{Name: "sticky"})
	two, addrTwo := start(t, proxy.Options{Name: "sticky"})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	ask := func(t *rapid.T, addr, user string) string {
		req, _ := http.NewRequest("GET", "http://"+addr, nil)
		req.Header.Set("X-User", user)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return string(body)
	}
	rapid.Check(t, func(t *rapid.T) {
		user := rapid.StringMatching(`[!-~]{1,40}`).Draw(t, "user")
		low := rapid.IntRange(0, wire.FullWeight).Draw(t, "low")
		high := rapid.IntRange(low, wire.FullWeight).Draw(t, "high")
		var got [2]string
		for i, w := range []int{low, high} {
			r := split(w, a, b)
			r.Sticky = wire.Sticky{Header: "x-user"}
			one.Set(r)
			two.Set(r)
			got[i] = ask(t, addrOne, user)
			if other := ask(t, addrTwo, user); other != got[i] {
				t.Fatalf("one host says %s, another %s", got[i], other)
			}
			if again := ask(t, addrOne, user); again != got[i] {
				t.Fatalf("%s and then %s", got[i], again)
			}
		}
		if got[0] == "candidate" && got[1] != "candidate" {
			t.Fatalf("raising %d to %d moved the user away from the candidate", low, high)
		}
	})
}

func TestStickyUsersAreSpread(t *testing.T) {
	a, b := service(t, says("stable")), service(t, says("candidate"))
	s, addr := start(t, proxy.Options{Name: "spread"})
	r := split(2000, a, b)
	r.Sticky = wire.Sticky{Header: "X-User"}
	s.Set(r)
	const n = 4000
	got := 0
	for i := range n {
		req, _ := http.NewRequest("GET", "http://"+addr, nil)
		req.Header.Set("X-User", fmt.Sprint("user-", i))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) == "candidate" {
			got++
		}
	}
	plausible(t, got, n, 0.2)
	// Buckets come from other bits than the assignment: each revision fills all.
	for _, id := range []release.ID{stable, candidate} {
		cs := s.Counters(id)
		if len(cs) != wire.Buckets {
			t.Errorf("%s: %d buckets", id.Short(), len(cs))
		}
		total := int(counts(t, s, id).Requests)
		for _, c := range cs {
			plausible(t, int(c.Requests), total, 1.0/wire.Buckets)
		}
	}
}

func TestCookieIsSetAndKept(t *testing.T) {
	a, b := service(t, says("stable")), service(t, says("candidate"))
	s, addr := start(t, proxy.Options{Name: "cookie"})
	r := split(5000, a, b)
	r.Sticky = wire.Sticky{Cookie: "sluice"}
	s.Set(r)
	moved := 0
	for range 50 {
		jar := ""
		first := ""
		for i := range 4 {
			req, _ := http.NewRequest("GET", "http://"+addr, nil)
			if jar != "" {
				req.Header.Set("Cookie", "other=1; "+jar+"; more=2")
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if c := res.Cookies(); i == 0 {
				if len(c) != 1 || c[0].Name != "sluice" || !c[0].HttpOnly {
					t.Fatalf("cookies %v", c)
				}
				jar, first = c[0].Name+"="+c[0].Value, string(body)
			} else if len(c) != 0 {
				t.Errorf("a cookie was set again: %v", c)
			}
			if string(body) != first {
				t.Errorf("%s and then %s", first, body)
			}
		}
		if first == "candidate" {
			// Rollback: the next request goes to stable, whatever the cookie says.
			r := split(0, a, b)
			r.Sticky = wire.Sticky{Cookie: "sluice"}
			s.Set(r)
			req, _ := http.NewRequest("GET", "http://"+addr, nil)
			req.Header.Set("Cookie", jar)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(res.Body); string(body) != "stable" {
				t.Errorf("after the rollback: %s", body)
			}
			_ = res.Body.Close()
			moved++
			back := split(5000, a, b)
			back.Sticky = wire.Sticky{Cookie: "sluice"}
			s.Set(back)
		}
	}
	if moved == 0 {
		t.Error("no user was ever on the candidate")
	}
}

// Weights and instances change under load. Nothing is dropped, and the proxy
// counts exactly what the clients got.
func TestNothingIsDroppedWhileSwapping(t *testing.T) {
	s, addr := start(t, proxy.Options{Name: "swap"})
	slow := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Millisecond)
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("X-Revision", name)
			_, _ = io.Copy(w, r.Body)
		}
	}
	a := service(t, slow("stable"))
	s.Set(only(a))
	var got sync.Map // revision → *atomic.Int64
	count := func(name string) *atomic.Int64 {
		v, _ := got.LoadOrStore(name, new(atomic.Int64))
		return v.(*atomic.Int64)
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	for range 16 {
		clients.Go(func() {
			c := &http.Client{Transport: transport}
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := strings.Repeat("b", i%3000)
				res, err := c.Post("http://"+addr, "text/plain", strings.NewReader(body))
				if err != nil {
					t.Errorf("dropped: %v", err)
					return
				}
				back, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(back) != body {
					t.Errorf("dropped: %d, %d bytes of %d, %v", res.StatusCode, len(back), len(body), err)
					return
				}
				count(res.Header.Get("X-Revision")).Add(1)
			}
		})
	}
	for range 20 {
		// A candidate comes, takes more and more, and goes: its process ends right
		// after its last request.
		up := httptest.NewServer(slow("candidate"))
		b := up.Listener.Addr().String()
		for _, w := range []int{500, 5000, 9000, 0} {
			s.Set(split(w, a, b))
			time.Sleep(5 * time.Millisecond)
		}
		s.Set(only(a))
		if cut := s.Drained(t.Context(), at(b)[0]); cut != 0 {
			t.Errorf("%d requests cut off", cut)
		}
		up.Close()
	}
	close(stop)
	clients.Wait()
	transport.CloseIdleConnections()
	want(t, s, stable, uint64(count("stable").Load()), 0, 0)
	want(t, s, candidate, uint64(count("candidate").Load()), 0, 0)
	if count("candidate").Load() == 0 {
		t.Error("the candidate got nothing")
	}
}

func TestStatusesAreCountedWhereTheyHappen(t *testing.T) {
	addr500 := service(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	addr404 := service(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) })
	for name, c := range map[string]struct {
		instances []string
		status    int
		requests  uint64
		bad       uint64
	}{
		"5xx is bad":                {[]string{addr500}, 500, 1, 1},
		"4xx is not":                {[]string{addr404}, 404, 1, 0},
		"no ready instance":         {nil, 503, 1, 1},
		"refused":                   {[]string{closedPort(t)}, 502, 1, 1},
		"refused, refused":          {[]string{closedPort(t), closedPort(t)}, 502, 2, 2},
		"closes without an answer":  {[]string{raw(t, func(net.Conn) {})}, 502, 1, 1},
		"answers no HTTP":           {[]string{raw(t, reply("hello\r\n\r\n"))}, 502, 1, 1},
		"answers two lengths":       {[]string{raw(t, reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))}, 502, 1, 1},
		"switches without question": {[]string{raw(t, reply("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))}, 502, 1, 1},
		"is silent":                 {[]string{raw(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })}, 504, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, addr := start(t, proxy.Options{HeaderTimeout: 300 * time.Millisecond})
			s.Set(only(c.instances...))
			// A POST: what failed after it was sent must not be sent again.
			res, err := http.Post("http://"+addr, "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != c.status {
				t.Errorf("answered %d, want %d", res.StatusCode, c.status)
			}
			want(t, s, stable, c.requests, c.bad, 0)
		})
	}
}

func reply(s string) func(net.Conn) {
	return func(nc net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(nc)); err == nil {
			_, _ = io.WriteString(nc, s)
		}
	}
}

func closedPort(t testing.TB) string { return fmt.Sprintf("127.0.0.1:%d", freePort(t)) }

func TestRefusedAttemptIsTriedElsewhere(t *testing.T) {
	s, addr := start(t, proxy.Options{})
	s.Set(only(closedPort(t), service(t, says("ok"))))
	refused := uint64(0)
	for range 10 {
		res, err := http.Post("http://"+addr, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("answered %d", res.StatusCode)
		}
	}
	c := counts(t, s, stable)
	if refused = c.Bad; refused == 0 || c.Requests != 10+refused {
		t.Errorf("%d requests, %d bad; want each failed attempt counted", c.Requests, c.Bad)
	}
}

func TestOnlyHarmlessRequestsAreSentTwice(t *testing.T) {
	var hits atomic.Int64
	dies := raw(t, func(nc net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(nc)); err == nil {
			hits.Add(1)
		}
	})
	for method, status := range map[string]int{"GET": 200, "PUT": 200, "DELETE": 200, "POST": 502, "PATCH": 502} {
		s, addr := start(t, proxy.Options{})
		s.Set(only(dies, service(t, says("ok"))))
		for range 4 {
			before := hits.Load()
			req, _ := http.NewRequest(method, "http://"+addr, strings.NewReader("x"))
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if hits.Load() > before && res.StatusCode != status {
				t.Errorf("%s, after an instance died: %d, want %d", method, res.StatusCode, status)
			}
		}
	}
}

func TestNoRevisionTakesTraffic(t *testing.T) {
	s, addr := start(t, proxy.Options{})
	if code, _ := fetch(t, "http://"+addr); code != 503 {
		t.Errorf("without a table: %d", code)
	}
	a := service(t, says("x"))
	s.Set(proxy.Route{Revisions: []proxy.Revision{{Release: stable, Instances: at(a)}}})
	if code, body := fetch(t, "http://"+addr); code != 503 || len(body) > 200 {
		t.Errorf("all weights 0: %d %q", code, body)
	}
	want(t, s, stable, 0, 0, 0)
}

func TestCancelledRequestsAreInNeitherCount(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	began := make(chan struct{}, 8)
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
	go func() { <-began; cancel() }()
	if _, err := http.DefaultClient.Do(req); err == nil {
		t.Fatal("was answered")
	}
	want(t, s, stable, 0, 0, 1)

	// A client that leaves while it sends its body.
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(nc, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 50000))
	<-began
	_ = nc.Close()
	want(t, s, stable, 0, 0, 2)
}

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
	answer := talk(t, addr, "GET /p?q HTTP/1.1\r\nhost: shop.example\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: trailers, gzip\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nAccept: a\r\nAccept: b\r\n\r\n")
	if host != "shop.example" {
		t.Errorf("host %q", host)
	}
	for k, v := range map[string]string{
		"X-Forwarded-For": "10.0.0.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example",
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
	next := make(chan string)
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for e := range next {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
		}
	})
	s, addr := start(t, proxy.Options{HeaderTimeout: 100 * time.Millisecond})
	s.Set(only(a))
	res, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 3 {
		if i == 2 {
			time.Sleep(400 * time.Millisecond) // the timeout is for headers, not for streams
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
			w.WriteHeader(413)
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
		res, err := (&http.Client{Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second, DisableKeepAlives: true}}).Do(req)
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
	if code := ask(); code != 413 || continued.Load() {
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
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
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
	if answer := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200 ") || got != "" {
		t.Errorf("upgrade %q passed on; answer:\n%s", got, answer)
	}
	if answer := talk(t, addr, "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
		t.Errorf("CONNECT:\n%s", answer)
	}
}

func TestAnswerBeforeTheBodyEnds(t *testing.T) {
	a := service(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "too large", 413) })
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	for range 5 {
		res, err := http.Post("http://"+addr, "text/plain", struct{ io.Reader }{io.LimitReader(zeros{}, 4<<20)})
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 413 {
			t.Errorf("answered %d", res.StatusCode)
		}
	}
	want(t, s, stable, 5, 0, 0)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBadClientsAreBounded(t *testing.T) {
	s, addr := start(t, proxy.Options{ClientHead: 200 * time.Millisecond, KeepAlive: 300 * time.Millisecond})
	s.Set(only(service(t, says("ok"))))
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 70<<10)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Errorf("a huge head: %.80q", got)
	}
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHost: x\r\n"+strings.Repeat("A: b\r\n", 300)+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("300 lines: %.80q", got)
	}
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

func TestShutdownLetsOpenRequestsEnd(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-end
		_, _ = io.WriteString(w, "done")
	})
	s, addr := start(t, proxy.Options{})
	s.Set(only(a))
	idle, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	result := make(chan string, 1)
	go func() {
		_, body := fetch(t, "http://"+addr)
		result <- body
	}()
	<-began
	over := make(chan error, 1)
	go func() { over <- s.Shutdown(context.Background()) }()
	_ = idle.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the idle connection: %v", err)
	}
	close(end)
	if got := <-result; got != "done" {
		t.Errorf("the open request got %q", got)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestClosedIdleConnectionsAreNotUsed(t *testing.T) {
	up := httptest.NewUnstartedServer(says("ok"))
	up.Config.IdleTimeout = 30 * time.Millisecond
	up.Start()
	t.Cleanup(up.Close)
	s, addr := start(t, proxy.Options{})
	s.Set(only(up.Listener.Addr().String()))
	for range 5 {
		if code, _ := fetch(t, "http://"+addr); code != 200 {
			t.Errorf("answered %d", code)
		}
		time.Sleep(80 * time.Millisecond) // the service's patience, not a race
	}
	want(t, s, stable, 5, 0, 0)
}
