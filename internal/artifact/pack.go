package artifact

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
	"path"
	"syscall"

	"github.com/sluicehq/sluice/internal/release"
)

// Limits bound a tree, when it is packed and when it is unpacked. A zero field
// means its default.
type Limits struct {
	Files int   // entries of all kinds; 200 000
	Bytes int64 // of all files together; 8 GiB
}

func (l Limits) orDefault() Limits {
	if l.Files == 0 {
		l.Files = 200_000
	}
	if l.Bytes == 0 {
		l.Bytes = 8 << 30
	}
	return l
}

// Packed is what Pack wrote.
type Packed struct {
	Digest release.Digest // of the archive
	Size   int64          // of the archive, in bytes
	Files  int            // entries of all kinds
	Bytes  int64          // of all files together: the size of the content
}

// Pack writes the tree at name inside root to w. A name that is a single file
// makes a tree with only this file. Nothing outside root is read, whatever
// links the tree holds, so root may be a folder that untrusted steps wrote.
// Memory is bounded by the largest folder, not by the content.
//
// Sockets, pipes, devices, links that leave the tree and names that are not
// UTF-8 are refused, as is a file that changes while it is read: all
// [ErrUnpackable]. More than lim is [ErrLimit].
func Pack(ctx context.Context, w io.Writer, root *os.Root, name string, lim Limits) (Packed, error) {
	p := packer{ctx: ctx, out: counter{w: w, hash: sha256.New()}, lim: lim.orDefault()}
	if err := p.pack(root, name); err != nil {
		return Packed{}, fmt.Errorf("couldn't pack %s: %w", name, err)
	}
	p.did.Digest, p.did.Size = p.out.sum(), p.out.n
	return p.did, nil
}

type packer struct {
	ctx  context.Context
	out  counter
	lim  Limits
	did  Packed
	root *os.Root // of the tree itself
}

func (p *packer) pack(root *os.Root, name string) error {
	info, err := root.Stat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		// Through the folder that holds it; a link to a file is followed above
		// but not here, so it is refused when it leaves that folder.
		dir, err := root.OpenRoot(path.Dir(name))
		if err != nil {
			return err
		}
		defer dir.Close()
		p.root = dir
		if err := p.file(path.Base(name), info); err != nil {
			return err
		}
		return writeEnd(&p.out)
	}
	if p.root, err = root.OpenRoot(name); err != nil {
		return err
	}
	defer p.root.Close()
	err = fs.WalkDir(p.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "." {
			return p.ctx.Err()
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.Mode().IsRegular():
			return p.file(name, info)
		case info.IsDir():
			return p.add(entry{name: name, kind: kindDir})
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := p.root.Readlink(name)
			if err != nil {
				return err
			}
			return p.add(entry{name: name, kind: kindSymlink, target: target})
		}
		return fmt.Errorf("%w: %q is a %s; only files, folders and links inside the tree can be packed", ErrUnpackable, name, kindOf(info.Mode()))
	})
	if err != nil {
		return err
	}
	return writeEnd(&p.out)
}

func (p *packer) add(e entry) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if err := e.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnpackable, err)
	}
	p.did.Files++
	p.did.Bytes += e.size
	if err := p.lim.check(p.did.Files, p.did.Bytes); err != nil {
		return err
	}
	return writeHeader(&p.out, e)
}

func (l Limits) check(files int, bytes int64) error {
	if files > l.Files {
		return fmt.Errorf("%w: more than %d files", ErrLimit, l.Files)
	}
	if bytes > l.Bytes {
		return fmt.Errorf("%w: more than %d bytes", ErrLimit, l.Bytes)
	}
	return nil
}

func (p *packer) file(name string, seen fs.FileInfo) error {
	if !seen.Mode().IsRegular() {
		return fmt.Errorf("%w: %q is a %s, not a file or folder", ErrUnpackable, name, kindOf(seen.Mode()))
	}
	// Without waiting: between the listing and here the name may have become a
	// pipe that nobody writes to.
	f, err := p.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || !os.SameFile(seen, info) {
		return fmt.Errorf("%w: %q was replaced while it was packed", ErrUnpackable, name)
	}
	size := info.Size()
	if err := p.add(entry{name: name, kind: kindFile, executable: info.Mode()&0o111 != 0, size: size}); err != nil {
		return err
	}
	n, err := io.Copy(&p.out, io.LimitReader(interruptible{p.ctx, f}, size+1))
	switch {
	case err != nil:
		return fmt.Errorf("couldn't copy %q: %w", name, err)
	case n != size:
		return fmt.Errorf("%w: %q changed its size while it was packed; let every step that writes end first", ErrUnpackable, name)
	}
	_, err = io.WriteString(&p.out, padding(size))
	return err
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	case m.IsDir():
		return "folder"
	case m&fs.ModeSymlink != 0:
		return "symlink"
	}
	return "file of unknown kind"
}

// counter hashes and counts what passes to w.
type counter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.hash.Write(b[:n])
	c.n += int64(n)
	return n, err
}

func (c *counter) sum() release.Digest { return digestOf(c.hash) }

func digestOf(h hash.Hash) release.Digest {
	return release.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// interruptible stops a long copy when its context ends.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(b)
}

// Spool packs into an unlinked file in dir, because a registry wants the digest
// before the content. Close the file to free its space.
func Spool(ctx context.Context, dir string, root *os.Root, name string, lim Limits) (*os.File, Packed, error) {
	f, err := os.CreateTemp(dir, ".pack-*")
	if err != nil {
		return nil, Packed{}, fmt.Errorf("couldn't pack %s: %w", name, err)
	}
	packed, err := Pack(ctx, f, root, name, lim)
	err = errors.Join(err, os.Remove(f.Name()))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, Packed{}, err
	}
	return f, packed, nil
}

// Type is the type of an artifact in a release.
const Type = "files"
