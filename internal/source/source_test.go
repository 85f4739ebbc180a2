package source_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/source"
)

// repo is a real repository in a temporary folder.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) repo {
	t.Helper()
	r := repo{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
		"GIT_AUTHOR_DATE=2026-03-04T05:06:07Z", "GIT_COMMITTER_DATE=2026-03-04T05:06:07Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repo) write(name, content string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r repo) commit(message string) string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
	return r.git("rev-parse", "HEAD")
}

var ctx = context.Background()

func TestResolveNamesOneCommit(t *testing.T) {
	r := newRepo(t)
	r.write("a.txt", "1")
	hash := r.commit("shop: first")
	r.git("tag", "-a", "v1", "-m", "tagged")
	for _, ref := range []string{"", "HEAD", "main", "v1", hash, hash[:8]} {
		c, err := source.Resolve(ctx, r.dir, ref)
		if err != nil {
			t.Fatalf("%q: %v", ref, err)
		}
		if c.Hash != hash || c.Author != "Ada <ada@example.com>" || c.Subject != "shop: first" || c.Time.Unix() != 1772600767 || c.Tree != r.git("rev-parse", "HEAD^{tree}") {
			t.Errorf("%q: got %+v", ref, c)
		}
	}
}

func TestResolveSaysWhatToDo(t *testing.T) {
	r := newRepo(t)
	if _, err := source.Resolve(ctx, r.dir, ""); !errors.Is(err, source.ErrNoCommit) || !strings.Contains(err.Error(), "git commit") {
		t.Errorf("repository without commits: %v", err)
	}
	r.commit("first")
	for _, ref := range []string{"nope", strings.Repeat("0", 40), "--output=/tmp/x", "-h", "a\nb", "HEAD:nothing", strings.Repeat("x", 300)} {
		_, err := source.Resolve(ctx, r.dir, ref)
		if !errors.Is(err, source.ErrNoCommit) {
			t.Errorf("%.30q: got %v", ref, err)
		}
	}
	_, err := source.Resolve(ctx, r.dir, "nope")
	if err == nil || !strings.Contains(err.Error(), "git fetch") || !strings.Contains(err.Error(), "main") {
		t.Errorf("the error names no way out: %v", err)
	}
	_, err = source.Resolve(ctx, t.TempDir(), "")
	if !errors.Is(err, source.ErrNoRepository) || !strings.Contains(err.Error(), "git init") {
		t.Errorf("no repository: %v", err)
	}
	if _, err = source.Resolve(ctx, filepath.Join(r.dir, "missing"), ""); !errors.Is(err, source.ErrNoRepository) {
		t.Errorf("no folder: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err = source.Resolve(ctx, r.dir, ""); !errors.Is(err, source.ErrNoGit) || !strings.Contains(err.Error(), "apt-get install git") {
		t.Errorf("no git: %v", err)
	}
}

func TestCheckoutIsTheCommitAndNotTheWorkingTree(t *testing.T) {
	r := newRepo(t)
	r.write("a.txt", "old")
	r.write("bin/tool", "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(r.dir, "bin/tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.txt", filepath.Join(r.dir, "link")); err != nil {
		t.Fatal(err)
	}
	old := r.commit("old")
	r.write("a.txt", "new")
	r.commit("new")
	r.write("a.txt", "never committed")
	r.write("junk", "never committed")
	r.git("remote", "add", "origin", "https://user:hunter2@example.com/shop.git")

	dir := filepath.Join(t.TempDir(), "src")
	if err := source.Checkout(ctx, r.dir, old, dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a.txt")); err != nil || string(b) != "old" {
		t.Errorf("a.txt is %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "junk")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an untracked file came along: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "bin/tool")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("the executable bit is lost: %v, %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "link")); err != nil || to != "a.txt" {
		t.Errorf("the link is %q, %v", to, err)
	}

	// What Go's version stamping asks, and what must not be there.
	c := repo{t, dir}
	if got := c.git("log", "-1", "--format=%H:%ct"); got != old+":1772600767" {
		t.Errorf("log says %s", got)
	}
	if got := c.git("status", "--porcelain"); got != "" {
		t.Errorf("the checkout is dirty: %s", got)
	}
	if got := c.git("rev-list", "--all", "HEAD"); got != old {
		t.Errorf("history came along: %s", got)
	}
	c.git("fsck", "--strict")
	if err := filepath.WalkDir(filepath.Join(dir, ".git"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), "hunter2") || strings.Contains(string(b), r.dir) || strings.Contains(path, "/hooks/") {
			t.Errorf("%s leads back to the original", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestCheckoutRefusesWhatItCannotContain(t *testing.T) {
	t.Run("unknown commit", func(t *testing.T) {
		r := newRepo(t)
		r.commit("first")
		dir := filepath.Join(t.TempDir(), "src")
		err := source.Checkout(ctx, r.dir, strings.Repeat("1", 40), dir)
		if !errors.Is(err, source.ErrNoCommit) {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left a folder behind: %v", err)
		}
		if err := source.Checkout(ctx, r.dir, "main", dir); !errors.Is(err, source.ErrNoCommit) {
			t.Errorf("a moving name: got %v", err)
		}
	})
	t.Run("folder in use", func(t *testing.T) {
		r := newRepo(t)
		hash := r.commit("first")
		if err := source.Checkout(ctx, r.dir, hash, r.dir); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("submodule", func(t *testing.T) {
		r := newRepo(t)
		hash := r.commit("first")
		r.git("update-index", "--add", "--cacheinfo", "160000,"+hash+",vendored")
		r.git("commit", "-q", "-m", "with a submodule")
		err := source.Checkout(ctx, r.dir, r.git("rev-parse", "HEAD"), filepath.Join(t.TempDir(), "src"))
		if err == nil || !strings.Contains(err.Error(), "vendored is a submodule") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("git lfs", func(t *testing.T) {
		r := newRepo(t)
		r.write("assets/.gitattributes", "# big\n*.bin filter=lfs diff=lfs merge=lfs -text\n")
		hash := r.commit("with lfs")
		err := source.Checkout(ctx, r.dir, hash, filepath.Join(t.TempDir(), "src"))
		if err == nil || !strings.Contains(err.Error(), `"lfs"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("damaged repository", func(t *testing.T) {
		r := newRepo(t)
		r.write("a.txt", "content")
		hash := r.commit("first")
		blob := r.git("rev-parse", "HEAD:a.txt")
		if err := os.Remove(filepath.Join(r.dir, ".git/objects", blob[:2], blob[2:])); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "src")
		if err := source.Checkout(ctx, r.dir, hash, dir); err == nil {
			t.Error("accepted a commit without its files")
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left a folder behind: %v", err)
		}
	})
}

// TestRepositoryRunsNothing gives a repository every setting that names a
// command; each leaves a mark when it runs.
func TestRepositoryRunsNothing(t *testing.T) {
	r := newRepo(t)
	mark := filepath.Join(t.TempDir(), "ran")
	evil := filepath.Join(t.TempDir(), "evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\necho \"$0 $*\" >> "+mark+"\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("a.txt", "1")
	r.write("sluice.yaml", "version: 1")
	first := r.commit("first")
	r.write("a.txt", "2")
	second := r.commit("second")
	for _, hook := range []string{"post-checkout", "pre-commit", "post-index-change", "reference-transaction", "fsmonitor-watchman"} {
		if err := os.MkdirAll(filepath.Join(r.dir, ".git/hooks"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.dir, ".git/hooks", hook), []byte("#!/bin/sh\necho "+hook+" >> "+mark+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range map[string]string{
		"core.fsmonitor": evil, "core.pager": evil, "core.sshCommand": evil, "core.editor": evil,
		"core.askPass": evil, "credential.helper": "!" + evil, "diff.external": evil,
		"diff.x.command": evil, "diff.x.textconv": evil, "filter.x.clean": evil, "filter.x.smudge": evil,
		"filter.x.process": evil, "filter.x.required": "true", "gpg.program": evil, "log.showSignature": "true",
		"core.alternateRefsCommand": evil, "uploadpack.packObjectsHook": evil, "pager.log": "true",
		"remote.origin.url": "ext::" + evil, "remote.origin.promisor": "true", "extensions.partialClone": "origin",
	} {
		r.git("config", key, value)
	}
	if err := os.WriteFile(filepath.Join(r.dir, ".git/info/attributes"), []byte("* filter=x diff=x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.write("a.txt", "dirty")

	if _, err := source.Resolve(ctx, r.dir, "main"); err != nil {
		t.Error(err)
	}
	if err := source.Checkout(ctx, r.dir, first, filepath.Join(t.TempDir(), "src")); err != nil {
		t.Error(err)
	}
	if files, n, err := source.Dirty(ctx, r.dir, 10); err != nil || n != 1 || files[0] != "a.txt" {
		t.Errorf("dirty: %v %d %v", files, n, err)
	}
	if _, err := source.ReadFile(ctx, r.dir, first, "a.txt"); err != nil {
		t.Error(err)
	}
	if _, err := source.TreeDigest(ctx, r.dir, first); err != nil {
		t.Error(err)
	}
	if _, err := source.Commits(ctx, r.dir, first, second, 10); err != nil {
		t.Error(err)
	}
	if _, err := source.RepositoryID(ctx, r.dir); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(mark); err == nil {
		t.Errorf("the repository ran commands:\n%s", b)
	}
}

func TestReplacementsDoNotChangeACommit(t *testing.T) {
	r := newRepo(t)
	r.write("a.txt", "reviewed")
	good := r.commit("reviewed")
	r.write("a.txt", "swapped")
	bad := r.commit("swapped")
	r.git("replace", good, bad)
	if b, err := source.ReadFile(ctx, r.dir, good, "a.txt"); err != nil || string(b) != "reviewed" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestDirtyNamesWhatWillNotBeBuilt(t *testing.T) {
	r := newRepo(t)
	r.write("a.txt", "1")
	r.write("b c.txt", "1")
	r.commit("first")
	if files, n, err := source.Dirty(ctx, r.dir, 10); err != nil || n != 0 || len(files) != 0 {
		t.Fatalf("clean: %v %d %v", files, n, err)
	}
	r.write("b c.txt", "2")
	r.write("new.txt", "1")
	r.write("staged.txt", "1")
	r.git("add", "staged.txt")
	files, n, err := source.Dirty(ctx, r.dir, 2)
	if err != nil || n != 3 || !slices.Equal(files, []string{"b c.txt", "staged.txt"}) {
		t.Errorf("got %q %d %v", files, n, err)
	}
}

func TestReadFileIsBoundedAndStaysInside(t *testing.T) {
	r := newRepo(t)
	r.write("svc/sluice.yaml", "version: 1\n")
	r.write("big", strings.Repeat("x", 5<<20))
	if err := os.Symlink("/etc/passwd", filepath.Join(r.dir, "link")); err != nil {
		t.Fatal(err)
	}
	hash := r.commit("first")
	r.write("svc/sluice.yaml", "changed")
	if b, err := source.ReadFile(ctx, r.dir, hash, "svc/sluice.yaml"); err != nil || string(b) != "version: 1\n" {
		t.Errorf("got %q, %v", b, err)
	}
	for _, name := range []string{"none.yaml", "svc", "link", "../x", "/etc/passwd", "", ".", "svc/*"} {
		if b, err := source.ReadFile(ctx, r.dir, hash, name); !errors.Is(err, source.ErrNoFile) {
			t.Errorf("%q: got %q, %v", name, b, err)
		}
	}
	if _, err := source.ReadFile(ctx, r.dir, hash, "big"); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a huge file: %v", err)
	}
	if _, err := source.ReadFile(ctx, r.dir, strings.Repeat("1", 40), "a"); !errors.Is(err, source.ErrNoCommit) {
		t.Errorf("an unknown commit: %v", err)
	}
}

func TestTreeDigestIgnoresOnlyTheDefinition(t *testing.T) {
	r := newRepo(t)
	r.write("main.go", "package main")
	r.write("sluice.yaml", "a")
	digest := func(hash string) string {
		t.Helper()
		d, err := source.TreeDigest(ctx, r.dir, hash, "sluice.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return string(d)
	}
	first := digest(r.commit("first"))
	r.write("sluice.yaml", "b")
	config := r.commit("config only")
	if digest(config) != first {
		t.Error("a change of the definition alone changes the digest")
	}
	if d, err := source.TreeDigest(ctx, r.dir, config); err != nil || string(d) == first {
		t.Errorf("without exclusion the digest is the same: %v", err)
	}
	if digest(r.commit("empty")) != first {
		t.Error("an empty commit changes the digest")
	}
	r.write("main.go", "package other")
	code := digest(r.commit("code"))
	if code == first {
		t.Error("a change of the code keeps the digest")
	}
	if err := os.Chmod(filepath.Join(r.dir, "main.go"), 0o755); err != nil {
		t.Fatal(err)
	}
	if digest(r.commit("mode")) == code {
		t.Error("a change of a mode keeps the digest")
	}
}

func TestCommitsForThePacket(t *testing.T) {
	r := newRepo(t)
	r.write("a.txt", "1")
	from := r.commit("first")
	r.commit("second")
	to := r.commit("third")
	log, err := source.Commits(ctx, r.dir, from, to, 10)
	if err != nil || len(log) != 2 || log[0].Subject != "third" || log[1].Subject != "second" {
		t.Errorf("got %+v, %v", log, err)
	}
	if _, err := source.Commits(ctx, r.dir, from, strings.Repeat("2", 40), 2); !errors.Is(err, source.ErrNoCommit) {
		t.Errorf("an unknown commit: %v", err)
	}
}

func TestRepositoryOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can own files as somebody else: run the tests as root")
	}
	r := newRepo(t)
	r.write("a.txt", "1")
	hash := r.commit("first")
	if err := filepath.WalkDir(r.dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 65534, 65534))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Resolve(ctx, r.dir, "main"); err != nil {
		t.Error(err)
	}
	if err := source.Checkout(ctx, r.dir, hash, filepath.Join(t.TempDir(), "src")); err != nil {
		t.Error(err)
	}
}

func TestRootAndPrefix(t *testing.T) {
	r := newRepo(t)
	r.write("services/shop/sluice.yaml", "x")
	r.commit("first")
	root, prefix, err := source.Root(ctx, filepath.Join(r.dir, "services/shop"))
	if err != nil || root != r.dir || prefix != "services/shop" {
		t.Errorf("got %q %q %v", root, prefix, err)
	}
	if root, prefix, err = source.Root(ctx, r.dir); err != nil || root != r.dir || prefix != "" {
		t.Errorf("got %q %q %v", root, prefix, err)
	}
	// A file of a subfolder's commit is still named from the top.
	if _, err := source.ReadFile(ctx, filepath.Join(r.dir, "services"), r.git("rev-parse", "HEAD"), "services/shop/sluice.yaml"); err != nil {
		t.Error(err)
	}
}

func TestRepositoryIDHasNoCredentials(t *testing.T) {
	r := newRepo(t)
	hash := r.commit("first")
	local := "git:" + hash[:12] + ":" + r.dir
	for _, c := range []struct{ remote, want string }{
		{"", local},
		{"https://user:token@GitHub.com/acme/shop.git", "github.com/acme/shop"},
		{"https://github.com:443/acme/shop/", "github.com/acme/shop"},
		{"git@github.com:acme/shop.git", "github.com/acme/shop"},
		{"ssh://git@git.example.com:2222/acme/shop.git", "git.example.com:2222/acme/shop"},
		{"/srv/git/shop.git", local},
		{"../shop", local},
		{"file:///srv/git/shop.git", local},
		{"https://host/a?token=x", "host/a"},
	} {
		if c.remote != "" {
			r.git("config", "remote.origin.url", c.remote)
		}
		if got, err := source.RepositoryID(ctx, r.dir); err != nil || got != c.want {
			t.Errorf("%q: got %q, %v; want %q", c.remote, got, err, c.want)
		}
	}
}
