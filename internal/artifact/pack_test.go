package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/release"
)

// tree is a description of files: name to content. A name that ends in "/" is a
// folder; content that starts with "-> " is a symlink; with "#!" an executable.
type tree map[string]string

// write makes the tree in dir, in the order given.
func (t tree) write(tb fataler, dir string, order []string) {
	must := func(err error) {
		if err != nil {
			tb.Fatalf("%v", err)
		}
	}
	for _, name := range order {
		content, at := t[name], filepath.Join(dir, name)
		must(os.MkdirAll(filepath.Dir(at), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			must(os.Symlink(target, at))
		} else if strings.HasSuffix(name, "/") {
			must(os.MkdirAll(at, 0o755))
		} else {
			must(os.WriteFile(at, []byte(content), 0o644))
			if strings.HasPrefix(content, "#!") {
				must(os.Chmod(at, 0o755))
			}
		}
	}
}

func (t tree) names() []string {
	var names []string
	for name := range t {
		names = append(names, name)
	}
	return names
}

type fataler interface{ Fatalf(string, ...any) }

func openRoot(tb testing.TB, dir string) *os.Root {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { root.Close() })
	return root
}

func packTree(tb testing.TB, t tree) (Packed, []byte) {
	tb.Helper()
	dir := tb.TempDir()
	t.write(tb, dir, t.names())
	return packDir(tb, dir)
}

func packDir(tb testing.TB, dir string) (Packed, []byte) {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	p, err := Pack(context.Background(), &b, root, ".", Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return p, b.Bytes()
}

var sample = tree{
	"bin/server":                        "#!/bin/sh\necho hello\n",
	"bin/current":                       "-> server",
	"conf/app.yaml":                     "a: 1\n",
	"empty/":                            "",
	"grüße.txt":                         "umlaut",
	"deep/a/b/c/link":                   "-> ../../../../conf/app.yaml",
	strings.Repeat("long", 40):          "a name over 100 bytes",
	"z":                                 strings.Repeat("x", 1024),
	"a-b":                               "sorts before a/ by bytes, but a walk comes to a first",
	"a/b":                               "",
	"links/" + strings.Repeat("l", 120): "-> " + strings.Repeat("t", 120),
}

// The digest of a known tree must never change: every release made so far, and
// every rollback to it, depends on it. If this fails, the change is wrong, not
// the test.
func TestGolden(t *testing.T) {
	p, b := packTree(t, sample)
	const want = "sha256:cf491d7718915b6045104292772bb3e27e14a359381520fa31b730839643b10e"
	if p.Digest != want {
		t.Errorf("digest of the sample tree is %s, want %s", p.Digest, want)
	}
	if p.Digest != release.DigestOf(b) || p.Size != int64(len(b)) {
		t.Errorf("Packed says %s and %d bytes; written were %s and %d", p.Digest, p.Size, release.DigestOf(b), len(b))
	}
	if p.Files != 19 {
		t.Errorf("Files = %d, want 19", p.Files)
	}
}

// Standard tools must be able to read what we write.
func TestArchiveIsATar(t *testing.T) {
	_, b := packTree(t, sample)
	tr := tar.NewReader(bytes.NewReader(b))
	got := tree{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			content = []byte("-> " + h.Linkname)
		case tar.TypeReg:
			if (h.Mode == 0o755) != strings.HasPrefix(string(content), "#!") {
				t.Errorf("%s has mode %o", h.Name, h.Mode)
			}
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s has an owner or a time: %+v", h.Name, h)
		}
		got[h.Name] = string(content)
	}
	for name, content := range sample {
		if c, ok := got[name]; !ok || c != content {
			t.Errorf("%s: got %q (there: %v), want %q", name, c, ok, content)
		}
	}
}

// Sizes that don't fit a plain header get a record that archive/tar agrees with.
func TestHugeSizeHeader(t *testing.T) {
	for _, size := range []int64{0, 1, maxOctal, maxOctal + 1, 1 << 40} {
		var b bytes.Buffer
		if err := writeHeader(&b, entry{name: "f", kind: kindFile, size: size}); err != nil {
			t.Fatal(err)
		}
		h, err := tar.NewReader(&b).Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Size != size {
			t.Errorf("size %d is read back as %d", size, h.Size)
		}
	}
}

