package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/agent/proxy"
	"github.com/sluicehq/sluice/internal/agent/supervise"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// service is one service in one environment on this host.
type service struct {
	key     release.Key
	desired wire.Desired
	content release.Digest // of desired: an equal generation must be equal
	reason  string         // why a generation was refused

	proxy   *proxy.Server // of users
	front   door
	also    map[string]*door // more of the same, by what they were opened for
	preview *proxy.Server    // of the candidate alone; nobody reads its counts
	side    door

	revs      map[release.ID]*revision // desired, serving or stopping
	serving   []wire.Revision          // with the weights in effect
	granted   map[release.ID]int       // see inEffect
	route     proxy.Route              // what the proxy was given
	sideRoute proxy.Route              // what the preview was given
	made      *wire.Synthetic          // what is made now
	unmake    context.CancelFunc       // ends it
	past      []release.ID             // that ended last: their counters go on if they come back
}

const keepCounters = 16

// revision is one release of a service on this host.
type revision struct {
	spec     wire.Revision
	verified bool
	files    string
	reason   string // why it is not verified
	passing  bool   // the reason may pass by itself
	checking bool
	again    time.Time // not to be checked before
	backOff  time.Duration
	group    *supervise.Group
	served   bool // was ready once
	stopping bool
	resumed  bool // of the persisted state, and not yet checked
}

// resume takes up what an earlier agent kept.
func (a *agent) resume() error {
	all, err := load(a.cfg.DataDir)
	if err != nil {
		return err
	}
	entries, err := journal.Read(JournalPath(a.cfg.DataDir))
	if err != nil {
		return err
	}
	applied := make(map[release.Key]int64)
	for _, e := range entries {
		if e.Outcome == journal.Applied {
			applied[e.Key] = max(applied[e.Key], e.Generation)
		}
	}
	for _, k := range all {
		s := a.service(k.Desired.Key)
		s.desired, s.serving, s.granted = k.Desired, k.Serving, k.Granted
		if s.content, err = digestOf(k.Desired); err != nil {
			return err
		}
		outcome := journal.Resumed
		if applied[s.key] < s.desired.Generation {
			outcome = journal.Applied // we died between the state and its entry
		}
		if err := a.journal(k.Desired, outcome, ""); err != nil {
			return err
		}
		// What is wanted comes first: of what serves the weights are newer, but its
		// instances may have been asked for differently since.
		for _, r := range slices.Concat(k.Desired.Revisions, k.Serving) {
			a.revision(s, r)
		}
		for _, r := range s.revs {
			r.resumed = true
			a.resuming++
		}
	}
	if a.resuming == 0 {
		a.sweep()
	}
	return nil
}

func digestOf(d wire.Desired) (release.Digest, error) {
	b, err := release.Canonical(d)
	if err != nil {
		return "", err
	}
	return release.DigestOf(b), nil
}

func (a *agent) service(k release.Key) *service {
	s := a.services[k]
	if s == nil {
		o := a.cfg.Proxy
		o.Name, o.Logger = k.String(), a.cfg.Logger
		s = &service{key: k, revs: make(map[release.ID]*revision), proxy: proxy.New(o), preview: proxy.New(o)}
		a.services[k] = s
	}
	return s
}

func (a *agent) revision(s *service, spec wire.Revision) *revision {
	r := s.revs[spec.Release]
	if r == nil {
		r = &revision{spec: spec}
		s.revs[spec.Release] = r
	}
	return r
}

func (a *agent) journal(d wire.Desired, o journal.Outcome, why string) error {
	e := journal.Entry{Time: time.Now().UTC(), Key: d.Key, Generation: d.Generation, Outcome: o, Reason: why, Weights: make(map[release.ID]int)}
	for _, r := range d.Revisions {
		if len(e.Weights) < maxRevisions {
			e.Weights[r.Release] = r.Weight
		}
	}
	return a.jrnl.Append(e)
}

