package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// smallBody is how much of a body is read before an instance is chosen. Such a
// request is sent in one piece and can be sent again.
const smallBody = 16 << 10

// errClient marks failures that are the client's: they are in no revision's count
// of requests.
var errClient = errors.New("the client failed")

// handle serves the request whose head was just read. It returns whether the
// connection can take another one.
func (c *conn) handle() bool {
	h := &c.head
	r := &c.request
	*r = request{
		headOnly:   string(h.method) == "HEAD",
		idempotent: idempotent(h.method),
		minor:      h.minor,
		keep:       h.minor == 1 && !h.close || h.minor == 0 && h.alive && !h.close,
	}
	switch {
	case h.chunked:
		r.body = newBody(byChunks, 0)
	case h.length >= 0:
		r.body = newBody(byLength, h.length)
	default:
		r.body = newBody(noBody, 0)
	}
	// An upgrade to HTTP/2 would take its requests past the counters.
	r.upgrade = h.upgrade != nil && h.minor == 1 && r.body.framing == noBody && !toHTTP2(h.upgrade)
	t := c.srv.table.Load()
	r.hash, r.setCookie = c.place(t)
	if r.synthetic = c.ours || h.token != nil && c.srv.knows(h.token); r.synthetic {
		r.setCookie = ""
	}
	r.mirror = len(t.shadows) > 0 && !r.synthetic && !r.upgrade && r.body.done && safe(h.method)

	whole := r.body.done
	if r.body.framing == byLength && !whole && r.body.left <= smallBody && !h.expect {
		if err := c.readWhole(int(r.body.left)); err != nil {
			return false
		}
		whole = true
	}
	var not *backend
	for try := 0; ; try++ {
		rev, b := c.srv.choose(t, r.hash, not)
		if rev == nil {
			return c.own(503, "no revision of this service takes traffic", whole)
		}
		k := rev.bucket(r.synthetic, c.shard, r.hash)
		if b == nil {
			if try > 0 {
				return c.own(502, "the service's instance could not be reached", whole)
			}
			k.failed()
			return c.own(503, "no instance of the service's revision is ready", whole)
		}
		keep, again, err := c.attempt(t, rev, b, k, whole)
		b.release()
		if err == nil {
			return keep
		}
		if again && try == 0 && (len(rev.backends) > 1 || r.reused) {
			if not = b; len(rev.backends) == 1 {
				not = nil // the connection may have been too old, not the instance
			}
			r.fresh = true
			t = c.srv.table.Load()
			continue
		}
		switch {
		case errors.Is(err, errAnswered), errors.Is(err, errClient), errors.Is(err, errClientGone):
			return false
		case errors.Is(err, errTimeout):
			return c.own(504, "the service did not answer in time", whole)
		default:
			c.srv.opt.Logger.Debug("an attempt failed", "release", rev.id.Short(), "instance", b.ID, "error", err)
			return c.own(502, "the service did not answer", whole)
		}
	}
}

// choose returns the revision for a request and a hold on one of its instances.
// It looks at the table again when it lost a race with Retire.
func (s *Server) choose(t *table, hash uint64, not *backend) (*revision, *backend) {
	for {
		rev := t.pick(hash)
		if rev == nil {
			return nil, nil
		}
		if b := rev.next(not); b != nil {
			return rev, b
		}
		now := s.table.Load()
		if now == t {
			return rev, nil
		}
		t = now
	}
}

// readWhole waits until n bytes of body are buffered behind the head, which is
// moved with them.
func (c *conn) readWhole(n int) error {
	if len(c.in.buffered()) >= n {
		return nil
	}
	// The head's slices must survive: read into a buffer of our own and put both
	// together when the buffer has to grow.
	if c.in.r+n > len(c.in.buf) {
		grown := make([]byte, c.in.r+n)
		copy(grown, c.in.buf[:c.in.w])
		c.in.buf = grown // the head's slices keep the old one alive
	}
	for len(c.in.buffered()) < n {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.srv.opt.ClientBody))
		c.readBy = time.Time{}
		k, err := c.nc.Read(c.in.buf[c.in.w:])
		c.in.w += k
		if k == 0 && err != nil {
			return fmt.Errorf("%w: its body ended early: %w", errClient, err)
		}
	}
	return nil
}

