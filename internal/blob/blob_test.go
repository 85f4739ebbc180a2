package blob_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/sluicehq/sluice/internal/blob"
	"github.com/sluicehq/sluice/internal/release"
)

func open(t *testing.T, root string, max int64) *blob.Dir {
	t.Helper()
	d, err := blob.Open(root, max)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// files lists what is in root.
func files(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPutOpenDelete(t *testing.T) {
	root := filepath.Join(t.TempDir(), "blobs")
	d := open(t, root, 0)
	for _, content := range []string{"", "a log", strings.Repeat("0123456789", 100_000)} {
		digest, n, err := d.Put(t.Context(), iotest.DataErrReader(iotest.HalfReader(strings.NewReader(content))))
		if err != nil || digest != release.DigestOf([]byte(content)) || n != int64(len(content)) {
			t.Fatalf("put %d bytes: %s %d %v", len(content), digest, n, err)
		}
		d = open(t, root, 0) // a restart
		r, err := d.Open(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != content {
			t.Errorf("read %d bytes of %d, %v", len(got), len(content), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		for range 2 { // the second time it is gone already
			if err := d.Delete(t.Context(), digest); err != nil {
				t.Error(err)
			}
		}
		if _, err := d.Open(t.Context(), digest); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("opened a deleted blob: %v", err)
		}
	}
	if left := files(t, root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAlteredBlobIsNoticedAndMended(t *testing.T) {
	root := t.TempDir()
	d := open(t, root, 0)
	content := strings.Repeat("evidence ", 10_000)
	digest, _, err := d.Put(t.Context(), strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	path := files(t, root)[0]
	for name, altered := range map[string]string{"changed": "x" + content[1:], "cut": content[:5000], "longer": content + "!", "empty": ""} {
		if err := os.WriteFile(path, []byte(altered), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := d.Open(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, r)
		if !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: read to the end with %v", name, err)
		}
		if _, again := r.Read(make([]byte, 1)); !errors.Is(again, blob.ErrCorrupt) {
			t.Errorf("%s: read on with %v", name, again)
		}
		_ = r.Close()
	}
	if _, _, err := d.Put(t.Context(), strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	r, err := d.Open(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("put again, and still %v", err)
	}
}

func TestFailedPutLeavesNothing(t *testing.T) {
	root := t.TempDir()
	d := open(t, root, 10)
	if _, _, err := d.Put(t.Context(), strings.NewReader("0123456789")); err != nil {
		t.Errorf("as large as it may be: %v", err)
	}
	before := len(files(t, root))
	if _, _, err := d.Put(t.Context(), strings.NewReader("0123456789X")); !errors.Is(err, blob.ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
	boom := errors.New("boom")
	if _, _, err := d.Put(t.Context(), io.MultiReader(strings.NewReader("012"), iotest.ErrReader(boom))); !errors.Is(err, boom) {
		t.Errorf("a reader that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := d.Put(ctx, strings.NewReader("012")); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
	if after := len(files(t, root)); after != before {
		t.Errorf("%d files became %d", before, after)
	}
}

func TestCrashInTheMiddle(t *testing.T) {
	root := t.TempDir()
	open(t, root, 0)
	if err := os.WriteFile(filepath.Join(root, "tmp", "put-1234"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, root, 0)
	if left := files(t, root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSameContentAtOnce(t *testing.T) {
	root := t.TempDir()
	d := open(t, root, 0)
	content := strings.Repeat("same ", 5000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			digest, _, err := d.Put(t.Context(), strings.NewReader(content))
			if err != nil {
				t.Error(err)
				return
			}
			r, err := d.Open(t.Context(), digest)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all := files(t, root); len(all) != 1 {
		t.Errorf("files: %v", all)
	}
}

// A digest comes from outside and becomes a path.
func FuzzDigestIsNoPath(f *testing.F) {
	for _, s := range []string{"", "sha256:", "sha256:../../../etc/passwd", "../x", "sha256:" + strings.Repeat("a", 63) + "/", "sha256:" + strings.Repeat("A", 64), "sha512:" + strings.Repeat("a", 64)} {
		f.Add(s)
	}
	root := f.TempDir()
	outside := filepath.Join(root, "outside")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		f.Fatal(err)
	}
	d, err := blob.Open(filepath.Join(root, "blobs"), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := d.Open(t.Context(), release.Digest(s)); err == nil {
			_ = r.Close()
			t.Errorf("opened %q", s)
		}
		_ = d.Delete(t.Context(), release.Digest(s))
		if _, err := os.Stat(outside); err != nil {
			t.Fatalf("%q deleted a file outside: %v", s, err)
		}
	})
}
