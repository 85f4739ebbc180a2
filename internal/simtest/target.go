package simtest

import (
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/target/host"
)

var key = release.Key{Project: release.DefaultProject, Service: "shop", Environment: "production"}

// router is what takes traffic: a host with its agent, or a load balancer that
// knows no generations.
type router struct {
	name string
	boot int
	seq  uint64
	down time.Duration // until when it neither fetches nor reports
	doc  wire.Desired  // the last one applied
	revs []*revision
	look time.Duration // when it fetches what is new
	tell time.Duration // when it reports
	told time.Duration // traffic is counted up to here

	drift   *int          // a weight that somebody else gave the candidate
	strange bool          // somebody else had it run a release of which nobody knows
	astray  time.Duration // until when it says a wrong address
	twin    string        // another's; empty: one that the server takes out
	stays   bool          // what has users goes on until what shall have them can serve
	read    int64
	weights []int // candidate's weights that were reported at generation read
	full    bool  // and once with all instances ready that were wanted of it
	newer   bool  // and once with all of the candidate's
	journal []int64
}

// revision is a release as it runs there.
type revision struct {
	rel       int
	want      int // weight
	n, have   int // instances: wanted, and ready at least
	weight    int // in effect
	shadow    int // share of requests that are copied to it
	candidate bool
	pulled    time.Duration // when content and promotion are looked at
	ready     time.Duration // from then on
	looked    bool
	verified  bool // the agent has checked digest and promotion
	served    bool // it has been ready once
	failed    string
	share     float64
	fails     float64
	requests  int64 // since boot
	bad       int64
	copies    int64 // as requests, of those that were copied to it
	badCopies int64
	part      [2]float64 // of a copy, and of a bad one
}

func id(rel int) release.ID { return ids[rel] }

func idOf(s string) release.ID { return release.ID(s) }

var ids = func() []release.ID {
	out := make([]release.ID, 256)
	const hex = "0123456789abcdef"
	for i := range out {
		b := make([]byte, 64)
		for j := range b {
			b[j] = '0'
		}
		b[0], b[1] = hex[i/16], hex[i%16]
		out[i] = release.ID("sha256:" + string(b))
	}
	return out
}()

func (r *router) find(rel int) *revision {
	for _, v := range r.revs {
		if v.rel == rel {
			return v
		}
	}
	return nil
}

func relOf(d release.ID) int { return slices.Index(ids[:], d) }

// running is how many instances are ready.
func (v *revision) running(now time.Duration) int {
	switch {
	case v.failed != "" || !v.verified:
		return 0
	case v.ready <= now:
		return v.n
	}
	return min(v.have, v.n)
}

// offer hands the agent a document. The agent keeps the highest generation and
// refuses lower ones.
func (s *sim) offer(r *router, d wire.Desired) {
	if d.Generation <= r.doc.Generation {
		return
	}
	s.take(r, d)
}

// take makes a document what runs.
func (s *sim) take(r *router, d wire.Desired) {
	s.traffic(r)
	s.checkTake(r, d)
	if r.drift != nil { // it knows only what it has set itself
		for _, v := range r.revs {
			v.weight = v.want
		}
	}
	r.doc, r.drift, r.strange = d, nil, false
	r.journal = append(r.journal, d.Generation)
	for _, x := range d.Revisions {
		rel := relOf(x.Release)
		v, k := r.find(rel), &s.releases[rel]
		if v == nil {
			v = &revision{rel: rel, pulled: s.now + s.dur(20*time.Millisecond, k.slow)}
			r.revs = append(r.revs, v)
			r.tell = min(r.tell, v.pulled)
		}
		v.want, v.candidate, v.shadow = x.Weight, x.Candidate, x.Shadow
		n := x.Instances
		if own, ok := x.Shares[r.name]; ok {
			v.want, n = own.Weight, own.Instances
		}
		if n > v.n {
			v.have = v.running(s.now)
			v.ready = max(v.pulled, s.now) + s.dur(30*time.Millisecond, k.slow)
		}
		v.n = n
	}
	r.revs = slices.DeleteFunc(r.revs, func(v *revision) bool {
		return !slices.ContainsFunc(d.Revisions, func(x wire.Revision) bool { return x.Release == id(v.rel) })
	})
	s.effect(r)
	r.tell = s.now
	s.say("%s applied generation %d: %s", r.name, d.Generation, r.shares())
}

