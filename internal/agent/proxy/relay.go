package proxy

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// gather is how much of a body is collected before it is written, as far as it is
// there without waiting.
const gather = 32 << 10

func (c *conn) appendStatus(out []byte, h *head) []byte {
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(h.status), 10)
	out = append(out, ' ')
	out = append(out, h.reason...)
	return append(out, "\r\n"...)
}

// body is the body that follows a response head.
func (h *head) body(headOnly bool) body {
	switch {
	case headOnly || h.status == 204 || h.status == 304:
		return newBody(noBody, 0)
	case h.chunked:
		return newBody(byChunks, 0)
	case h.length >= 0:
		return newBody(byLength, h.length)
	}
	return newBody(byClose, 0)
}

// relay sends the answer whose head is in u.head to the client. keep says that
// the client's connection can go on, reuse that the service's can.
func (c *conn) relay(u *upConn) (keep, reuse bool, err error) {
	h, r := &u.head, &c.request
	b := h.body(r.headOnly)
	bodyless := b.framing == noBody
	// A length that is not known is told by chunks, or to an old client by the end.
	chunks := b.framing == byChunks || b.framing == byClose
	keep = r.keep && !c.ending()
	if chunks && r.minor == 0 {
		chunks, keep = false, false
	}
	if r.pump != nil && !r.pump.complete() {
		keep = false // the rest of the request's body would be read as a request
	}
	reusable := h.minor == 1 && !h.close && b.framing != byClose && (r.pump == nil || keep)

	out := c.appendStatus(c.out[:0], h)
	for i := range h.fields {
		if f := &h.fields[i]; !f.hop {
			out = appendField(out, f)
		}
	}
	switch {
	case chunks:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case b.framing == byLength, bodyless && h.length >= 0 && h.status != 204:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, h.length, 10)
		out = append(out, "\r\n"...)
	}
	if r.setCookie != "" {
		out = append(out, "Set-Cookie: "...)
		out = append(out, r.setCookie...)
		out = append(out, "\r\n"...)
	}
	switch {
	case !keep:
		out = append(out, "Connection: close\r\n"...)
	case r.minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)

	r.started = time.Time{} // no more hurry
	c.out = out
	// What is gathered goes out whenever the service is waited for.
	u.in.block = c.flush
	defer func() { u.in.block = nil }()
	for !b.done {
		if len(c.out) >= gather {
			if err := c.flush(); err != nil {
				return false, false, err
			}
		}
		p, err := b.next(&u.in)
		if err != nil {
			_ = c.flush()
			return false, false, err
		}
		if chunks {
			c.out = appendChunk(c.out, p)
		} else {
			c.out = append(c.out, p...)
		}
	}
	if chunks {
		c.out = appendEnd(c.out, b.trailer)
	}
	if err := c.flush(); err != nil {
		return false, false, err
	}
	if r.pump != nil && !r.pump.complete() {
		return false, false, nil
	}
	return keep, reusable && u.in.r == u.in.w, nil
}

// pump sends a request's body on while the answer is awaited and relayed. It owns
// the client's reader until it is stopped.
type pump struct {
	done     chan struct{}
	progress atomic.Int64 // when bytes last moved, in ns
	reading  atomic.Bool  // the client is waited for
	ok       atomic.Bool  // all of the body was sent
	err      error        // after done: the client's fault, or nil
	stopping atomic.Bool
}

func startPump(c *conn, u *upConn) *pump {
	p := &pump{done: make(chan struct{})}
	p.progress.Store(time.Now().UnixNano())
	go p.run(c, u)
	return p
}

func (p *pump) run(c *conn, u *upConn) {
	defer close(p.done)
	b := &c.request.body
	chunks := b.framing == byChunks
	patience := c.srv.opt.ClientBody
	read := c.in.src
	defer func() { c.in.src = read }()
	c.in.src = func(buf []byte) (int, error) {
		_ = c.nc.SetReadDeadline(time.Now().Add(patience))
		if p.stopping.Load() { // or stop's deadline would be lost
			return 0, errClientGone
		}
		p.reading.Store(true)
		n, err := c.nc.Read(buf)
		p.progress.Store(time.Now().UnixNano())
		p.reading.Store(false)
		return n, err
	}
	var out []byte
	var broken error
	flush := func() error {
		if len(out) == 0 {
			return nil
		}
		broken = u.write(out, time.Now(), patience)
		out = out[:0]
		p.progress.Store(time.Now().UnixNano())
		return broken
	}
	c.in.block = flush
	defer func() { c.in.block = nil }()
	for !b.done {
		data, err := b.next(&c.in)
		if broken != nil || p.stopping.Load() {
			return // what the service says, or does not say, is the answer
		}
		if err != nil {
			p.err = fmt.Errorf("%w: its body broke off: %w", errClient, err)
			_ = u.nc.Close() // never let the service take a part for the whole
			return
		}
		if chunks {
			out = appendChunk(out, data)
		} else {
			out = append(out, data...)
		}
		if len(out) >= gather && flush() != nil {
			return
		}
	}
	if chunks {
		out = appendEnd(out, b.trailer)
	}
	if flush() != nil {
		return
	}
	p.ok.Store(true)
}

// complete says whether all of the body was sent.
func (p *pump) complete() bool { return p.ok.Load() }

// clientError returns why the client's body failed, if it did.
func (p *pump) clientError() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// stop ends the pump and waits for it.
func (p *pump) stop(c *conn) {
	p.stopping.Store(true)
	if !p.ok.Load() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	<-p.done
	c.readBy = time.Time{}
}
