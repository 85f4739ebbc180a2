package control

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// fakeHost is an agent as the control plane sees one: it reads what it shall
// run, applies generations that rise, refuses others, and reports weights,
// readiness and cumulative counters. Its traffic is the test's.
type fakeHost struct {
	w        *world
	name     string
	boot     string
	sequence uint64
	next     time.Time // of the regular report
	down     bool      // it neither reads nor reports; its services go on
	services map[release.Key]*fakeService

	rps     float64                   // requests per second to each service
	bad     map[release.ID]float64    // fraction of a release's requests
	cluster int                       // errors come so many at a time, of one user
	latency map[release.ID]int        // bucket, default that of 20 ms
	broken  map[release.ID]string     // cannot start, and why
	startIn time.Duration             // until an instance is ready
	drift   func(wire.Desired) *int   // weight that somebody else gave the candidate
	meddled map[release.Key]meddling  // what somebody else had it do
	touched bool                      // somebody ever did
	server  *httptest.Server          // answers for all services
	nowhere bool                      // it does not say where it answers
	refused map[release.Key]int       // lower generations that were offered
	answer  func(http.ResponseWriter) // of server
}

// meddling is done to what a host runs of a service, until it is told anew what to run.
type meddling struct {
	generation int64
	with       func(*wire.Service)
}

const anyGeneration = -1

func (h *fakeHost) meddle(env string, with func(*wire.Service)) {
	if h.meddled == nil {
		h.meddled = map[release.Key]meddling{}
	}
	s := h.shop(env)
	h.touched = true
	h.meddled[s.doc.Key] = meddling{s.doc.Generation, with}
	h.next = h.w.clock.now()
}

type fakeService struct {
	doc       wire.Desired
	revisions map[release.ID]*fakeRevision
	journal   []applied
}

// applied is one line of a host's journal.
type applied struct {
	generation int64
	weights    string
	doc        wire.Desired
}

type fakeRevision struct {
	weight       int
	ready        time.Time
	share, fails float64 // that did not make a whole request yet
	made         float64 // requests of Sluice's own
	shadow       int     // basis points of users' requests that are copied to it
	copied       float64
	requests     [wire.Buckets]uint64
	bad          [wire.Buckets]uint64
	late         map[int]uint64
	turn         int
	seed         uint64 // of the bucket that a cluster falls into
}

func (w *world) addHost(name string) *fakeHost {
	h := &fakeHost{
		w: w, name: name, boot: "boot-1", next: w.clock.now(), services: map[release.Key]*fakeService{}, rps: 100,
		bad: map[release.ID]float64{}, latency: map[release.ID]int{}, broken: map[release.ID]string{}, refused: map[release.Key]int{}, startIn: time.Second,
	}
	h.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if h.answer != nil {
			h.answer(rw)
		}
	}))
	w.Cleanup(h.server.Close)
	w.hosts = append(w.hosts, h)
	return h
}

// poll reads and applies what is new, and reports if there is something to say.
func (h *fakeHost) poll(news bool) bool {
	due := !h.w.clock.now().Before(h.next)
	if h.down || !news && !due {
		return false
	}
	docs, _, err := h.w.front.DesiredFor(h.w.Context(), h.name, time.Time{})
	h.w.must(err)
	for _, d := range docs {
		due = h.apply(d) || due
	}
	if !due {
		return false
	}
	h.report()
	return true
}

func (h *fakeHost) apply(d wire.Desired) bool {
	s := h.services[d.Key]
	if s == nil {
		s = &fakeService{revisions: map[release.ID]*fakeRevision{}}
		h.services[d.Key] = s
	}
	if d.Generation < s.doc.Generation {
		h.refused[d.Key]++
		return false
	}
	if d.Generation == s.doc.Generation {
		return false
	}
	d.Revisions = slices.Clone(d.Revisions)
	for i := range d.Revisions { // what is said of this host in particular
		r := &d.Revisions[i]
		if x, named := r.Shares[h.name]; named {
			r.Instances, r.Weight = x.Instances, x.Weight
		}
	}
	s.doc = d
	wanted := map[release.ID]bool{}
	line := []string{}
	for _, r := range d.Revisions {
		wanted[r.Release] = true
		line = append(line, fmt.Sprintf("%s=%d", r.Release.Short(), r.Weight))
		if s.revisions[r.Release] == nil {
			s.revisions[r.Release] = &fakeRevision{ready: h.w.clock.now().Add(h.startIn), late: map[int]uint64{}}
			h.next = h.w.clock.now().Add(min(h.startIn, h.next.Sub(h.w.clock.now())))
		}
		s.revisions[r.Release].weight, s.revisions[r.Release].shadow = r.Weight, r.Shadow
		if h.drift != nil && r.Candidate {
			if x := h.drift(d); x != nil {
				s.revisions[r.Release].weight = *x
			}
		}
	}
	for id := range s.revisions {
		if !wanted[id] {
			delete(s.revisions, id)
		}
	}
	s.journal = append(s.journal, applied{generation: d.Generation, weights: strings.Join(line, " "), doc: d})
	return true
}