// effect is which weights apply now: the agent's rule. A candidate that was never
// ready gets nothing; while another can't serve all stays as it is.
func (s *sim) effect(r *router) {
	for _, v := range r.revs {
		if !v.looked && v.pulled <= s.now {
			v.looked = true
			switch k := &s.releases[v.rel]; {
			case !k.promoted:
				v.failed = "it was not promoted into this environment"
			case k.altered:
				v.failed = "its content has another digest"
			default:
				v.verified = true
				if k.broken {
					v.failed = "it exits at once"
				}
			}
		}
		v.served = v.served || v.n > 0 && v.running(s.now) > 0
	}
	if s.fleet != nil {
		s.fleetShares(r)
		return
	}
	var stable *revision
	blocked, blockedStable := false, false
	for _, v := range r.revs {
		if v.want > 0 && !v.served {
			blocked, blockedStable = true, blockedStable || !v.candidate
		}
		if v.served && !v.candidate {
			stable = v
		}
	}
	r.stays = blocked && (blockedStable || stable == nil) && slices.ContainsFunc(r.revs, func(v *revision) bool { return v.weight > 0 && v.served })
	if r.stays {
		return
	}
	for _, v := range r.revs {
		v.weight = v.want
		if s.worker {
			v.weight = 0
		}
	}
	if s.worker {
		return
	}
	if blocked && !blockedStable && stable != nil {
		for _, v := range r.revs {
			if v.candidate && !v.served && v.want > 0 {
				stable.weight += v.weight
				v.weight = 0
			}
		}
	}
	if r.drift != nil {
		for _, v := range r.revs {
			if v.candidate {
				v.weight = *r.drift
			} else {
				v.weight = wire.FullWeight - *r.drift
			}
		}
	}
}

// traffic lets users come until now.
func (s *sim) traffic(r *router) {
	d := s.now - r.told
	if d <= 0 {
		return
	}
	r.told = s.now
	if s.gapUntil > s.now-d { // nobody came
		return
	}
	for _, v := range r.revs {
		k := &s.releases[v.rel]
		if v.shadow > 0 && v.running(s.now) > 0 { // nobody sees what comes of it
			v.part[0] += s.rps * d.Seconds() * float64(v.shadow) / wire.FullWeight
			n := int64(v.part[0])
			v.part[0] -= float64(n)
			v.part[1] += float64(n) * k.errors
			bad := int64(v.part[1])
			v.part[1] -= float64(bad)
			v.copies, v.badCopies = v.copies+n, v.badCopies+bad
			if row := s.store.live(); row != nil && row.rel == v.rel {
				s.served += n
			}
		}
		if v.weight == 0 {
			continue
		}
		v.share += s.rps * d.Seconds() * float64(v.weight) / wire.FullWeight
		n := int64(v.share)
		v.share -= float64(n)
		rate := k.errors
		if v.running(s.now) == 0 {
			rate = 1
		}
		v.fails += float64(n) * rate
		bad := int64(v.fails)
		v.fails -= float64(bad)
		v.requests, v.bad = v.requests+n, v.bad+bad
		if row := s.store.live(); row != nil && row.rel == v.rel && v.candidate {
			s.served += n
		}
	}
}

