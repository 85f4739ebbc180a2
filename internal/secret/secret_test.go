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
		{ref: "file:" + filepath.Join(dir, "gone"), says: "no such file"},
		{ref: "file:relative", says: "absolute path"},
		{ref: "file:", says: "absolute path"},
		{ref: "vault:kv/shop#token", says: "reads file:PATH only"},
		{ref: "", says: "reads file:PATH only"},
	} {
		got, err := Resolve(t.Context(), c.ref)
		if got != c.want || (err != nil) != (c.says != "") {
			t.Errorf("%s: %q, %v", c.ref, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", c.ref, err)
		}
	}
}
