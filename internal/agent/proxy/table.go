package proxy

import (
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// Route is what a server routes by. Weights are in basis points.
type Route struct {
	Sticky    wire.Sticky
	Revisions []Revision
}

// Revision is one release's share and the instances that are ready to serve it.
// Shadow is how many of the safe requests to other revisions are copied to it, in
// basis points; see [Server.Shadow]. When the weight becomes 0, tunnels and calls
// of gRPC, which would last, are cut off after DrainIn; 0 leaves them until their
// instance goes.
type Revision struct {
	Release   release.ID
	Weight    int
	Shadow    int
	DrainIn   time.Duration
	Candidate bool
	Instances []Instance
}

// Instance is one process; ID tells it from an earlier one on the same address.
type Instance struct {
	ID   string
	Addr string
}

// table is a Route made ready to use. It is never changed, only replaced.
type table struct {
	sticky  wire.Sticky
	revs    []*revision // candidates first, so that raising one only moves users to it
	total   int         // sum of weights
	shadows []*revision // that take copies
}

type revision struct {
	id       release.ID
	weight   int
	counters *counters // of users' requests: tally's
	tally    *tally
	shadow   int
	backends []*backend
	turn     atomic.Uint32
}

// point maps a hash to a place in [0, FullWeight), and its bucket. They come
// from different bits, so that buckets split each revision evenly.
func point(hash uint64) int     { return int((hash & (1<<56 - 1)) % wire.FullWeight) }
func bucketOf(hash uint64) int  { return int(hash >> 60) }
func seedOf(name string) uint64 { return xxhash.Sum64String(name) }

// hashOf places a user. The seed is the service's, so that all hosts agree and
// users who are first in one service's canary are not first in all of them.
func hashOf(seed uint64, user []byte) uint64 {
	return mix(xxhash.Sum64(user) ^ seed)
}

// mix is the finaliser of SplitMix64: each bit of x changes all of the result.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// pick returns the revision that the hash falls to, or nil when all weights are 0.
func (t *table) pick(hash uint64) *revision {
	if t.total == 0 {
		return nil
	}
	p := point(hash)
	if t.total != wire.FullWeight {
		p = p * t.total / wire.FullWeight
	}
	for _, r := range t.revs {
		if p < r.weight {
			return r
		}
		p -= r.weight
	}
	return nil
}

// next takes a hold on one of the ready instances, in turn, but not on not. The
// hold ends with release. It returns nil when there is none.
func (r *revision) next(not *backend) *backend {
	n := uint32(len(r.backends))
	if n == 0 {
		return nil
	}
	first := uint32(0)
	if n > 1 {
		first = r.turn.Add(1)
	}
	for i := range n {
		if b := r.backends[(first+i)%n]; b != not && b.hold() {
			return b
		}
	}
	return nil
}
