package rights

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nobody is what containers with few users still map.
const nobody = 65533

// User returns the uid and gid that a root caller gives to a process: id where it
// exists, else one that owns nothing. A caller that is not root has its own to give.
func User(id int) (uid, gid int) {
	if uid, gid = os.Geteuid(), os.Getegid(); uid != 0 {
		return uid, gid
	}
	for _, id := range []int{id, nobody} {
		if Exists(id) {
			return id, id
		}
	}
	return uid, gid // the root of a container that has no other user
}

// Exists reports whether id is a user and a group in this process's user namespace.
func Exists(id int) bool {
	return mapped("/proc/self/uid_map", id) && mapped("/proc/self/gid_map", id)
}

func mapped(file string, id int) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		first, err1 := strconv.Atoi(f[0])
		n, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && id >= first && id-first < n {
			return true
		}
	}
	return false
}

// Protect adds attributes (unix.MOUNT_ATTR_…) to the mount at path; with the flag
// unix.AT_RECURSIVE also to those below it.
func Protect(path string, flags uint, attr uint64) error {
	err := unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: attr})
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("couldn't protect %s: this kernel is older than Linux 5.12: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("couldn't protect %s: %w", path, err)
	}
	return nil
}

// Drop leaves this thread without capabilities, now and after any exec.
func Drop() error {
	for c := uintptr(0); c <= 63; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if errors.Is(err, unix.EINVAL) {
				break // past the last one that this kernel knows
			}
			return fmt.Errorf("couldn't drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("couldn't drop ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("couldn't forbid new privileges: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		return fmt.Errorf("couldn't drop capabilities: %w", err)
	}
	return nil
}
