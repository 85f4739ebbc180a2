package proxy_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
)

func sum(all []wire.Counters) (c wire.Counters) {
	for _, b := range all {
		c.Requests += b.Requests
		c.Bad += b.Bad
		c.Cancelled += b.Cancelled
	}
	return c
}

func shadowed(s *proxy.Server) wire.Counters {
	c, _ := s.Shadow(candidate)
	return sum(c)
}

func withShadow(share int, stableAddr, candidateAddr string) proxy.Route {
	r := split(0, stableAddr, candidateAddr)
	r.Revisions[1].Shadow = share
	return r
}

func TestTheControlPlanesCookieStaysHere(t *testing.T) {
	var got atomic.Value
	a := service(t, func(w http.ResponseWriter, r *http.Request) {
		got.Store(strings.Join(r.Header.Values("Cookie"), "|"))
		w.Header().Add("Set-Cookie", "sluice-session=mine; Path=/")
		w.Header().Add("Set-Cookie", "theirs=1")
	})
	s, addr := start(t, proxy.Options{Name: "cookies"})
	s.Set(only(a))
	for sent, want := range map[string]string{
		"sluice-session=secret":                        "",
		"a=1; sluice-session=secret; b=2":              "a=1; b=2",
		"sluice-session=secret;a=1":                    "a=1",
		"a=1; sluice-session=x; sluice-session=y":      "a=1",
		"a=sluice-session":                             "a=sluice-session",
		"sluice-session2=1; xsluice-session=2; a=\"\"": "sluice-session2=1; xsluice-session=2; a=\"\"",
	} {
		req, err := http.NewRequest("GET", "http://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Cookie", sent)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got.Load() != want {
			t.Errorf("Cookie %q reached the service as %q; want %q", sent, got.Load(), want)
		}
		if c := res.Header.Values("Set-Cookie"); len(c) != 1 || c[0] != "theirs=1" {
			t.Errorf("the service could set %q", c)
		}
	}
}

// FuzzSession holds withoutSession against net/http's reading of cookies.
func FuzzSession(f *testing.F) {
	for _, s := range []string{"sluice-session=1", "a=1; sluice-session=2;b=3", " ; =; sluice-session", "sluice-session =x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		out := string(proxy.WithoutSession([]byte(list)))
		read := func(s string) (all []string) {
			r := http.Request{Header: http.Header{"Cookie": {s}}}
			for _, c := range r.Cookies() {
				if c.Name != "sluice-session" {
					all = append(all, c.Name+"="+c.Value)
				}
			}
			return all
		}
		if strings.ContainsAny(list, "\r\n") {
			return
		}
		if a, b := read(list), read(out); strings.Join(a, ";") != strings.Join(b, ";") {
			t.Errorf("%q became %q: %q, then %q", list, out, a, b)
		}
		r := http.Request{Header: http.Header{"Cookie": {out}}}
		if _, err := r.Cookie("sluice-session"); err == nil {
			t.Errorf("%q still has it: %q", list, out)
		}
	})
}

// To a service by way of CGI or WSGI an underscore is a hyphen: what only the proxy
// may say can't be said with one either, nor in a trailer.
func TestNobodySpeaksInOurName(t *testing.T) {
	var got atomic.Value
	a := service(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		var names []string
		for _, h := range []http.Header{r.Header, r.Trailer} {
			for name := range h {
				if strings.Contains(name, "_") || strings.HasPrefix(name, "Sluice") {
					names = append(names, name)
				}
			}
		}
		slices.Sort(names)
		got.Store(strings.Join(names, " "))
	})
	s, addr := start(t, proxy.Options{Name: "names", Token: "the token of this server"})
	s.Set(only(a))
	forged := []string{"Sluice_Shadow", "SLUICE-SHADOW", "Sluice_synthetic", "sluice-Synthetic", "X_Forwarded_For", "X-Forwarded_Host", "x_forwarded-proto", "My_Own"}
	raw := "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
	for _, name := range forged {
		raw += name + ": 1\r\n"
	}
	raw += "\r\n0\r\nSluice_Synthetic: 1\r\nX-Forwarded-For: 1\r\nSluice-Shadow: 1\r\n\r\n"
	if answer := talk(t, addr, raw); !strings.HasPrefix(answer, "HTTP/1.1 200 ") || got.Load() != "My_own" {
		t.Errorf("HTTP/1.1: %v reached the service; %s", got.Load(), answer)
	}
	req, err := http.NewRequest("GET", "http://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range forged {
		req.Header[name] = []string{"1"}
	}
	res, err := h2c(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got.Load() != "My_own" {
		t.Errorf("HTTP/2: %v reached the service", got.Load())
	}
}

