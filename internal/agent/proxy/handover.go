package proxy

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// Giver takes over a client's connection that waits for its next request: what
// was read of that already, and whether it is the connection's first. The
// connection is closed on our side when it returns.
type Giver func(nc net.Conn, read []byte, first bool)

// HandOver ends the server as Shutdown does, but closes no connection that goes on:
// each one is given away as soon as no request is open on it. HTTP/2 connections
// are told to go away, tunnels end by themselves or with ctx.
func (s *Server) HandOver(ctx context.Context, give Giver) error {
	s.giving.Store(&give)
	return s.Shutdown(ctx)
}

// Adopt goes on with a connection that another server gave away.
func (s *Server) Adopt(nc net.Conn, read []byte, first bool) {
	c := newConn(s, nc, false)
	c.asked = !first
	c.in.buf = make([]byte, max(startBuffer, len(read)))
	c.in.w = copy(c.in.buf, read)
	s.begin(c)
}

// ending says whether the connection ends after its request.
func (c *conn) ending() bool { return c.srv.closing.Load() && !c.passable() }

// passable says whether the connection can go on elsewhere: somebody takes it, and
// all of its state is in the kernel and in what was read.
func (c *conn) passable() bool {
	_, plain := c.nc.(*net.TCPConn)
	return plain && c.srv.giving.Load() != nil
}

// leave gives the connection away, if that can be.
func (c *conn) leave(first bool) {
	if c.passable() {
		(*c.srv.giving.Load())(c.nc, c.in.buffered(), first)
	}
}

// woken says whether a read ended because the server is closing.
func (c *conn) woken(err error) bool {
	return c.srv.closing.Load() && errors.Is(err, os.ErrDeadlineExceeded) && len(c.in.buffered()) == 0
}

// Counted is all that was counted of one revision, to go on from elsewhere.
type Counted struct {
	Release   release.ID      `json:"release"`
	Users     []wire.Counters `json:"users,omitempty"`
	Shadow    []wire.Counters `json:"shadow,omitempty"`
	Synthetic []wire.Counters `json:"synthetic,omitempty"`
	Dropped   uint64          `json:"dropped,omitempty"`
}

// Counts are all that a server counted.
type Counts struct {
	Revisions []Counted  `json:"revisions"`
	Forgotten wire.Total `json:"forgotten"`
}

// Count returns all that was counted since the server was made.
func (s *Server) Count() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Counts{Forgotten: s.forgotten}
	for id, k := range s.counters {
		out.Revisions = append(out.Revisions, Counted{
			Release: id, Users: k.users.snapshot(), Shadow: k.shadow.snapshot(), Synthetic: k.synthetic.snapshot(), Dropped: k.dropped.Load(),
		})
	}
	return out
}

// Absorb adds what another server counted after it had counted before, which may
// be nothing.
func (s *Server) Absorb(now, before Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := make(map[release.ID]Counted)
	for _, c := range before.Revisions {
		was[c.Release] = c
	}
	for _, c := range now.Revisions {
		k, b := s.tallyOf(c.Release), was[c.Release]
		k.users.absorb(c.Users, b.Users)
		if len(c.Shadow) > 0 {
			k.shadow.get().absorb(c.Shadow, b.Shadow)
		}
		if len(c.Synthetic) > 0 {
			k.synthetic.get().absorb(c.Synthetic, b.Synthetic)
		}
		k.dropped.Add(c.Dropped - b.Dropped)
	}
	s.forgotten.Requests += now.Forgotten.Requests - before.Forgotten.Requests
	s.forgotten.Bad += now.Forgotten.Bad - before.Forgotten.Bad
	s.forgotten.Cancelled += now.Forgotten.Cancelled - before.Forgotten.Cancelled
}

func (c *counters) absorb(now, before []wire.Counters) {
	var was [wire.Buckets]wire.Counters
	for _, b := range before {
		if b.Bucket >= 0 && b.Bucket < wire.Buckets {
			was[b.Bucket] = b
		}
	}
	for _, n := range now {
		if n.Bucket < 0 || n.Bucket >= wire.Buckets {
			continue
		}
		k, b := &c.shard[0][n.Bucket], was[n.Bucket]
		// In the order in which a snapshot may be taken meanwhile.
		k.requests.Add(n.Requests - b.Requests)
		k.bad.Add(n.Bad - b.Bad)
		k.cancelled.Add(n.Cancelled - b.Cancelled)
		for i, v := range n.Latency {
			if i >= lowest && i <= highest {
				k.latency[i-lowest].Add(v - b.Latency[i])
			}
		}
	}
}