// errAnswered says that the client already had a part of the answer.
var errAnswered = errors.New("the answer broke off")

// attempt sends the request to b and relays the answer. It counts the attempt.
// again says that another instance may be tried: the service cannot have acted on
// the request, or acting twice is harmless and the request is still at hand.
func (c *conn) attempt(t *table, rev *revision, b *backend, k *bucket, whole bool) (keep, again bool, err error) {
	r := &c.request
	now := time.Now()
	r.started = now
	var u *upConn
	if !r.fresh {
		u = b.take(now)
	}
	r.reused = u != nil
	if u == nil {
		if u, err = b.dial(c.srv.opt.DialTimeout); err != nil {
			k.failed()
			return false, true, fmt.Errorf("couldn't connect to %s: %w", b.Addr, err)
		}
	}
	reuse := false
	defer func() {
		if !reuse {
			_ = u.nc.Close()
		}
		if p := r.pump; p != nil {
			p.stop(c)
			r.pump = nil
		}
		if reuse {
			b.put(u, time.Now())
		}
	}()
	u.await(c, now)
	c.buildRequest(whole)
	if r.mirror {
		r.mirror = false // not again with another attempt
		c.srv.mirror(t, rev, copied{hash: r.hash, raw: c.out, headOnly: r.headOnly})
	}
	if err = u.write(c.out, now, c.srv.opt.ClientBody); err == nil {
		if !whole {
			r.pump = startPump(c, u)
		}
		err = c.readAnswer(u)
	} else if u.readable() {
		// It may have answered before it closed: 413, for instance.
		err = c.readAnswer(u)
	}
	if err != nil {
		if errors.Is(err, errClientGone) || errors.Is(err, errClient) {
			k.cancelled.Add(1)
			return false, false, err
		}
		k.failed()
		again = whole && r.idempotent && !u.answered && !errors.Is(err, errTimeout)
		return false, again, fmt.Errorf("no answer from %s: %w", b.Addr, err)
	}
	h := &u.head
	k.answered(h.status >= 500, time.Since(r.started))
	if whole {
		c.in.r += r.sent
		r.sent = 0
	}
	if h.status == 101 {
		return false, false, c.runTunnel(b, u)
	}
	keep, reuse, err = c.relay(u)
	if err != nil {
		return false, false, fmt.Errorf("%w: %w", errAnswered, err)
	}
	return keep, false, nil
}

// readable says whether the service sent something before a write failed.
func (u *upConn) readable() bool { return peek(u.nc) == data }

// buildRequest writes the request's head, and its body if it is at hand, to out.
func (c *conn) buildRequest(whole bool) {
	h, r := &c.head, &c.request
	out := append(c.out[:0], h.method...)
	out = append(out, ' ')
	out = append(out, h.target...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, h.host...)
	out = append(out, "\r\n"...)
	var forwardedFor []byte
	var proto, host bool
	for i := range h.fields {
		f := &h.fields[i]
		if f.hop {
			continue
		}
		switch len(f.name) {
		case 9: // the same in one header: only a proxy of ours may say it
			if !c.trusted && foldEqual(f.name, "forwarded") {
				continue
			}
		case 15:
			if foldEqual(f.name, "x-forwarded-for") {
				if c.trusted && len(f.value) > 0 {
					if forwardedFor != nil {
						forwardedFor = append(append(append([]byte(nil), forwardedFor...), ", "...), f.value...)
					} else {
						forwardedFor = f.value
					}
				}
				continue
			}
		case 16:
			if foldEqual(f.name, "x-forwarded-host") {
				if !c.trusted {
					continue
				}
				host = true
			}
		case 17:
			if foldEqual(f.name, "x-forwarded-proto") {
				if !c.trusted {
					continue
				}
				proto = true
			}
		}
		out = appendField(out, f)
	}
	out = append(out, "X-Forwarded-For: "...)
	if forwardedFor != nil {
		out = append(out, forwardedFor...)
		out = append(out, ", "...)
	}
	out = append(out, c.peer...)
	if !proto {
		out = append(out, "\r\nX-Forwarded-Proto: "...)
		out = append(out, c.proto...)
	}
	if !host && len(h.host) > 0 {
		out = append(out, "\r\nX-Forwarded-Host: "...)
		out = append(out, h.host...)
	}
	if r.synthetic {
		out = append(out, "\r\nSluice-Synthetic: 1"...)
	}
	if h.trailers {
		out = append(out, "\r\nTE: trailers\r\nConnection: TE"...)
		if r.upgrade {
			out = append(out, ", Upgrade\r\nUpgrade: "...)
			out = append(out, h.upgrade...)
		}
	} else if r.upgrade {
		out = append(out, "\r\nConnection: Upgrade\r\nUpgrade: "...)
		out = append(out, h.upgrade...)
	}
	switch r.body.framing {
	case byChunks:
		out = append(out, "\r\nTransfer-Encoding: chunked"...)
	case byLength:
		out = append(out, "\r\nContent-Length: "...)
		out = strconv.AppendInt(out, h.length, 10)
	}
	out = append(out, "\r\n\r\n"...)
	if whole && r.body.framing == byLength {
		r.sent = int(h.length)
		out = append(out, c.in.buffered()[:r.sent]...)
	}
	c.out = out
}

