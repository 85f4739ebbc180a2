package httpapi

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/internal/release"
)

// Peer tells which operating-system user holds the client's end of a loopback
// TCP connection. Linux lists it in /proc/net/tcp; a machine that has no such
// list says the user that runs the server, who alone can read the token file.
// Nobody is named who is not known to have called: someone at another machine,
// or who closed the connection right after the request, is unknown.
func Peer(remote, local string) release.Actor {
	uid, err := peerUID(remote, local)
	switch {
	case err == nil:
		return actorOf(uid)
	case errors.Is(err, errNoTable):
		return actorOf(os.Geteuid())
	}
	return unknownActor
}

// unknownActor is who called when that can't be told.
const unknownActor release.Actor = "local:unknown"

// errNoTable reports that this system does not list its sockets.
var errNoTable = errors.New("this system does not list its sockets")

func actorOf(uid int) release.Actor {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return release.Actor("local:" + u.Username)
	}
	return release.Actor("local:uid-" + strconv.Itoa(uid))
}

func peerUID(remote, local string) (int, error) {
	r, err := netip.ParseAddrPort(remote)
	if err != nil {
		return 0, err
	}
	l, err := netip.ParseAddrPort(local)
	if err != nil {
		return 0, err
	}
	if !r.Addr().Unmap().IsLoopback() {
		return 0, fmt.Errorf("%s is not on this machine", remote)
	}
	// The client's socket has our remote address as its local one.
	read := false
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		read = true
		if uid, ok := findSocket(b, r, l); ok {
			return uid, nil
		}
	}
	if !read {
		return 0, errNoTable
	}
	return 0, fmt.Errorf("no socket from %s to %s", remote, local)
}

// findSocket reads a table of the form of proc(5), /proc/net/tcp.
func findSocket(table []byte, local, remote netip.AddrPort) (uid int, ok bool) {
	s := bufio.NewScanner(bytes.NewReader(table))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 10 {
			continue
		}
		a, ok1 := parseSocket(f[1])
		b, ok2 := parseSocket(f[2])
		if !ok1 || !ok2 || a != unmap(local) || b != unmap(remote) {
			continue
		}
		if f[9] == "0" {
			return 0, false // nobody holds it any more, and the kernel calls its owner root
		}
		uid, err := strconv.Atoi(f[7])
		return uid, err == nil
	}
	return 0, false
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// parseSocket reads ADDRESS:PORT in hex; the address is in 32-bit words of the
// machine's byte order, which is little-endian on all that Sluice runs on.
func parseSocket(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPort{}, false
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.LittleEndian.Uint32(b[i:]))
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	addr, _ := netip.AddrFromSlice(b)
	return unmap(netip.AddrPortFrom(addr, uint16(p))), true
}
