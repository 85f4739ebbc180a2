// Package freeport finds ports for those who listen later: a service that is about to
// be started, or the agent at the end of a build. Until then nobody else who asks here
// is given them, also in another process of this machine: two that were given one port
// would answer each other's questions.
//
// A claim is an abstract Unix socket (unix(7)), which leaves no file and which the
// kernel forgets with the process. Only Linux has them: elsewhere nothing is claimed.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"syscall"
)

// Port is one that nobody listened on when it was found.
type Port struct {
	Number int
	claim  net.Listener // nil where nothing can be claimed
}

// Close lets others have the port. It may be called on nil.
func (p *Port) Close() {
	if p != nil && p.claim != nil {
		_ = p.claim.Close()
	}
}

// Find returns a port from lowest to below highest that nobody claims and nobody
// listens on, and for which but is false.
func Find(lowest, highest int, but func(port int) bool) (*Port, error) {
	for range 1000 {
		p := &Port{Number: lowest + rand.IntN(highest-lowest)}
		if but(p.Number) || !p.claimed() { // first: who has it may be about to listen
			continue
		}
		if unheard(p.Number) {
			return p, nil
		}
		p.Close()
	}
	return nil, fmt.Errorf("couldn't find a free port from %d to %d", lowest, highest)
}

// claimed reports whether the port is p's from now on. Where nothing can be claimed
// nobody is told.
func (p *Port) claimed() bool {
	if runtime.GOOS != "linux" {
		return true
	}
	l, err := net.Listen("unix", "@sluice-port-"+strconv.Itoa(p.Number))
	if err == nil {
		p.claim = l
	}
	return !errors.Is(err, syscall.EADDRINUSE)
}

// unheard reports whether nobody listens on a port. On Linux a process that is begun
// meanwhile would listen too, until it has become another program; elsewhere package
// net takes that lock itself.
func unheard(port int) bool {
	if runtime.GOOS == "linux" {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
	}
	l, err := net.Listen("tcp4", ":"+strconv.Itoa(port))
	return err == nil && l.Close() == nil
}
