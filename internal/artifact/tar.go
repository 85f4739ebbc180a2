package artifact

import (
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"
)

// Kinds of entries, with their type flags in a tar header.
const (
	kindFile    = '0'
	kindSymlink = '2'
	kindDir     = '5'
	kindPAX     = 'x'
)

const (
	blockSize = 512
	nameSize  = 100 // of a name or link target that fits a plain header
	maxOctal  = 1<<33 - 1
	maxName   = 4096 // bytes of a path; longer ones can't be opened on Linux
	maxPart   = 255  // bytes of one element of a path
)

// entry is one thing in a tree. Its name is slash-separated and relative.
type entry struct {
	name       string
	kind       byte
	executable bool
	size       int64
	target     string // of a symlink
}

// check refuses what may not be in an archive, for packing and unpacking alike.
func (e entry) check() error {
	if err := checkName(e.name); err != nil {
		return err
	}
	if e.kind != kindSymlink {
		return nil
	}
	// The target must be clean, so that ".." stands only at its start. Then it
	// climbs from the link's own folder, which is a real folder of the tree, and
	// what follows only descends: no chain of links can leave the tree. With
	// "dir/link/../.." it could.
	t := e.target
	switch {
	case t == "" || len(t) > maxName || !utf8.ValidString(t) || strings.ContainsRune(t, 0):
		return fmt.Errorf("symlink %q has an unusable target %.80q", e.name, t)
	case path.IsAbs(t):
		return fmt.Errorf("symlink %q points to %q, an absolute path: link inside the tree with a relative path", e.name, t)
	case path.Clean(t) != t:
		return fmt.Errorf("symlink %q points to %q: write the target without \".\", doubled or inner \"..\" elements (%q)", e.name, t, path.Clean(t))
	}
	if to := path.Join(path.Dir(e.name), t); to == ".." || strings.HasPrefix(to, "../") {
		return fmt.Errorf("symlink %q points to %q, outside the tree", e.name, t)
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || path.IsAbs(name) || path.Clean(name) != name || strings.HasPrefix(name, "../"):
		return fmt.Errorf("%.200q is not a relative path inside the tree", name)
	case len(name) > maxName:
		return fmt.Errorf("path %.80q… is longer than %d bytes", name, maxName)
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return fmt.Errorf("path %.200q is not UTF-8", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxPart {
			return fmt.Errorf("path element %.80q… is longer than %d bytes", part, maxPart)
		}
	}
	return nil
}

// writeHeader writes e's header blocks. The bytes are a function of e alone and
// are part of the format: changing them changes every digest (see TestGolden).
func writeHeader(w io.Writer, e entry) error {
	name := e.name
	if e.kind == kindDir {
		name += "/"
	}
	var records string
	if e.target != "" && !plain(e.target) {
		records += paxRecord("linkpath", e.target)
	}
	if !plain(name) {
		records += paxRecord("path", name)
	}
	if e.size > maxOctal {
		records += paxRecord("size", fmt.Sprint(e.size))
	}
	if records != "" {
		h := header("PaxHeaders", kindPAX, 0o644, int64(len(records)), "")
		if _, err := w.Write(h[:]); err != nil {
			return err
		}
		if _, err := io.WriteString(w, records+padding(int64(len(records)))); err != nil {
			return err
		}
	}
	mode := int64(0o644)
	if e.executable || e.kind == kindDir {
		mode = 0o755
	}
	if e.kind == kindSymlink {
		mode = 0o777
	}
	h := header(name, e.kind, mode, e.size, e.target)
	_, err := w.Write(h[:])
	return err
}

// plain reports whether s fits a header's text field, so that it needs no record.
func plain(s string) bool {
	if len(s) > nameSize {
		return false
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func header(name string, kind byte, mode, size int64, target string) (h [blockSize]byte) {
	if !plain(name) {
		name = "PaxName" // the record before this header has the real one
	}
	if !plain(target) {
		target = "PaxLink"
	}
	if size > maxOctal {
		size = 0
	}
	copy(h[0:100], name)
	copy(h[100:108], fmt.Sprintf("%07o\x00", mode))
	copy(h[108:116], "0000000\x00") // uid
	copy(h[116:124], "0000000\x00") // gid
	copy(h[124:136], fmt.Sprintf("%011o\x00", size))
	copy(h[136:148], "00000000000\x00") // mtime
	copy(h[148:156], "        ")        // checksum, as it counts while summing
	h[156] = kind
	copy(h[157:257], target)
	copy(h[257:265], "ustar\x0000")
	copy(h[329:337], "0000000\x00") // device numbers
	copy(h[337:345], "0000000\x00")
	var sum int
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// paxRecord is "LENGTH KEY=VALUE\n", where LENGTH counts itself.
func paxRecord(key, value string) string {
	rest := len(key) + len(value) + 3 // space, equals sign, newline
	n := rest + len(fmt.Sprint(rest))
	if len(fmt.Sprint(n)) != len(fmt.Sprint(rest)) {
		n = rest + len(fmt.Sprint(n))
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

var zeros = strings.Repeat("\x00", 2*blockSize)

// padding fills n bytes of content up to whole blocks.
func padding(n int64) string { return zeros[:(blockSize-n%blockSize)%blockSize] }

// writeEnd writes what closes an archive.
func writeEnd(w io.Writer) error {
	_, err := io.WriteString(w, zeros)
	return err
}
