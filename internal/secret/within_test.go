package secret

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A release names its secrets itself: it gets what lies in a folder that the
// operator named, and no other file that the agent's user could read.
func TestWithin(t *testing.T) {
	base := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("named/db", "hunter2")
	write("named/deep/er/db", "hunter2")
	write("second/db", "hunter2")
	write("elsewhere/shadow", "private")
	write("namedx", "private")
	for link, to := range map[string]string{
		"named/in": "deep/er/db", "named/out": "../elsewhere/shadow", "named/absolute": base + "/elsewhere/shadow",
		"named/dir": base + "/elsewhere", "alias": "named", "way": "elsewhere",
	} {
		if err := os.Symlink(to, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(base, "named/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	const outside, noLink = "name its folder with --secrets", "no link may lead out"
	for _, c := range []struct{ path, want, says string }{
		{path: "named/db", want: "hunter2"},
		{path: "named/deep/er/db", want: "hunter2"},
		{path: "named/in", want: "hunter2"},
		{path: "named/deep/../db", want: "hunter2"},
		{path: "second/db", want: "hunter2"},
		{path: "elsewhere/shadow", says: outside},
		{path: "way/shadow", says: outside},
		{path: "named/../elsewhere/shadow", says: outside},
		{path: "namedx", says: outside},
		{path: "named", says: outside},
		{path: "named/out", says: noLink},
		{path: "named/absolute", says: noLink},
		{path: "named/dir/shadow", says: noLink},
		{path: "named/deep", says: "no regular file"},
		{path: "named/pipe", says: "no regular file"},
		{path: "named/gone", says: "no such file"},
		{path: "third/db", says: "no such file"},
	} {
		dirs := []string{filepath.Join(base, "third"), filepath.Join(base, "named"), filepath.Join(base, "second")}
		got, err := Within(dirs, nil)(t.Context(), "file:"+base+"/"+c.path)
		if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q, %v", c.path, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "private") {
			t.Errorf("%s: the error tells the secret: %v", c.path, err)
		}
	}
	// A folder that was named by a link, and a file by the folder's real path.
	byLink := Within([]string{filepath.Join(base, "alias")}, nil)
	for _, path := range []string{"alias/db", "named/db"} {
		if got, err := byLink(t.Context(), "file:"+base+"/"+path); got != "hunter2" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	// A folder within a folder that a link leads to, named by itself.
	both := Within([]string{filepath.Join(base, "named"), filepath.Join(base, "named/dir")}, nil)
	if got, err := both(t.Context(), "file:"+base+"/named/dir/shadow"); got != "private" {
		t.Errorf("a named link: %q, %v", got, err)
	}
	if got, err := Within(nil, nil)(t.Context(), "file:"+base+"/named/db"); err == nil || !strings.Contains(err.Error(), "none was named") {
		t.Errorf("without a folder: %q, %v", got, err)
	}
}

// Whatever a reference says, what is given lies in the folder.
func FuzzWithin(f *testing.F) {
	base := f.TempDir()
	named := filepath.Join(base, "named")
	if err := os.MkdirAll(named, 0o700); err != nil {
		f.Fatal(err)
	}
	for path, text := range map[string]string{named + "/db": "hunter2", base + "/shadow": "private"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink("..", named+"/up"); err != nil {
		f.Fatal(err)
	}
	for _, rest := range []string{"/db", "/../shadow", "/up/shadow", "/./db", "//db", "/db/", "/up/named/db", "/\x00", ""} {
		f.Add(rest)
	}
	resolve := Within([]string{named}, []string{filepath.Join(base, "own")})
	f.Fuzz(func(t *testing.T, rest string) {
		if got, err := resolve(t.Context(), "file:"+named+rest); err == nil && got != "hunter2" || err != nil && got != "" {
			t.Errorf("%q: %q, %v", rest, got, err)
		}
	})
}
