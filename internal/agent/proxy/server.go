package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// Options bound what clients and services may cost. Zero values take defaults.
type Options struct {
	Name          string        // of the service: seeds the hash of sticky users
	HeaderTimeout time.Duration // for a service's response head: 60 s
	DialTimeout   time.Duration // for a connection to an instance: 3 s
	ClientHead    time.Duration // for a client to send a request's head: 10 s
	ClientBody    time.Duration // for a client to send or take some bytes: 60 s
	KeepAlive     time.Duration // for the next request on a connection: 75 s
	MaxConns      int           // open client connections: 16384
	MaxShadows    int           // copies of requests under way: 64
	Token         string        // that marks a request as Sluice's own: see Synthesize; empty: none does
	Logger        *slog.Logger

	probeIn, askAgain time.Duration // whether an instance speaks HTTP/2: see silences
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.HeaderTimeout, 60*time.Second)
	def(&o.DialTimeout, 3*time.Second)
	def(&o.ClientHead, 10*time.Second)
	def(&o.ClientBody, 60*time.Second)
	def(&o.KeepAlive, 75*time.Second)
	def(&o.probeIn, 3*time.Second)
	def(&o.askAgain, 30*time.Second)
	if o.MaxConns <= 0 {
		o.MaxConns = 16384
	}
	if o.MaxShadows <= 0 {
		o.MaxShadows = 64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Server routes the requests of one service. It may serve several listeners.
type Server struct {
	opt     Options
	seed    uint64
	slots   chan struct{} // one for each copy under way
	copies  sync.WaitGroup
	relay   *httputil.ReverseProxy // of streams
	open    atomic.Int64           // streams
	table   atomic.Pointer[table]
	closing atomic.Bool
	giving  atomic.Pointer[Giver] // see HandOver

	mu        sync.Mutex
	h2        *h2                   // nil until a client speaks HTTP/2
	counters  map[release.ID]*tally // of every revision since the server was made
	forgotten wire.Total
	ends      map[release.ID]*time.Timer // of what still lasts at revisions without weight
	backends  map[Instance]*backend      // in the table
	leaving   map[Instance]*backend      // left it with requests open
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	wait      sync.WaitGroup // one per connection
}

// New returns a server that answers 503 until [Server.Set].
func New(o Options) *Server {
	s := &Server{
		opt:       o.withDefaults(),
		seed:      seedOf(o.Name),
		slots:     make(chan struct{}, o.withDefaults().MaxShadows),
		counters:  make(map[release.ID]*tally),
		ends:      make(map[release.ID]*time.Timer),
		backends:  make(map[Instance]*backend),
		leaving:   make(map[Instance]*backend),
		conns:     make(map[*conn]struct{}),
		listeners: make(map[net.Listener]struct{}),
	}
	s.relay = s.newRelay()
	s.table.Store(&table{})
	return s
}

// Set replaces the routing table. A request whose head is complete after Set
// returned is routed by r. Instances that are no longer in r get no new requests
// from then on, but keep their open ones: see [Server.Drained].
func (s *Server) Set(r Route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &table{sticky: r.Sticky}
	before := s.backends
	s.backends = make(map[Instance]*backend)
	for _, first := range []bool{true, false} {
		for _, rev := range r.Revisions {
			if rev.Candidate != first {
				continue
			}
			k := s.tallyOf(rev.Release)
			n := &revision{id: rev.Release, weight: rev.Weight, shadow: rev.Shadow, counters: k.users, tally: k}
			for _, i := range rev.Instances {
				b := before[i]
				if b == nil {
					b = newBackend(i)
				}
				s.backends[i] = b
				n.backends = append(n.backends, b)
			}
			t.revs = append(t.revs, n)
			t.total += rev.Weight
			if rev.Shadow > 0 {
				t.shadows = append(t.shadows, n)
			}
		}
	}
	s.table.Store(t)
	s.endLasting(r)
	// The table is in place: a request that lost its instance finds another one.
	for i, b := range before {
		if s.backends[i] == nil {
			b.leave()
			s.leaving[i] = b
		}
	}
	for i, b := range s.leaving {
		if b.open.Load() == 0 {
			delete(s.leaving, i)
		}
	}
}

// endLasting sees to it that tunnels and calls of revisions that lost their weight
// end in time, though their instances stay for a way back.
func (s *Server) endLasting(r Route) {
	after := make(map[release.ID]time.Duration)
	for _, rev := range r.Revisions {
		if rev.Weight == 0 && rev.DrainIn > 0 {
			after[rev.Release] = rev.DrainIn
		}
	}
	for id, t := range s.ends {
		if after[id] == 0 {
			t.Stop()
			delete(s.ends, id)
		}
	}
	for id, d := range after {
		if s.ends[id] != nil {
			continue // nothing new can have begun since
		}
		s.ends[id] = time.AfterFunc(d, func() {
			for _, rev := range s.table.Load().revs {
				if rev.id == id && rev.weight == 0 {
					for _, b := range rev.backends {
						b.cutAll()
					}
				}
			}
		})
	}
}

func (s *Server) tallyOf(id release.ID) *tally {
	k := s.counters[id]
	if k == nil {
		k = &tally{users: newCounters()}
		s.counters[id] = k
	}
	return k
}

// Drained waits until no request is open on an instance that left the table, or
// ctx is done. It returns how many were open then.
func (s *Server) Drained(ctx context.Context, i Instance) int64 {
	s.mu.Lock()
	b := s.leaving[i]
	delete(s.leaving, i)
	s.mu.Unlock()
	if b == nil {
		return 0
	}
	return b.drained(ctx)
}

// Counters returns a revision's counts of users' requests since the server was made.
func (s *Server) Counters(id release.ID) []wire.Counters {
	if k := s.tally(id); k != nil {
		return k.users.snapshot()
	}
	return nil
}

// Shadow returns a revision's counts of copied requests, and how many copies were
// not made because too many were open.
func (s *Server) Shadow(id release.ID) (counts []wire.Counters, dropped uint64) {
	if k := s.tally(id); k != nil {
		return k.shadow.snapshot(), k.dropped.Load()
	}
	return nil, 0
}

// Synthetic returns a revision's counts of requests that Sluice made itself.
func (s *Server) Synthetic(id release.ID) []wire.Counters {
	if k := s.tally(id); k != nil {
		return k.synthetic.snapshot()
	}
	return nil
}

func (s *Server) tally(id release.ID) *tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters[id]
}

