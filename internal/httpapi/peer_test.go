package httpapi

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/machinetest"
)

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2207 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0000000000000000 100 0 0 10 0
   1: 0100007F:9C40 0100007F:2207 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:2207 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0000000000000000 20 4 30 10 -1
   3: 00000000000000000000000001000000:9C41 00000000000000000000000001000000:2207 01 0:0 0:0 0  1001 0 4
   4: 0000000000000000FFFF00000100007F:9C42 0000000000000000FFFF00000100007F:2207 01 0:0 0:0 0  1002 0 4
   5: 0100007F:9C43 0100007F:2207 01 0:0 0:0 0  x 0 4
   6: short
   7: 0100007F:9C44 0100007F:2207 05 0:0 0:0 0  0 0 0
`

func TestFindSocket(t *testing.T) {
	for _, c := range []struct {
		remote, local string
		uid           int
		ok            bool
	}{
		{"127.0.0.1:40000", "127.0.0.1:8711", 1000, true},
		{"[::1]:40001", "[::1]:8711", 1001, true},
		{"127.0.0.1:40002", "127.0.0.1:8711", 1002, true},
		{"[::ffff:127.0.0.1]:40000", "127.0.0.1:8711", 1000, true},
		{"127.0.0.1:40003", "127.0.0.1:8711", 0, false},
		{"127.0.0.1:40004", "127.0.0.1:8711", 0, false}, // closed: nobody's
		{"127.0.0.1:40009", "127.0.0.1:8711", 0, false},
		{"127.0.0.1:8711", "127.0.0.1:40000", 0, true},
	} {
		uid, ok := findSocket([]byte(table), netip.MustParseAddrPort(c.remote), netip.MustParseAddrPort(c.local))
		if uid != c.uid || ok != c.ok {
			t.Errorf("%s to %s: %d %t", c.remote, c.local, uid, ok)
		}
	}
	for remote, local := range map[string]string{"10.0.0.1:1": "10.0.0.2:2", "": "", "x": "127.0.0.1:1", "127.0.0.1:1": "@"} {
		if _, err := peerUID(remote, local); err == nil {
			t.Errorf("%q to %q has a user", remote, local)
		}
	}
	if a := actorOf(4_000_000); a != "local:uid-4000000" {
		t.Error(a)
	}
}

func FuzzFindSocket(f *testing.F) {
	f.Add([]byte(table), "127.0.0.1:40000")
	f.Add([]byte("0: 0100007F:FFFFF 0:0"), "[::1]:1")
	f.Fuzz(func(t *testing.T, b []byte, addr string) {
		a, err := netip.ParseAddrPort(addr)
		if err != nil {
			return
		}
		if uid, ok := findSocket(b, a, netip.MustParseAddrPort("127.0.0.1:8711")); !ok && uid != 0 {
			t.Errorf("user %d of no socket", uid)
		}
	})
}

func FuzzParseSocket(f *testing.F) {
	for _, s := range []string{"0100007F:2207", "0000000000000000FFFF00000100007F:2207", ":", "01:1", "0100007F:-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, ok := parseSocket(s); ok && (!a.IsValid() || a.Addr().Is4In6()) {
			t.Errorf("%q is %s", s, a)
		}
	})
}

// dial is a child of TestPeer: it connects, and stays until its input ends.
func dial() {
	c, err := net.Dial("tcp", os.Getenv("SLUICE_DIAL"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("connected")
	_, _ = os.Stdin.Read(make([]byte, 1))
	_ = c.Close()
	os.Exit(0)
}

// The actor is whoever holds the other end of a real connection.
func TestPeer(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("no %s here: %v", address, err)
			continue
		}
		defer l.Close()
		peer := func(name string, attr *syscall.SysProcAttr) string {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{"SLUICE_DIAL=" + l.Addr().String()}
			cmd.Dir, cmd.SysProcAttr = "/", attr
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(machinetest.Patience)); err != nil {
				t.Fatal(err)
			}
			c, err := l.Accept()
			if err != nil {
				_ = in.Close()
				_ = cmd.Wait()
				t.Fatalf("%s did not connect: %v", name, err)
			}
			got := string(Peer(c.RemoteAddr().String(), c.LocalAddr().String()))
			_ = c.Close()
			_ = in.Close()
			_ = cmd.Wait()
			return got
		}
		if runtime.GOOS != "linux" {
			t.Skip("SKIPPED: only Linux lists sockets in /proc")
		}
		if got := peer("me", nil); got != "local:"+me.Username {
			t.Errorf("%s: %q", address, got)
		}
		if os.Geteuid() != 0 {
			continue
		}
		if got := peer("another", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}); got != "local:nobody" && got != "local:uid-65534" {
			t.Errorf("another user at %s: %q", address, got)
		}
	}
	// Who is not known to have called is not named.
	if got := Peer("203.0.113.9:1", "203.0.113.1:2"); got != unknownActor {
		t.Errorf("someone at another machine is %q", got)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_ = c.Close()
	_, _ = s.Read(make([]byte, 1)) // it has gone
	if got := Peer(s.RemoteAddr().String(), s.LocalAddr().String()); got != unknownActor {
		t.Errorf("someone who closed the connection is %q", got)
	}
}
