package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

// Bounds of a copy. It may take its time, as long as its slot is not needed for
// long: what hangs is counted as bad.
const (
	shadowIn    = 10 * time.Second
	shadowBytes = 8 << 20 // of an answer; the connection of a longer one is closed
)

// copied is a request that a revision gets besides the one that answers it.
type copied struct {
	hash     uint64
	raw      []byte // as sent to the service; valid only until mirror returns
	headOnly bool
	req      *http.Request // in place of raw: of a stream
}

// safe says whether a request of this method may be made twice.
func safe(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// mirror copies a request, which from answers, to the revisions that take copies.
// It never waits: without a free slot the copy is dropped.
func (s *Server) mirror(t *table, from *revision, q copied) {
	for _, rev := range t.shadows {
		if rev == from || rand.IntN(wire.FullWeight) >= rev.shadow {
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			rev.tally.dropped.Add(1)
			continue
		}
		b := rev.next(nil)
		if b == nil {
			<-s.slots
			rev.tally.dropped.Add(1) // none is ready: that is its readiness's to say
			continue
		}
		q := q.marked()
		s.copies.Go(func() {
			defer func() { <-s.slots }()
			defer b.release()
			if q.req != nil {
				s.shadowStream(b, rev, q)
			} else {
				s.shadow(b, rev, q)
			}
		})
	}
}

// marked is a copy of q that stays valid and says what it is.
func (q copied) marked() copied {
	if q.req != nil {
		q.req = q.req.Clone(context.Background())
		q.req.Header.Set(shadowHeader, "1")
		return q
	}
	// The mark goes before the empty line that ends the head.
	raw := make([]byte, 0, len(q.raw)+len("Sluice-Shadow: 1\r\n"))
	raw = append(raw, q.raw[:len(q.raw)-2]...)
	q.raw = append(raw, "Sluice-Shadow: 1\r\n\r\n"...)
	return q
}

// shadowStream is shadow for a request that came as a stream.
func (s *Server) shadowStream(b *backend, rev *revision, q copied) {
	k := &rev.tally.shadow.get().shard[randomShard()][bucketOf(q.hash)]
	ctx, cancel := context.WithTimeout(context.Background(), shadowIn)
	defer cancel()
	started := time.Now()
	h2c, err := b.speaksH2(ctx, &s.opt)
	if err != nil {
		k.failed()
		return
	}
	res, err := b.transport(h2c, &s.opt).RoundTrip(q.req.WithContext(ctx))
	if err != nil {
		k.failed()
		return
	}
	k.answered(res.StatusCode >= 500, time.Since(started))
	_, _ = io.CopyN(io.Discard, res.Body, shadowBytes)
	_ = res.Body.Close()
}

// shadow sends a copy and takes its answer off the connection.
func (s *Server) shadow(b *backend, rev *revision, q copied) {
	k := &rev.tally.shadow.get().shard[randomShard()][bucketOf(q.hash)]
	started := time.Now()
	u := b.take(started)
	for {
		reused := u != nil
		err := s.exchange(b, u, q, k, started)
		if err == nil {
			return
		}
		if reused && !errors.Is(err, errTimeout) && !errors.Is(err, errClientGone) {
			u = nil // the connection may have been too old: once more on a new one
			continue
		}
		if errors.Is(err, errClientGone) {
			k.cancelled.Add(1)
			return
		}
		s.opt.Logger.Debug("a copied request failed", "release", rev.id.Short(), "instance", b.ID, "error", err)
		k.failed()
		return
	}
}

// exchange is one try of a copy on u, or on a new connection. An error means that
// no response head came; everything after it is counted here.
func (s *Server) exchange(b *backend, u *upConn, q copied, k *bucket, started time.Time) (err error) {
	if u == nil {
		if u, err = b.dial(s.opt.DialTimeout); err != nil {
			return fmt.Errorf("couldn't connect to %s: %w", b.Addr, err)
		}
	}
	reuse := false
	defer func() {
		if reuse {
			b.put(u, time.Now())
		} else {
			_ = u.nc.Close()
		}
	}()
	now := time.Now()
	u.await(patience{s, started.Add(shadowIn)}, now)
	if err := u.write(q.raw, now, shadowIn); err != nil {
		return fmt.Errorf("couldn't send to %s: %w", b.Addr, err)
	}
	h := &u.head
	for {
		raw, err := u.in.head(h)
		if err == nil {
			err = h.parseResponse(raw)
		}
		if err == nil && h.status == 101 {
			err = syntax("101 that nobody asked for")
		}
		if err != nil {
			return fmt.Errorf("no answer from %s: %w", b.Addr, eof(err))
		}
		if h.status >= 200 {
			break
		}
	}
	k.answered(h.status >= 500, time.Since(started))
	body := h.body(q.headOnly)
	for taken := 0; !body.done; {
		p, err := body.next(&u.in)
		if taken += len(p); err != nil || taken > shadowBytes {
			return nil
		}
	}
	reuse = h.minor == 1 && !h.close && body.framing != byClose && u.in.r == u.in.w
	return nil
}

// patience waits for the answer to a copy.
type patience struct {
	s  *Server
	by time.Time
}

func (p patience) goOn(now time.Time) error {
	switch {
	case p.s.closing.Load():
		return errClientGone
	case now.After(p.by):
		return errTimeout
	}
	return nil
}