// live lets users come for d.
func (h *fakeHost) live(d time.Duration) {
	for _, s := range h.services {
		for id, r := range s.revisions {
			if y := s.doc.Synthetic; y != nil {
				r.made += y.Rate * d.Seconds() * float64(r.weight) / wire.FullWeight
			}
			r.copied += h.rps * d.Seconds() * float64(r.shadow) / wire.FullWeight
			r.share += h.rps * d.Seconds() * float64(r.weight) / wire.FullWeight
			for ; r.share >= 1; r.share-- {
				r.turn++
				b := r.turn % wire.Buckets
				r.requests[b]++
				at, ok := h.latency[id]
				if !ok {
					at = wire.LatencyIndex(20 * time.Millisecond)
				}
				r.late[at]++
				r.fails += h.bad[id]
				if n := float64(max(1, h.cluster)); r.fails >= n {
					r.fails -= n
					if n > 1 {
						r.seed = r.seed*6364136223846793005 + 1442695040888963407
						b = int(r.seed>>33) % wire.Buckets
					}
					r.bad[b] += uint64(n)
				}
			}
		}
	}
}

// restart begins counting anew, as an agent does that was started again.
func (h *fakeHost) restart(boot string) {
	h.boot, h.sequence = boot, 0
	for _, s := range h.services {
		for _, r := range s.revisions {
			r.requests, r.bad, r.late = [wire.Buckets]uint64{}, [wire.Buckets]uint64{}, map[int]uint64{}
		}
	}
}

func (h *fakeHost) observed() wire.Observed {
	o := wire.Observed{Protocol: wire.Protocol, Agent: "test", Host: h.name, Boot: h.boot, Sequence: h.sequence, At: h.w.clock.now()}
	for key, s := range h.services {
		x := wire.Service{Key: key, Generation: s.doc.Generation, Listening: true, Address: strings.TrimPrefix(h.server.URL, "http://")}
		if h.nowhere {
			x.Address = ""
		}
		if s.doc.Preview != "" {
			x.Preview = x.Address
		}
		for _, rev := range s.doc.Revisions {
			r := s.revisions[rev.Release]
			y := wire.RevisionObserved{Release: rev.Release, Phase: wire.Starting, Weight: r.weight}
			if why, broken := h.broken[rev.Release]; broken {
				y.Phase, y.Reason = wire.Failed, why
			} else if !h.w.clock.now().Before(r.ready) {
				y.Phase, y.Ready = wire.Ready, rev.Instances
			}
			if rev.Shares != nil {
				y.Instances = make([]wire.Instance, rev.Instances)
			}
			if r.made >= 1 {
				y.Synthetic = []wire.Counters{{Requests: uint64(r.made), Latency: map[int]uint64{wire.LatencyIndex(20 * time.Millisecond): uint64(r.made)}}}
			}
			if n := uint64(r.copied); n > 0 {
				y.Shadow = []wire.Counters{{Requests: n, Bad: uint64(r.copied * h.bad[rev.Release]), Latency: map[int]uint64{wire.LatencyIndex(20 * time.Millisecond): n}}}
			}
			for b := range r.requests {
				if r.requests[b] == 0 {
					continue
				}
				c := wire.Counters{Bucket: b, Requests: r.requests[b], Bad: r.bad[b]}
				if len(y.Counters) == 0 {
					c.Latency = map[int]uint64{}
					for i, n := range r.late {
						c.Latency[i] = n
					}
				}
				y.Counters = append(y.Counters, c)
			}
			x.Revisions = append(x.Revisions, y)
		}
		if m := h.meddled[key]; m.with != nil && (m.generation == x.Generation || m.generation == anyGeneration) {
			m.with(&x)
		}
		o.Services = append(o.Services, x)
	}
	return o
}

func (h *fakeHost) report() {
	h.sequence++
	h.next = h.w.clock.now().Add(time.Second)
	h.w.must(h.w.front.Report(h.w.Context(), h.observed()))
}

// shop is this host's service in an environment.
func (h *fakeHost) shop(env string) *fakeService {
	h.w.Helper()
	s := h.services[release.Key{Project: release.DefaultProject, Service: "shop", Environment: env}]
	if s == nil {
		h.w.Fatalf("%s runs nothing in %s", h.name, env)
	}
	return s
}

// weights is what a host gives each release, as its journal says.
func (s *fakeService) weights() []string {
	out := []string{}
	for _, a := range s.journal {
		out = append(out, a.weights)
	}
	return out
}
