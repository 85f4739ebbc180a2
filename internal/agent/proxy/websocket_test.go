package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
)

// echoes starts a WebSocket server that sends back what it gets, after its name.
func echoes(t testing.TB, name string, open *atomic.Int64) string {
	t.Helper()
	s := httptest.NewServer(websocket.Handler(func(ws *websocket.Conn) {
		open.Add(1)
		defer open.Add(-1)
		for {
			var m string
			if websocket.Message.Receive(ws, &m) != nil {
				return
			}
			if websocket.Message.Send(ws, name+" "+m) != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func dialWS(t testing.TB, addr, cookie string) (*websocket.Conn, error) {
	t.Helper()
	cfg, err := websocket.NewConfig("ws://"+addr+"/ws", "http://"+addr)
	if err != nil {
		t.Fatal(err)
	}
	if cookie != "" {
		cfg.Header.Set("Cookie", cookie)
	}
	ws, err := cfg.DialContext(t.Context())
	if err == nil {
		t.Cleanup(func() { _ = ws.Close() })
		_ = ws.SetDeadline(time.Now().Add(machinetest.Patience))
	}
	return ws, err
}

func say(ws *websocket.Conn, m string) (answer string, err error) {
	if err := websocket.Message.Send(ws, m); err != nil {
		return "", err
	}
	err = websocket.Message.Receive(ws, &answer)
	return answer, err
}

func TestWebSocketIsOneRequest(t *testing.T) {
	var open atomic.Int64
	s, addr := start(t, proxy.Options{Name: "ws"})
	s.Set(only(echoes(t, "stable", &open)))
	ws, err := dialWS(t, addr, "sluice-session=secret")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if got, err := say(ws, fmt.Sprint(i)); err != nil || got != fmt.Sprint("stable ", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	want(t, s, stable, 1, 0, 0)
	_ = ws.Close()
	machinetest.Until(t, "the service's side ended", func() bool { return open.Load() == 0 })
	want(t, s, stable, 1, 0, 0)

	// A handshake that the service refuses is an answer like any other.
	s.Set(only(service(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })))
	if _, err := dialWS(t, addr, ""); err == nil {
		t.Error("it was accepted")
	}
	want(t, s, stable, 2, 1, 0)
}

func TestWebSocketsFollowTheirUser(t *testing.T) {
	var open atomic.Int64
	a, b := echoes(t, "stable", &open), echoes(t, "candidate", &open)
	s, addr := start(t, proxy.Options{Name: "ws sticky"})
	r := split(5000, a, b)
	r.Sticky.Cookie = "user"
	s.Set(r)
	seen := make(map[string]bool)
	for user := range 30 {
		var first string
		for range 3 {
			ws, err := dialWS(t, addr, fmt.Sprint("user=", user))
			if err != nil {
				t.Fatal(err)
			}
			got, err := say(ws, "")
			if err != nil || first != "" && got != first {
				t.Errorf("user %d was at %q, then at %q: %v", user, first, got, err)
			}
			first = got
			seen[got] = true
			_ = ws.Close()
		}
	}
	if len(seen) != 2 {
		t.Errorf("30 users at 50 %% all went to %v", seen)
	}
}

func TestWebSocketsEndWithTheirRevision(t *testing.T) {
	for _, way := range []string{"instance", "weight"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var open, other atomic.Int64
			b := echoes(t, "candidate", &open)
			a := echoes(t, "stable", &other)
			s, addr := start(t, proxy.Options{Name: "ws end"})
			s.Set(split(wire.FullWeight, a, b))
			ws, err := dialWS(t, addr, "")
			if err != nil {
				t.Fatal(err)
			}
			r := split(0, a, b)
			r.Revisions[1].DrainIn = 5 * time.Second // for as long as what follows takes on any machine
			if way == "instance" {
				r.Revisions = r.Revisions[:1]
			}
			s.Set(r)
			if got, err := say(ws, "still"); err != nil || got != "candidate still" {
				t.Errorf("it was cut at once: %q, %v", got, err)
			}
			if fresh, err := dialWS(t, addr, ""); err != nil {
				t.Error(err)
			} else if got, _ := say(fresh, "x"); got != "stable x" {
				t.Errorf("a new one got %q", got)
			}
			if way == "instance" {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				if n := s.Drained(ctx, at(b)[0]); n != 1 || ctx.Err() == nil {
					t.Errorf("%d were open; it waited until then: %v", n, ctx.Err() != nil)
				}
			}
			var m string
			if err := websocket.Message.Receive(ws, &m); err == nil {
				t.Errorf("it goes on with %q", m)
			}
			machinetest.Until(t, "the service's side ended", func() bool { return open.Load() == 0 })
			want(t, s, candidate, 1, 0, 0)
		})
	}
}

// Who leaves half of a tunnel open does not keep it forever.
func TestHalfATunnelEnds(t *testing.T) {
	var open atomic.Int64
	s, addr := start(t, proxy.Options{Name: "ws half", ClientBody: 300 * time.Millisecond})
	s.Set(only(echoes(t, "stable", &open)))
	hold := make(chan struct{})
	defer close(hold)
	deaf := httptest.NewServer(websocket.Handler(func(*websocket.Conn) { <-hold }))
	defer deaf.CloseClientConnections()
	s.Set(only(deaf.Listener.Addr().String()))
	ws, err := dialWS(t, addr, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = ws.Close()
	ctx, cancel := context.WithTimeout(t.Context(), machinetest.Patience)
	defer cancel()
	s.Set(only(porttest.Refused(t)))
	if n := s.Drained(ctx, at(deaf.Listener.Addr().String())[0]); n != 0 {
		t.Errorf("%d tunnels are open", n)
	}
}
