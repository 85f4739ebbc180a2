// Package porttest gives tests the ports they need before anybody listens on them.
//
// A port that the system picks (":0") and that is let go again belongs to the range
// from which it serves outgoing connections too, and the whole test run makes
// thousands of those: somebody else may have it a moment later. Free picks below
// that range, where only who asks for a port by number gets it, and no two
// processes of a test run the same: also while nobody listens there. Refused keeps
// its port bound and never listens, so that nobody else can.
package porttest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// The demo picks from 16000 to 20000, the agent's instances from there to 32000; Linux serves
// outgoing connections from 32768 on (net.ipv4.ip_local_port_range).
const lowest, highest = 10000, 16000

var (
	mu    sync.Mutex
	given = map[int]bool{}
)

// claims is a file of which each process locks the byte of every port that it was
// given. The system lets the locks go when the process ends, however it ends.
var claims = sync.OnceValues(func() (*os.File, error) {
	return os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprint("sluice-test-ports-", os.Getuid())), os.O_RDWR|os.O_CREATE, 0o600)
})

// claimed reports whether a port is this process's from now on. Where nothing can
// be locked it is: no other process is told of it.
func claimed(port int) bool {
	f, err := claims()
	if err != nil {
		return true
	}
	l := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: int64(port), Len: 1}
	err = syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &l)
	return err != syscall.EAGAIN && err != syscall.EACCES
}

// unheard reports whether nobody listens on a port. A process that was begun meanwhile
// would listen too, until it has become another program. (On Linux, package net takes
// no such lock itself.)
func unheard(p int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l, err := net.Listen("tcp", ":"+strconv.Itoa(p))
	return err == nil && l.Close() == nil
}

// failer is what tests and test scripts have in common.
type failer interface {
	Fatalf(format string, args ...any)
}

// Free returns a loopback address that nobody listens on. No other call in this
// process, or in another one as long as this one lives, returns it.
func Free(t failer) string {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		p := lowest + rand.IntN(highest-lowest)
		if given[p] {
			continue
		}
		given[p] = true                 // also if it is somebody else's: it stays that for long
		if !claimed(p) || !unheard(p) { // in this order: who has it may be about to listen
			continue
		}
		return "127.0.0.1:" + strconv.Itoa(p)
	}
	t.Fatalf("couldn't find a free port from %d to %d", lowest, highest)
	return ""
}

// Refused returns a loopback address at which each connection is refused until the
// test ends.
func Refused(t testing.TB) string {
	t.Helper()
	syscall.ForkLock.RLock() // or a process that is begun meanwhile would keep the port
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(s)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(s) })
	if err := syscall.Bind(s, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(s)
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
}
