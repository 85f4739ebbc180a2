package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/release"
)

const maxAnswer = 4 << 20 // bytes of a manifest or an error

// Options says who asks, and how. At most one of Token and Username is set.
type Options struct {
	Token string // a bearer token, as Sluice's own registry takes
	// Username and Password are for other registries; they are exchanged for a
	// token where the registry wants that.
	Username, Password string
	// Transport is used instead of a default one that waits 10 s for a
	// connection and 60 s for an answer to begin.
	Transport http.RoundTripper
}

// Repository is one repository of a registry. It is safe for concurrent use.
type Repository struct {
	base   *url.URL
	name   string
	client remote.Client
	oras   *remote.Repository
}

var (
	_ artifact.Store       = (*Repository)(nil)
	_ artifact.BlobFetcher = (*Repository)(nil)
)

// Open names the repository, for example "default/shop" at
// "http://127.0.0.1:8080". It does not connect.
func Open(base, repo string, o Options) (*Repository, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("couldn't open registry %q: its address is not http://HOST or https://HOST", base)
	}
	r, err := remote.NewRepository(u.Host + "/" + repo)
	if err != nil {
		return nil, fmt.Errorf("couldn't open repository %s at %s: %w", repo, base, err)
	}
	transport := o.Transport
	if transport == nil {
		transport = defaultTransport
	}
	plain := &http.Client{Transport: transport, CheckRedirect: dropToken(u)}
	var c remote.Client = bearer{client: plain, host: u.Host, token: o.Token}
	if o.Username != "" {
		c = &auth.Client{
			Client:     plain,
			Cache:      auth.NewCache(),
			Credential: auth.StaticCredential(u.Host, auth.Credential{Username: o.Username, Password: o.Password}),
		}
	}
	r.PlainHTTP = u.Scheme == "http"
	r.Client = c
	return &Repository{base: u, name: repo, client: c, oras: r}, nil
}

var defaultTransport = func() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	t.ResponseHeaderTimeout = 60 * time.Second
	t.DisableCompression = true // bytes as they are stored
	return t
}()

// dropToken follows redirects, as registries use for storage elsewhere, without
// taking the token to another host.
func dropToken(registry *url.URL) func(*http.Request, []*http.Request) error {
	return func(r *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("more than ten redirects")
		}
		if r.URL.Host != registry.Host || r.URL.Scheme != registry.Scheme {
			r.Header.Del("Authorization")
		}
		return nil
	}
}

type bearer struct {
	client *http.Client
	host   string
	token  string
}

// Do implements remote.Client.
func (b bearer) Do(r *http.Request) (*http.Response, error) {
	if b.token != "" && r.URL.Host == b.host {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.client.Do(r)
}

// Name returns the repository's name without the registry.
func (r *Repository) Name() string { return r.name }

// Exists implements [artifact.Store]. Content of another size is an ErrAltered,
// so that a push over a broken copy fails instead of pretending.
func (r *Repository) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	resp, err := r.request(ctx, http.MethodHead, kindOf(d.MediaType), d.Digest.String(), d.MediaType)
	if errors.Is(err, artifact.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	if n := resp.ContentLength; n >= 0 && n != d.Size {
		return false, fmt.Errorf("the registry's copy of %s has %d bytes, not %d: %w", d.Digest, n, d.Size, artifact.ErrAltered)
	}
	return true, nil
}

// Fetch implements [artifact.Store].
func (r *Repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	resp, err := r.request(ctx, http.MethodGet, kindOf(d.MediaType), d.Digest.String(), d.MediaType)
	if err != nil {
		return nil, err
	}
	return body{ctx, resp.Body}, nil
}

// Push implements [artifact.Store].
func (r *Repository) Push(ctx context.Context, d ocispec.Descriptor, content io.Reader) error {
	if _, ok := content.(io.Closer); ok {
		content = io.NopCloser(content) // net/http would close the caller's file
	}
	return failed(ctx, r.oras.Push(ctx, d, content))
}

// Resolve implements [artifact.Store].
func (r *Repository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	resp, err := r.request(ctx, http.MethodHead, "manifests", reference, "")
	if err != nil && !errors.Is(err, artifact.ErrNotFound) {
		// An answer to HEAD can't say why; ask again in a way that can.
		resp, err = r.request(ctx, http.MethodGet, "manifests", reference, "")
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if asked, err := release.ParseDigest(reference); err == nil {
		d = digest.Digest(asked)
	}
	if _, err := release.ParseDigest(string(d)); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("the registry's answer for %s has no digest: %w", reference, err)
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || resp.ContentLength < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("the registry's answer for %s has no usable type and length", reference)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: resp.ContentLength}, nil
}

// Tag implements [artifact.Store].
func (r *Repository) Tag(ctx context.Context, d ocispec.Descriptor, tag string) error {
	if _, err := release.ParseDigest(tag); err == nil || tag == "" || strings.ContainsAny(tag, ":/@") {
		return fmt.Errorf("%.200q is not a tag", tag)
	}
	rc, err := r.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer rc.Close()
	var b []byte
	err = artifact.Verify(rc, "manifest", release.Digest(d.Digest), d.Size, func(in io.Reader) (err error) {
		b, err = io.ReadAll(in)
		return err
	})
	if err != nil {
		return err
	}
	return failed(ctx, r.oras.PushReference(ctx, d, bytes.NewReader(b), tag))
}

// Referrers lists what refers to the manifest d; an empty artifactType means all.
func (r *Repository) Referrers(ctx context.Context, d release.Digest, artifactType string) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(d)}
	err := r.oras.Referrers(ctx, desc, artifactType, func(page []ocispec.Descriptor) error {
		all = append(all, page...)
		return nil
	})
	return all, failed(ctx, err)
}

