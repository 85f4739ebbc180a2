package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// handmade writes an archive entry by entry in our own form, without asking
// whether Pack would.
func handmade(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	for _, e := range entries {
		content := strings.Repeat("x", int(e.size))
		if err := writeHeader(&b, e); err != nil {
			tb.Fatal(err)
		}
		b.WriteString(content + padding(e.size))
	}
	if err := writeEnd(&b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func foreign(tb testing.TB, headers ...tar.Header) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func file(name string, size int64) entry { return entry{name: name, kind: kindFile, size: size} }
func folder(name string) entry           { return entry{name: name, kind: kindDir} }
func symlink(name, to string) entry      { return entry{name: name, kind: kindSymlink, target: to} }

// evil are archives that must be refused, by what is wrong with them.
func evil(tb testing.TB) map[string][]byte {
	good := handmade(tb, folder("d"), file("d/f", 700))
	twisted := bytes.Clone(good)
	twisted[2*blockSize+700] = 1 // padding behind the content
	return map[string][]byte{
		"nothing":                 {},
		"text":                    []byte(strings.Repeat("not a tar ", 200)),
		"cut in a header":         good[:blockSize/2],
		"cut in the content":      good[:2*blockSize+300],
		"cut in the padding":      good[:2*blockSize+700],
		"cut before the end mark": good[:len(good)-2*blockSize],
		"cut in the end mark":     good[:len(good)-blockSize],
		"a byte behind the end":   append(bytes.Clone(good), 0),
		"an archive behind":       append(bytes.Clone(good), good...),
		"dirt in the padding":     twisted,
		"parent path":             handmade(tb, file("../x", 1)),
		"inner parent path":       handmade(tb, file("a/../../x", 1)),
		"absolute path":           handmade(tb, file("/tmp/x", 1)),
		"the tree itself":         handmade(tb, folder(".")),
		"no name":                 handmade(tb, file("", 0)),
		"double slash":            handmade(tb, folder("a"), file("a//b", 1)),
		"name too long":           handmade(tb, file(strings.Repeat("n", 300), 1)),
		"twice":                   handmade(tb, file("a", 1), file("a", 1)),
		"folder and file":         handmade(tb, folder("a"), file("a", 1)),
		"out of order":            handmade(tb, file("b", 1), file("a", 1)),
		"without its folder":      handmade(tb, file("a/b", 1)),
		"through a link":          handmade(tb, folder("a"), symlink("b", "a"), file("b/c", 1)),
		"link out":                handmade(tb, symlink("a", "../x")),
		"absolute link":           handmade(tb, symlink("a", "/etc")),
		"link by detour":          handmade(tb, folder("a"), symlink("a/up", ".."), symlink("b", "a/up/..")),
		"empty link":              handmade(tb, symlink("a", "")),
		"other modes":             foreign(tb, tar.Header{Name: "a", Mode: 0o4755, Size: 1, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}),
		"an owner":                foreign(tb, tar.Header{Name: "a", Mode: 0o644, Uid: 1000, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}),
		"a time":                  foreign(tb, tar.Header{Name: "a", Mode: 0o644, ModTime: time.Unix(1e9, 0), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}),
		"extra records":           foreign(tb, tar.Header{Name: "a", Mode: 0o644, Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "1"}}),
		"another dialect":         foreign(tb, tar.Header{Name: "a", Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatGNU}),
		"hard link":               foreign(tb, tar.Header{Name: "a", Mode: 0o644, Size: 1, Typeflag: tar.TypeReg}, tar.Header{Name: "b", Linkname: "a", Typeflag: tar.TypeLink}),
		"device":                  foreign(tb, tar.Header{Name: "a", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		"pipe":                    foreign(tb, tar.Header{Name: "a", Typeflag: tar.TypeFifo}),
	}
}

func TestUnpackRefuses(t *testing.T) {
	for name, archive := range evil(t) {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			err := Unpack(bytes.NewReader(archive), filepath.Join(parent, "out"), Limits{})
			if !errors.Is(err, ErrAltered) {
				t.Errorf("error is %v, want an ErrAltered", err)
			}
			assertEmpty(t, parent)
		})
	}
}

func TestUnpackLimits(t *testing.T) {
	bomb := make([]byte, blockSize)
	h := header("bomb", kindFile, 0o644, maxOctal, "")
	copy(bomb, h[:])
	for name, test := range map[string]struct {
		archive io.Reader
		lim     Limits
		says    string
	}{
		"files":             {bytes.NewReader(handmade(t, file("a", 0), file("b", 0), file("c", 0))), Limits{Files: 2}, "more than 2 files"},
		"bytes":             {bytes.NewReader(handmade(t, file("a", 600), file("b", 600))), Limits{Bytes: 1000}, "more than 1000 bytes"},
		"a size said":       {bytes.NewReader(bomb), Limits{Bytes: 1000}, "more than 1000 bytes"},
		"a size said twice": {bytes.NewReader(handmade(t, file("a", 1000), file("b", 1))), Limits{Bytes: 1000}, "more than 1000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			err := Unpack(test.archive, filepath.Join(parent, "out"), test.lim)
			if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error is %v, want %q", err, test.says)
			}
			assertEmpty(t, parent)
		})
	}
}

