package webui

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/sluicehq/sluice/internal/control"
)

//go:embed static
var embedded embed.FS

// files are the static files by the path that pages name: static/NAME-HASH.EXT.
// The hash is of the content, so that a browser may keep each for ever.
type files struct {
	content map[string][]byte // by hashed path, without the first slash
	hashed  map[string]string // from plain to hashed path
}

func loadFiles(from fs.FS) (*files, error) {
	f := &files{content: map[string][]byte{}, hashed: map[string]string{}}
	err := fs.WalkDir(from, "static", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(from, p)
		if err != nil {
			return fmt.Errorf("couldn't read %s: %w", p, err)
		}
		sum := sha256.Sum256(b)
		ext := path.Ext(p)
		h := strings.TrimSuffix(p, ext) + "-" + hex.EncodeToString(sum[:6]) + ext
		f.content[h], f.hashed[p] = b, h
		return nil
	})
	return f, err
}

// url returns the address of a file under static/.
func (f *files) url(name string) string { return "/" + f.hashed["static/"+name] }

// ServeHTTP implements http.Handler.
func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	b, ok := f.content[name]
	if !ok {
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "there is no such file; reload the page that named it", http.StatusNotFound)
		return
	}
	t := mime.TypeByExtension(path.Ext(name))
	if t == "" {
		t = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", t)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(b) // the browser may have gone
	}
}

// liveKinds are the events at which a page renews itself, as htmx names them.
func liveKinds() string {
	return "sse:" + strings.Join(control.FeedKinds(), ", sse:")
}
