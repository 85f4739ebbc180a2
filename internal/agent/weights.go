package agent

import "github.com/sluicehq/sluice/internal/release"

// share is a revision's part of the traffic, in basis points.
type share struct {
	release   release.ID
	weight    int
	candidate bool
}

// inEffect decides which weights apply now: the wanted ones, as far as the
// revisions can serve. have are those in effect.
//
//   - A candidate that can't serve yet gets nothing; its part goes to a stable
//     revision that can.
//   - When another revision can't serve yet, all stays as it is, so that old capacity
//     goes only when the new one is there. When nothing is in effect that could
//     serve, the wanted weights apply: what can't be served is answered 503.
//   - Without contact no candidate's weight rises over what it was granted: what it
//     has had in effect, with contact, since more was last wanted for it.
//
// "Can serve" is about having been ready once. A revision that crashed later keeps
// its weight: its failures are counted, not hidden.
func inEffect(want, have []share, granted map[release.ID]int, canServe func(release.ID) bool, contact bool) []share {
	out := append([]share(nil), want...)
	stable := -1 // a revision that can take what others must not
	blocked, blockedStable := false, false
	for i, w := range want {
		ok := canServe(w.release)
		if w.weight > 0 && !ok {
			blocked = true
			blockedStable = blockedStable || !w.candidate
		}
		if ok && !w.candidate && (stable < 0 || w.weight > want[stable].weight) {
			stable = i
		}
	}
	switch {
	case blocked && (blockedStable || stable < 0):
		for _, h := range have {
			if h.weight > 0 && canServe(h.release) {
				return have
			}
		}
		if contact {
			return out
		}
	case blocked:
		for i, w := range want {
			if w.candidate && w.weight > 0 && !canServe(w.release) {
				out[stable].weight += w.weight
				out[i].weight = 0
			}
		}
	}
	if contact {
		return out
	}
	for i, w := range out {
		if !w.candidate {
			continue
		}
		had := granted[w.release]
		if w.weight <= had {
			continue
		}
		if stable < 0 {
			return have
		}
		out[stable].weight += w.weight - had
		out[i].weight = had
	}
	return out
}

// grant returns what candidates are granted after effect came into effect: never
// more than is wanted, and more than before only with contact.
func grant(want, effect []share, before map[release.ID]int, contact bool) map[release.ID]int {
	out := make(map[release.ID]int)
	for _, w := range want {
		if !w.candidate {
			continue
		}
		g := min(before[w.release], w.weight)
		for _, e := range effect {
			if contact && e.release == w.release {
				g = max(g, min(e.weight, w.weight))
			}
		}
		if g > 0 {
			out[w.release] = g
		}
	}
	return out
}