func TestSafeRequestsAreCopiedToAShadow(t *testing.T) {
	var copies, withBody atomic.Int64
	var header atomic.Value
	a := service(t, says("stable"))
	b := service(t, func(w http.ResponseWriter, r *http.Request) {
		copies.Add(1)
		if r.Method != "GET" && r.Method != "HEAD" && r.Method != "OPTIONS" || r.ContentLength != 0 {
			withBody.Add(1)
		}
		header.Store(r.Header.Get("Sluice-Shadow") + " " + r.URL.String() + " " + r.Header.Get("X-User"))
		w.WriteHeader(500)
		_, _ = io.WriteString(w, "candidate")
	})
	s, addr := start(t, proxy.Options{Name: "shadow"})
	s.Set(withShadow(wire.FullWeight, a, b))
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"} {
		for range 10 {
			req, err := http.NewRequest(method, "http://"+addr+"/x?y=1", strings.NewReader(map[bool]string{true: "body"}[method == "POST" || method == "PUT"]))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-User", "u")
			req.Header.Set("Sluice-Shadow", "forged")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != 200 || method != "HEAD" && string(body) != "stable" {
				t.Fatalf("%s: a user saw %d %q", method, res.StatusCode, body)
			}
		}
	}
	machinetest.Until(t, "all copies counted", func() bool { return shadowed(s).Requests == 30 })
	if c := shadowed(s); c.Bad != 30 || copies.Load() != 30 || withBody.Load() != 0 || header.Load() != "1 /x?y=1 u" {
		t.Errorf("%+v; %d copies, %d of what has a body; %q", c, copies.Load(), withBody.Load(), header.Load())
	}
	want(t, s, stable, 60, 0, 0)
	want(t, s, candidate, 0, 0, 0)
	if n := s.Total(); n.Requests != 60 || n.Bad != 0 {
		t.Errorf("users' total is %+v", n)
	}
	s.Set(withShadow(0, a, b))
	fetch(t, "http://"+addr)
	want(t, s, stable, 61, 0, 0)
	if shadowed(s).Requests != 30 {
		t.Error("a copy without a share")
	}
}

func TestCopiesFollowTheirShare(t *testing.T) {
	a, b := service(t, says("stable")), service(t, says("candidate"))
	s, addr := start(t, proxy.Options{Name: "share", MaxShadows: 1000})
	s.Set(withShadow(2500, a, b))
	const n = 4000
	for range n {
		fetch(t, "http://"+addr)
	}
	machinetest.Until(t, "all copies ended", func() bool {
		c := shadowed(s)
		_, dropped := s.Shadow(candidate)
		return dropped == 0 && c.Requests > 0 && s.ShadowsOpen() == 0
	})
	plausible(t, int(shadowed(s).Requests), n, 0.25)
}