// HeadBlob returns the size of a blob.
func (r *Repository) HeadBlob(ctx context.Context, d release.Digest) (int64, error) {
	resp, err := r.request(ctx, http.MethodHead, "blobs", string(d), "")
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.ContentLength, nil
}

// FetchBlob implements [artifact.BlobFetcher]: what it gives is not verified yet.
func (r *Repository) FetchBlob(ctx context.Context, d release.Digest) (io.ReadCloser, int64, error) {
	resp, err := r.request(ctx, http.MethodGet, "blobs", string(d), "")
	if err != nil {
		return nil, 0, err
	}
	if resp.ContentLength < 0 {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("the registry's answer for %s has no length", d)
	}
	return body{ctx, resp.Body}, resp.ContentLength, nil
}

// GetBlob returns the verified bytes of a blob of at most limit bytes.
func (r *Repository) GetBlob(ctx context.Context, d release.Digest, limit int64) ([]byte, error) {
	rc, size, err := r.FetchBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	if size > limit {
		return nil, fmt.Errorf("couldn't get %s: %w: it has %d bytes, allowed are %d", d, artifact.ErrLimit, size, limit)
	}
	var b []byte
	err = artifact.Verify(rc, "blob", d, size, func(in io.Reader) (err error) {
		b, err = io.ReadAll(in)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

func kindOf(mediaType string) string {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex:
		return "manifests"
	}
	return "blobs"
}

// request asks for a manifest or blob; any answer but 200 is an error.
func (r *Repository) request(ctx context.Context, method, kind, reference, accept string) (*http.Response, error) {
	u := r.base.JoinPath("v2", r.name, kind, reference)
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if kind == "manifests" {
		if accept == "" {
			accept = ocispec.MediaTypeImageManifest + ", " + ocispec.MediaTypeImageIndex
		}
		req.Header.Set("Accept", accept)
	}
	resp, err := r.client.Do(scoped(req, r.oras))
	if err != nil {
		return nil, failed(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	answer := &errcode.ErrorResponse{Method: method, URL: u, StatusCode: resp.StatusCode}
	var problems struct {
		Errors errcode.Errors `json:"errors"`
	}
	if b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err == nil && json.Unmarshal(b, &problems) == nil {
		answer.Errors = problems.Errors
	}
	return nil, failed(ctx, answer)
}

// scoped names the scope that a token service of another registry wants to know.
func scoped(req *http.Request, r *remote.Repository) *http.Request {
	return req.WithContext(auth.AppendRepositoryScope(req.Context(), r.Reference, auth.ActionPull))
}

// failed gives an error of HTTP or oras its name in package artifact.
func failed(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, artifact.ErrAltered) || errors.Is(err, artifact.ErrUnavailable) {
		return err
	}
	if c := ctx.Err(); errors.Is(c, context.Canceled) {
		return fmt.Errorf("the registry was not asked to the end: %w", c)
	}
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) {
		for _, p := range answer.Errors {
			if p.Code == "MANIFEST_UNVERIFIED" {
				return altered(p, err)
			}
		}
		switch code := answer.StatusCode; {
		case code == http.StatusNotFound:
			return fmt.Errorf("%w: %w", artifact.ErrNotFound, err)
		case code == http.StatusUnauthorized, code == http.StatusForbidden:
			return fmt.Errorf("%w: %w", artifact.ErrDenied, err)
		case code == http.StatusConflict:
			return fmt.Errorf("%w: %w", artifact.ErrTagTaken, err)
		case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
			return fmt.Errorf("%w: %w", artifact.ErrUnavailable, err)
		}
		return err
	}
	if errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("%w: %w", artifact.ErrNotFound, err)
	}
	var transport *url.Error
	var network net.Error
	if errors.As(err, &transport) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", artifact.ErrUnavailable, err)
	}
	return err
}

// altered reads what our registry says when its own copy is not what it was.
func altered(p errcode.Error, err error) error {
	detail, _ := p.Detail.(map[string]any)
	expected, _ := detail["expected"].(string)
	got, _ := detail["got"].(string)
	if expected == "" {
		return fmt.Errorf("%w: %w", artifact.ErrAltered, err)
	}
	return &artifact.AlteredError{What: "manifest in the registry", Expected: release.Digest(expected), Got: release.Digest(got)}
}

// body is an answer's content; when it breaks off, the registry is unavailable.
type body struct {
	ctx context.Context
	io.ReadCloser
}

func (b body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		if c := b.ctx.Err(); errors.Is(c, context.Canceled) {
			return n, fmt.Errorf("the registry was not read to the end: %w", c)
		}
		err = fmt.Errorf("%w: it broke off: %w", artifact.ErrUnavailable, err)
	}
	return n, err
}
