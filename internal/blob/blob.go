package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sluicehq/sluice/internal/release"
)

// What callers branch on.
var (
	ErrNotFound = errors.New("no such blob")
	ErrTooLarge = errors.New("the blob is too large")
	ErrCorrupt  = errors.New("the blob was altered")
)

// Store keeps blobs by digest. It is safe for concurrent use, also by several
// processes.
type Store interface {
	// Put stores what r gives, durable when it returns, and returns its digest
	// and size. The same content again changes nothing. It fails with
	// [ErrTooLarge] without storing anything when the store's bound is passed.
	Put(ctx context.Context, r io.Reader) (release.Digest, int64, error)
	// Open reads a blob, or fails with [ErrNotFound]. The reader fails with
	// [ErrCorrupt] at the end if it is not what the digest names.
	Open(ctx context.Context, d release.Digest) (io.ReadCloser, error)
	// Delete removes a blob. One that is not there is fine.
	Delete(ctx context.Context, d release.Digest) error
}

// DefaultMax is the largest blob that a [Dir] takes, in bytes.
const DefaultMax = 1 << 30

// Dir is a [Store] in a folder.
type Dir struct {
	root string
	max  int64
}

var _ Store = (*Dir)(nil)

// Open opens the folder at root and makes it if it is not there. Blobs may have
// up to max bytes; 0 means [DefaultMax]. Only one process may open a folder at a
// time with unfinished writes of another's in it: those are removed.
func Open(root string, max int64) (*Dir, error) {
	if max <= 0 {
		max = DefaultMax
	}
	d := &Dir{root: root, max: max}
	if err := os.MkdirAll(d.tmp(), 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the folder of blobs: %w", err)
	}
	left, err := os.ReadDir(d.tmp())
	if err != nil {
		return nil, fmt.Errorf("couldn't read the folder of blobs: %w", err)
	}
	for _, f := range left {
		if err := os.Remove(filepath.Join(d.tmp(), f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("couldn't remove an unfinished blob: %w", err)
		}
	}
	return d, nil
}

func (d *Dir) tmp() string { return filepath.Join(d.root, "tmp") }

// path spreads blobs over 256 folders, so that none grows too large to list.
func (d *Dir) path(digest release.Digest) (string, error) {
	digest, err := release.ParseDigest(string(digest)) // it becomes a file's name
	if err != nil {
		return "", err
	}
	hex := digest.Hex()
	return filepath.Join(d.root, "sha256", hex[:2], hex), nil
}

// Put implements [Store].
func (d *Dir) Put(ctx context.Context, r io.Reader) (_ release.Digest, _ int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("couldn't store a blob: %w", err)
		}
	}()
	f, err := os.CreateTemp(d.tmp(), "put-*") // mode 0600
	if err != nil {
		return "", 0, err
	}
	defer func() {
		// After the rename there is nothing left to remove.
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(contextReader{ctx, r}, d.max+1))
	if err != nil {
		return "", 0, err
	}
	if n > d.max {
		return "", 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, d.max)
	}
	digest := release.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
	path, err := d.path(digest)
	if err != nil {
		return "", 0, err
	}
	if err := f.Sync(); err != nil {
		return "", 0, err
	}
	if err := f.Close(); err != nil {
		return "", 0, err
	}
	shard := filepath.Dir(path)
	if err := os.MkdirAll(shard, 0o700); err != nil {
		return "", 0, err
	}
	// Also when it is there: what is there may have been altered, this was not.
	if err := os.Rename(f.Name(), path); err != nil {
		return "", 0, err
	}
	// The name must be as durable as the bytes, and so must the folder's.
	for _, dir := range []string{shard, filepath.Dir(shard), d.root} {
		if err := syncDir(dir); err != nil {
			return "", 0, err
		}
	}
	return digest, n, nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Open implements [Store].
func (d *Dir) Open(ctx context.Context, digest release.Digest) (io.ReadCloser, error) {
	path, err := d.path(digest)
	if err != nil {
		return nil, fmt.Errorf("couldn't open a blob: %w", err)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("couldn't open blob %s: %w", digest.Short(), ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't open blob %s: %w", digest.Short(), err)
	}
	return &verifier{ctx: ctx, f: f, h: sha256.New(), want: digest}, nil
}

// Delete implements [Store].
func (d *Dir) Delete(_ context.Context, digest release.Digest) error {
	path, err := d.path(digest)
	if err != nil {
		return fmt.Errorf("couldn't delete a blob: %w", err)
	}
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(path)) // erased is erased, also after a crash
	}
	if err != nil {
		return fmt.Errorf("couldn't delete blob %s: %w", digest.Short(), err)
	}
	return nil
}

// verifier reads a file and says at its end whether it was the right one.
type verifier struct {
	ctx  context.Context
	f    *os.File
	h    hash.Hash
	want release.Digest
	err  error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	if err := v.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := v.f.Read(p)
	v.h.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(v.h.Sum(nil)); got != v.want.Hex() {
			err = fmt.Errorf("%w: %s has digest sha256:%s", ErrCorrupt, v.want, got)
		}
	}
	v.err = err
	return n, err
}

func (v *verifier) Close() error { return v.f.Close() }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
