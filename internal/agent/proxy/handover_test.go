package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/machinetest"
)

// A connection goes on at another server: one that is idle, one that was never
// asked, one with half a request read, and one whose request is open; and all that
// was counted goes with them, once.
func TestHandOver(t *testing.T) {
	slow, came := make(chan struct{}), make(chan struct{})
	addr := service(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(came)
			<-slow
		}
		_, _ = io.WriteString(w, "hello")
	})
	old, at := start(t, proxy.Options{})
	next, _ := start(t, proxy.Options{})
	old.Set(only(addr))
	next.Set(only(addr))

	type client struct {
		net.Conn
		in *bufio.Reader
	}
	dial := func() client {
		t.Helper()
		nc, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		_ = nc.SetDeadline(time.Now().Add(machinetest.Patience))
		return client{nc, bufio.NewReader(nc)}
	}
	send := func(c client, s string) {
		t.Helper()
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatal(err)
		}
	}
	answered := func(c client, what string) {
		t.Helper()
		res, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || string(b) != "hello" || res.Close {
			t.Errorf("%s: %q, %v, closed: %v", what, b, err, res.Close)
		}
	}
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	idle, fresh, half, open := dial(), dial(), dial(), dial()
	send(idle, get)
	answered(idle, "before")
	send(half, get+"GET / HT")
	answered(half, "before")
	send(open, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")

	<-came
	before := old.Count()
	next.Absorb(before, proxy.Counts{})
	done := make(chan error, 1)
	go func() {
		done <- old.HandOver(context.Background(), func(nc net.Conn, read []byte, first bool) {
			f, err := nc.(*net.TCPConn).File() // as over a socket: another descriptor of the same connection
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			again, err := net.FileConn(f)
			if err != nil {
				t.Error(err)
				return
			}
			next.Adopt(again, read, first)
		})
	}()
	send(idle, get)
	answered(idle, "idle")
	send(fresh, get)
	answered(fresh, "never asked")
	send(half, "TP/1.1\r\nHost: x\r\n\r\n")
	answered(half, "half a request")
	select {
	case err := <-done:
		t.Fatalf("the old server ended with a request open: %v", err)
	default:
	}
	close(slow)
	answered(open, "open")
	send(open, get)
	answered(open, "after the open one")
	if err := <-done; err != nil {
		t.Error(err)
	}
	next.Absorb(old.Count(), before)
	want(t, next, stable, 7, 0, 0)
	if total := next.Total(); total.Requests != 7 {
		t.Errorf("%d in all, want 7", total.Requests)
	}
}
