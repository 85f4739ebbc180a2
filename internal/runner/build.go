package runner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

// workspace is where the checkout is, inside.
const workspace = "/workspace"

// build is a prepared build: everything that its steps share.
type build struct {
	spec      Spec
	secrets   *secrets
	env       map[string]map[string]string // per step, secrets resolved
	goroot    string                       // on the host; empty without Go
	hostGo    map[string]string            // GOPROXY and the like, as the host has them
	materials []Material
	owner     [2]int // who must own what steps write
}

// networkEnv passes from the host to steps with network: how this machine
// reaches modules and the world.
var networkEnv = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
}

var goEnv = []string{"GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE"}

// prepare checks the spec and makes the folders of the build.
func prepare(ctx context.Context, spec Spec) (*build, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	b := &build{spec: spec, env: map[string]map[string]string{}}
	b.owner[0], b.owner[1] = os.Geteuid(), os.Getegid()
	if spec.Isolation == Namespaces {
		b.owner[0], b.owner[1] = sandbox.Owner()
	}
	hide := slices.Clone(spec.Redact)
	for _, step := range spec.Steps {
		env := map[string]string{}
		for key, value := range step.Env {
			env[key] = value.Plain
			if value.Secret == "" {
				continue
			}
			if spec.Secret == nil {
				return nil, fmt.Errorf("%w: step %s asks for the secret %s, and this build gets none", ErrBadSpec, step.Name, value.Secret)
			}
			v, err := spec.Secret(ctx, value.Secret)
			if err != nil {
				return nil, fmt.Errorf("couldn't read the secret of step %s: %w", step.Name, err)
			}
			env[key] = v
			hide = append(hide, v)
		}
		b.env[step.Name] = env
	}
	b.findGo(ctx)
	for _, key := range networkEnv {
		hide = append(hide, passwords(os.Getenv(key))...)
	}
	hide = append(hide, passwords(b.hostGo["GOPROXY"])...)
	b.secrets = newSecrets(hide)

	var err error
	if b.materials, err = materials(spec.Checkout, spec.Commit); err != nil {
		return nil, err
	}
	if err := b.folders(); err != nil {
		return nil, fmt.Errorf("couldn't prepare the build's folders: %w", err)
	}
	return b, nil
}

// passwords returns the credentials in a list of addresses.
func passwords(list string) []string {
	var found []string
	for _, part := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '|' }) {
		if u, err := url.Parse(part); err == nil && u.User != nil {
			if p, ok := u.User.Password(); ok {
				found = append(found, p)
			} else {
				found = append(found, u.User.Username()) // a token alone
			}
		}
	}
	return found
}

// findGo asks the host's Go where it is and how it reaches modules: settings
// may also come from go env -w.
func (b *build) findGo(ctx context.Context) {
	tool, err := exec.LookPath("go")
	if err != nil {
		return // a build in another language
	}
	cmd := exec.CommandContext(ctx, tool, append([]string{"env", "-json", "GOROOT"}, goEnv...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOFLAGS=")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return // a broken Go is no Go: the step that needs it says so
	}
	var env map[string]string
	if json.Unmarshal(out, &env) != nil {
		return
	}
	if root, err := filepath.EvalSymlinks(env["GOROOT"]); err == nil {
		b.goroot = root
	}
	delete(env, "GOROOT")
	b.hostGo = env
}

func (b *build) home() string { return filepath.Join(b.spec.Scratch, "home") }

func (b *build) tmp(step string) string { return filepath.Join(b.spec.Scratch, "tmp-"+step) }

// cache is the folder of a cache. Isolated and other builds share none.
func (b *build) cache(name string) string {
	return filepath.Join(b.spec.Caches, string(b.spec.Isolation), b.spec.Project, b.spec.Service, name)
}

// folders makes what steps write to and hands it to their user.
func (b *build) folders() error {
	if err := b.exclude(); err != nil {
		return err
	}
	dirs := []string{b.home(), b.spec.Checkout}
	for _, s := range b.spec.Steps {
		dirs = append(dirs, b.tmp(s.Name))
		for _, c := range s.Cache {
			dirs = append(dirs, b.cache(c))
		}
	}
	if err := os.MkdirAll(b.spec.Scratch, 0o700); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := b.own(dir); err != nil {
			return err
		}
	}
	return nil
}