// A candidate that hangs, or isn't there, costs users nothing: copies are dropped
// when too many are open.
func TestASlowShadowDelaysNobody(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	a := service(t, says("stable"))
	b := service(t, func(w http.ResponseWriter, r *http.Request) { <-hang })
	s, addr := start(t, proxy.Options{Name: "slow", MaxShadows: 4})
	s.Set(withShadow(wire.FullWeight, a, b))
	for range 200 { // one that were delayed would not be answered at all
		if code, body := fetch(t, "http://"+addr); code != 200 || body != "stable" {
			t.Fatalf("a user saw %d %q", code, body)
		}
	}
	if _, dropped := s.Shadow(candidate); dropped != 196 {
		t.Errorf("%d copies were dropped; want 196", dropped)
	}
	s.Set(withShadow(wire.FullWeight, a, porttest.Refused(t)))
	fetch(t, "http://"+addr)
	want(t, s, stable, 201, 0, 0)
}

func TestOnlyTheTokenMakesARequestSynthetic(t *testing.T) {
	var got atomic.Value
	a := service(t, func(w http.ResponseWriter, r *http.Request) { got.Store(r.Header.Get("Sluice-Synthetic")) })
	s, addr := start(t, proxy.Options{Name: "synthetic", Token: "0123456789"})
	r := only(a)
	r.Sticky.Cookie = "user"
	s.Set(r)
	ask := func(mark string) *http.Response {
		req, err := http.NewRequest("GET", "http://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Sluice-Synthetic", mark)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	for _, forged := range []string{"", "1", "012345678", "0123456789x"} {
		if ask(forged); got.Load() != "" {
			t.Errorf("%q reached the service as %q", forged, got.Load())
		}
	}
	want(t, s, stable, 4, 0, 0)
	res := ask("0123456789")
	if got.Load() != "1" || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("the service was told %q; Set-Cookie %q", got.Load(), res.Header.Get("Set-Cookie"))
	}
	want(t, s, stable, 4, 0, 0)
	if c := sum(s.Synthetic(stable)); c.Requests != 1 {
		t.Errorf("synthetic requests are counted as %+v", c)
	}
	// Without a token configured, an empty one is none.
	s2, addr2 := start(t, proxy.Options{Name: "none"})
	s2.Set(only(a))
	addr = addr2
	ask("")
	want(t, s2, stable, 1, 0, 0)
}

func TestSyntheticTrafficIsSpreadByWeight(t *testing.T) {
	var paths [2]atomic.Int64
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop" || r.Header.Get("Sluice-Synthetic") != "1" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" {
			w.WriteHeader(500)
		}
		switch r.URL.Path {
		case "/a":
			paths[0].Add(1)
		case "/b":
			paths[1].Add(1)
		}
	}
	a, b := service(t, h), service(t, h)
	s, _ := start(t, proxy.Options{Name: "made"})
	s.Set(split(5000, a, b))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- s.Synthesize(ctx, proxy.Synthetic{Rate: 500, Paths: []string{"/a", "/b"}, Host: "shop"})
	}()
	count := func() (n, m wire.Counters) { return sum(s.Synthetic(stable)), sum(s.Synthetic(candidate)) }
	machinetest.Until(t, "400 requests", func() bool { n, m := count(); return n.Requests+m.Requests >= 400 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	n, m := count()
	total := n.Requests + m.Requests
	if n.Bad+m.Bad+n.Cancelled+m.Cancelled != 0 {
		t.Errorf("%+v, %+v", n, m)
	}
	plausible(t, int(m.Requests), int(total), 0.5)
	if x, y := paths[0].Load(), paths[1].Load(); uint64(x+y) != total || x-y > 1 || y-x > 1 {
		t.Errorf("of %d, %d went to /a and %d to /b", total, x, y)
	}
	want(t, s, stable, 0, 0, 0)
	if n2, m2 := count(); n2.Requests+m2.Requests != total {
		t.Error("it went on after its end")
	}
	for _, bad := range []proxy.Synthetic{{}, {Rate: -1}, {Rate: 1e9}, {Rate: 1, Paths: []string{"x"}}, {Rate: 1, Paths: []string{"/a b\n"}}, {Rate: 1, Paths: make([]string, 1000)}} {
		if err := s.Synthesize(t.Context(), bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
