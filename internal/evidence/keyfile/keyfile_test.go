package keyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/evidence/keyfile"
)

func TestKeysAreMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	a, err := keyfile.LoadOrCreateRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := keyfile.LoadOrCreateRing(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range a.Public() {
		if k.ID != b.Public()[i].ID {
			t.Errorf("the %s key changed", k.Purpose)
		}
		st, err := os.Stat(filepath.Join(dir, string(k.Purpose)+".pem"))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", k.Purpose, st, err)
		}
	}
	if len(a.Public()) != 3 {
		t.Errorf("%d keys, want 3", len(a.Public()))
	}
	files, _ := os.ReadDir(dir)
	if len(files) != 3 {
		t.Errorf("something is left beside the keys: %v", files)
	}
}

// Many start at once in an empty folder: all of them use one key.
func TestOfManyWhoMakeAKeyOneDoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "statements.pem")
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			k, err := keyfile.LoadOrCreateKey(path, evidence.PurposeStatements)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = k.Public().ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two keys were used: %v", ids)
		}
	}
}

func TestAKeyThatOthersCouldReadIsRefusedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "statements.pem")
	if _, err := keyfile.LoadOrCreateKey(path, evidence.PurposeStatements); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := keyfile.LoadOrCreateKey(path, evidence.PurposeStatements)
		if !errors.Is(err, keyfile.ErrMode) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the key was replaced")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.LoadKey(path, evidence.PurposeStatements); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoKeyIsNeverReplaced(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "", "text": "hello", "large": strings.Repeat("x", 1<<20)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keyfile.LoadOrCreateKey(path, evidence.PurposeStatements); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(path); string(b) != content {
			t.Errorf("%s was replaced", name)
		}
	}
	if _, err := keyfile.LoadOrCreateKey(dir, evidence.PurposeStatements); err == nil {
		t.Error("a folder was read as a key")
	}
	if _, err := keyfile.LoadOrCreateKey(filepath.Join(dir, "no", "such", "folder"), evidence.PurposeStatements); err == nil {
		t.Error("a key was made nowhere")
	}
	if _, err := keyfile.LoadKey(filepath.Join(dir, "none"), evidence.PurposeStatements); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
