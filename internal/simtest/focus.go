package simtest

import (
	"time"

	"github.com/sluicehq/sluice/internal/rollout"
)

// cell is one of the coverage table. Each seed is after one, beside whatever else
// goes wrong in it: what passes quickly would hardly ever be struck by chance.
type cell struct {
	fault Fault
	phase rollout.Phase
}

func cellOf(seed uint64) cell {
	n := uint64(nFaults)
	return cell{Fault(seed % n), columns[seed/n%uint64(len(columns))]}
}

// struck reports whether the seed's own cell was, or can't be.
func (s *sim) struck() bool {
	c := s.cover[s.focus.fault]
	if impossible(s.focus.fault, s.focus.phase) {
		return true
	}
	for i, p := range columns {
		if p == s.focus.phase {
			return c != nil && c[i] > 0
		}
	}
	return true
}

// ofWorld are the faults that strike by themselves, and not at a point of a turn
// or of a message.
var ofWorld = []Fault{driftFault, metricGap, clockForward, clockBack, routerDown, routerRestart, instanceDies, candidateFails, commandStale, commandTwice, secondStart, wrongAddress}

// ofEffects are the faults that need an effect under way.
func ofEffects(f Fault) bool {
	switch f {
	case crashBeforeEffect, crashAfterEffect, crashBeforeOutcome, crashAfterOutcome, answerOfEffect, desiredLost, desiredLate:
		return true
	}
	return false
}

// phaseChanged lets mischief look at phases that pass quickly, and sets the scene
// for the seed's cell.
func (s *sim) phaseChanged() {
	if s.healed {
		return
	}
	here := s.phase() == s.focus.phase
	if here || s.chance(0.3) {
		s.chaos = min(s.chaos, s.now+s.dur(0, 5*time.Millisecond))
	}
	l := s.store.live()
	switch {
	case l == nil:
	case s.focus.phase == rollout.Finishing && l.state.Weight == rollout.FullWeight && !here:
		// It is finishing for a while only if the candidate is not ready then.
		s.strike(instanceDies)
		s.disturbed = true
		for _, r := range s.routers {
			if v := r.find(l.rel); v != nil {
				s.traffic(r)
				v.have, v.ready, r.tell = 0, s.now+s.dur(10*time.Second, 40*time.Second), s.now
			}
		}
	case here && ofEffects(s.focus.fault) && l.state.Phase != rollout.Pending && l.state.Phase != rollout.Preparing:
		// What is put back is an effect.
		s.strike(driftFault)
		if s.fleet != nil {
			s.strays()
		} else {
			s.drifts(one(s, s.routers...))
		}
	}
}

// drifts lets somebody else set the candidate's weight, or start a release on a host.
func (s *sim) drifts(r *router) {
	s.traffic(r)
	if !s.unfenced && s.chance(0.3) {
		r.strange, r.tell = true, s.now
		s.say("somebody starts a release on %s", r.name)
		return
	}
	w := one(s, 0, 100, 500, 2500, 5000, rollout.FullWeight)
	r.drift, r.tell = &w, s.now
	s.effect(r)
	s.say("somebody sets the candidate's weight on %s to %d", r.name, w)
}
