package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An agent that comes back waits for what the one before left holding its lock, and
// for who only asks whether somebody has it; not for an agent that lives.
func TestLockOfWhoIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), lockFile)
	hold := func(pid, how int) *os.File {
		t.Helper()
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Flock(int(f.Fd()), how); err != nil {
			t.Fatal(err)
		}
		if pid > 0 {
			fmt.Fprintln(f, pid)
		}
		return f
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ pid, how int }{{gone.Process.Pid, syscall.LOCK_EX}, {gone.Process.Pid, syscall.LOCK_SH}, {0, syscall.LOCK_SH}} {
		left := hold(c.pid, c.how)
		time.AfterFunc(100*time.Millisecond, func() { _ = left.Close() })
		f, err := lock(path)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if pid := notedPID(f); pid != os.Getpid() {
			t.Errorf("it is said to be of process %d", pid)
		}
		_ = f.Close()
	}
	defer hold(os.Getpid(), syscall.LOCK_EX).Close()
	if _, err := lock(path); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("the lock of a process that lives: %v", err)
	}
}
