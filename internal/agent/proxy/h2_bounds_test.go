package proxy_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sluicehq/sluice/internal/agent/proxy"
)

// What one connection of HTTP/2 or gRPC may cost is said in its first frame, and
// kept: its streams, their bodies' windows, the size of a head. A stream too many is
// refused; those that are open go on.
func TestOneConnectionIsBounded(t *testing.T) {
	const streams, window, head = 250, 256 << 10, 64 << 10
	hang := make(chan struct{})
	var reached atomic.Int64
	a := service(t, func(http.ResponseWriter, *http.Request) {
		reached.Add(1)
		<-hang
	})
	defer close(hang)
	s, addr := start(t, proxy.Options{Name: "bounds"})
	s.Set(only(a))
	fr := frames(t, addr)
	said := map[http2.SettingID]uint32{}
	refused := func() (id uint32, code http2.ErrCode) {
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatalf("after %d requests reached the service: %v", reached.Load(), err)
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				_ = f.ForeachSetting(func(s http2.Setting) error { said[s.ID] = s.Val; return nil })
				if !f.IsAck() {
					_ = fr.WriteSettingsAck()
				}
			case *http2.RSTStreamFrame:
				return f.StreamID, f.ErrCode
			case *http2.GoAwayFrame:
				t.Fatalf("the connection is closed: %s", f.ErrCode)
			}
		}
	}
	get := headers(":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/")
	open := func(n int) uint32 {
		id := uint32(2*n + 1)
		if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: get}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	for n := range streams {
		open(n)
	}
	over := open(streams)
	if id, code := refused(); id != over || code != http2.ErrCodeRefusedStream && code != http2.ErrCodeProtocol {
		t.Errorf("stream %d was refused with %s; wanted %d, the one over the bound", id, code, over)
	}
	for id, want := range map[http2.SettingID]uint32{
		http2.SettingMaxConcurrentStreams: streams, http2.SettingInitialWindowSize: window,
	} {
		if said[id] != want {
			t.Errorf("%s is %d, want %d", id, said[id], want)
		}
	}
	if n := said[http2.SettingMaxHeaderListSize]; n == 0 || n > 2*head {
		t.Errorf("a head may have %d bytes", n)
	}
	if n := reached.Load(); n > streams {
		t.Errorf("%d requests of one connection reached the service", n)
	}
	if t.Failed() {
		t.Log(fmt.Sprint(said))
	}
}
