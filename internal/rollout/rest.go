package rollout

import "time"

// How long a live rollout sleeps although nothing is due. What matters wakes it:
// a report that differs, a host that falls silent, a bin, a command. This bounds
// what passes between two looks, and so what a clock jump or a time without any
// control plane can add to a bake.
const (
	MovingRest = time.Second      // capacity or traffic is being moved
	BakingRest = 10 * time.Second // as long as the longest bin that is not asked for
	HeldRest   = 5 * time.Minute  // time does not count
)

// Rest is how long s may sleep at most; [NextWake] may be sooner.
func Rest(s State) time.Duration {
	switch {
	case s.Phase == Pending: // about to start
	case s.Paused.On, s.Held.On && s.Held.Cause != CauseDrift:
		return HeldRest
	case s.Phase == Baking && !s.Held.On:
		return BakingRest
	}
	return MovingRest
}
