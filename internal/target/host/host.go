package host

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
)

// Unreachable is how long a host may be silent before it counts as missing.
// Agents report each second at least. A report from the future was taken before
// the clock went back, and says as little as an old one.
const Unreachable = 5 * time.Second

// Silent reports whether a host whose last report arrived at that time is
// unreachable now.
func Silent(arrived, now time.Time) bool { return now.Sub(arrived).Abs() > Unreachable }

// Target writes desired states.
type Target struct{ store *store.Store }

// New returns a target that keeps its desired states in s.
func New(s *store.Store) *Target { return &Target{store: s} }

// Apply makes doc the desired state. It reports false when a higher generation
// is there already; the same generation again changes nothing.
func (t *Target) Apply(ctx context.Context, doc wire.Desired) (bool, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return false, fmt.Errorf("couldn't encode the desired state: %w", err)
	}
	var applied bool
	err = t.store.Update(ctx, func(tx *store.Tx) error {
		if applied, err = tx.PutDesired(doc.Key, doc.Generation, b); err != nil {
			return fmt.Errorf("couldn't write the desired state of %s: %w", doc.Key, err)
		}
		if !applied {
			cur, ok, err := tx.Desired(doc.Key)
			if err != nil {
				return fmt.Errorf("couldn't read the desired state of %s: %w", doc.Key, err)
			}
			applied = ok && cur.Generation == doc.Generation
		}
		tx.Notify("desired")
		return nil
	})
	return applied, err
}

// Document is an empty desired state for a target.
func Document(key release.Key, t pipeline.Target, gen int64) wire.Desired {
	d := wire.Desired{Protocol: wire.Protocol, Generation: gen, Key: key, Hosts: t.Hosts, Listen: t.Listen, Revisions: []wire.Revision{}}
	if t.Worker() {
		d.Requires = append(d.Requires, wire.FeatureWorker)
	}
	if t.Sticky != nil {
		d.Sticky = wire.Sticky{Header: t.Sticky.Header, Cookie: t.Sticky.Cookie}
	}
	return d
}

// Report is a host's last word and when it arrived.
type Report struct {
	wire.Observed
	Arrived time.Time
}

// Decode reads stored reports. One that cannot be read counts as missing.
func Decode(rows []store.Observed) []Report {
	out := make([]Report, 0, len(rows))
	for _, r := range rows {
		rep := Report{Arrived: r.At}
		if json.Unmarshal(r.Report, &rep.Observed) == nil {
			out = append(out, rep)
		}
	}
	return out
}

// Wanted is what a rollout wants of hosts. Nil wants nothing but weights.
type Wanted struct {
	Shares map[string]rollout.Share // where each has a share of its own; nil where all are alike
	Worker bool
	Told   *wire.Desired // what hosts were told to run; nil: nobody looks for anything else
}

// Tell has hosts held to a document that they were told: w may be nil.
func (w *Wanted) Tell(d wire.Desired) *Wanted {
	told := Wanted{Told: &d}
	if w != nil {
		told.Shares, told.Worker = w.Shares, w.Worker
	}
	return &told
}

func (w *Wanted) counted() bool { return w != nil && w.Shares != nil }

// WantedOf returns what a rollout in a state wants of hosts, nil where all are alike. The plan counts its
// own instances; oldInstances is how many of the previous release a whole host
// runs, which may be others.
func WantedOf(p rollout.Plan, s rollout.State, hosts []string, oldInstances int) *Wanted {
	shares := p.Shares(s)
	if shares == nil || len(shares) != len(hosts) {
		return nil
	}
	w := &Wanted{Shares: map[string]rollout.Share{}, Worker: p.Worker}
	for i, h := range slices.Sorted(slices.Values(hosts)) {
		x := shares[i]
		x.Old = (x.Old*oldInstances + p.Instances - 1) / p.Instances
		w.Shares[h] = x
	}
	return w
}

// Put writes the shares of a rollout into what hosts shall run. old is nil where
// there is no previous release.
func (w *Wanted) Put(d *wire.Desired, old, candidate *wire.Revision) {
	if !w.counted() {
		return
	}
	d.Requires = append(d.Requires, wire.FeatureShares)
	for _, r := range []*wire.Revision{old, candidate} {
		if r != nil {
			r.Shares = map[string]wire.Share{}
		}
	}
	for h, x := range w.Shares {
		if candidate == nil {
			x.Weight = 0
		}
		if old == nil && candidate != nil {
			x.Weight = wire.FullWeight * min(x.Weight, 1)
		}
		if old != nil {
			old.Shares[h] = wire.Share{Instances: x.Old, Weight: wire.FullWeight - x.Weight}
		}
		if candidate != nil {
			candidate.Shares[h] = wire.Share{Instances: x.Candidate, Weight: x.Weight}
		}
	}
}

