package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// errDial says that nothing was sent: there was no connection.
var errDial = errors.New("couldn't connect")

// speech is what an instance is known to speak.
type speech int32

const (
	unasked speech = iota
	speaksH1
	speaksH2
)

// An instance that speaks HTTP/2 says so at once, and one that does not refuses the
// question. What says nothing for Options.probeIn may only be busy: it is taken for one
// that does not, and asked again after Options.askAgain; the third time, for good.
const silences = 3

// transport returns the connections to the instance for streams: of HTTP/2
// without TLS, or of HTTP/1.1 when it speaks no other.
func (b *backend) transport(h2c bool, o *Options) *http.Transport {
	i := 0
	if h2c {
		i = 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.streams[i] == nil {
		var p http.Protocols
		p.SetHTTP1(!h2c)
		p.SetUnencryptedHTTP2(h2c)
		d := net.Dialer{Timeout: o.DialTimeout}
		b.streams[i] = &http.Transport{
			Protocols: &p,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				nc, err := d.DialContext(ctx, "tcp", b.Addr)
				if err != nil {
					return nil, fmt.Errorf("%w to %s: %w", errDial, b.Addr, err)
				}
				return nc, nil
			},
			DisableCompression:     true,
			MaxIdleConnsPerHost:    maxIdlePerBackend,
			IdleConnTimeout:        idleFor,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxBuffer,
			HTTP2: &http.HTTP2Config{
				MaxReceiveBufferPerConnection: connBuffer,
				MaxReceiveBufferPerStream:     streamBuffer,
				SendPingTimeout:               pingIn,
				PingTimeout:                   pingIn,
				WriteByteTimeout:              o.ClientBody,
			},
		}
	}
	return b.streams[i]
}

// speaksH2 says whether the instance speaks HTTP/2 without TLS. It is asked until it
// answers, which is once, on a connection of its own, and only if a client speaks
// HTTP/2: to a server that does not, the question is a request PRI * that it refuses.
func (b *backend) speaksH2(ctx context.Context, o *Options) (bool, error) {
	if s := speech(b.speech.Load()); s != unasked {
		return s == speaksH2, nil
	}
	b.asking.Lock()
	defer b.asking.Unlock()
	if s := speech(b.speech.Load()); s != unasked {
		return s == speaksH2, nil
	}
	if time.Now().Before(b.again) {
		return false, nil
	}
	d := net.Dialer{Timeout: o.DialTimeout}
	nc, err := d.DialContext(ctx, "tcp", b.Addr)
	if err != nil {
		return false, fmt.Errorf("%w to %s: %w", errDial, b.Addr, err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(o.probeIn))
	is := speaksH1
	if _, err := io.WriteString(nc, preface+"SM\r\n\r\n"+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err == nil {
		first := make([]byte, frameHead)
		_, err := io.ReadFull(nc, first)
		if b.silent++; errors.Is(err, os.ErrDeadlineExceeded) && b.silent < silences {
			b.again = time.Now().Add(o.askAgain)
			return false, nil
		}
		if err == nil && isSettings(first) {
			is = speaksH2
		}
	}
	b.speech.Store(int32(is))
	return is == speaksH2, nil
}

const frameHead = 9

// isSettings says whether a frame's head is that of the SETTINGS with which an
// HTTP/2 server must begin: a multiple of six bytes, no flags, stream 0.
func isSettings(b []byte) bool {
	if len(b) < frameHead {
		return false
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	return n <= 16<<10 && n%6 == 0 && b[3] == 4 && b[4] == 0 && b[5]&0x7f == 0 && b[6] == 0 && b[7] == 0 && b[8] == 0
}
