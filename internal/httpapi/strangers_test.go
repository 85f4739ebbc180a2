package httpapi

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

// A page of a service, on another port of the same machine, has the browser send the
// session along: that is nobody's report and nobody's artifact.
func TestASessionIsNoAgent(t *testing.T) {
	access, err := NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/agent/v1/observed", nil)
	r.AddCookie(&http.Cookie{Name: sessionCookie, Value: access.session(time.Now().Add(time.Hour))})
	if !access.Allowed(r) {
		t.Fatal("the session is no good")
	}
	if access.Agent(r) != nil {
		t.Error("a browser speaks for hosts")
	}
	if access.Bears(r) {
		t.Error("a session is the token")
	}
	r.TLS = &tls.ConnectionState{}
	r.Header.Set("Authorization", "Bearer "+token)
	if !access.Bears(r) || access.Agent(r) == nil {
		t.Error("the token is not taken")
	}
	r.Header.Set("Authorization", "Negotiate YII=")
	if !access.Allowed(r) || access.Bears(r) {
		t.Error("what a proxy before us adds stands in the session's way, or takes its place")
	}
	edges(t, func(t testing.TB, e *edge) {
		cookie := sessionCookie + "=" + e.access.session(time.Now().Add(time.Hour))
		o := wire.Observed{Protocol: wire.Protocol, Host: "web-1", Boot: "b"}
		for _, kind := range []string{"text/plain", "application/json"} {
			a := e.call("POST", "/agent/v1/observed", o, "Authorization", "", "Cookie", cookie, "Content-Type", kind, "Sec-Fetch-Site", "same-site")
			if a.status != http.StatusUnauthorized {
				t.Errorf("a report by a browser: %d %s", a.status, a.body)
			}
			if a.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Error("a browser may guess what an answer is")
			}
		}
	})
}

// Why a server is not ready may name its database: strangers are told that it is not.
func TestStrangersAreNotToldWhy(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		e.ready = errors.New("no connection to db-7.internal as sluice")
		for bearer, told := range map[string]bool{"": false, "Bearer " + e.access.AgentToken("web-1"): false, "Bearer " + token: true} {
			a := e.call("GET", "/readyz", nil, "Authorization", bearer)
			if a.status != http.StatusServiceUnavailable || strings.Contains(string(a.body), "db-7") != told {
				t.Errorf("with %.12q: %d %s", bearer, a.status, a.body)
			}
		}
	})
}

// Who is not known has not for ever to send a body; who is has.
func TestStrangersAreHurried(t *testing.T) {
	access, err := NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	deadlines := make(chan bool, 1)
	s := &Server{cfg: Config{Access: access}, mux: http.NewServeMux()}
	s.mux.Handle("/v2/", s.hurried(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		d, ok := w.(*watched)
		deadlines <- ok && !d.by.IsZero()
	})))
	s.mux.Handle("/guarded", s.guard(http.NotFoundHandler()))
	s.mux.Handle("/agent", s.guardAgent(http.NotFoundHandler()))
	for bearer, want := range map[string]bool{"": true, "wrong": true, token: false, access.AgentToken("web-1"): false} {
		w := &watched{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("POST", "/v2/a/b/blobs/uploads/", strings.NewReader("x"))
		r.Header.Set("Authorization", "Bearer "+bearer)
		s.ServeHTTP(w, r)
		if got := <-deadlines; got != want {
			t.Errorf("%.20q: hurried is %t", bearer, got)
		}
	}
	for _, path := range []string{"/guarded", "/agent"} {
		w := &watched{ResponseRecorder: httptest.NewRecorder()}
		s.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader("x")))
		if w.by.IsZero() || w.Code != http.StatusUnauthorized {
			t.Errorf("%s: %d, until %s", path, w.Code, w.by)
		}
	}
	// Over a real connection, and the next request on it has no such deadline.
	real := httptest.NewServer(s)
	defer real.Close()
	nc, err := net.Dial("tcp", real.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	in := bufio.NewReader(nc)
	for range 2 {
		fmt.Fprintf(nc, "POST /guarded HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%v, %v", res, err)
		}
		_ = res.Body.Close()
	}
}

// watched notes the deadline that a handler sets.
type watched struct {
	*httptest.ResponseRecorder
	by time.Time
}

func (w *watched) SetReadDeadline(t time.Time) error { w.by = t; return nil }
