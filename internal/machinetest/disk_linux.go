package machinetest

import (
	"syscall"
	"testing"
)

// SmallDisk mounts a disk of a size, as 64k or 4m, until the test ends.
func SmallDisk(t testing.TB, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=0700"); err != nil {
		Lacks(t, Namespaces, "NOT TESTED WITH A FULL DISK: couldn't mount a small one (run the tests as root, or by unshare -Urm): %v", err)
	}
	t.Cleanup(func() {
		var err error
		if !Eventually(func() bool { err = syscall.Unmount(dir, 0); return err == nil }) { // who looks at all of /tmp uses it for a moment
			t.Errorf("something uses the small disk still: %v", err)
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
	return dir
}
