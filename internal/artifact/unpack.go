package artifact

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	unpackPrefix = ".unpack-"
	// headerRoom is the most that an entry takes beside its content: a PAX
	// header, its records (two paths), a header, padding.
	headerRoom = 4*blockSize + 3*maxName
)

// Unpack writes the tree that Pack packed into r to dir, which must not exist
// ([ErrExists]) but whose parent must. It returns when the tree is complete and
// durable; until then dir does not exist.
//
// r is untrusted. Anything that Pack would not have written is [ErrAltered]:
// cut or extra data, names or links that leave the tree, duplicates, other
// kinds of entries, other modes, owners or times. More than lim is [ErrLimit].
func Unpack(r io.Reader, dir string, lim Limits) error {
	if err := unpack(r, dir, lim.orDefault()); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: free space there and try again", err)
		}
		return fmt.Errorf("couldn't unpack to %s: %w", dir, err)
	}
	return nil
}

func unpack(r io.Reader, dir string, lim Limits) (err error) {
	parent, base := filepath.Split(filepath.Clean(dir))
	if parent == "" {
		parent = "."
	}
	if _, err := os.Lstat(dir); err == nil {
		return ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp, err := os.MkdirTemp(parent, unpackPrefix+base+"-*")
	if err != nil {
		return err
	}
	// If we die between here and the rename, the folder stays and Sweep removes it.
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	root, err := os.OpenRoot(temp)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := extract(r, root, lim); err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err := syncDir(root, "."); err != nil {
		return err
	}
	// Rename replaces an empty folder without a word, but never a full one.
	if err := os.Rename(temp, dir); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return ErrExists
		}
		return err
	}
	// From here dir is complete. Only its name may be lost with the power, which
	// is as if it had never been unpacked.
	p, err := os.Open(parent)
	if err != nil {
		return nil
	}
	defer p.Close()
	_ = p.Sync()
	return nil
}

// extract writes r's tree into root, which is empty.
func extract(r io.Reader, root *os.Root, lim Limits) error {
	// What Pack would have written for the entries met so far goes into again,
	// what was read into read: at the end both must be the same.
	read, again := sha256.New(), counter{w: io.Discard, hash: sha256.New()}
	src := io.TeeReader(io.LimitReader(r, archiveRoom(lim)), read)
	tr := tar.NewReader(src)
	x := extraction{root: root, again: &again, lim: lim}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return readError(err)
		}
		if err := x.entry(h, tr); err != nil {
			return err
		}
	}
	if err := writeEnd(&again); err != nil {
		return err
	}
	// The reader stops at the first end mark; whatever follows counts too.
	if _, err := io.Copy(io.Discard, src); err != nil {
		return readError(err)
	}
	if got, want := digestOf(read), again.sum(); got != want {
		return fmt.Errorf("%w: the archive isn't in the form that Pack writes (it has digest %s, its tree packs to %s)", ErrAltered, got, want)
	}
	if x.files > syncEach {
		return syncAll(root)
	}
	for _, d := range x.dirs {
		if err := syncDir(root, d); err != nil {
			return err
		}
	}
	return nil
}

// archiveRoom is the most bytes that an archive within lim can have, and one.
func archiveRoom(lim Limits) int64 {
	return lim.Bytes + int64(lim.Files)*headerRoom + 2*blockSize + 1
}

// readError tells an archive that is cut or broken from a reader that failed:
// the first stays so, the second may pass.
func readError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		if !errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("%w: the archive is cut or broken: %w", ErrAltered, err)
		}
	}
	return err
}

type extraction struct {
	root  *os.Root
	again *counter
	lim   Limits
	files int
	bytes int64
	last  string
	dirs  []string
}

func (x *extraction) entry(h *tar.Header, content io.Reader) error {
	e := entry{name: h.Name, kind: h.Typeflag, executable: h.Mode&0o111 != 0}
	switch e.kind {
	case kindDir:
		e.name = strings.TrimSuffix(e.name, "/")
	case kindFile:
		e.size = h.Size
	case kindSymlink:
		e.target = h.Linkname
	default:
		return fmt.Errorf("%w: %.200q is of type %q; only files, folders and symlinks are allowed", ErrAltered, h.Name, h.Typeflag)
	}
	if err := e.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrAltered, err)
	}
	if x.last != "" && !walksBefore(x.last, e.name) {
		return fmt.Errorf("%w: %.200q is there twice or out of order", ErrAltered, e.name)
	}
	x.last = e.name
	x.files++
	// In this order, so that a size near the largest number can't wrap around.
	if e.size > x.lim.Bytes-x.bytes {
		return x.lim.check(0, x.lim.Bytes+1)
	}
	x.bytes += e.size
	if err := x.lim.check(x.files, x.bytes); err != nil {
		return err
	}
	if err := writeHeader(x.again, e); err != nil {
		return err
	}
	// A folder comes before what is in it, so the parent must be there, and be a
	// real folder: os.Root keeps us inside, but a link to a folder is followed.
	if parent := path.Dir(e.name); parent != "." {
		info, err := x.root.Lstat(parent)
		if err != nil || !info.IsDir() {
			return fmt.Errorf("%w: %.200q comes before its folder", ErrAltered, e.name)
		}
	}
	switch e.kind {
	case kindDir:
		x.dirs = append(x.dirs, e.name)
		if err := x.root.Mkdir(e.name, 0o755); err != nil {
			return err
		}
		return x.root.Chmod(e.name, 0o755) // whatever the umask
	case kindSymlink:
		return x.root.Symlink(e.target, e.name)
	}
	return x.file(e, content)
}

func (x *extraction) file(e entry, content io.Reader) (err error) {
	mode := fs.FileMode(0o644)
	if e.executable {
		mode = 0o755
	}
	f, err := x.root.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(io.MultiWriter(f, x.again), content)
	if err != nil {
		return readError(err)
	}
	if n != e.size {
		return fmt.Errorf("%w: %.200q has %d bytes, its header says %d", ErrAltered, e.name, n, e.size)
	}
	if _, err := io.WriteString(x.again, padding(n)); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil { // whatever the umask
		return err
	}
	if x.files > syncEach {
		return nil // syncAll at the end
	}
	return f.Sync()
}

// walksBefore reports whether a walk that visits each folder's names in sorted
// order comes to a before b. A folder comes before what it holds.
func walksBefore(a, b string) bool {
	for {
		ah, at, amore := strings.Cut(a, "/")
		bh, bt, bmore := strings.Cut(b, "/")
		if ah != bh {
			return ah < bh
		}
		if !amore || !bmore {
			return !amore && bmore
		}
		a, b = at, bt
	}
}

func syncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Sweep removes what an Unpack left in parent when its process died. Nothing may
// be unpacking into parent meanwhile.
func Sweep(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("couldn't sweep %s: %w", parent, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unpackPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(parent, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't sweep %s: %w", parent, err)
	}
	return nil
}