// Forget drops the counters of a revision that is in no table. Should it come
// back, it counts from zero.
func (s *Server) Forget(id release.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.table.Load().revs {
		if r.id == id {
			return
		}
	}
	if c := s.counters[id]; c != nil {
		s.forgotten = s.forgotten.Plus(c.users.total())
	}
	delete(s.counters, id)
}

// Total is what was counted of all revisions' users since the server was made, also of
// those that are forgotten.
func (s *Server) Total() wire.Total {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.forgotten
	for _, c := range s.counters {
		t = t.Plus(c.users.total())
	}
	return t
}

// Serve accepts connections until l is closed, by
// [Server.Shutdown] or by whoever owns it; it then returns nil.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of file descriptors, mostly: it passes when connections end.
			s.opt.Logger.Warn("couldn't accept a connection", "listener", l.Addr().String(), "error", err)
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		s.start(nc, false)
	}
}

func (s *Server) start(nc net.Conn, ours bool) {
	s.begin(newConn(s, nc, ours))
}

func (s *Server) begin(c *conn) {
	nc := c.nc
	s.mu.Lock()
	full := len(s.conns) >= s.opt.MaxConns || s.closing.Load()
	if !full {
		s.conns[c] = struct{}{}
		s.wait.Add(1)
	}
	s.mu.Unlock()
	if full && s.closing.Load() && c.passable() {
		c.leave(!c.asked)
		_ = nc.Close()
		return
	}
	if full {
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write(answer(503, "too many connections", true))
		_ = nc.Close()
		return
	}
	go func() {
		defer s.wait.Done()
		defer func() {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
		c.serve()
	}()
}

// Shutdown stops accepting, lets open requests end and closes idle connections.
// When ctx is done first it cuts the rest off and says how many there were.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing.Store(true)
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		c.wakeIdle()
	}
	for _, t := range s.ends {
		t.Stop()
	}
	http2 := s.h2
	s.mu.Unlock()
	if http2 != nil {
		http2.goAway()
	}
	done := make(chan struct{})
	go func() {
		s.wait.Wait()
		s.copies.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		s.mu.Lock()
		err = fmt.Errorf("couldn't drain in time: %d connections were cut off", len(s.conns))
		for c := range s.conns {
			c.cut()
		}
		s.mu.Unlock()
		<-done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.backends {
		b.closeIdle()
	}
	return err
}
