package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// conn is a client's connection, served by one goroutine. While a large body is
// sent on, a second one owns in; see pump.
type conn struct {
	srv   *Server
	nc    net.Conn
	raw   net.Conn // nc, or what TLS runs on
	proto string   // for X-Forwarded-Proto
	in    reader
	head  head
	out   []byte // what is written next
	flush func() error
	shard int
	ours  bool // the client is Sluice itself: see Synthesize
	asked bool // it served requests in another process; see Adopt

	peer    string // address for X-Forwarded-For
	trusted bool   // a proxy of ours may be before us: keep its X-Forwarded-*
	readBy  time.Time
	writeBy time.Time
	idle    atomic.Bool // no request has begun
	request request

	mu     sync.Mutex
	tunnel net.Conn // the other side after an upgrade
}

// request is what stays true of a request while its head's bytes may be gone.
type request struct {
	headOnly   bool // HEAD
	idempotent bool
	minor      int
	keep       bool // the client wants to go on with the connection
	upgrade    bool
	synthetic  bool // made by Sluice itself
	mirror     bool // it may be copied to a revision that takes copies
	body       body
	pump       *pump // sends the body on, if it was not at hand whole
	sent       int   // bytes of the body at hand, sent but not yet taken from in
	hash       uint64
	setCookie  string
	fresh      bool      // dial instead of taking a pooled connection
	reused     bool      // the attempt took a pooled connection
	started    time.Time // of the attempt
}

func newConn(s *Server, nc net.Conn, ours bool) *conn {
	c := &conn{srv: s, nc: nc, raw: nc, proto: "http", shard: randomShard(), ours: ours}
	if tc, ok := nc.(*tls.Conn); ok {
		c.raw, c.proto = tc.NetConn(), "https"
	}
	c.in.src = nc.Read
	c.flush = c.writeOut // once: a method value costs an allocation
	c.idle.Store(true)
	if a, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		ip := a.Addr().Unmap()
		c.peer = ip.WithZone("").String()
		c.trusted = ip.IsLoopback() || ip.IsPrivate()
	}
	if ours {
		c.peer = "127.0.0.1"
	}
	return c
}

// wakeIdle ends a connection that waits for its next request.
func (c *conn) wakeIdle() {
	if c.idle.Load() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// cut ends a connection whatever it does.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.nc.Close()
	if c.tunnel != nil {
		_ = c.tunnel.Close()
	}
}

func (c *conn) serve() {
	defer c.nc.Close()
	switch ok, http2 := c.shake(); {
	case !ok:
		return
	case http2:
		c.idle.Store(false)
		c.serveH2(nil)
		return
	}
	for first := !c.asked; ; first = false {
		if !c.next(first) {
			return
		}
		if !c.handle() {
			c.linger()
			return
		}
		if cap(c.out) > maxBuffer {
			c.out = nil
		}
	}
}

// next waits for a request's head and reads it. When the client's first says that
// it speaks HTTP/2, it serves the rest of the connection.
func (c *conn) next(first bool) bool {
	c.idle.Store(true)
	if c.srv.closing.Load() {
		c.leave(first)
		return false
	}
	if c.in.r == c.in.w {
		// Set coarsely: a deadline that is a second early costs nothing.
		now := time.Now()
		if by := now.Add(c.srv.opt.KeepAlive); by.Sub(c.readBy) > time.Second {
			c.readBy = by
			_ = c.nc.SetReadDeadline(by)
			if c.srv.closing.Load() { // or wakeIdle's deadline would be lost
				c.leave(first)
				return false
			}
		}
		if err := c.in.fill(); err != nil {
			if c.woken(err) {
				c.leave(first)
			}
			return false
		}
	}
	c.idle.Store(false)
	for range 2 {
		if emptyLine(c.in.buffered()) {
			c.in.r += 2
		}
	}
	raw, err := c.readHead()
	if err == nil {
		err = c.head.parseRequest(raw)
	}
	if err == nil && c.head.minor == 1 && len(c.head.method) == 7 && string(c.head.method) == "CONNECT" {
		c.refuse(501, "CONNECT is not spoken here")
		return false
	}
	switch {
	case err == nil:
		return true
	case first && string(raw) == preface && c.proto == "http":
		c.serveH2(append([]byte(preface), c.in.buffered()...))
	case errors.Is(err, errSyntax):
		c.refuse(400, err.Error())
	case errors.Is(err, errTooLarge):
		c.refuse(431, "the request's head is larger than 64 KiB")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.refuse(408, "the request's head did not come in time")
	}
	return false
}

