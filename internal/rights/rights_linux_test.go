package rights

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("RIGHTS_DROP") != "" { // as a stage does
		if err := Drop(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		_ = unix.Exec("/bin/cat", []string{"cat", "/proc/self/status"}, nil)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// What runs after Drop has nothing, and can gain nothing.
func TestDrop(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root has something to drop: run the tests as root")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{"RIGHTS_DROP=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestUser(t *testing.T) {
	uid, gid := User(1_900_000_000)
	switch {
	case os.Geteuid() != 0 && (uid != os.Geteuid() || gid != os.Getegid()):
		t.Errorf("an ordinary user gives %d:%d", uid, gid)
	case os.Geteuid() == 0 && Exists(nobody) && (uid == 0 || gid == 0):
		t.Errorf("root gives %d:%d", uid, gid)
	}
}

func TestMapped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "uid_map")
	if err := os.WriteFile(file, []byte("         0     100000      65536\n 70000 5 1\nodd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int]bool{0: true, 65535: true, 65536: false, 69999: false, 70000: true, 70001: false, -1: false} {
		if got := mapped(file, id); got != want {
			t.Errorf("%d: %t", id, got)
		}
	}
	if mapped(file+".gone", 0) {
		t.Error("a file that is not there maps users")
	}
}
