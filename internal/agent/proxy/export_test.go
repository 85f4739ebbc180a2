package proxy

import "time"

// WithoutSession is what a service gets of a Cookie header.
func WithoutSession(list []byte) []byte { return withoutSession(list) }

// ShadowsOpen is how many copies are under way.
func (s *Server) ShadowsOpen() int { return len(s.slots) }

// Asking waits so long for an instance that says nothing when it is asked whether it
// speaks HTTP/2, and asks it again at once.
func (o Options) Asking(in time.Duration) Options {
	o.probeIn, o.askAgain = in, time.Nanosecond
	return o
}