// accept takes a desired state in. An error means that it could not be made
// durable: it has no effect and must be sent again.
func (a *agent) accept(d wire.Desired) error {
	for _, n := range []string{d.Project, d.Service, d.Environment} {
		if err := release.CheckName(n); err != nil {
			// Not even a key: there is no service to report it with.
			a.cfg.Logger.Error("refused a desired state", "error", err)
			return nil
		}
	}
	if len(d.Hosts) > 0 && !slices.Contains(d.Hosts, a.cfg.Host) {
		// The service has moved away from this host.
		d.Revisions, d.Removed = nil, true
	}
	d = onHost(d, a.cfg.Host)
	s := a.service(d.Key)
	defer nudge(a.kick)
	content, err := digestOf(d)
	if err != nil {
		return err
	}
	have := s.desired.Generation
	switch err := check(&d); {
	case d.Generation == have && content == s.content:
		s.reason = ""
		return nil
	case d.Generation < have:
		return a.refuse(s, d, fmt.Sprintf("generation %d was refused: %d was applied before", d.Generation, have))
	case err != nil:
		return a.refuse(s, d, fmt.Sprintf("generation %d was refused: %v", d.Generation, err))
	case d.Generation == have:
		return a.refuse(s, d, fmt.Sprintf("generation %d came again with other content and was refused", d.Generation))
	}
	// If we die here nothing has happened. After keep the generation is applied; if
	// we die before its journal entry, resume writes it.
	if err := keep(a.cfg.DataDir, kept{Version: 1, Desired: d, Serving: s.serving, Granted: s.granted}); err != nil {
		s.reason = err.Error()
		return err
	}
	s.desired, s.content, s.reason = d, content, ""
	if err := a.journal(d, journal.Applied, ""); err != nil {
		a.cfg.Logger.Error("a generation was applied without its journal entry", "service", s.key.String(), "generation", d.Generation, "error", err)
	}
	a.cfg.Logger.Info("applying", "service", s.key.String(), "generation", d.Generation, "weights", weightsOf(d.Revisions))
	for _, spec := range d.Revisions {
		r := a.revision(s, spec)
		if !sameProof(r.spec, spec) {
			r.again, r.backOff = time.Time{}, 0
			if r.verified {
				if err := a.verifyAgain(s.key, r.spec, spec); err != nil {
					// What runs goes on as it was verified; the rest of the state applies.
					s.reason = fmt.Sprintf("release %s came altered and goes on as it was: %v", spec.Release.Short(), err)
					spec = withProof(spec, r.spec)
				}
			}
		}
		r.spec = spec
	}
	a.settle(s)
	return nil
}

// sameProof says whether all of a revision that is verified is the same.
func sameProof(x, y wire.Revision) bool {
	return bytes.Equal(x.Promotion, y.Promotion) && bytes.Equal(x.Manifest, y.Manifest) && x.Artifact == y.Artifact && x.Run == y.Run &&
		maps.Equal(x.Env, y.Env) && maps.Equal(x.Secrets, y.Secrets)
}

func withProof(r, from wire.Revision) wire.Revision {
	r.Promotion, r.Manifest, r.Artifact, r.Run, r.Env, r.Secrets = from.Promotion, from.Manifest, from.Artifact, from.Run, from.Env, from.Secrets
	return r
}

// verifyAgain holds a new description of a verified release against its proofs.
func (a *agent) verifyAgain(k release.Key, was, now wire.Revision) error {
	if was.Artifact != now.Artifact {
		return fmt.Errorf("its artifact was %s and is %s", was.Artifact, now.Artifact)
	}
	_, err := verify(a.cfg.Verifier, k, now)
	return err
}

func weightsOf(revs []wire.Revision) map[string]int {
	out := make(map[string]int)
	for _, r := range revs {
		out[r.Release.Short()] = r.Weight
	}
	return out
}

func (a *agent) refuse(s *service, d wire.Desired, why string) error {
	a.cfg.Logger.Warn("refused a desired state", "service", s.key.String(), "reason", why)
	if s.reason == why {
		return nil // said before: a stream that comes again shall not fill the journal
	}
	s.reason = why
	return a.journal(d, journal.Refused, why)
}

// settle brings the service closer to its desired state, as far as that goes now.
func (a *agent) settle(s *service) {
	wanted := make(map[release.ID]bool)
	for _, spec := range s.desired.Revisions {
		wanted[spec.Release] = true
	}
	for _, w := range s.serving {
		wanted[w.Release] = true
	}
	for id, r := range s.revs {
		switch {
		case r.stopping:
		case !wanted[id]:
			a.stopRevision(s, id, r)
		case !r.verified:
			a.startCheck(s, id, r)
		case r.group == nil:
			r.group = a.sup.Group(a.specOf(s, r), max(r.spec.Instances, a.carries(s, id)))
		default:
			r.group.Update(a.specOf(s, r))
			r.group.Scale(max(r.spec.Instances, r.group.Want()))
		}
		if r.group != nil && !r.served {
			r.served = len(r.group.Ready()) > 0
		}
	}
	a.settleDoors(s)
	a.settleRoute(s)
	a.settleSynthetic(s)
	a.scaleDown(s)
	// Only now, with no traffic to them, may old revisions go.
	still := make(map[release.ID]bool)
	for _, spec := range s.desired.Revisions {
		still[spec.Release] = true
	}
	for _, w := range s.serving {
		still[w.Release] = true
	}
	for id, r := range s.revs {
		if !still[id] && !r.stopping {
			a.stopRevision(s, id, r)
		}
	}
}