// readHead is in.head with the slow client's deadline, set only when the head
// did not come in one piece.
func (c *conn) readHead() ([]byte, error) {
	n, _, err := c.head.scan(c.in.buffered(), 0)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		raw := c.in.buf[c.in.r : c.in.r+n]
		c.in.r += n
		return raw, nil
	}
	c.readBy = time.Now().Add(c.srv.opt.ClientHead)
	_ = c.nc.SetReadDeadline(c.readBy)
	raw, err := c.in.head(&c.head)
	c.readBy = time.Time{}
	return raw, err
}

// refuse answers in the proxy's own name and ends the connection.
func (c *conn) refuse(status int, why string) {
	_ = c.write(answer(status, why, true), time.Now())
	c.linger()
}

// How much of a refused body is still taken, so that its sender reads why.
const (
	lingerFor   = 2 * time.Second
	lingerBytes = 64 << 20
)

// linger closes so that the client reads the answer: closing with unread bytes
// would reset the connection under it.
func (c *conn) linger() {
	tc, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || tc.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerFor))
	_, _ = io.CopyN(io.Discard, c.nc, lingerBytes)
}

func (c *conn) write(p []byte, now time.Time) error {
	if c.writeBy.Sub(now) < c.srv.opt.ClientBody/2 {
		c.writeBy = now.Add(c.srv.opt.ClientBody)
		_ = c.nc.SetWriteDeadline(c.writeBy)
	}
	_, err := c.nc.Write(p)
	return err
}

// writeOut writes what is gathered in out.
func (c *conn) writeOut() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.write(c.out, time.Now())
	c.out = c.out[:0]
	return err
}

// place finds the user's hash, and the cookie to set on a user that has none.
func (c *conn) place(t *table) (hash uint64, setCookie string) {
	if h := t.sticky.Header; h != "" {
		for i := range c.head.fields {
			if f := &c.head.fields[i]; len(f.name) == len(h) && len(f.value) > 0 && equalFold(f.name, h) {
				return hashOf(c.srv.seed, f.value), ""
			}
		}
	}
	if name := t.sticky.Cookie; name != "" {
		for i := range c.head.fields {
			if f := &c.head.fields[i]; foldEqual(f.name, "cookie") {
				if v := cookie(f.value, name); len(v) > 0 {
					return hashOf(c.srv.seed, v), ""
				}
			}
		}
		return c.srv.newcomer(name)
	}
	return rand.Uint64(), ""
}

// newcomer places a user that has no cookie yet.
func (s *Server) newcomer(name string) (hash uint64, setCookie string) {
	v := strconv.FormatUint(rand.Uint64(), 36) + strconv.FormatUint(rand.Uint64(), 36)
	return hashOf(s.seed, []byte(v)), name + "=" + v + "; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"
}

func equalFold(b []byte, s string) bool {
	for i := range b {
		x, y := b[i], s[i]
		if x >= 'A' && x <= 'Z' {
			x += 'a' - 'A'
		}
		if y >= 'A' && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}

// cookie finds a cookie's value in a Cookie header.
func cookie(list []byte, name string) []byte {
	for len(list) > 0 {
		var pair []byte
		i := 0
		for i < len(list) && list[i] != ';' {
			i++
		}
		pair, list = trim(list[:i]), list[min(i+1, len(list)):]
		if len(pair) > len(name) && pair[len(name)] == '=' && string(pair[:len(name)]) == name {
			return pair[len(name)+1:]
		}
	}
	return nil
}
