package registry

import (
	"encoding/json"
	"net/http"
	"net/url"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicehq/sluice/internal/release"
)

const (
	referrersBatch = 100     // rows asked for at once
	referrersPage  = 1 << 20 // bytes after which the list goes on in another page
)

// referrers answers GET /v2/REPO/referrers/DIGEST?artifactType=…
func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, repo, ref string) *failure {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(w, "GET, HEAD")
	}
	about, err := release.ParseDigest(ref)
	if err != nil {
		return fail(http.StatusBadRequest, "DIGEST_INVALID", "%v", err)
	}
	artifactType := r.FormValue("artifactType")
	last := release.Digest(r.FormValue("last"))
	list, size := []Descriptor{}, 0
	for more := true; more; {
		rows, err := g.opt.Index.Referrers(r.Context(), repo, about, artifactType, last, referrersBatch)
		if err != nil {
			return unavailable("list the referrers", err)
		}
		more = len(rows) == referrersBatch
		for i, row := range rows {
			// A row without its manifest is of a push that never ended.
			there, err := g.has(r.Context(), repo, row.Digest)
			if err != nil {
				return unavailable("list the referrers", err)
			}
			last = row.Digest
			if !there {
				continue
			}
			b, err := json.Marshal(row)
			if err != nil {
				return unavailable("list the referrers", err)
			}
			list, size = append(list, row), size+len(b)
			if size >= referrersPage && (more || i < len(rows)-1) {
				query := url.Values{"last": {string(last)}}
				if artifactType != "" {
					query.Set("artifactType", artifactType)
				}
				next(w, r, query)
				more = false
				break
			}
		}
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, r, ocispec.MediaTypeImageIndex, map[string]any{
		"schemaVersion": 2,
		"mediaType":     ocispec.MediaTypeImageIndex,
		"manifests":     list,
	})
}