// report is what the router says of itself now.
func (s *sim) report(r *router) wire.Observed {
	s.traffic(r)
	s.effect(r)
	r.seq++
	o := wire.Observed{Protocol: wire.Protocol, Host: r.name, Boot: boots[r.boot%len(boots)], Sequence: r.seq}
	svc := wire.Service{Key: key, Generation: r.doc.Generation, Listening: true, Address: r.address(""), Revisions: make([]wire.RevisionObserved, 0, len(r.revs))}
	for _, v := range r.revs {
		x := wire.RevisionObserved{Release: id(v.rel), Phase: wire.Pulling, Weight: v.weight}
		switch {
		case v.failed != "":
			x.Phase, x.Reason = wire.Failed, v.failed
		case v.verified && v.running(s.now) >= v.n:
			x.Phase = wire.Ready
		case v.verified:
			x.Phase = wire.Starting
		}
		x.Ready = v.running(s.now)
		if v.verified {
			x.Instances = instances[:min(v.n, len(instances))]
		}
		if v.copies > 0 {
			x.Shadow = []wire.Counters{{Requests: uint64(v.copies), Bad: uint64(v.badCopies)}}
		}
		if v.requests > 0 {
			x.Counters = []wire.Counters{{Requests: uint64(v.requests), Bad: uint64(v.bad)}}
		}
		svc.Revisions = append(svc.Revisions, x)
	}
	if r.strange {
		svc.Revisions = append(svc.Revisions, wire.RevisionObserved{Release: id(stranger), Phase: wire.Ready, Ready: 1, Wanted: true})
	}
	if r.astray > s.now {
		if svc.Address = r.address(r.twin); r.twin == "" {
			svc.Address, svc.Refused = "", "it says that it answers at 192.0.2.7:1, which is not its own"
		}
	}
	o.Services = []wire.Service{svc}
	return o
}

// stranger is a release that nobody ever made here.
const stranger = 255

var addresses = map[string]string{"a": "a:8080", "b": "b:8080", "c": "c:8080"}

// address is where a router answers; another's if that is named.
func (r *router) address(twin string) string {
	if twin != "" {
		return addresses[twin]
	}
	return addresses[r.name]
}

var instances = make([]wire.Instance, 16)

var boots = []string{"b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9"}

// receive is Controller.Report.
func (s *sim) receive(r *router, o wire.Observed) {
	taken, news := s.store.putObserved(o, s.wall())
	if !taken {
		return
	}
	s.reads(r, o)
	if l := s.store.live(); news && l != nil {
		s.store.wake(&l.alarm, s.wall())
		s.notify()
	}
}

// reads keeps what was read back, for the checks.
func (s *sim) reads(r *router, o wire.Observed) {
	svc := &o.Services[0]
	if svc.Generation < r.read {
		return // of another life of the agent, and late: it takes nothing back
	}
	if svc.Generation != r.read {
		r.read, r.weights, r.full, r.newer = svc.Generation, r.weights[:0], false, false
	}
	l := s.store.last()
	if l == nil {
		return
	}
	w, full, newer, cand, old := 0, true, true, 0, 0
	for _, v := range svc.Revisions {
		if v.Release == id(l.rel) {
			w, cand = v.Weight, len(v.Instances)
		} else {
			old += len(v.Instances)
		}
		if r.doc.Generation == svc.Generation {
			have := r.find(relOf(v.Release))
			all := have != nil && v.Ready >= have.n
			full, newer = full && all, newer && (all || v.Release != id(l.rel))
		}
	}
	if s.worker && cand > 0 {
		w = cand * wire.FullWeight / (cand + old)
	}
	r.full, r.newer = r.full || full, r.newer || newer
	if !slices.Contains(r.weights, w) {
		r.weights = append(r.weights, w)
	}
}

// reports is what the control plane knows of its target. A load balancer tells
// nothing by itself: its adapter reads it, and knows of the generation only what
// it has read back after its own calls.
func (s *sim) reports() []host.Report {
	if !s.unfenced {
		return s.store.observed
	}
	r := s.routers[0]
	if r.down > s.now {
		return nil
	}
	o := s.report(r)
	o.Services[0].Generation = s.store.acked
	s.reads(r, o)
	return []host.Report{{Observed: o, Arrived: s.wall()}}
}

func (r *router) shares() string {
	out := ""
	for _, v := range r.revs {
		out += " " + id(v.rel).Short()[:2] + "=" + itoa(v.weight)
	}
	return out
}