// carries is how many instances an earlier agent left of a revision that serves more
// than it is wanted to: all of them stay until others have taken over.
func (a *agent) carries(s *service, id release.ID) int {
	at := func(w wire.Revision) bool { return w.Release == id }
	is, want := slices.IndexFunc(s.serving, at), slices.IndexFunc(s.desired.Revisions, at)
	if is < 0 || want >= 0 && s.serving[is].Weight <= s.desired.Revisions[want].Weight {
		return 0
	}
	return a.sup.Left(s.key, id)
}

// scaleDown lets surplus instances go, but none of a revision that still carries
// more than it is wanted to: those that shall take over are not ready yet.
func (a *agent) scaleDown(s *service) {
	over := make(map[release.ID]int)
	for _, w := range s.serving {
		over[w.Release] = w.Weight
	}
	for _, spec := range s.desired.Revisions {
		over[spec.Release] -= spec.Weight
	}
	for id, r := range s.revs {
		if r.group == nil || r.stopping || over[id] > 0 || r.group.Want() <= r.spec.Instances {
			continue
		}
		r.group.Scale(r.spec.Instances)
		r.served = r.served && r.spec.Instances > 0
	}
}

func (a *agent) specOf(s *service, r *revision) supervise.Spec {
	return supervise.Spec{
		Key: s.key, Release: r.spec.Release, Dir: r.files, Run: r.spec.Run,
		Env: r.spec.Env, Secrets: r.spec.Secrets, Health: r.spec.Health, NoPort: worker(&s.desired),
	}
}

// stopRevision drains and ends a revision. It stays visible as stopping for as long.
func (a *agent) stopRevision(s *service, id release.ID, r *revision) {
	r.stopping = true
	nudge(a.kick)
	if r.group == nil && !r.checking {
		delete(s.revs, id)
		return
	}
	a.tasks.Go(func() {
		if r.group != nil {
			r.group.Stop()
		}
		a.do(a.ctx, func() {
			delete(s.revs, id)
			for _, spec := range s.desired.Revisions {
				if spec.Release == id { // it was asked for again meanwhile
					a.revision(s, spec)
				}
			}
			a.settle(s)
			nudge(a.kick)
			if s.past = append(s.past, id); len(s.past) > keepCounters {
				if s.revs[s.past[0]] == nil {
					s.proxy.Forget(s.past[0])
					s.preview.Forget(s.past[0])
				}
				s.past = s.past[1:]
			}
			a.prune()
		})
	})
}

// prune lets go of releases that no service has.
func (a *agent) prune() {
	inUse := make(map[release.ID]bool)
	for _, s := range a.services {
		for id := range s.revs {
			inUse[id] = true
		}
	}
	a.tasks.Go(func() {
		if err := a.store.prune(inUse); err != nil {
			a.cfg.Logger.Warn("couldn't remove old releases", "error", err)
		}
	})
}

const (
	firstCheckAgain = 500 * time.Millisecond
	lastCheckAgain  = 30 * time.Second
)

// startCheck verifies a revision and brings its files, unless that is under way
// or failed a moment ago.
func (a *agent) startCheck(s *service, id release.ID, r *revision) {
	if r.checking || time.Now().Before(r.again) {
		return
	}
	r.checking = true
	spec := r.spec
	a.tasks.Go(func() {
		files, err := a.bring(s.key, spec)
		a.do(a.ctx, func() {
			r.checking = false
			switch {
			case !sameProof(spec, r.spec): // it changed meanwhile: check again
			case err == nil:
				r.verified, r.files, r.reason, r.backOff = true, files, "", 0
			default:
				r.reason, r.passing = err.Error(), mayPass(err)
				r.backOff = min(max(2*r.backOff, firstCheckAgain), lastCheckAgain)
				r.again = time.Now().Add(r.backOff)
				a.cfg.Logger.Error("couldn't verify a revision", "service", s.key.String(), "release", id.Short(), "error", err)
			}
			if current := s.revs[id]; current == r {
				a.settle(s)
			}
			if r.resumed {
				r.resumed = false
				if a.resuming--; a.resuming == 0 {
					a.sweep()
				}
			}
			nudge(a.kick)
		})
	})
}

