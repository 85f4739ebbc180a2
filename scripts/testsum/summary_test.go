package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module writes a module of Go files and returns its folder.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example.test/m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestRealRun sums a real `go test -json` with one test of every ending.
func TestRealRun(t *testing.T) {
	dir := module(t, map[string]string{
		"good/good_test.go": `package good
import "testing"
func TestPasses(t *testing.T) { t.Run("sub", func(*testing.T) {}) }
func TestSkips(t *testing.T) { t.Log("first"); t.Skipf("no %s here", "postgres") }
`,
		"bad/bad_test.go": `package bad
import "testing"
func TestFails(t *testing.T) { t.Error("two is not three") }
`,
		"panics/panics_test.go": `package panics
import "os"
import "testing"
func TestExits(t *testing.T) { os.Exit(3) }
`,
		"broken/broken_test.go": `package broken
import "testing"
func TestNever(t *testing.T) { undefinedName() }
`,
		"empty/empty.go": "package empty\n",
	})
	t.Chdir(dir)
	totals := filepath.Join(t.TempDir(), "totals")
	old := os.Stdout
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = out
	ok, err := run([]string{"go", "test", "-json", "./..."}, totals)
	os.Stdout = old
	if err != nil || ok {
		t.Fatalf("run = %v, %v, want failure without an error", ok, err)
	}
	raw, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	got := string(raw)
	for _, want := range []string{
		"ok    example.test/m/good",
		"2 passed, 1 SKIPPED",
		"FAIL  example.test/m/bad  TestFails",
		"two is not three",
		"FAIL  example.test/m/panics",
		"FAIL  example.test/m/broken",
		"undefinedName",
		"SKIPPED: 1 tests did not run",
		"example.test/m/good  TestSkips\n         no postgres here\n",
		"\n2 passed, 3 failed, 1 skipped\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the account lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
	sums, err := os.ReadFile(totals)
	if err != nil || string(sums) != "2 3 1\n" {
		t.Errorf("totals = %q, %v", sums, err)
	}
}

// TestCommandFails says that a run which fails before any test is a failure.
func TestCommandFails(t *testing.T) {
	totals := filepath.Join(t.TempDir(), "totals")
	ok, err := run([]string{"go", "test", "-json", "-nosuchflag"}, totals)
	if err != nil || ok {
		t.Fatalf("run = %v, %v, want failure", ok, err)
	}
	if sums, _ := os.ReadFile(totals); string(sums) != "0 1 0\n" {
		t.Errorf("totals = %q", sums)
	}
	if _, err := run([]string{"./no-such-program"}, totals); err == nil {
		t.Error("a command that does not exist is no error")
	}
}

func TestReason(t *testing.T) {
	for _, c := range []struct{ name, said, want string }{
		{"last of several", "=== RUN   TestX\n    x_test.go:1: first\n    x_test.go:2: second: third\n--- SKIP: TestX (0.00s)\n", "second: third"},
		{"several lines", "    x_test.go:1: one\n        two\n--- SKIP: TestX (0.00s)\n", "one two"},
		{"of a subtest", "    --- SKIP: TestX/a (0.00s)\n        x_test.go:1: why\n", "why"},
		{"nothing", "=== RUN   TestX\n--- SKIP: TestX (0.00s)\n", "(it gave no reason)"},
	} {
		if got := reason(c.said); got != c.want {
			t.Errorf("%s: reason = %q, want %q", c.name, got, c.want)
		}
	}
}

func TestLongLinesAndChatter(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out)
	long := strings.Repeat("x", 200<<10)
	err := s.read(strings.NewReader("go: downloading something\n" + `{"Action":"output","Package":"p","Test":"T","Output":"` + long + `"}` + "\n" + `{"Action":"fail","Package":"p","Test":"T"}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.failed != 1 || !strings.Contains(out.String(), long) || !strings.HasPrefix(out.String(), "go: downloading something\n") {
		t.Errorf("failed = %d, %d bytes of output", s.failed, out.Len())
	}
}

// The slow ones are told, the slowest first, without their parts.
func TestSlow(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out)
	for _, line := range []string{
		`{"Action":"pass","Package":"p","Test":"TestQuick","Elapsed":9.9}`,
		`{"Action":"pass","Package":"p","Test":"TestLong/part","Elapsed":30}`,
		`{"Action":"pass","Package":"p","Test":"TestLong","Elapsed":31}`,
		`{"Action":"fail","Package":"q","Test":"TestLonger","Elapsed":62.34}`,
	} {
		if err := s.read(strings.NewReader(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	out.Reset()
	s.printSlow()
	if got, want := out.String(), "slow    62.3s  q  TestLonger\nslow    31.0s  p  TestLong\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
