package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicehq/sluice/internal/release"
)

const (
	tagsPage = 1000
	maxTag   = 128
)

var tagForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// floating are names that promise to move, which no tag here does.
var floating = []string{
	"latest", "stable", "edge", "nightly", "current", "head", "main", "master", "trunk",
	"dev", "develop", "test", "staging", "prod", "production", "canary", "release",
}

// head is what the registry needs to know of a manifest or index.
type head struct {
	MediaType    string `json:"mediaType"`
	ArtifactType string `json:"artifactType"`
	Config       struct {
		MediaType string `json:"mediaType"`
	} `json:"config"`
	Manifests   json.RawMessage   `json:"manifests"`
	Subject     *subject          `json:"subject"`
	Annotations map[string]string `json:"annotations"`
}

type subject struct {
	Digest string `json:"digest"`
}

// descriptor is how the referrers API lists the manifest.
func (h head) descriptor(mediaType string, d release.Digest, size int) Descriptor {
	desc := Descriptor{MediaType: mediaType, Digest: d, Size: int64(size), ArtifactType: h.ArtifactType, Annotations: h.Annotations}
	if desc.ArtifactType == "" && h.Manifests == nil {
		desc.ArtifactType = h.Config.MediaType
	}
	return desc
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, repo, ref string) *failure {
	var tag string
	d, err := release.ParseDigest(ref)
	if err != nil {
		if strings.Contains(ref, ":") {
			return fail(http.StatusBadRequest, "DIGEST_INVALID", "%.200q is not a digest that is used here: sha256 and 64 hex digits", ref)
		}
		if !tagForm.MatchString(ref) {
			return fail(http.StatusBadRequest, "MANIFEST_INVALID", "%.200q is not a tag: letters, digits, '_', '.' and '-', at most %d", ref, maxTag)
		}
		tag = ref
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return g.getManifest(w, r, repo, tag, d)
	case http.MethodPut:
		return g.putManifest(w, r, repo, tag, d)
	case http.MethodDelete:
		return noDelete(w, "GET, HEAD, PUT")
	}
	return notAllowed(w, "GET, HEAD, PUT")
}

func noDelete(w http.ResponseWriter, allowed string) *failure {
	w.Header().Set("Allow", allowed)
	return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "nothing is deleted by clients: tags never move, and retention removes what nothing needs")
}

func notAllowed(w http.ResponseWriter, allowed string) *failure {
	w.Header().Set("Allow", allowed)
	return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "this method is not supported here")
}

func (g *Registry) getManifest(w http.ResponseWriter, r *http.Request, repo, tag string, d release.Digest) *failure {
	if tag != "" {
		var err error
		d, err = g.opt.Index.Resolve(r.Context(), repo, tag)
		if errors.Is(err, ErrNoTag) {
			return fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "%s has no tag %q", repo, tag)
		}
		if err != nil {
			return unavailable("look up the tag", err)
		}
	}
	b, f := g.stored(r.Context(), repo, d)
	if f != nil {
		return f
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
	if m := r.Header.Get("If-None-Match"); m == string(d) || m == `"`+string(d)+`"` {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", mediaTypeOf(b))
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method == http.MethodHead {
		return nil
	}
	_, _ = w.Write(b) // the client is gone if this fails
	return nil
}

// stored reads a manifest that is in repo and verifies it.
func (g *Registry) stored(ctx context.Context, repo string, d release.Digest) ([]byte, *failure) {
	there, err := g.has(ctx, repo, d)
	if err != nil {
		return nil, unavailable("read the manifest", err)
	}
	if !there {
		return nil, fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "%s has no manifest %s", repo, d)
	}
	b, err := g.blobs.Get(ctx, digest.Digest(d))
	if err != nil {
		return nil, unavailable("read the manifest", err)
	}
	if got := release.DigestOf(b); got != d {
		f := fail(http.StatusInternalServerError, CodeUnverified, "the stored manifest was altered: expected %s, got %s", d, got)
		return nil, f.with(map[string]release.Digest{"expected": d, "got": got})
	}
	return b, nil
}

// has reports whether a manifest is in repo.
func (g *Registry) has(ctx context.Context, repo string, d release.Digest) (bool, error) {
	m, err := g.manifests(ctx, repo)
	if err != nil {
		return false, err
	}
	return m.Exists(ctx, digest.Digest(d))
}

func mediaTypeOf(manifest []byte) string {
	var h head
	if json.Unmarshal(manifest, &h) == nil {
		if h.MediaType != "" {
			return h.MediaType
		}
		if h.Manifests != nil {
			return ocispec.MediaTypeImageIndex
		}
	}
	return ocispec.MediaTypeImageManifest
}