func TestPAXRecordCountsItself(t *testing.T) {
	for n := range 1200 {
		r := paxRecord("path", strings.Repeat("x", n))
		var said int
		if _, err := fmt.Sscanf(r, "%d ", &said); err != nil || said != len(r) {
			t.Fatalf("record of %d bytes says %d", len(r), said)
		}
	}
}

func drawTree(t *rapid.T) tree {
	part := rapid.StringMatching(`[a-zA-Zé._-]{1,3}|[a-z]{90,110}`).Filter(func(s string) bool { return s != "." && s != ".." })
	made := tree{}
	for range rapid.IntRange(0, 12).Draw(t, "entries") {
		name := path.Join(rapid.SliceOfN(part, 1, 4).Draw(t, "name")...)
		content := rapid.OneOf(
			rapid.String(),
			rapid.StringMatching(`#![a-z]{0,600}`),
			rapid.Map(part, func(s string) string { return "-> " + s }),
		).Draw(t, "content")
		if strings.HasPrefix(content, "-> ") {
			for range rapid.IntRange(0, strings.Count(name, "/")).Draw(t, "up") {
				content = "-> ../" + content[3:]
			}
		}
		if rapid.IntRange(0, 5).Draw(t, "folder") == 0 {
			name, content = name+"/", ""
		}
		made[name] = content
	}
	// One name must not be both a file and a folder of another.
	for name := range made {
		for other := range made {
			if other != name && strings.HasPrefix(other, strings.TrimSuffix(name, "/")+"/") && !strings.HasSuffix(name, "/") || other == name+"/" {
				delete(made, name)
			}
		}
	}
	return made
}

// Order of creation, times, permissions beyond "executable" and links between
// names don't matter; and unpacking gives back what was packed.
func TestPackProperties(t *testing.T) {
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		dir := func(kind string) string { return filepath.Join(base, fmt.Sprint(kind, n)) }
		pack := func(dir string) (Packed, []byte) {
			root, err := os.OpenRoot(dir)
			if err != nil {
				r.Fatalf("%v", err)
			}
			defer root.Close()
			var b bytes.Buffer
			p, err := Pack(context.Background(), &b, root, ".", Limits{})
			if err != nil {
				r.Fatalf("couldn't pack %q: %v", dir, err)
			}
			return p, b.Bytes()
		}
		made := drawTree(r)
		names := rapid.Permutation(made.names()).Draw(r, "order")
		for _, d := range []string{dir("a"), dir("b")} {
			if err := os.Mkdir(d, 0o755); err != nil {
				r.Fatalf("%v", err)
			}
		}
		made.write(r, dir("a"), names)
		made.write(r, dir("b"), rapid.Permutation(names).Draw(r, "other order"))
		disturb(r, dir("b"))

		first, archive := pack(dir("a"))
		if second, _ := pack(dir("b")); second != first {
			r.Fatalf("the same tree packs to %v and %v", first, second)
		}
		if err := Unpack(bytes.NewReader(archive), dir("c"), Limits{}); err != nil {
			r.Fatalf("%v", err)
		}
		if again, _ := pack(dir("c")); again != first {
			r.Fatalf("pack(unpack(pack(x))) is %v, pack(x) was %v", again, first)
		}
		for _, d := range []string{dir("a"), dir("b"), dir("c")} {
			if err := os.RemoveAll(d); err != nil {
				r.Fatalf("%v", err)
			}
		}
	})
}

// disturb changes everything about a tree that must not count.
func disturb(r *rapid.T, dir string) {
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		if d.Type().IsRegular() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			if info.Size() > 0 && info.Mode()&0o111 == 0 && rand.IntN(4) == 0 {
				// A hard link to the content instead of the content.
				other := dir + ".link"
				if err := errors.Join(os.Link(name, other), os.Remove(name), os.Link(other, name), os.Remove(other)); err != nil {
					return err
				}
			}
			mode := fs.FileMode(0o600)
			if info.Mode()&0o111 != 0 {
				mode = 0o710
			}
			if err := os.Chmod(name, mode); err != nil {
				return err
			}
		}
		return os.Chtimes(name, time.Unix(1, 0), time.Unix(rand.Int64N(1<<31), 0))
	})
	if err != nil {
		r.Fatalf("%v", err)
	}
}

