package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// preface is how a client says that it speaks HTTP/2 without TLS, up to where an
// HTTP/1.1 head would end. The HTTP/1.1 parser refuses it, and only then it is
// looked at: requests of HTTP/1.1 pay nothing.
const preface = "PRI * HTTP/2.0\r\n\r\n"

// Bounds of HTTP/2 connections. Frames, header tables and resets are bounded by
// net/http itself.
const (
	maxStreams   = 250       // open on one connection
	streamBuffer = 256 << 10 // of a body that the service does not take yet
	connBuffer   = 1 << 20
	quietFor     = 30 * time.Second // then the other side is pinged
	pingIn       = 15 * time.Second // and must answer
)

// h2 serves the connections that turned out to speak HTTP/2. net/http's server is
// used, which hands each stream to Server.stream; HTTP/1.1 never reaches it.
type h2 struct {
	srv    *http.Server
	conns  chan net.Conn
	ended  chan struct{} // closed with the listener
	once   sync.Once
	mu     sync.Mutex
	closed map[net.Conn]chan struct{} // closed when the connection is
}

// http2 returns the server's HTTP/2 side, which is made for the first connection;
// nil when the server is closing.
func (s *Server) http2() *h2 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.h2 != nil || s.closing.Load() {
		return s.h2
	}
	h := &h2{conns: make(chan net.Conn), ended: make(chan struct{}), closed: make(map[net.Conn]chan struct{})}
	var p http.Protocols
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	h.srv = &http.Server{
		Handler:        http.HandlerFunc(s.stream),
		Protocols:      &p,
		MaxHeaderBytes: maxBuffer,
		IdleTimeout:    s.opt.KeepAlive,
		// What clients do wrong is not our error.
		ErrorLog: slog.NewLogLogger(s.opt.Logger.Handler(), slog.LevelDebug),
		ConnState: func(nc net.Conn, is http.ConnState) {
			if is == http.StateClosed {
				h.gone(nc)
			}
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: connBuffer,
			MaxReceiveBufferPerStream:     streamBuffer,
			SendPingTimeout:               quietFor,
			PingTimeout:                   pingIn,
			WriteByteTimeout:              s.opt.ClientBody,
		},
	}
	s.h2 = h
	s.wait.Go(func() { _ = h.srv.Serve(h) })
	return h
}

// serveH2 hands the connection over and waits until it is closed. taken is what
// was read of it already.
func (c *conn) serveH2(taken []byte) {
	h := c.srv.http2()
	if h == nil {
		return
	}
	_ = c.nc.SetDeadline(time.Time{})
	nc := c.nc
	if len(taken) > 0 {
		nc = &rewound{Conn: c.nc, taken: taken}
	}
	done := make(chan struct{})
	h.mu.Lock()
	h.closed[nc] = done
	h.mu.Unlock()
	select {
	case h.conns <- nc:
		<-done
	case <-h.ended:
		h.gone(nc)
	}
}

func (h *h2) gone(nc net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if done := h.closed[nc]; done != nil {
		delete(h.closed, nc)
		close(done)
	}
}

// goAway tells all connections to open no new streams. They close when the open
// ones ended.
func (h *h2) goAway() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // who waits is Server.Shutdown
	_ = h.srv.Shutdown(ctx)
}

// Accept is of net.Listener.
func (h *h2) Accept() (net.Conn, error) {
	select {
	case nc := <-h.conns:
		return nc, nil
	case <-h.ended:
		return nil, net.ErrClosed
	}
}

// Close is of net.Listener.
func (h *h2) Close() error {
	h.once.Do(func() { close(h.ended) })
	return nil
}

// Addr is of net.Listener.
func (h *h2) Addr() net.Addr { return &net.TCPAddr{} }

// rewound is a connection of which some bytes were read too early.
type rewound struct {
	net.Conn
	taken []byte
}

func (r *rewound) Read(p []byte) (int, error) {
	if len(r.taken) > 0 {
		n := copy(p, r.taken)
		r.taken = r.taken[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// shake does the TLS handshake, if there is TLS. It returns whether to go on, and
// whether the client chose HTTP/2.
func (c *conn) shake() (ok, http2 bool) {
	tc, is := c.nc.(*tls.Conn)
	if !is {
		return true, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.srv.opt.ClientHead)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		c.srv.opt.Logger.Debug("a TLS handshake failed", "client", c.peer, "error", err)
		return false, false
	}
	return true, tc.ConnectionState().NegotiatedProtocol == "h2"
}
