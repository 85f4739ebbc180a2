package proxy

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

// The range of wire.LatencyIndex, which is clamped at both ends.
var (
	lowest  = wire.LatencyIndex(0)
	highest = wire.LatencyIndex(24 * time.Hour)
)

// shards spread the counters so that cores do not write to the same cache line.
const shards = 4

// counters are one revision's, cumulative since the server was made.
type counters struct {
	shard [shards][wire.Buckets]bucket
}

// tally is all that is counted of one revision. Few revisions have copies or
// requests of ours, so their counters are made when the first one comes.
type tally struct {
	users             *counters
	shadow, synthetic later
	dropped           atomic.Uint64 // copies that were not made
}

// later are counters that may not be there yet.
type later struct{ p atomic.Pointer[counters] }

func (l *later) get() *counters {
	if c := l.p.Load(); c != nil {
		return c
	}
	l.p.CompareAndSwap(nil, newCounters())
	return l.p.Load()
}

func (l *later) snapshot() []wire.Counters {
	if c := l.p.Load(); c != nil {
		return c.snapshot()
	}
	return nil
}

// bucket is where a request is counted.
func (r *revision) bucket(synthetic bool, shard int, hash uint64) *bucket {
	c := r.counters
	if synthetic {
		c = r.tally.synthetic.get()
	}
	return &c.shard[shard][bucketOf(hash)]
}

type bucket struct {
	requests, bad, cancelled atomic.Uint64
	latency                  []atomic.Uint64 // by LatencyIndex - lowest
	_                        [64]byte
}

func newCounters() *counters {
	c := new(counters)
	width := highest - lowest + 1
	all := make([]atomic.Uint64, shards*wire.Buckets*width)
	for s := range c.shard {
		for b := range c.shard[s] {
			c.shard[s][b].latency, all = all[:width:width], all[width:]
		}
	}
	return c
}

func randomShard() int { return rand.IntN(shards) }

// answered counts an attempt whose response head came after d.
func (b *bucket) answered(bad bool, d time.Duration) {
	b.requests.Add(1)
	if bad {
		b.bad.Add(1)
	}
	b.latency[wire.LatencyIndex(d)-lowest].Add(1)
}

// failed counts an attempt that had no response head.
func (b *bucket) failed() {
	b.requests.Add(1)
	b.bad.Add(1)
}

// total adds everything up. Bad is read first, as in snapshot.
func (c *counters) total() wire.Total {
	var t wire.Total
	for s := range c.shard {
		for b := range c.shard[s] {
			k := &c.shard[s][b]
			t.Bad += k.bad.Load()
			t.Cancelled += k.cancelled.Load()
			t.Requests += k.requests.Load()
		}
	}
	return t
}

// snapshot adds the shards up. Bad is read before requests, so that a snapshot
// taken under load never shows more bad ones than there were requests.
func (c *counters) snapshot() []wire.Counters {
	var out []wire.Counters
	for b := range wire.Buckets {
		w := wire.Counters{Bucket: b}
		for s := range c.shard {
			k := &c.shard[s][b]
			w.Bad += k.bad.Load()
			w.Requests += k.requests.Load()
			w.Cancelled += k.cancelled.Load()
			if w.Requests == 0 {
				continue
			}
			for i := range k.latency {
				if n := k.latency[i].Load(); n > 0 {
					if w.Latency == nil {
						w.Latency = make(map[int]uint64)
					}
					w.Latency[i+lowest] += n
				}
			}
		}
		if w.Requests > 0 || w.Cancelled > 0 {
			out = append(out, w)
		}
	}
	return out
}
