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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
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

// service starts a real HTTP server. Behind a mux, as most are: it refuses the
// question whether it speaks HTTP/2 by itself.
func service(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/", h)
	s := httptest.NewServer(mux)
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
				_ = nc.SetDeadline(time.Now().Add(machinetest.Patience))
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
	var c wire.Counters
	if !machinetest.Eventually(func() bool {
		c = counts(t, s, id)
		return c.Requests == requests && c.Bad == bad && c.Cancelled == cancelled
	}) {
		t.Fatalf("counted %d requests, %d bad, %d cancelled; want %d, %d, %d", c.Requests, c.Bad, c.Cancelled, requests, bad, cancelled)
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
	_ = nc.SetDeadline(time.Now().Add(machinetest.Patience))
	if _, err := io.WriteString(nc, s); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(nc)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Logf("after %q: %v", b, err)
	}
	return string(b)
}

// plausible fails when k of n is not what p explains: two-sided, 10⁻¹⁰ by the
// normal approximation (n·p is large), as this is asked in each run of the tests.
func plausible(t testing.TB, k, n int, p float64) {
	t.Helper()
	sd := math.Sqrt(float64(n) * p * (1 - p))
	if z := (float64(k) - float64(n)*p) / sd; math.Abs(z) > 6.5 {
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
			time.Sleep(time.Millisecond) // as work does: several are open at a time
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
	var answered atomic.Int64
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
				answered.Add(1)
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
			before := answered.Load()
			machinetest.Until(t, "some are answered", func() bool { return answered.Load() >= before+20 || t.Failed() })
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
		"refused":                   {[]string{porttest.Refused(t)}, 502, 1, 1},
		"refused, refused":          {[]string{porttest.Refused(t), porttest.Refused(t)}, 502, 2, 2},
		"closes without an answer":  {[]string{raw(t, func(net.Conn) {})}, 502, 1, 1},
		"answers no HTTP":           {[]string{raw(t, reply("hello\r\n\r\n"))}, 502, 1, 1},
		"answers two lengths":       {[]string{raw(t, reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))}, 502, 1, 1},
		"switches without question": {[]string{raw(t, reply("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))}, 502, 1, 1},
		"is silent":                 {[]string{raw(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })}, 504, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, addr := start(t, proxy.Options{HeaderTimeout: silence(c.status)})
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

// silence is how long a service has for its answer: short only where there is none.
func silence(status int) time.Duration {
	if status == http.StatusGatewayTimeout {
		return 300 * time.Millisecond
	}
	return machinetest.Patience
}

func reply(s string) func(net.Conn) {
	return func(nc net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(nc)); err == nil {
			_, _ = io.WriteString(nc, s)
		}
	}
}

func TestRefusedAttemptIsTriedElsewhere(t *testing.T) {
	s, addr := start(t, proxy.Options{})
	s.Set(only(porttest.Refused(t), service(t, says("ok"))))
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
	_ = idle.SetReadDeadline(time.Now().Add(machinetest.Patience))
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
	var closed atomic.Int64
	up := httptest.NewUnstartedServer(says("ok"))
	up.Config.IdleTimeout = 30 * time.Millisecond
	up.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			closed.Add(1)
		}
	}
	up.Start()
	t.Cleanup(up.Close)
	s, addr := start(t, proxy.Options{})
	s.Set(only(up.Listener.Addr().String()))
	for i := range 5 {
		if code, _ := fetch(t, "http://"+addr); code != 200 {
			t.Errorf("answered %d", code)
		}
		machinetest.Until(t, "the service has closed the connection", func() bool { return closed.Load() > int64(i) })
	}
	want(t, s, stable, 5, 0, 0)
}
