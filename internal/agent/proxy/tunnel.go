package proxy

import (
	"fmt"
	"io"
	"net"
	"time"
)

// runTunnel relays bytes both ways after a 101, until both sides ended. It counts
// as an open request of the instance for as long. When one side has ended, the
// other has to within the time that a client may be silent.
func (c *conn) runTunnel(b *backend, u *upConn) error {
	h := &u.head
	out := c.appendStatus(c.out[:0], h)
	for i := range h.fields {
		if f := &h.fields[i]; !f.hop {
			out = appendField(out, f)
		}
	}
	if c.request.setCookie != "" {
		out = append(out, "Set-Cookie: "...)
		out = append(out, c.request.setCookie...)
		out = append(out, "\r\n"...)
	}
	out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
	out = append(out, h.upgrade...)
	out = append(out, "\r\n\r\n"...)
	out = append(out, u.in.buffered()...)
	if err := c.write(out, time.Now()); err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	if early := c.in.buffered(); len(early) > 0 {
		if err := u.write(early, time.Now(), c.srv.opt.ClientBody); err != nil {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
	}
	_ = c.nc.SetDeadline(time.Time{})
	_ = u.nc.SetDeadline(time.Time{})
	c.mu.Lock()
	c.tunnel = u.nc
	c.mu.Unlock()
	// A tunnel lasts until its revision ends: then it is cut, and its client, who
	// has to expect that of any connection, comes back to another revision.
	forget := b.onCut(c.cut)
	defer forget()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(u.nc, c.nc)
		_ = u.nc.SetReadDeadline(time.Now().Add(c.srv.opt.ClientBody))
	}()
	pass(c.nc, u.nc)
	_ = c.nc.SetReadDeadline(time.Now().Add(c.srv.opt.ClientBody))
	<-done
	return errAnswered
}

// pass copies until src ends, and then tells dst so. When dst fails, src is cut.
func pass(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if tc, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		_ = tc.CloseWrite()
		return
	}
	_ = dst.Close()
	_ = src.Close()
}
