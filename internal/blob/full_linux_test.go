package blob_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64k"); err != nil {
		skip := t.Skipf
		if strings.Contains(os.Getenv("SLUICE_REQUIRE"), "userns") {
			skip = t.Fatalf
		}
		skip("SKIPPED: couldn't mount a small disk: %v", err)
	}
	defer func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	}()
	d := open(t, root, 0)
	if _, _, err := d.Put(t.Context(), bytes.NewReader(make([]byte, 1<<20))); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	if left := files(t, root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, _, err := d.Put(t.Context(), strings.NewReader("small")); err != nil {
		t.Errorf("a small one fits: %v", err)
	}
}
