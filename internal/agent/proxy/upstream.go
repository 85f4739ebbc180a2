package proxy

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is how often a wait looks up: whether the client is still there and the
// time is not up. Deadlines are set this coarsely, so that most requests set none.
const tick = 250 * time.Millisecond

var (
	errClientGone = errors.New("the client went away")
	errTimeout    = errors.New("no answer in time")
)

// backend is one instance: its pooled connections and open requests.
type backend struct {
	Instance
	open    atomic.Int64
	retired atomic.Bool
	ended   chan struct{} // gets a value when open falls to 0 after retired

	mu      sync.Mutex
	idle    []*upConn          // the last one was used last
	streams [2]*http.Transport // see transport
	cuts    map[*func()]struct{}

	asking sync.Mutex // guards what follows it
	silent int        // so often it said nothing
	again  time.Time  // it is not asked before
	speech atomic.Int32
}

func newBackend(i Instance) *backend {
	return &backend{Instance: i, ended: make(chan struct{}, 1)}
}

// hold counts a request in, unless the backend was retired. The order matters:
// count first, look after. Whoever retires sets the mark first and reads the
// count after, so one of the two sees the other.
func (b *backend) hold() bool {
	b.open.Add(1)
	if b.retired.Load() {
		b.release()
		return false
	}
	return true
}

func (b *backend) release() {
	if b.open.Add(-1) == 0 && b.retired.Load() {
		select {
		case b.ended <- struct{}{}:
		default:
		}
	}
}

// leave lets no new request in.
func (b *backend) leave() {
	b.retired.Store(true)
	b.closeIdle()
}

// drained waits, after leave, until the open requests ended or ctx is done; it
// returns how many were open then, and cuts tunnels and streams off.
func (b *backend) drained(ctx context.Context) int64 {
	for b.open.Load() > 0 {
		select {
		case <-b.ended:
		case <-ctx.Done():
			n := b.open.Load()
			b.cutAll()
			return n
		}
	}
	return 0
}

// onCut has f called when what may last forever must end: a tunnel or a stream.
// forget is called when it ended by itself.
func (b *backend) onCut(f func()) (forget func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cuts == nil {
		b.cuts = make(map[*func()]struct{})
	}
	b.cuts[&f] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.cuts, &f)
	}
}

func (b *backend) cutAll() {
	b.mu.Lock()
	cuts := slices.Collect(maps.Keys(b.cuts))
	b.mu.Unlock()
	for _, f := range cuts {
		(*f)()
	}
}

const (
	maxIdlePerBackend = 512
	idleFor           = 55 * time.Second
	trustIdleFor      = 5 * time.Millisecond // younger ones are not asked whether they were closed
)

// take returns a connection that was used before and is not known to be closed.
func (b *backend) take(now time.Time) *upConn {
	for {
		b.mu.Lock()
		n := len(b.idle)
		if n == 0 {
			b.mu.Unlock()
			return nil
		}
		u := b.idle[n-1]
		b.idle[n-1] = nil
		b.idle = b.idle[:n-1]
		b.mu.Unlock()
		age := now.Sub(u.used)
		if age < trustIdleFor || age < idleFor && peek(u.nc) == nothing {
			return u
		}
		_ = u.nc.Close()
	}
}

// dial opens a connection. A refusal is seen at once.
func (b *backend) dial(timeout time.Duration) (*upConn, error) {
	d := net.Dialer{Timeout: timeout}
	nc, err := d.Dial("tcp", b.Addr)
	if err != nil {
		return nil, err
	}
	u := &upConn{nc: nc}
	u.in.src = u.read
	return u, nil
}

// put gives a connection back for the next request.
func (b *backend) put(u *upConn, now time.Time) {
	u.used, u.owner = now, nil
	b.mu.Lock()
	if !b.retired.Load() && len(b.idle) < maxIdlePerBackend {
		b.idle = append(b.idle, u)
		u = nil
	}
	b.mu.Unlock()
	if u != nil {
		_ = u.nc.Close()
	}
}

func (b *backend) closeIdle() {
	b.mu.Lock()
	idle := b.idle
	b.idle = nil
	streams := b.streams
	b.mu.Unlock()
	for _, u := range idle {
		_ = u.nc.Close()
	}
	for _, t := range streams {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
}

// waiter is asked each tick of a wait whether to go on.
type waiter interface{ goOn(now time.Time) error }

// upConn is a connection to an instance.
type upConn struct {
	nc       net.Conn
	owner    waiter // whose answer is awaited
	in       reader
	head     head
	used     time.Time
	readBy   time.Time // the read deadline that is set
	writeBy  time.Time // the write deadline that is set
	answered bool      // a byte of the current answer has come
}

// write sends p; a peer that takes nothing for about patience fails it.
func (u *upConn) write(p []byte, now time.Time, patience time.Duration) error {
	if u.writeBy.Sub(now) < patience/2 {
		u.writeBy = now.Add(patience)
		_ = u.nc.SetWriteDeadline(u.writeBy)
	}
	_, err := u.nc.Write(p)
	return err
}

// read waits for the service. It wakes up each tick and asks the owner whether to
// go on, so it ends when the client leaves or the time is up.
func (u *upConn) read(p []byte) (int, error) {
	// Under load another connection has something to do meanwhile, and then the
	// answer is there. To read at once would mostly find nothing, and cost a system
	// call and a round through the poller: some percent of the throughput.
	runtime.Gosched()
	for {
		n, err := u.nc.Read(p)
		if n > 0 {
			u.answered = true
			return n, nil
		}
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		now := time.Now()
		if err := u.owner.goOn(now); err != nil {
			return 0, err
		}
		u.readBy = now.Add(tick)
		_ = u.nc.SetReadDeadline(u.readBy)
	}
}

// await prepares u for the answer to a request of c.
func (u *upConn) await(w waiter, now time.Time) {
	u.owner, u.answered = w, false
	if u.readBy.Sub(now) < tick/4 {
		u.readBy = now.Add(tick)
		_ = u.nc.SetReadDeadline(u.readBy)
	}
}

// What there is to read on a connection.
type readable uint8

const (
	nothing readable = iota
	data
	closed
)

// peek says what there is to read on nc, without reading or waiting.
func peek(nc net.Conn) readable {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nothing
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return closed
	}
	is := nothing
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err != nil, n == 0:
			is = closed
		default:
			is = data
		}
	})
	if err != nil {
		return closed
	}
	return is
}
