package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process that was killed while it started another one has left its lock to that
// one, until it becomes another program. That is waited for; a living holder is
// not.
func TestLockOfWhoIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice.db")
	const forever = time.Hour // whoever is waited for in vain is found by the test's own timeout
	hold := func(pid int) *os.File {
		f, err := os.Create(path + ".lock")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, `{"pid":%d}`, pid)
		return f
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	left := hold(gone.Process.Pid)
	time.AfterFunc(100*time.Millisecond, func() { _ = left.Close() })
	l, err := lockFile(path, lockInfo{PID: os.Getpid()}, forever)
	if err != nil {
		t.Fatalf("the lock of a process that is gone: %v", err)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}

	f := hold(os.Getpid())
	defer f.Close()
	var locked *LockedError
	if _, err := lockFile(path, lockInfo{}, forever); !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("the lock of a process that lives: %v", err)
	}
}
