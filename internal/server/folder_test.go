package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A data folder is closed to other users, also one that was there before, and one
// of another user is not taken: they may know its token and keys.
func TestPrepare(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Folder(dir).prepare(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, Folder(dir).secrets()} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", d, info, err)
		}
	}
	if os.Geteuid() != 0 {
		return // only root can make a folder of another user, and change it
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := Folder(dir).prepare(); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("another user's folder: %v", err)
	}
}