// Observe sums up what the wanted hosts report of a rollout: the step is done
// only when every host says so.
func Observe(reports []Report, key release.Key, hosts []string, candidate, old release.ID, now time.Time) rollout.Observation {
	return (*Wanted)(nil).Observe(reports, key, hosts, candidate, old, now)
}

// Observe is as the function, but holds each host to its own share.
func (w *Wanted) Observe(reports []Report, key release.Key, hosts []string, candidate, old release.ID, now time.Time) rollout.Observation {
	o := rollout.Observation{CandidateReady: true, OldReady: true, MinWeight: wire.FullWeight, Generation: -1}
	sum := 0 // of the weights of a counted plan's hosts
	for _, h := range hosts {
		svc, ok := find(reports, h, key, now)
		if !ok {
			o.Missing++
			if o.Unreachable != "" {
				o.Unreachable += ", "
			}
			o.Unreachable += h
			continue
		}
		o.Hosts++
		if o.Generation < 0 || svc.Generation < o.Generation {
			o.Generation = svc.Generation
		}
		cand, old := revision(svc, candidate), revision(svc, old)
		ahead := w != nil && w.Told != nil && svc.Generation > w.Told.Generation // whatever it was told, it was not this
		if w != nil && w.Told != nil && o.Off == "" {
			switch {
			case ahead:
				o.Off = forgotten(svc, h, *w.Told)
			case w.counted():
				o.Off = Strange(svc, h, *w.Told)
			default:
				o.Off = Differs(svc, h, *w.Told)
			}
		}
		if w.counted() {
			sum += w.observe(&o, h, cand, old)
			if !svc.Listening && !w.Worker && !ahead && o.Failed == "" && svc.Reason != "" {
				o.Failed = fmt.Sprintf("on host %s: %s", h, svc.Reason)
			}
			continue
		}
		o.CandidateReady = o.CandidateReady && cand != nil && cand.Phase == wire.Ready
		o.OldReady = o.OldReady && (old != nil && old.Phase == wire.Ready)
		if cand != nil {
			o.CandidateSeen = true
			weight := max(0, min(cand.Weight, wire.FullWeight)) // one that can't be is drift all the same
			o.MinWeight, o.MaxWeight = min(o.MinWeight, weight), max(o.MaxWeight, weight)
			if cand.Phase == wire.Failed && o.Failed == "" {
				o.Failed = fmt.Sprintf("on host %s: %s", h, cand.Reason)
			}
		} else {
			o.MinWeight = 0
		}
		o.OldSeen = o.OldSeen || old != nil
		if !svc.Listening && !ahead && o.Failed == "" && svc.Reason != "" {
			o.Failed = fmt.Sprintf("on host %s: %s", h, svc.Reason)
		}
	}
	if o.Hosts == 0 {
		o.CandidateReady, o.OldReady, o.MinWeight = false, false, 0
	}
	if old == "" {
		o.OldReady = true
	}
	o.MeanWeight = (sum + max(1, o.Hosts) - 1) / max(1, o.Hosts) // never 0 while one has some
	o.Generation = max(0, o.Generation)
	return o
}

// observe holds one host to its share, and returns the weight that it gives.
func (w *Wanted) observe(o *rollout.Observation, h string, cand, old *wire.RevisionObserved) (weight int) {
	x := w.Shares[h]
	none := wire.RevisionObserved{Phase: wire.Stopping}
	if cand == nil {
		cand = &none
	}
	if old == nil {
		old = &none
	}
	// Without instances yet it is ready once its files are there and verified.
	o.CandidateReady = o.CandidateReady && cand.Ready >= x.Candidate && (cand.Phase == wire.Ready || x.Candidate == 0 && cand.Phase != wire.Pulling && cand.Phase != wire.Failed)
	o.OldReady = o.OldReady && old.Ready >= x.Old && (old.Phase == wire.Ready || x.Old == 0)
	o.CandidateSeen = o.CandidateSeen || len(cand.Instances) > 0
	o.OldSeen = o.OldSeen || len(old.Instances) > 0
	weight = max(0, min(cand.Weight, wire.FullWeight))
	if w.Worker { // nothing is routed: whatever runs takes work
		weight = wire.FullWeight * len(cand.Instances) / max(1, len(cand.Instances)+len(old.Instances))
	}
	o.MinWeight, o.MaxWeight = min(o.MinWeight, weight), max(o.MaxWeight, weight)
	if cand.Phase == wire.Failed && o.Failed == "" {
		o.Failed = fmt.Sprintf("on host %s: %s", h, cand.Reason)
	}
	if o.Off != "" {
		return weight
	}
	switch {
	case !w.Worker && weight != x.Weight:
		o.Off = fmt.Sprintf("host %s gives the candidate %s where %s was set", h, percent(weight), percent(x.Weight))
	case cand.Ready > x.Candidate:
		o.Off = fmt.Sprintf("host %s runs %d instances of the candidate where %d were set", h, cand.Ready, x.Candidate)
	case old.Ready > x.Old:
		o.Off = fmt.Sprintf("host %s runs %d instances of the previous release where %d were set", h, old.Ready, x.Old)
	}
	return weight
}

