package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// root is what setup builds: everything is decided by the caller, so that the
// child only executes a list.
type root struct {
	Dirs  []string          `json:"dirs"`
	Links map[string]string `json:"links"` // path → target
	Files map[string]string `json:"files"` // path → content
	Binds []bind            `json:"binds"`
	Cover []string          `json:"cover"` // folders hidden under an empty one
}

type bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Dir      bool   `json:"dir"`
	Writable bool   `json:"writable"`
	Device   bool   `json:"device"`
	Fd       int    `json:"fd"` // a detached mount opened by the caller, or -1
}

// fromEtc is what a compiler, a downloader or a resolver of names needs of the
// host's /etc. Private keys stand in other folders (ssl/private, pki/tls/private).
var fromEtc = []string{
	"alternatives", "ca-certificates", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
	"localtime", "mime.types", "pki/ca-trust", "pki/tls/certs", "protocols", "services",
	"ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf",
}

// buildRoot decides what the script of cfg sees.
func buildRoot(cfg Config) (root, error) {
	r := root{
		Dirs: []string{"proc", "dev", "dev/shm", "dev/pts", "etc", "tmp", "home", "var", "run", "sys"},
		Links: map[string]string{
			"dev/fd": "/proc/self/fd", "dev/stdin": "/proc/self/fd/0",
			"dev/stdout": "/proc/self/fd/1", "dev/stderr": "/proc/self/fd/2",
			"dev/ptmx": "pts/ptmx", "var/tmp": "../tmp", "etc/mtab": "/proc/self/mounts",
		},
		Files: map[string]string{
			"etc/passwd":        fmt.Sprintf("root:x:0:0:root:/root:/bin/false\n%s:x:%d:%d:build step:%s:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n", User, UID, GID, Home),
			"etc/group":         fmt.Sprintf("root:x:0:\n%s:x:%d:\nnogroup:x:65534:\n", User, GID),
			"etc/hosts":         "127.0.0.1 localhost build\n::1 localhost build\n",
			"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
			"etc/hostname":      "build\n",
		},
	}
	if cfg.Network {
		// The content and not the file: it is often a link into /run.
		for _, name := range []string{"resolv.conf", "hosts"} {
			if b, err := os.ReadFile("/etc/" + name); err == nil {
				r.Files["etc/"+name] = string(b)
			}
		}
	}

	system := []string{"/usr", "/bin", "/sbin", "/nix/store"}
	libs, _ := filepath.Glob("/lib*") // a constant pattern has no error
	for _, path := range append(system, libs...) {
		if err := r.show(path); err != nil {
			return root{}, err
		}
	}
	for _, name := range fromEtc {
		if err := r.show("/etc/" + name); err != nil {
			return root{}, err
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		r.Binds = append(r.Binds, bind{Source: "/dev/" + name, Target: "/dev/" + name, Writable: true, Device: true, Fd: -1})
	}
	for _, b := range cfg.Binds {
		if !filepath.IsAbs(b.Source) || !filepath.IsAbs(b.Target) || filepath.Clean(b.Target) == "/" {
			return root{}, fmt.Errorf("%w: bind %q → %q must have absolute paths other than /", ErrSetup, b.Source, b.Target)
		}
		info, err := os.Stat(b.Source)
		if err != nil {
			return root{}, fmt.Errorf("%w: %w", ErrSetup, err)
		}
		r.Binds = append(r.Binds, bind{Source: b.Source, Target: filepath.Clean(b.Target), Dir: info.IsDir(), Writable: b.Writable, Fd: -1})
	}
	for _, path := range cfg.Hidden {
		if real, err := filepath.EvalSymlinks(path); err == nil && r.visible(real) {
			r.Cover = append(r.Cover, real)
		}
	}
	return r, nil
}

// show makes a host path visible read-only where it is on the host. A link is
// repeated when its target is visible too, else its target is bound in its place.
func (r *root) show(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return nil // this distribution has none
	}
	source := path
	if info.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
		abs := to
		if !filepath.IsAbs(abs) {
			abs = filepath.Join(filepath.Dir(path), abs)
		}
		if r.visible(abs) {
			r.Links[strings.TrimPrefix(path, "/")] = to
			return nil
		}
		if source, err = filepath.EvalSymlinks(path); err != nil {
			return nil // dangling on the host as well
		}
		if info, err = os.Stat(source); err != nil {
			return nil
		}
	}
	r.Binds = append(r.Binds, bind{Source: source, Target: path, Dir: info.IsDir(), Fd: -1})
	return nil
}

// visible reports whether path is below a host folder that is shown in place.
func (r *root) visible(path string) bool {
	for _, b := range r.Binds {
		if b.Source == b.Target && !b.Device && (path == b.Target || strings.HasPrefix(path, b.Target+"/")) {
			return true
		}
	}
	return false
}
