package demo

import (
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/tools/txtar"
)

//go:generate go run gen.go

//go:embed shop.txtar
var shopArchive []byte

// Pack makes the archive of the example's folder: its files and the changes
// that make its versions, in the order of their names.
func Pack(folder fs.FS) (*txtar.Archive, error) {
	a := &txtar.Archive{Comment: []byte("Made of examples/shop by go generate ./internal/demo; do not edit.\n")}
	err := fs.WalkDir(folder, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(folder, name)
		if err != nil {
			return err
		}
		a.Files = append(a.Files, txtar.File{Name: name, Data: b})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read the example: %w", err)
	}
	return a, nil
}

// version is one commit of the example.
type version struct {
	Name    string // v1
	Commit  string
	Subject string
}

// The versions, in the order in which they are shipped; v4 waits on a branch.
const (
	good = iota
	better
	bad
	slow
)

// SlowBranch holds the version that nobody ships but a curious user.
const SlowBranch = "slow"

// ports are where the proxy listens for the example's environments.
type ports struct{ dev, production int }

// placeholders in the example's files, and what the demo writes there.
const (
	devListen        = "listen: 127.0.0.1:9001"
	productionListen = "listen: 127.0.0.1:9002"
	oldSeries        = "const oldSeries = 2000\n"
)

// makeRepository writes the example into dir as a Git repository with one
// commit per version. Of badRate percent of its customers v3 loses the voucher.
func makeRepository(ctx context.Context, dir string, p ports, badRate float64) ([]version, error) {
	r := &repository{dir: dir, at: time.Now()}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the repository's folder: %w", err)
	}
	patches := map[string][]byte{}
	for _, f := range txtar.Parse(shopArchive).Files {
		if name, ok := strings.CutPrefix(f.Name, "versions/"); ok {
			patches[strings.TrimSuffix(name, ".patch")] = f.Data
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(f.Name)), f.Data, 0o600); err != nil {
			return nil, fmt.Errorf("couldn't write the example: %w", err)
		}
	}
	for _, x := range [][2]string{
		{devListen, fmt.Sprintf("listen: 127.0.0.1:%d", p.dev)},
		{productionListen, fmt.Sprintf("listen: 127.0.0.1:%d", p.production)},
	} {
		if err := r.replace("sluice.yaml", x[0], x[1]); err != nil {
			return nil, err
		}
	}
	if _, err := r.git(ctx, nil, "init", "--quiet", "--initial-branch=main"); err != nil {
		return nil, err
	}
	var all []version
	commit := func(name, subject string) error {
		hash, err := r.commit(ctx, subject)
		all = append(all, version{Name: name, Commit: hash, Subject: subject})
		return err
	}
	if err := commit("v1", "shop: quote prices and take orders"); err != nil {
		return nil, err
	}
	if err := r.apply(ctx, patches["v2"]); err != nil {
		return nil, err
	}
	if err := commit("v2", "price: spring sale"); err != nil {
		return nil, err
	}
	if err := r.apply(ctx, patches["v3"]); err != nil {
		return nil, err
	}
	broken := int(math.Round(badRate / 100 * 10000)) // of 10 000 customers
	if err := r.replace("price.go", oldSeries, "const oldSeries = "+strconv.Itoa(broken)+"\n"); err != nil {
		return nil, err
	}
	if err := commit("v3", "price: vouchers"); err != nil {
		return nil, err
	}
	if _, err := r.git(ctx, nil, "checkout", "--quiet", "-b", SlowBranch, "HEAD~1"); err != nil {
		return nil, err
	}
	if err := r.apply(ctx, patches["v4"]); err != nil {
		return nil, err
	}
	if err := commit("v4", "price: ask the tax office"); err != nil {
		return nil, err
	}
	_, err := r.git(ctx, nil, "checkout", "--quiet", "main")
	return all, err
}

// repository is a Git repository that is being made. Nothing of the user's or
// the machine's Git configuration takes part.
type repository struct {
	dir string
	at  time.Time // of the next commit
}

func (r *repository) git(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false"}, args...)...)
	cmd.Dir = r.dir
	when := r.at.UTC().Format(time.RFC3339)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CEILING_DIRECTORIES=" + filepath.Dir(r.dir),
		"GIT_AUTHOR_NAME=Sluice demo", "GIT_AUTHOR_EMAIL=demo@sluice.invalid", "GIT_AUTHOR_DATE=" + when,
		"GIT_COMMITTER_NAME=Sluice demo", "GIT_COMMITTER_EMAIL=demo@sluice.invalid", "GIT_COMMITTER_DATE=" + when,
	}
	if stdin != nil {
		cmd.Stdin = strings.NewReader(string(stdin))
	}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("couldn't make the example's repository: git %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

func (r *repository) commit(ctx context.Context, subject string) (string, error) {
	if _, err := r.git(ctx, nil, "add", "--all"); err != nil {
		return "", err
	}
	r.at = r.at.Add(time.Second)
	if _, err := r.git(ctx, nil, "commit", "--quiet", "--message", subject); err != nil {
		return "", err
	}
	return r.git(ctx, nil, "rev-parse", "HEAD")
}

func (r *repository) apply(ctx context.Context, patch []byte) error {
	_, err := r.git(ctx, patch, "apply", "-")
	return err
}

// replace changes the one place in a file.
func (r *repository) replace(name, old, with string) error {
	path := filepath.Join(r.dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("couldn't read the example: %w", err)
	}
	if n := strings.Count(string(b), old); n != 1 {
		return fmt.Errorf("couldn't prepare the example: %q stands %d times in its %s", old, n, name)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), old, with, 1)), 0o600); err != nil {
		return fmt.Errorf("couldn't write the example: %w", err)
	}
	return nil
}