func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, repo, tag string, d release.Digest) *failure {
	ctx := r.Context()
	if slices.Contains(floating, strings.ToLower(tag)) {
		return fail(http.StatusBadRequest, "TAG_INVALID", "%q is a floating tag, and tags here never move: use a version or a commit, and deploy by digest", tag)
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	if err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest did not arrive whole")
	}
	if len(b) > maxManifest {
		return fail(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a manifest has at most %d bytes", maxManifest)
	}
	got := release.DigestOf(b)
	if d != "" && got != d {
		return fail(http.StatusBadRequest, "DIGEST_INVALID", "the manifest was altered: expected %s, got %s", d, got).
			with(map[string]release.Digest{"expected": d, "got": got})
	}
	d = got
	var h head
	if err := json.Unmarshal(b, &h); err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest is not JSON of the expected form: %v", err)
	}
	var about release.Digest
	if h.Subject != nil {
		if about, err = release.ParseDigest(h.Subject.Digest); err != nil {
			return fail(http.StatusBadRequest, "MANIFEST_INVALID", "the subject: %v", err)
		}
	}
	if tag != "" {
		// Early, so that a taken tag stores nothing. What counts is Index.Tag below.
		if had, err := g.opt.Index.Resolve(ctx, repo, tag); err == nil && had != d {
			return tagTaken(repo, tag, had, d)
		} else if err != nil && !errors.Is(err, ErrNoTag) {
			return unavailable("look up the tag", err)
		}
	}
	if about != "" {
		mediaType := cmp.Or(h.MediaType, r.Header.Get("Content-Type"), mediaTypeOf(b))
		if err := g.opt.Index.AddReferrer(ctx, repo, about, h.descriptor(mediaType, d, len(b))); err != nil {
			return unavailable("note the referrer", err)
		}
	}
	// Here the referrer is noted and not listed, for the manifest is not stored.
	// Always by digest: distribution's own tags could move.
	in := r.Clone(ctx)
	in.URL = &url.URL{Path: "/v2/" + repo + "/manifests/" + string(d)}
	in.RequestURI = ""
	in.Body = io.NopCloser(bytes.NewReader(b))
	in.ContentLength = int64(len(b))
	if in.Header.Get("Content-Type") == "" {
		in.Header.Set("Content-Type", mediaTypeOf(b))
	}
	answer := newRecorder()
	g.app.ServeHTTP(answer, in)
	// Here the manifest is stored and listed as referrer, and the tag names nothing.
	if answer.code == http.StatusCreated && tag != "" {
		had, err := g.opt.Index.Tag(ctx, repo, tag, d)
		if err != nil {
			return unavailable("set the tag", err)
		}
		if had != d {
			return tagTaken(repo, tag, had, d)
		}
	}
	if answer.code == http.StatusCreated && about != "" {
		w.Header().Set("OCI-Subject", string(about))
	}
	return g.relay(w, r, answer)
}

func tagTaken(repo, tag string, had, pushed release.Digest) *failure {
	return fail(http.StatusConflict, "TAG_INVALID", "%s:%s already names %s, and tags never move: use another tag", repo, tag, had).
		with(map[string]string{"tag": tag, "existing": string(had), "pushed": string(pushed)})
}

func (g *Registry) tags(w http.ResponseWriter, r *http.Request, repo string) *failure {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(w, "GET, HEAD")
	}
	n := tagsPage
	if s := r.FormValue("n"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return fail(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n=%.20q is not a number of tags", s)
		}
		n = min(n, tagsPage)
	}
	tags := []string{}
	if n > 0 {
		found, err := g.opt.Index.Tags(r.Context(), repo, r.FormValue("last"), n+1)
		if err != nil {
			return unavailable("list the tags", err)
		}
		tags = append(tags, found...)
	}
	if len(tags) > n {
		tags = tags[:n]
		next(w, r, url.Values{"n": {strconv.Itoa(n)}, "last": {tags[n-1]}})
	}
	return writeJSON(w, r, "application/json", map[string]any{"name": repo, "tags": tags})
}

// next tells the client where the list goes on.
func next(w http.ResponseWriter, r *http.Request, query url.Values) {
	w.Header().Set("Link", "<"+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
}

func writeJSON(w http.ResponseWriter, r *http.Request, mediaType string, v any) *failure {
	b, err := json.Marshal(v)
	if err != nil {
		return unavailable("write the answer", err)
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(b) // the client is gone if this fails
	}
	return nil
}

// Reindex adds the referrers that the index lacks; see the package's
// documentation for when that may be. It reads every manifest and may run while
// the registry serves.
func (g *Registry) Reindex(ctx context.Context) error {
	repos, ok := g.repos.(distribution.RepositoryEnumerator)
	if !ok {
		return errors.New("couldn't reindex the registry: this version of distribution can't list repositories")
	}
	err := repos.Enumerate(ctx, func(repo string) error { return g.reindex(ctx, repo) })
	if err != nil && !isEmpty(err) {
		return fmt.Errorf("couldn't reindex the registry: %w", err)
	}
	return nil
}

func (g *Registry) reindex(ctx context.Context, repo string) error {
	m, err := g.manifests(ctx, repo)
	if err != nil {
		return err
	}
	all, ok := m.(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("this version of distribution can't list manifests")
	}
	err = all.Enumerate(ctx, func(d digest.Digest) error {
		b, f := g.stored(ctx, repo, release.Digest(d))
		if f != nil {
			return fmt.Errorf("manifest %s in %s: %w", d, repo, f)
		}
		var h head
		if err := json.Unmarshal(b, &h); err != nil || h.Subject == nil {
			return nil // stored before it could be refused, or no referrer
		}
		about, err := release.ParseDigest(h.Subject.Digest)
		if err != nil {
			return nil
		}
		return g.opt.Index.AddReferrer(ctx, repo, about, h.descriptor(mediaTypeOf(b), release.Digest(d), len(b)))
	})
	if isEmpty(err) {
		return nil // blobs only
	}
	return err
}