// own hands a folder to the steps' user. Links are not followed; a folder that
// is theirs already is left, because caches are large.
func (b *build) own(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == b.owner[0] {
		return nil
	}
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, b.owner[0], b.owner[1])
	})
}

// exclude tells git that the declared outputs are no modification, so that Go
// stamps the commit as clean.
func (b *build) exclude() error {
	dir := filepath.Join(b.spec.Checkout, ".git")
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return nil // not a checkout of git
	}
	outputs := slices.Clone(b.spec.Outputs)
	for _, s := range b.spec.Steps {
		for _, r := range s.Reports {
			outputs = append(outputs, r.Path)
		}
	}
	escape := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "\n", "?")
	var lines strings.Builder
	for _, o := range outputs {
		if o = path.Join("/", filepath.ToSlash(b.spec.Subdir), filepath.ToSlash(o)); o != "/" {
			lines.WriteString(escape.Replace(o) + "\n")
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "info"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "info", "exclude"), []byte(lines.String()), 0o644)
}

// clean removes what only this build needed.
func (b *build) clean() { _ = Remove(b.spec.Scratch) } // left-overs are the owner's to collect

// Remove deletes a folder that steps have written to. A module cache has
// folders that even their owner may not change.
func Remove(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(name, 0o700) // what stays locked shows below
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("couldn't remove %s: %w", dir, err)
	}
	return nil
}

// locks are files that pin dependencies: inputs of the build worth naming.
var locks = []string{"go.mod", "go.sum", "go.work.sum", "package-lock.json", "yarn.lock", "pnpm-lock.yaml", "Cargo.lock", "poetry.lock", "uv.lock", "requirements.txt", "Gemfile.lock", "composer.lock"}

const maxLocks = 1000

// materials names what the build starts from, before any step can change it.
func materials(checkout, commit string) ([]Material, error) {
	all := []Material{{Name: "commit", Commit: commit}}
	err := filepath.WalkDir(checkout, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "vendor"):
			return filepath.SkipDir
		case !d.Type().IsRegular() || !slices.Contains(locks, d.Name()) || len(all) > maxLocks:
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return err
		}
		rel, err := filepath.Rel(checkout, name)
		all = append(all, Material{Name: filepath.ToSlash(rel), Digest: release.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read the checkout: %w", err)
	}
	return all, nil
}

// tools asks for the versions of the toolchains, where the steps would find
// them. A tool that doesn't answer is left out.
func (b *build) tools(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	step := pipeline.Step{Name: "versions", Run: `
if [ -e go.mod ] || [ -e "$SLUICE_CHECKOUT/go.mod" ]; then echo "go=$(go env GOVERSION) $(go env GOOS)/$(go env GOARCH)" || true; fi
if [ -e package.json ] || [ -e "$SLUICE_CHECKOUT/package.json" ]; then echo "node=$(node --version)" || true; fi
echo "kernel=$(uname -sr)" || true
`}
	if err := os.MkdirAll(b.tmp(step.Name), 0o755); err != nil || b.own(b.tmp(step.Name)) != nil {
		return nil
	}
	var out bytes.Buffer
	_, err := b.start(ctx, step, &capped{w: &out, left: 64 << 10})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	found := map[string]string{}
	for line := range strings.Lines(out.String()) {
		name, version, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && slices.Contains([]string{"go", "node", "kernel"}, name) && strings.TrimSpace(version) != "" && len(version) < 200 {
			found[name] = strings.TrimSpace(version)
		}
	}
	return found
}

// capped drops what is over its bound.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	_, err := c.w.Write(p[:n])
	return len(p), err
}
