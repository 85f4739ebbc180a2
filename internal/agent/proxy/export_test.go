package proxy

// WithoutSession is what a service gets of a Cookie header.
func WithoutSession(list []byte) []byte { return withoutSession(list) }

// ShadowsOpen is how many copies are under way.
func (s *Server) ShadowsOpen() int { return len(s.slots) }
