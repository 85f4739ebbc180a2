// Package secret resolves references to secrets. Values are never logged and
// never part of an error.
//
// This build reads file:PATH, with an absolute path: the content of a file that
// only its owner can read, without the newlines at its end. Who writes a reference
// writes a service's file, and is nobody that may read the host: what it may name
// lies in folders that the host's operator named ([Below]), and is nothing of
// Sluice's own ([Within]).
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxSecret bounds a secret, in bytes.
const maxSecret = 64 << 10

// Below returns what resolves references to files below dir only, whatever links lie
// there. It is for references that come with code which nobody has approved: a
// build step must not be able to name the keys of the user that runs the server.
func Below(dir string) func(context.Context, string) (string, error) {
	return resolver([]string{dir}, nil, fmt.Sprintf("a build step gets only what lies in %s, where the server's operator puts it", dir))
}

// Within returns what resolves the references of services: to files below the given
// folders, which the host's operator named, whatever links lie there, and none
// that lies in one of own, or is one: a service must not be handed the keys of
// those that run it. What an operator put into the folder secrets of such a folder
// is given.
func Within(dirs, own []string) func(context.Context, string) (string, error) {
	in := strings.Join(dirs, ", ")
	if in == "" {
		in = "no folder: none was named"
	}
	return resolver(dirs, own, fmt.Sprintf("a service gets only what lies in a folder that this host's operator named (%s): move the file there, or name its folder with --secrets (of sluice agent, or of sluice up for its own agent)", in))
}

// resolver is both. elsewhere says of a file that is in none of dirs what to do.
func resolver(dirs, own []string, elsewhere string) func(context.Context, string) (string, error) {
	return func(_ context.Context, ref string) (string, error) {
		path, err := pathOf(ref)
		if err != nil {
			return "", err
		}
		f, err := open(path, dirs)
		if errors.Is(err, errElsewhere) {
			return "", fmt.Errorf("couldn't read secret %q: %s", ref, elsewhere)
		}
		if err != nil {
			return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
		}
		defer f.Close()
		if err := notOwn(f, path, own); err != nil {
			return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
		}
		return read(f, ref)
	}
}

var errElsewhere = errors.New("it lies in no folder of secrets")

// open opens a file in the first of dirs that has it. Each is the root of all that
// is looked at: neither a link nor a name changed meanwhile leads out of it.
func open(path string, dirs []string) (*os.File, error) {
	err := errElsewhere
	for _, dir := range dirs {
		for _, dir := range bothNames(dir) {
			name, errRel := filepath.Rel(dir, path)
			if errRel != nil || !filepath.IsLocal(name) || name == "." {
				continue
			}
			var f *os.File
			if f, err = openIn(dir, name); err == nil {
				return f, nil
			}
		}
	}
	return nil, err
}

// bothNames are a folder as it was named and, where a link leads there, as it is.
func bothNames(dir string) []string {
	if real, err := filepath.EvalSymlinks(dir); err == nil && real != filepath.Clean(dir) {
		return []string{dir, real}
	}
	return []string{dir}
}

func openIn(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// A pipe must not keep us waiting for who writes to it.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w (below %s, which no link may lead out of)", err, dir)
	}
	return f, err
}

// notOwn refuses what is Sluice's. It asks of what is open now: the path may have
// changed since.
func notOwn(f *os.File, path string, own []string) error {
	if len(own) == 0 {
		return nil
	}
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		at, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return err
	}
	for _, o := range own {
		in, err := isOwn(at, o)
		if err != nil {
			return err
		}
		if in {
			return errors.New("a service gets nothing that is Sluice's own; put the secret elsewhere, or into the folder secrets of the server's data folder")
		}
	}
	return nil
}

// isOwn says whether path is own or lies in it, but not in its folder secrets.
func isOwn(path, own string) (bool, error) {
	real, err := filepath.EvalSymlinks(own)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return false, err
	}
	name, err := filepath.Rel(real, path)
	if err != nil || !filepath.IsLocal(name) {
		return false, nil // it is somewhere else
	}
	return !strings.HasPrefix(name, "secrets"+string(filepath.Separator)), nil
}

// pathOf returns the file that a reference names.
func pathOf(ref string) (string, error) {
	scheme, rest, _ := strings.Cut(ref, ":")
	if scheme != "file" {
		return "", fmt.Errorf("couldn't read secret %q: this build reads file:PATH only", ref)
	}
	if !filepath.IsAbs(rest) {
		return "", fmt.Errorf("couldn't read secret %q: give an absolute path", ref)
	}
	return rest, nil
}

// read returns the content of a secret's file.
func read(f *os.File, ref string) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("couldn't read secret %q: it is no regular file (%s)", ref, info.Mode().Type())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("couldn't read secret %q: others may read the file (mode %v); chmod 600 %s", ref, info.Mode().Perm(), f.Name())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("couldn't read secret %q: it has more than %d bytes", ref, maxSecret)
	}
	if strings.ContainsRune(string(b), 0) {
		return "", fmt.Errorf("couldn't read secret %q: it holds a zero byte, which no environment variable can", ref)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