func TestPackOneFile(t *testing.T) {
	dir := t.TempDir()
	tree{"out/server": "#!binary", "out/other": "x"}.write(t, dir, []string{"out/server", "out/other"})
	root := openRoot(t, dir)
	got, err := Pack(t.Context(), io.Discard, root, "out/server", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := packTree(t, tree{"server": "#!binary"})
	if got != want {
		t.Errorf("a single file packs to %+v, the tree of only this file to %+v", got, want)
	}
}

func TestPackRefuses(t *testing.T) {
	outside := t.TempDir()
	tree{"secret": "s"}.write(t, outside, []string{"secret"})
	for name, test := range map[string]struct {
		make func(dir string) error
		lim  Limits
		path string // "." if empty
		want error
		says string
	}{
		"a pipe":              {make: func(d string) error { return syscall.Mkfifo(d+"/p", 0o644) }, want: ErrUnpackable, says: "named pipe"},
		"a socket":            {make: socket, want: ErrUnpackable, says: "socket"},
		"an absolute link":    {make: link("/etc/passwd"), want: ErrUnpackable, says: "absolute path"},
		"a link out":          {make: link("../x"), want: ErrUnpackable, says: "outside the tree"},
		"a link out, deeper":  {make: link("../../x"), want: ErrUnpackable, says: "outside the tree"},
		"a link that turns":   {make: link("a/../../x"), want: ErrUnpackable, says: "inner"},
		"a name in Latin-1":   {make: func(d string) error { return os.WriteFile(d+"/gr\xfc\xdfe", nil, 0o644) }, want: ErrUnpackable, says: "UTF-8"},
		"too many files":      {make: files(3), lim: Limits{Files: 2}, want: ErrLimit, says: "more than 2 files"},
		"too many bytes":      {make: files(3), lim: Limits{Bytes: 2}, want: ErrLimit, says: "more than 2 bytes"},
		"nothing there":       {path: "out", want: fs.ErrNotExist, says: "couldn't pack out"},
		"a path out":          {path: "../x", says: "escapes"},
		"a path through link": {make: func(d string) error { return os.Symlink(outside, d+"/out") }, path: "out", says: "escapes"},
		"a file through link": {make: func(d string) error { return os.Symlink(outside+"/secret", d+"/out") }, path: "out", says: "escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.make != nil {
				if err := test.make(dir); err != nil {
					t.Fatal(err)
				}
			}
			if test.path == "" {
				test.path = "."
			}
			_, err := Pack(t.Context(), io.Discard, openRoot(t, dir), test.path, test.lim)
			if err == nil {
				t.Fatal("was packed")
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("error is %v, want a %v", err, test.want)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q doesn't say %q", err, test.says)
			}
		})
	}
}

func link(to string) func(string) error {
	return func(d string) error { return os.Symlink(to, d+"/link") }
}

func files(n int) func(string) error {
	return func(d string) error {
		for i := range n {
			if err := os.WriteFile(fmt.Sprint(d, "/", i), []byte("x"), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
}

func socket(dir string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// A writer that meets its file growing: the step that writes it has not ended.
func TestPackRefusesAFileThatChanges(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/log", bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	grow := writerFunc(func(b []byte) (int, error) {
		f, err := os.OpenFile(dir+"/log", os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("y")
			f.Close()
		}
		return len(b), err
	})
	_, err := Pack(t.Context(), grow, openRoot(t, dir), ".", Limits{})
	if !errors.Is(err, ErrUnpackable) || !strings.Contains(err.Error(), "changed its size") {
		t.Errorf("error is %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestPackStopsWhenCancelled(t *testing.T) {
	dir := t.TempDir()
	if err := files(3)(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Pack(ctx, io.Discard, openRoot(t, dir), ".", Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
}

func TestSpoolLeavesNoFile(t *testing.T) {
	src, spool := t.TempDir(), t.TempDir()
	sample.write(t, src, sample.names())
	f, p, err := Spool(t.Context(), spool, openRoot(t, src), ".", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil || release.DigestOf(b) != p.Digest {
		t.Errorf("the spooled archive has digest %s (%v), want %s", release.DigestOf(b), err, p.Digest)
	}
	if _, _, err := Spool(t.Context(), spool, openRoot(t, src), "missing", Limits{}); err == nil {
		t.Error("a missing path was packed")
	}
	assertEmpty(t, spool)
}

func assertEmpty(tb testing.TB, dir string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		tb.Errorf("%s was left behind", filepath.Join(dir, e.Name()))
	}
}