func appendField(out []byte, f *field) []byte {
	out = append(out, f.name...)
	out = append(out, ": "...)
	out = append(out, f.value...)
	return append(out, "\r\n"...)
}

// readAnswer reads up to the final response head into u.head. Interim ones (100,
// 103) go to the client.
func (c *conn) readAnswer(u *upConn) error {
	for {
		raw, err := u.in.head(&u.head)
		if err == nil {
			err = u.head.parseResponse(raw)
		}
		if err != nil {
			if p := c.request.pump; p != nil {
				if errors.Is(err, net.ErrClosed) {
					<-p.done // it closed the connection and knows why
				}
				if perr := p.clientError(); perr != nil {
					return perr
				}
			}
			return eof(err)
		}
		h := &u.head
		if h.status == 101 {
			if !c.request.upgrade || len(h.upgrade) == 0 || toHTTP2(h.upgrade) {
				return syntax("101 that nobody asked for")
			}
			return nil
		}
		if h.status >= 200 {
			return nil
		}
		if c.request.minor == 1 {
			c.out = c.appendStatus(c.out[:0], h)
			for i := range h.fields {
				if f := &h.fields[i]; !f.hop {
					c.out = appendField(c.out, f)
				}
			}
			c.out = append(c.out, "\r\n"...)
			if err := c.write(c.out, time.Now()); err != nil {
				return errClientGone
			}
		}
	}
}

// goOn is asked each tick while a service is awaited.
func (c *conn) goOn(now time.Time) error {
	if peek(c.raw) == closed {
		return errClientGone
	}
	if c.request.started.IsZero() {
		return nil // the body is being relayed: it may take its time
	}
	from := c.request.started
	if p := c.request.pump; p != nil {
		if p.reading.Load() {
			return nil // the client is late, and has a deadline of its own
		}
		if at := time.Unix(0, p.progress.Load()); at.After(from) {
			from = at
		}
	}
	if now.Sub(from) > c.srv.opt.HeaderTimeout {
		return errTimeout
	}
	return nil
}

// own answers in the proxy's own name. The connection can go on when the body, if
// any, was taken off it.
func (c *conn) own(status int, why string, whole bool) bool {
	r := &c.request
	if whole && r.body.framing == byLength {
		c.in.r += int(r.body.left)
	}
	keep := r.keep && whole && !c.ending()
	b := answer(status, why, !keep)
	if r.headOnly {
		b = b[:len(b)-len("sluice: \n")-len(why)]
	}
	if r.minor == 0 {
		keep = false
	}
	return c.write(b, time.Now()) == nil && keep
}

// toHTTP2 says whether HTTP/2 is among the protocols of an Upgrade header. A
// service may choose any of them.
func toHTTP2(protocols []byte) (found bool) {
	eachToken(protocols, func(t []byte) {
		name, _, _ := bytes.Cut(t, []byte("/")) // a protocol may have a version
		found = found || foldEqual(trim(name), "h2c") || foldEqual(trim(name), "h2") || foldEqual(trim(t), "http/2.0")
	})
	return found
}

func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}
