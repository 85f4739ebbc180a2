package blob_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/machinetest"
)

func TestFullDisk(t *testing.T) {
	root := machinetest.SmallDisk(t, "64k")
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