// An endless stream of nothing must not be read for ever.
func TestUnpackStopsReading(t *testing.T) {
	parent := t.TempDir()
	read := &counting{r: endless{}}
	if err := Unpack(read, filepath.Join(parent, "out"), Limits{Files: 10, Bytes: 1000}); !errors.Is(err, ErrAltered) {
		t.Errorf("error is %v", err)
	}
	if read.n > 1<<20 {
		t.Errorf("%d bytes were read", read.n)
	}
	assertEmpty(t, parent)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func TestUnpackGivesTheTree(t *testing.T) {
	_, archive := packTree(t, sample)
	dir := filepath.Join(t.TempDir(), "out")
	if err := Unpack(iotest.OneByteReader(bytes.NewReader(archive)), dir, Limits{}); err != nil {
		t.Fatal(err)
	}
	for name, content := range sample {
		at := filepath.Join(dir, name)
		info, err := os.Lstat(at)
		if err != nil {
			t.Error(err)
			continue
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			if got, err := os.Readlink(at); err != nil || got != target {
				t.Errorf("%s points to %q (%v), want %q", name, got, err, target)
			}
			continue
		}
		if strings.HasSuffix(name, "/") {
			if !info.IsDir() {
				t.Errorf("%s is not a folder", name)
			}
			continue
		}
		if got, err := os.ReadFile(at); err != nil || string(got) != content {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, content)
		}
		if executable := info.Mode()&0o111 != 0; executable != strings.HasPrefix(content, "#!") {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestUnpackDoesNotReplace(t *testing.T) {
	_, archive := packTree(t, sample)
	dir := t.TempDir()
	if err := Unpack(bytes.NewReader(archive), dir, Limits{}); !errors.Is(err, ErrExists) {
		t.Errorf("error is %v, want ErrExists", err)
	}
	assertEmpty(t, dir)
}

// A reader that fails is not an altered archive: trying again may help.
func TestUnpackKeepsTheReadersError(t *testing.T) {
	_, archive := packTree(t, sample)
	for _, n := range []int{0, 100, 512, 700, 3000, len(archive) - 600, len(archive) - 1} {
		parent := t.TempDir()
		broken := io.MultiReader(bytes.NewReader(archive[:n]), iotest.ErrReader(ErrUnavailable))
		err := Unpack(broken, filepath.Join(parent, "out"), Limits{})
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrAltered) {
			t.Errorf("broken off after %d bytes: error is %v, want only ErrUnavailable", n, err)
		}
		assertEmpty(t, parent)
	}
}

func TestSweep(t *testing.T) {
	parent := t.TempDir()
	for _, name := range []string{unpackPrefix + "out-1/a/b", "kept"} {
		if err := os.MkdirAll(filepath.Join(parent, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(parent); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) != 1 || entries[0].Name() != "kept" {
		t.Errorf("left are %v (%v), want only kept", entries, err)
	}
}

func TestWalksBefore(t *testing.T) {
	ordered := []string{"a", "a/b", "a/b/c", "a/b.c", "a-b", "a.txt", "b"}
	for i, a := range ordered {
		for j, b := range ordered {
			// "a" holds "a/b", so a walk visits it before its sibling "a-b".
			if got := walksBefore(a, b); got != (i < j) {
				t.Errorf("walksBefore(%q, %q) = %v", a, b, got)
			}
		}
	}
}

// Whatever comes in: nothing is written outside, nothing is left behind, and
// what is accepted is exactly what Pack would have written.
func FuzzUnpack(f *testing.F) {
	for _, archive := range evil(f) {
		f.Add(archive)
	}
	_, good := packTree(f, sample)
	f.Add(good)
	f.Add(handmade(f))
	f.Fuzz(func(t *testing.T, archive []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "in", "out")
		if err := os.Mkdir(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		err := Unpack(bytes.NewReader(archive), dir, Limits{Files: 100, Bytes: 1 << 20})
		if err != nil {
			assertEmpty(t, filepath.Dir(dir))
		} else {
			root := openRoot(t, dir)
			var again bytes.Buffer
			if _, err := Pack(context.Background(), &again, root, ".", Limits{}); err != nil {
				t.Fatalf("what was unpacked can't be packed: %v", err)
			}
			if !bytes.Equal(again.Bytes(), archive) {
				t.Error("an archive was accepted that Pack would not have written")
			}
		}
		entries, err := os.ReadDir(parent)
		if err != nil || len(entries) != 1 {
			t.Errorf("something was written outside: %v (%v)", entries, err)
		}
	})
}