func percent(bp int) string { return fmt.Sprintf("%g %%", float64(bp)/100) }

func find(reports []Report, host string, key release.Key, now time.Time) (wire.Service, bool) {
	for _, r := range reports {
		if r.Host != host || Silent(r.Arrived, now) {
			continue
		}
		for _, s := range r.Services {
			if s.Key == key {
				return s, true
			}
		}
		return wire.Service{Key: key}, true // alive, but it does not run the service yet
	}
	return wire.Service{}, false
}

func revision(s wire.Service, id release.ID) *wire.RevisionObserved {
	for i := range s.Revisions {
		if id != "" && s.Revisions[i].Release == id {
			return &s.Revisions[i]
		}
	}
	return nil
}

// Counts are a revision's cumulative counters on one host since one boot.
type Counts struct {
	Host, Boot string
	Release    release.ID
	Buckets    [wire.Buckets]Bucket
}

func (c *Counts) add(counters []wire.Counters) {
	for _, n := range counters {
		if n.Bucket < 0 || n.Bucket >= wire.Buckets {
			continue
		}
		b := &c.Buckets[n.Bucket]
		b.Requests += int64(n.Requests)
		b.Bad += int64(n.Bad)
		if b.Latency == nil {
			b.Latency = n.Latency
			continue
		}
		b.Latency = maps.Clone(b.Latency)
		for i, x := range n.Latency {
			b.Latency[i] += x
		}
	}
}

// Bucket is one hash bucket's counters.
type Bucket struct {
	Requests, Bad int64
	Latency       map[int]uint64
}

// Counters returns the counters of every revision of key on the wanted hosts:
// users' requests alone.
func Counters(reports []Report, key release.Key, hosts []string) []Counts {
	return counters(reports, key, hosts, func(c *Counts, r wire.RevisionObserved) { c.add(r.Counters) })
}

// AllCounters adds the requests that Sluice made itself.
func AllCounters(reports []Report, key release.Key, hosts []string) []Counts {
	return counters(reports, key, hosts, func(c *Counts, r wire.RevisionObserved) {
		c.add(r.Counters)
		c.add(r.Synthetic)
	})
}

// ShadowCounters returns the counters of copied requests. They are a series of
// their own beside those of [Counters].
func ShadowCounters(reports []Report, key release.Key, hosts []string) []Counts {
	return counters(reports, key, hosts, func(c *Counts, r wire.RevisionObserved) {
		c.Boot += "/shadow"
		c.add(r.Shadow)
	})
}

func counters(reports []Report, key release.Key, hosts []string, take func(*Counts, wire.RevisionObserved)) []Counts {
	var out []Counts
	for _, r := range reports {
		for _, h := range hosts {
			if r.Host != h {
				continue
			}
			for _, s := range r.Services {
				if s.Key != key {
					continue
				}
				for _, rev := range s.Revisions {
					c := Counts{Host: r.Host, Boot: r.Boot, Release: rev.Release}
					take(&c, rev)
					out = append(out, c)
				}
			}
		}
	}
	return out
}

// Addresses are where the wanted hosts answer for key.
func Addresses(reports []Report, key release.Key, t pipeline.Target) []string {
	return addresses(reports, key, t, func(s wire.Service) string { return s.Address })
}

func addresses(reports []Report, key release.Key, t pipeline.Target, of func(wire.Service) string) []string {
	var out []string
	for _, h := range t.Hosts {
		for _, r := range reports {
			if r.Host != h {
				continue
			}
			for _, s := range r.Services {
				if a := of(s); s.Key == key && a != "" {
					out = append(out, a)
				}
			}
		}
	}
	return out
}
