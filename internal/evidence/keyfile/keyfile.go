// Package keyfile keeps signing keys in files: PEM PKCS#8, mode 0600, one per
// purpose.
//
// A key is written to a temporary file of its own, synced, and then linked to
// its name, which fails if the name exists: of two processes that start at once
// one makes the key and both use that one. A crash leaves either no key or the
// whole key, never a part. A file that others may read is refused, because what
// it signed may be signed by others.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sluicehq/sluice/internal/evidence"
)

// maxSize bounds a key file in bytes.
const maxSize = 16 << 10

// ErrMode reports a key file that others than its owner may read or write.
var ErrMode = errors.New("key file is open to others")

// LoadOrCreateRing returns the keys of all purposes, in files PURPOSE.pem of dir.
func LoadOrCreateRing(dir string) (*evidence.KeyRing, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the folder of keys: %w", err)
	}
	var keys []*evidence.Key
	for _, p := range evidence.Purposes() {
		k, err := LoadOrCreateKey(filepath.Join(dir, string(p)+".pem"), p)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return evidence.NewKeyRing(keys...)
}

// LoadOrCreateKey returns the key in the file, made now if there is none.
func LoadOrCreateKey(path string, purpose evidence.Purpose) (*evidence.Key, error) {
	k, err := LoadKey(path, purpose)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := create(path, purpose); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("couldn't make the %s key: %w", purpose, err)
	}
	return LoadKey(path, purpose) // whoever made it, what is in the file counts
}

// LoadKey returns the key in the file.
func LoadKey(path string, purpose evidence.Purpose) (*evidence.Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the %s key: %w", purpose, err)
	}
	defer f.Close()
	// The open file is asked, not its name: nobody can swap it in between.
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("couldn't read the %s key: %w", purpose, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("couldn't read the %s key: %s is not a file", purpose, path)
	}
	if st.Mode().Perm()&0o177 != 0 {
		return nil, fmt.Errorf("couldn't use the %s key: %w: %s has mode %04o, want 0600: run chmod 600 %s; if others could have read it, remove it so that a new key is made",
			purpose, ErrMode, path, st.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("couldn't read the %s key: %w", purpose, err)
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("couldn't read the %s key: %s has more than %d bytes", purpose, path, maxSize)
	}
	k, err := evidence.ParseKey(purpose, b)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the %s key in %s: %w", purpose, path, err)
	}
	return k, nil
}

func create(path string, purpose evidence.Purpose) error {
	k, err := evidence.Generate(purpose)
	if err != nil {
		return err
	}
	b, err := k.PEM()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // O_EXCL, 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// Link, not rename: a rename would replace a key that another process just
	// made, and signed with.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
