// Package secret resolves references to secrets. Values are never logged and
// never part of an error.
//
// This build reads file:PATH, with an absolute path: the content of a file that
// only its owner can read, without the newlines at its end. Who may name which
// file differs: build steps get [Below], services [Outside].
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
)

// maxSecret bounds a secret, in bytes.
const maxSecret = 64 << 10

// Below returns what resolves references to files below dir only, whatever links lie
// there. It is for references that come with code which nobody has approved: a
// build step must not be able to name the keys of the user that runs the server.
func Below(dir string) func(context.Context, string) (string, error) {
	return func(_ context.Context, ref string) (string, error) {
		path, err := pathOf(ref)
		if err != nil {
			return "", err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || !filepath.IsLocal(name) || name == "." {
			return "", fmt.Errorf("couldn't read secret %q: a build step gets only what lies in %s, where the server's operator puts it", ref, dir)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
		}
		defer root.Close()
		f, err := root.Open(name)
		if err != nil {
			return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
		}
		return read(f, ref)
	}
}

// Outside returns what resolves references, but reads no file of the given folders, nor one of
// the given files, whatever links lead there: a service must not be handed the
// keys of those that run it. What an operator put into the folder secrets of such
// a folder is given.
func Outside(own ...string) func(context.Context, string) (string, error) {
	return func(_ context.Context, ref string) (string, error) {
		path, err := pathOf(ref)
		if err != nil {
			return "", err
		}
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
		}
		// Of what is open now: the path may have changed since.
		at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			at, err = filepath.EvalSymlinks(path)
		}
		for i := 0; i < len(own) && err == nil; i++ {
			var in bool
			if in, err = isOwn(at, own[i]); in {
				err = errors.New("a service gets nothing that is Sluice's own; put the secret elsewhere, or into the folder secrets of the server's data folder")
			}
		}
		if err != nil {
			_ = f.Close()
			return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
		}
		return read(f, ref)
	}
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

// read returns the content of a secret's file, and closes it.
func read(f *os.File, ref string) (string, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("couldn't read secret %q: %w", ref, err)
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
