package runner_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// goService commits a small service with one real dependency and returns the
// repository and the commit. The dependency and its checksums are those of this
// very module, so that its files are at hand without the internet.
func goService(t *testing.T) (repo, commit string) {
	t.Helper()
	sum, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^golang\.org/x/sync (v[0-9.]+)(/go\.mod)? h1:\S+$`).FindAllStringSubmatch(string(sum), -1)
	var pinned, version string
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`golang\.org/x/sync (v[0-9.]+)`).FindStringSubmatch(string(mod)); m != nil {
		version = m[1]
	}
	for _, l := range lines {
		if l[1] == version {
			pinned += l[0] + "\n"
		}
	}
	if version == "" || pinned == "" {
		t.Fatal("this module no longer uses golang.org/x/sync: choose another dependency for the test")
	}
	goLine := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(mod))
	repo = t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module example.com/shop\n\ngo " + goLine[1] + "\n\nrequire golang.org/x/sync " + version + "\n",
		"go.sum": pinned,
		"cmd/shop/main.go": `package main

import "example.com/shop"

func main() { println(shop.Answer()) }
`,
		"shop.go": `package shop

import "golang.org/x/sync/errgroup"

func Answer() string {
	var g errgroup.Group
	out := ""
	g.Go(func() error { out = "ok"; return nil })
	if err := g.Wait(); err != nil {
		return err.Error()
	}
	return out
}
`,
		"shop_test.go": `package shop

import "testing"

func TestAnswer(t *testing.T) {
	if Answer() != "ok" {
		t.Fatal(Answer())
	}
}
`,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(repo, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=Ada", "-c", "user.email=ada@example.com"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "shop: first")
	return repo, git("rev-parse", "HEAD")
}

// serveModules is a module proxy on the loopback that serves this machine's own
// module cache.
func serveModules(t *testing.T) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "cache", "download")
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	t.Setenv("GOPROXY", srv.URL)
	t.Setenv("GOSUMDB", "off")
	t.Setenv("NO_PROXY", "127.0.0.1")
}
