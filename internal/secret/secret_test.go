package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return "file:" + p
	}
	for _, c := range []struct{ ref, want, says string }{
		{ref: file("plain", "hunter2", 0o600), want: "hunter2"},
		{ref: file("line", "hunter2\n", 0o400), want: "hunter2"},
		{ref: file("dos", "hunter2\r\n", 0o600), want: "hunter2"},
		{ref: file("lines", "a\nb\n\n", 0o600), want: "a\nb"},
		{ref: file("empty", "", 0o600)},
		{ref: file("open", "hunter2", 0o644), says: "chmod 600"},
		{ref: file("group", "hunter2", 0o640), says: "chmod 600"},
		{ref: file("large", strings.Repeat("hunter2", 10_000), 0o600), says: "65536 bytes"},
		{ref: file("zero", "hunter2\x00", 0o600), says: "zero byte"},
		{ref: "file:" + dir, says: "couldn't read"},
		{ref: "file:/etc/shadow", says: "--secrets"},
		{ref: "file:" + dir + "/../shadow", says: "--secrets"},
		{ref: "file:" + filepath.Join(dir, "gone"), says: "no such file"},
		{ref: "file:relative", says: "absolute path"},
		{ref: "file:", says: "absolute path"},
		{ref: "vault:kv/shop#token", says: "reads file:PATH only"},
		{ref: "", says: "reads file:PATH only"},
	} {
		got, err := Within([]string{dir}, nil)(t.Context(), c.ref)
		if got != c.want || (err != nil) != (c.says != "") {
			t.Errorf("%s: %q, %v", c.ref, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", c.ref, err)
		}
	}
}

// A reference in code that nobody approved reaches nothing but what lies there
// for it: neither other files nor what links lead to.
func TestBelow(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "key")
	for path, text := range map[string]string{filepath.Join(dir, "npm"): "hunter2\n", out: "private"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"out": out, "in": "npm", "up": "../.."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	resolve := Below(dir)
	for ref, want := range map[string]string{
		"file:" + dir + "/npm": "hunter2", "file:" + dir + "/in": "hunter2",
		"file:" + out: "", "file:" + dir + "/out": "", "file:" + dir: "", "file:" + dir + "/../" + filepath.Base(dir) + "x": "",
		"file:" + dir + "/up" + out: "", "file:npm": "", "vault:x": "",
	} {
		got, err := resolve(t.Context(), ref)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
		if err == nil {
			continue
		}
		if strings.Contains(err.Error(), "private") {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := Below(filepath.Join(dir, "none"))(t.Context(), "file:"+dir+"/none/x"); err == nil {
		t.Error("a folder that is not there has secrets")
	}
}

// What is Sluice's own is no service's, by whatever way it is named, and also where
// an operator named a folder around it.
func TestWithinIsNotOwn(t *testing.T) {
	around, other := t.TempDir(), t.TempDir()
	own := around + "/own"
	for _, name := range []string{"/token", "/keys/promotion.key", "/secrets/db", "/secretsx", "/keys/secrets/x"} {
		if err := os.MkdirAll(filepath.Dir(own+name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(own+name, []byte("private"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{other + "/link": own + "/token", other + "/dir": own, own + "/secrets/out": own + "/token"} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(other+"/mine", []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(own))
	for name, own := range map[string]string{"its path": own, "a link to it": other + "/dir", "a relative path": filepath.Base(own)} {
		read := Within([]string{other, around}, []string{filepath.Join(own, "none"), own})
		for path, want := range map[string]string{
			"/token": "", "/keys/promotion.key": "", "/secretsx": "", "/keys/secrets/x": "", "/secrets/../token": "", "/secrets/out": "", "/secrets/db": "private",
		} {
			if got, err := read(t.Context(), "file:"+around+"/own"+path); got != want || (err != nil) != (want == "") {
				t.Errorf("%s, by %s: %q, %v", path, name, got, err)
			}
		}
		for _, link := range []string{"/link", "/dir/secrets/db"} {
			if got, err := read(t.Context(), "file:"+other+link); err == nil || got != "" {
				t.Errorf("by the link %s, by %s: %q", link, name, got)
			}
		}
		if got, err := read(t.Context(), "file:"+other+"/mine"); err != nil || got != "hunter2" {
			t.Errorf("by %s: %q, %v", name, got, err)
		}
		file := Within([]string{other}, []string{other + "/mine"})
		if got, err := file(t.Context(), "file:"+other+"/mine"); err == nil {
			t.Errorf("a credential was given: %q", got)
		}
	}
}
