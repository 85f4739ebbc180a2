package registry

import (
	"errors"
	"io"
	"net/http"
	"path"
	"regexp"
	"strings"

	"github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/sluicehq/sluice/internal/release"
)

var uploadForm = regexp.MustCompile(`^[a-zA-Z0-9-]{1,64}$`)

func (g *Registry) blob(w http.ResponseWriter, r *http.Request, ref string) *failure {
	if _, err := release.ParseDigest(ref); err != nil {
		return fail(http.StatusBadRequest, "DIGEST_INVALID", "%v", err)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return g.inner(w, r)
	case http.MethodDelete:
		return noDelete(w, "GET, HEAD")
	}
	return notAllowed(w, "GET, HEAD")
}

// upload answers what is below /v2/REPO/blobs/uploads/.
func (g *Registry) upload(w http.ResponseWriter, r *http.Request, repo, id string) *failure {
	if id != "" && !uploadForm.MatchString(id) {
		return fail(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
	}
	query := r.URL.Query()
	if d := query.Get("digest"); d != "" {
		if _, err := release.ParseDigest(d); err != nil {
			return fail(http.StatusBadRequest, "DIGEST_INVALID", "%v", err)
		}
	}
	if from := query.Get("from"); from != "" {
		// Mounting reads from there. Who may not is treated as if nothing was
		// there, as the specification asks: the client uploads instead.
		if !repoName(from) || g.opt.Authorizer.Authorize(r, from, ActionPull) != nil {
			query.Del("from")
			query.Del("mount")
			r = r.Clone(r.Context())
			r.URL.RawQuery = query.Encode()
		}
	}
	body := &bounded{ReadCloser: r.Body, room: g.opt.MaxBlob}
	if id != "" && (r.Method == http.MethodPatch || r.Method == http.MethodPut) {
		info, err := g.driver.Stat(r.Context(), path.Join(uploadPath(repo, id), "data"))
		if err == nil {
			body.room -= info.Size()
		} else if !isEmpty(err) {
			return unavailable("read the upload", err)
		}
	}
	if r.ContentLength > body.room {
		return g.tooLarge(r, repo, id)
	}
	r.Body = body
	answer := newRecorder()
	g.app.ServeHTTP(answer, r)
	if body.over {
		return g.tooLarge(r, repo, id)
	}
	return g.relay(w, r, answer)
}

// tooLarge removes the upload, so that what it has doesn't take room for a week.
func (g *Registry) tooLarge(r *http.Request, repo, id string) *failure {
	if id != "" {
		if err := g.driver.Delete(r.Context(), uploadPath(repo, id)); err != nil && !isEmpty(err) {
			return unavailable("remove the upload", err)
		}
	}
	return fail(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a blob has at most %d bytes here", g.opt.MaxBlob)
}

// uploadPath is where distribution keeps an upload.
func uploadPath(repo, id string) string {
	return "/docker/registry/v2/repositories/" + repo + "/_uploads/" + id
}

func isEmpty(err error) bool {
	var none driver.PathNotFoundError
	return errors.As(err, &none)
}

func repoName(s string) bool {
	project, service, _ := strings.Cut(s, "/")
	return release.CheckName(project) == nil && release.CheckName(service) == nil
}

var errOver = errors.New("more bytes than allowed")

// bounded reads at most room bytes and remembers if there were more.
type bounded struct {
	io.ReadCloser
	room int64
	over bool
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.over {
		return 0, errOver
	}
	if int64(len(p)) > b.room+1 {
		p = p[:b.room+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.room {
		b.over = true
		return int(b.room), errOver
	}
	b.room -= int64(n)
	return n, err
}