func (a *agent) bring(key release.Key, spec wire.Revision) (string, error) {
	digest, err := verify(a.cfg.Verifier, key, spec)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(a.ctx, 30*time.Minute)
	defer cancel()
	return a.store.get(ctx, spec.Release, spec.Artifact, digest)
}

// settleRoute gives the proxy the weights in effect and the ready instances.
func (a *agent) settleRoute(s *service) {
	canServe := func(id release.ID) bool {
		r := s.revs[id]
		return r != nil && r.verified && r.served && !r.stopping && r.group != nil && r.group.Want() > 0
	}
	contact := a.contact.recent(time.Now())
	want := sharesOf(s.desired.Revisions)
	effect := inEffect(want, sharesOf(s.serving), s.granted, canServe, contact)
	granted := grant(want, effect, s.granted, contact)
	var serving []wire.Revision
	route := proxy.Route{Sticky: s.desired.Sticky}
	for _, e := range effect {
		r := s.revs[e.release]
		if r == nil {
			continue
		}
		spec := r.spec
		spec.Weight, spec.Candidate = e.weight, e.candidate
		if e.weight > 0 {
			serving = append(serving, spec)
		}
		p := proxy.Revision{Release: e.release, Weight: e.weight, Shadow: spec.Shadow, DrainIn: spec.Health.DrainIn, Candidate: e.candidate}
		if r.verified && r.group != nil && !r.stopping {
			for _, i := range r.group.Ready() {
				p.Instances = append(p.Instances, proxy.Instance{ID: i.Serial, Addr: i.Addr()})
			}
		}
		route.Revisions = append(route.Revisions, p)
	}
	// A weight that rises is durable first: after a restart without contact a
	// candidate must not get more than it is known to have had. One that falls is in
	// effect first: nothing may hold up a rollback, least of all a full disk.
	changed := !slices.EqualFunc(serving, s.serving, sameShare) || !maps.Equal(granted, s.granted)
	rises := changed && raises(serving, s.serving)
	k := kept{Version: 1, Desired: s.desired, Serving: serving, Granted: granted}
	if rises {
		if err := keep(a.cfg.DataDir, k); err != nil {
			a.cfg.Logger.Error("couldn't raise a weight", "service", s.key.String(), "error", err)
			return
		}
	}
	if !sameRoute(route, s.route) {
		s.proxy.Set(route)
		if falls(route, s.route) {
			nudge(a.urgent)
		}
		s.route = route
		nudge(a.kick)
	}
	if side := s.candidateOnly(); !sameRoute(side, s.sideRoute) {
		s.preview.Set(side)
		s.sideRoute = side
	}
	if changed && !rises {
		if err := keep(a.cfg.DataDir, k); err != nil {
			a.cfg.Logger.Error("weights are in effect and could not be kept", "service", s.key.String(), "error", err)
		}
	}
	s.serving, s.granted = serving, granted
}

// candidateOnly is the preview's route.
func (s *service) candidateOnly() (out proxy.Route) {
	if s.desired.Preview == "" {
		return out
	}
	for _, r := range s.route.Revisions {
		if r.Candidate {
			r.Weight, r.Candidate = wire.FullWeight, false
			out.Revisions = []proxy.Revision{r}
		}
	}
	return out
}

func sharesOf(revs []wire.Revision) []share {
	out := make([]share, 0, len(revs))
	for _, r := range revs {
		out = append(out, share{release: r.Release, weight: r.Weight, candidate: r.Candidate})
	}
	return out
}

func sameShare(x, y wire.Revision) bool {
	return x.Release == y.Release && x.Weight == y.Weight && x.Candidate == y.Candidate
}

// raises says whether a candidate gets more in now than before.
func raises(now, before []wire.Revision) bool {
	had := make(map[release.ID]int)
	for _, r := range before {
		had[r.Release] = r.Weight
	}
	for _, r := range now {
		if r.Candidate && r.Weight > had[r.Release] {
			return true
		}
	}
	return false
}

// falls says whether a candidate gets less in now than before.
func falls(now, before proxy.Route) bool {
	for _, b := range before.Revisions {
		left := 0
		for _, n := range now.Revisions {
			if n.Release == b.Release {
				left = n.Weight
			}
		}
		if b.Candidate && left < b.Weight {
			return true
		}
	}
	return false
}

func sameRoute(x, y proxy.Route) bool {
	return x.Sticky == y.Sticky && slices.EqualFunc(x.Revisions, y.Revisions, func(a, b proxy.Revision) bool {
		return a.Release == b.Release && a.Weight == b.Weight && a.Shadow == b.Shadow && a.DrainIn == b.DrainIn && a.Candidate == b.Candidate && slices.Equal(a.Instances, b.Instances)
	})
}
