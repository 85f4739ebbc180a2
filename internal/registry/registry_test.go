package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/registry/registrytest"
	"github.com/sluicehq/sluice/internal/release"
)

const repo = "default/shop"

// Tokens of the tests and what they may.
const (
	writer = "writer" // everything
	reader = "reader" // pull from default/shop
)

func authorize(r *http.Request, repository string, action registry.Action) error {
	switch registrytest.Token(r) {
	case writer:
		return nil
	case reader:
		if action == registry.ActionPull && (repository == repo || repository == "") {
			return nil
		}
		return registry.ErrForbidden
	case "broken":
		return errors.New("database is gone")
	}
	return registry.ErrUnauthenticated
}

// bench is a registry that serves on loopback.
type bench struct {
	t     testing.TB
	root  string
	index registry.Index
	url   string
	reg   *registry.Registry
}

func open(t testing.TB, change ...func(*registry.Options)) *bench {
	t.Helper()
	o := registry.Options{
		Root:       t.TempDir(),
		Key:        bytes.Repeat([]byte("k"), 32),
		Index:      registrytest.NewIndex(),
		Authorizer: registry.AuthorizerFunc(authorize),
		Log:        slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	g, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(g)
	t.Cleanup(func() {
		srv.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{t: t, root: o.Root, index: o.Index, url: srv.URL, reg: g}
}

type answer struct {
	status int
	header http.Header
	body   string
}

// code is the first error's code in the OCI form.
func (a answer) code() string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal([]byte(a.body), &e) != nil || len(e.Errors) == 0 || e.Errors[0].Message == "" {
		return ""
	}
	return e.Errors[0].Code
}

func (b *bench) do(method, path, body string, headers ...string) answer {
	b.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = b.url + path
	}
	req, err := http.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+writer)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(content)}
}

func (b *bench) want(a answer, status int, code string) answer {
	b.t.Helper()
	if a.status != status || a.code() != code {
		b.t.Errorf("answer is %d %s %.300s, want %d %s", a.status, a.code(), a.body, status, code)
	}
	return a
}

// blob uploads content in one piece and returns its digest.
func (b *bench) blob(repo, content string) release.Digest {
	b.t.Helper()
	d := release.DigestOf([]byte(content))
	start := b.want(b.do("POST", "/v2/"+repo+"/blobs/uploads/", ""), http.StatusAccepted, "")
	b.want(b.do("PUT", b.location(start)+"&digest="+string(d), content), http.StatusCreated, "")
	return d
}

func (b *bench) location(a answer) string {
	b.t.Helper()
	l := a.header.Get("Location")
	if !strings.HasPrefix(l, "/v2/") {
		b.t.Fatalf("Location is %q, want a path", l)
	}
	return b.url + l
}

// manifest returns an image manifest of one layer that is there; extra is JSON
// of more fields.
func (b *bench) manifest(content, extra string) (string, release.Digest) {
	b.t.Helper()
	config, layer := b.blob(repo, "{}"), b.blob(repo, content)
	m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,%s"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]}`,
		ocispec.MediaTypeImageManifest, extra, config, layer, len(content))
	return m, release.DigestOf([]byte(m))
}

func (b *bench) put(m, ref string) answer {
	b.t.Helper()
	return b.do("PUT", "/v2/"+repo+"/manifests/"+ref, m, "Content-Type", ocispec.MediaTypeImageManifest)
}

// Nothing may run on when the registries of the tests are closed.
func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	// Distribution never stops this one; it does nothing without endpoints.
	broadcaster := goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run")
	if err := goleak.Find(broadcaster); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestIndexInMemory(t *testing.T) {
	registrytest.TestIndex(t, func(*testing.T) registry.Index { return registrytest.NewIndex() })
}

func TestNewRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	good := registry.Options{Root: t.TempDir(), Key: make([]byte, 32), Index: registrytest.NewIndex(), Authorizer: registry.AuthorizerFunc(authorize), Log: slog.Default()}
	for says, change := range map[string]func(*registry.Options){
		"no folder":       func(o *registry.Options) { o.Root = "" },
		"32 are needed":   func(o *registry.Options) { o.Key = make([]byte, 31) },
		"not a directory": func(o *registry.Options) { o.Root = file },
		"needs an index":  func(o *registry.Options) { o.Index = nil },
		"an authorizer":   func(o *registry.Options) { o.Authorizer = nil },
	} {
		o := good
		change(&o)
		if _, err := registry.New(o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error is %v, want %q", err, says)
		}
	}
}

func TestTagsNeverMove(t *testing.T) {
	b := open(t)
	first, d1 := b.manifest("first", "")
	second, d2 := b.manifest("second", "")
	for range 2 {
		a := b.want(b.put(first, "v1"), http.StatusCreated, "")
		if got := a.header.Get("Docker-Content-Digest"); got != string(d1) {
			t.Errorf("Docker-Content-Digest is %q, want %q", got, d1)
		}
	}
	a := b.want(b.put(second, "v1"), http.StatusConflict, "TAG_INVALID")
	if !strings.Contains(a.body, string(d1)) || !strings.Contains(a.body, string(d2)) {
		t.Errorf("the answer %s names not both digests", a.body)
	}
	b.want(b.do("GET", "/v2/"+repo+"/manifests/"+string(d2), ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
	if a := b.do("GET", "/v2/"+repo+"/manifests/v1", ""); a.body != first {
		t.Errorf("v1 is %s", a.body)
	}
	b.want(b.put(second, "v2"), http.StatusCreated, "")
	for _, ref := range []string{"v1", string(d1)} {
		a := b.want(b.do("DELETE", "/v2/"+repo+"/manifests/"+ref, ""), http.StatusMethodNotAllowed, "UNSUPPORTED")
		if a.header.Get("Allow") == "" {
			t.Error("405 without Allow")
		}
	}
	b.want(b.do("DELETE", "/v2/"+repo+"/blobs/"+string(release.DigestOf([]byte("first"))), ""), http.StatusMethodNotAllowed, "UNSUPPORTED")
	for _, tag := range []string{"latest", "Latest", "main", "stable"} {
		a := b.want(b.put(first, tag), http.StatusBadRequest, "TAG_INVALID")
		if !strings.Contains(a.body, "floating") {
			t.Errorf("%s is refused without a reason: %s", tag, a.body)
		}
	}
}

// Of many who push different content under one tag at once, one wins and the
// others are told what won.
func TestConcurrentPushesOfOneTag(t *testing.T) {
	b := open(t)
	const n = 8
	manifests, answers := make([]string, n), make([]answer, n)
	for i := range n {
		manifests[i], _ = b.manifest(fmt.Sprint("content ", i/2), "") // two push the same
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i] = b.put(manifests[i], "v1") })
	}
	wg.Wait()
	won := b.do("GET", "/v2/"+repo+"/manifests/v1", "")
	created := 0
	for i, a := range answers {
		if (a.status == http.StatusCreated) != (manifests[i] == won.body) {
			t.Errorf("pusher %d was told %d; v1 is %s", i, a.status, won.body)
		}
		if a.status == http.StatusCreated {
			created++
		} else {
			b.want(a, http.StatusConflict, "TAG_INVALID")
		}
	}
	if created != 2 {
		t.Errorf("%d pushes were accepted, want the two of the same content", created)
	}
}

func TestReferrers(t *testing.T) {
	b := open(t)
	image, about := b.manifest("image", "")
	subject := fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":%d},`, ocispec.MediaTypeImageManifest, about, len(image))
	list := func(query string) (got []registry.Descriptor, a answer) {
		t.Helper()
		a = b.want(b.do("GET", "/v2/"+repo+"/referrers/"+string(about)+query, ""), http.StatusOK, "")
		var index struct {
			SchemaVersion int
			MediaType     string
			Manifests     *[]registry.Descriptor
		}
		if err := json.Unmarshal([]byte(a.body), &index); err != nil || index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex || index.Manifests == nil {
			t.Fatalf("the list is no image index: %s", a.body)
		}
		if got := a.header.Get("Content-Type"); got != ocispec.MediaTypeImageIndex {
			t.Errorf("Content-Type is %s", got)
		}
		return *index.Manifests, a
	}
	if got, _ := list(""); len(got) != 0 {
		t.Errorf("nothing refers to it yet: %v", got)
	}
	// The subject is not there yet, and that is fine.
	signature, d1 := b.manifest("signature", subject+`"artifactType":"example/signature","annotations":{"by":"me"},`)
	a := b.want(b.put(signature, "sig"), http.StatusCreated, "")
	if got := a.header.Get("OCI-Subject"); got != string(about) {
		t.Errorf("OCI-Subject is %q, want %q", got, about)
	}
	sbom, d2 := b.manifest("sbom", subject)
	b.want(b.put(sbom, string(d2)), http.StatusCreated, "")
	a = b.want(b.put(image, "v1"), http.StatusCreated, "")
	if a.header.Get("OCI-Subject") != "" {
		t.Error("OCI-Subject for a manifest without subject")
	}

	got, a := list("")
	if len(got) != 2 || a.header.Get("OCI-Filters-Applied") != "" {
		t.Errorf("referrers are %v (%v)", got, a.header)
	}
	for _, d := range got {
		want := registry.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d1, Size: int64(len(signature)), ArtifactType: "example/signature", Annotations: map[string]string{"by": "me"}}
		if d.Digest == d2 {
			// Without an artifactType, the config's type counts.
			want = registry.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d2, Size: int64(len(sbom)), ArtifactType: "application/vnd.oci.empty.v1+json"}
		}
		if fmt.Sprint(d) != fmt.Sprint(want) {
			t.Errorf("listed is %v, want %v", d, want)
		}
	}
	got, a = list("?artifactType=example/signature")
	if len(got) != 1 || got[0].Digest != d1 || a.header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered are %v (%v)", got, a.header)
	}
	b.want(b.do("GET", "/v2/"+repo+"/referrers/sha256:nonsense", ""), http.StatusBadRequest, "DIGEST_INVALID")
}

// A long list comes in pages that a client can follow.
func TestReferrersPages(t *testing.T) {
	b := open(t)
	about := release.DigestOf([]byte("subject"))
	want := map[release.Digest]bool{}
	for i := range 5 {
		m, d := b.manifest(fmt.Sprint(i), fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":7},"artifactType":"a/b","annotations":{"long":%q},`,
			ocispec.MediaTypeImageManifest, about, strings.Repeat("x", 600<<10)))
		b.want(b.put(m, string(d)), http.StatusCreated, "")
		want[d] = true
	}
	pages, next := 0, "/v2/"+repo+"/referrers/"+string(about)+"?artifactType=a/b"
	for next != "" {
		a := b.want(b.do("GET", next, ""), http.StatusOK, "")
		var index struct{ Manifests []registry.Descriptor }
		if err := json.Unmarshal([]byte(a.body), &index); err != nil || len(a.body) > 4<<20 {
			t.Fatalf("page of %d bytes: %v", len(a.body), err)
		}
		for _, d := range index.Manifests {
			if !want[d.Digest] {
				t.Errorf("%s is listed twice or wrongly", d.Digest)
			}
			delete(want, d.Digest)
		}
		pages++
		link, _, _ := strings.Cut(a.header.Get("Link"), ">")
		next = strings.TrimPrefix(link, "<")
	}
	if len(want) != 0 || pages < 2 {
		t.Errorf("%d pages lack %v", pages, want)
	}
}

// flaky is an index whose writes fail when told, as if the process died there.
type flaky struct {
	registry.Index
	fail string
}

func (f *flaky) Tag(ctx context.Context, repo, tag string, d release.Digest) (release.Digest, error) {
	if f.fail == "tag" {
		return "", errors.New("died")
	}
	return f.Index.Tag(ctx, repo, tag, d)
}

func (f *flaky) AddReferrer(ctx context.Context, repo string, subject release.Digest, d registry.Descriptor) error {
	err := f.Index.AddReferrer(ctx, repo, subject, d)
	if f.fail == "referrer" {
		return errors.New("died") // after the row is written: the worse half
	}
	return err
}

// Dying between any two writes leaves nothing wrong, and pushing again mends it.
func TestCrashBetweenManifestAndIndex(t *testing.T) {
	x := &flaky{Index: registrytest.NewIndex()}
	b := open(t, func(o *registry.Options) { o.Index = x })
	about := release.DigestOf([]byte("subject"))
	m, d := b.manifest("m", fmt.Sprintf(`"artifactType":"a/b","subject":{"mediaType":%q,"digest":%q,"size":7},`, ocispec.MediaTypeImageManifest, about))
	referrers := func() string { return b.do("GET", "/v2/"+repo+"/referrers/"+string(about), "").body }

	x.fail = "referrer"
	b.want(b.put(m, "v1"), http.StatusServiceUnavailable, "UNAVAILABLE")
	b.want(b.do("GET", "/v2/"+repo+"/manifests/"+string(d), ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
	if strings.Contains(referrers(), string(d)) {
		t.Error("a referrer is listed that is not stored")
	}
	x.fail = "tag"
	b.want(b.put(m, "v1"), http.StatusServiceUnavailable, "UNAVAILABLE")
	b.want(b.do("GET", "/v2/"+repo+"/manifests/v1", ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
	// A client that finds the manifest here won't push it again: it must be listed.
	b.want(b.do("GET", "/v2/"+repo+"/manifests/"+string(d), ""), http.StatusOK, "")
	if !strings.Contains(referrers(), string(d)) {
		t.Error("a stored referrer is not listed")
	}
	x.fail = ""
	b.want(b.put(m, "v1"), http.StatusCreated, "")
	b.want(b.do("GET", "/v2/"+repo+"/manifests/v1", ""), http.StatusOK, "")
}

// A manifest that is refused must not take its tag.
func TestRefusedManifestTakesNoTag(t *testing.T) {
	b := open(t)
	good, d := b.manifest("good", "")
	missing := strings.Replace(good, string(release.DigestOf([]byte("good"))), string(release.DigestOf([]byte("never pushed"))), 1)
	b.want(b.put(missing, "v1"), http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
	b.want(b.put(good, "v1"), http.StatusCreated, "")
	for name, test := range map[string]struct{ body, ref, code string }{
		"not JSON":           {"hello", "v2", "MANIFEST_INVALID"},
		"other digest":       {good + " ", string(d), "DIGEST_INVALID"},
		"bad digest":         {good, "sha256:baddigeststring", "DIGEST_INVALID"},
		"sha512":             {good, "sha512:" + strings.Repeat("0", 128), "DIGEST_INVALID"},
		"bad tag":            {good, "-v1", "MANIFEST_INVALID"},
		"bad subject":        {strings.Replace(good, `"config"`, `"subject":{"digest":"x"},"config"`, 1), "v2", "MANIFEST_INVALID"},
		"annotations no map": {strings.Replace(good, `"config"`, `"annotations":7,"config"`, 1), "v2", "MANIFEST_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			b.want(b.put(test.body, test.ref), http.StatusBadRequest, test.code)
		})
	}
	b.want(b.put(`{"a":"`+strings.Repeat("x", 4<<20)+`"}`, "big"), http.StatusRequestEntityTooLarge, "SIZE_INVALID")
}

func TestReindex(t *testing.T) {
	b := open(t)
	if err := b.reg.Reindex(t.Context()); err != nil {
		t.Errorf("an empty registry: %v", err)
	}
	about := release.DigestOf([]byte("subject"))
	m, d := b.manifest("m", fmt.Sprintf(`"artifactType":"a/b","subject":{"mediaType":%q,"digest":%q,"size":7},`, ocispec.MediaTypeImageManifest, about))
	b.want(b.put(m, string(d)), http.StatusCreated, "")
	b.blob("default/blobs-only", "x")
	before := b.do("GET", "/v2/"+repo+"/referrers/"+string(about), "").body

	restored := open(t, func(o *registry.Options) { o.Root = b.root })
	if got := restored.do("GET", "/v2/"+repo+"/referrers/"+string(about), "").body; got == before {
		t.Fatal("the new index knows already")
	}
	if err := restored.reg.Reindex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := restored.do("GET", "/v2/"+repo+"/referrers/"+string(about), "").body; got != before {
		t.Errorf("after Reindex the list is %s, was %s", got, before)
	}
}

func TestAuthentication(t *testing.T) {
	b := open(t)
	m, d := b.manifest("m", "")
	b.want(b.put(m, "v1"), http.StatusCreated, "")
	basic := func(user, password string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	for name, test := range map[string]struct {
		method, path, auth string
		status             int
		code               string
	}{
		"no token":                {"GET", "/v2/", "", 401, "UNAUTHORIZED"},
		"wrong token":             {"GET", "/v2/", "Bearer x", 401, "UNAUTHORIZED"},
		"user name alone":         {"GET", "/v2/", basic(writer, ""), 401, "UNAUTHORIZED"},
		"bearer":                  {"GET", "/v2/", "Bearer " + reader, 200, ""},
		"bearer in small letters": {"GET", "/v2/", "bearer " + reader, 200, ""},
		"password":                {"GET", "/v2/", basic("anybody", reader), 200, ""},
		"pull":                    {"GET", "/v2/" + repo + "/manifests/v1", "Bearer " + reader, 200, ""},
		"pull without":            {"GET", "/v2/" + repo + "/manifests/v1", "", 401, "UNAUTHORIZED"},
		"pull a blob without":     {"GET", "/v2/" + repo + "/blobs/" + string(release.DigestOf([]byte("m"))), "", 401, "UNAUTHORIZED"},
		"list without":            {"GET", "/v2/" + repo + "/tags/list", "", 401, "UNAUTHORIZED"},
		"referrers without":       {"GET", "/v2/" + repo + "/referrers/" + string(d), "", 401, "UNAUTHORIZED"},
		"pull elsewhere":          {"GET", "/v2/default/other/manifests/v1", "Bearer " + reader, 403, "DENIED"},
		"push as reader":          {"PUT", "/v2/" + repo + "/manifests/v2", "Bearer " + reader, 403, "DENIED"},
		"upload as reader":        {"POST", "/v2/" + repo + "/blobs/uploads/", "Bearer " + reader, 403, "DENIED"},
		"delete as reader":        {"DELETE", "/v2/" + repo + "/manifests/v1", "Bearer " + reader, 403, "DENIED"},
		"no answer about a token": {"GET", "/v2/", "Bearer broken", 503, "UNAVAILABLE"},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			a := b.want(b.do(test.method, test.path, "", "Authorization", test.auth), test.status, test.code)
			if challenge := a.header.Get("WWW-Authenticate"); (challenge != "") != (test.status == 401) {
				t.Errorf("%d with WWW-Authenticate %q", a.status, challenge)
			}
		})
	}
}

// A mount must not give what the token can't read.
func TestMount(t *testing.T) {
	b := open(t)
	d := b.blob("secret/plans", "the plans")
	mount := "/v2/" + repo + "/blobs/uploads/?mount=" + string(d) + "&from="
	mayPush := registry.AuthorizerFunc(func(r *http.Request, repository string, action registry.Action) error {
		if repository != repo {
			return registry.ErrForbidden
		}
		return nil
	})
	guarded := open(t, func(o *registry.Options) { o.Root, o.Authorizer = b.root, mayPush })
	guarded.want(guarded.do("POST", mount+"secret/plans", ""), http.StatusAccepted, "")
	guarded.want(guarded.do("POST", mount+"..%2F..", ""), http.StatusAccepted, "")
	b.want(b.do("GET", "/v2/"+repo+"/blobs/"+string(d), ""), http.StatusNotFound, "BLOB_UNKNOWN")

	b.want(b.do("POST", mount+"default/none", ""), http.StatusAccepted, "")
	a := b.want(b.do("POST", mount+"secret/plans", ""), http.StatusCreated, "")
	if got := b.do("GET", b.location(a), ""); got.body != "the plans" {
		t.Errorf("the mounted blob is %d %q", got.status, got.body)
	}
}

func TestUploadBounds(t *testing.T) {
	b := open(t, func(o *registry.Options) { o.MaxBlob = 1000 })
	uploads := "/v2/" + repo + "/blobs/uploads/"
	exact := strings.Repeat("x", 1000)
	b.blob(repo, exact)
	chunked := func(method, url, body string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, io.NopCloser(strings.NewReader(body))) // no length
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+writer)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		content, _ := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header, string(content)}
	}
	start := func() string { return b.location(b.want(b.do("POST", uploads, ""), http.StatusAccepted, "")) }
	more := exact + "x"
	digest := "&digest=" + string(release.DigestOf([]byte(more)))
	b.want(b.do("PUT", start()+digest, more), http.StatusRequestEntityTooLarge, "SIZE_INVALID")
	b.want(chunked("PUT", start()+digest, more), http.StatusRequestEntityTooLarge, "SIZE_INVALID")
	b.want(chunked("PATCH", start(), more), http.StatusRequestEntityTooLarge, "SIZE_INVALID")
	// Small pieces that are too much together.
	half := b.want(chunked("PATCH", start(), exact[:600]), http.StatusAccepted, "")
	b.want(chunked("PATCH", b.location(half), exact[:600]), http.StatusRequestEntityTooLarge, "SIZE_INVALID")
	left := 0
	err := filepath.WalkDir(filepath.Join(b.root, "docker/registry/v2/repositories", repo, "_uploads"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			left++
		}
		return err
	})
	if err != nil || left != 0 {
		t.Errorf("refused uploads left %d files (%v)", left, err)
	}
}

func TestNames(t *testing.T) {
	b := open(t)
	for _, name := range []string{"shop", "a/b/c", "Default/shop", "default/Shop", "default/-x", "-/x", "default/" + strings.Repeat("s", 64), "..%2f../x", "default/sh%2fop"} {
		if a := b.do("GET", "/v2/"+name+"/tags/list", ""); a.status != http.StatusNotFound || a.code() != "NAME_INVALID" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	b.want(b.do("GET", "/v2/_catalog", ""), http.StatusMethodNotAllowed, "UNSUPPORTED")
	b.want(b.do("PATCH", "/v2/"+repo+"/manifests/v1", ""), http.StatusMethodNotAllowed, "UNSUPPORTED")
	b.want(b.do("POST", "/v2/"+repo+"/referrers/"+string(release.DigestOf(nil)), ""), http.StatusMethodNotAllowed, "UNSUPPORTED")
}

// Whatever is asked for, it is answered in the OCI form, it is not our fault, and
// nothing is written outside the registry's folder.
func FuzzRequest(f *testing.F) {
	d := string(release.DigestOf([]byte("x")))
	for _, seed := range [][3]string{
		{"GET", "/v2/", ""},
		{"GET", "/v2/default/shop/manifests/v1", ""},
		{"PUT", "/v2/default/shop/manifests/v1", `{"schemaVersion":2,"subject":{"digest":"` + d + `"}}`},
		{"PUT", "/v2/default/shop/manifests/" + d, "x"},
		{"POST", "/v2/default/shop/blobs/uploads/?mount=" + d + "&from=a/b", ""},
		{"PATCH", "/v2/default/shop/blobs/uploads/..", "x"},
		{"GET", "/v2/../../etc/manifests/v1", ""},
		{"GET", "/v2/default/shop/referrers/" + d + "?artifactType=a&last=b", ""},
		{"GET", "/v2/default/shop/tags/list?n=-1", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	parent := f.TempDir()
	b := open(f, func(o *registry.Options) { o.Root, o.MaxBlob = filepath.Join(parent, "registry"), 1000 })
	f.Fuzz(func(t *testing.T, method, path, body string) {
		u, err := url.Parse("http://registry" + path)
		if err != nil || u.Host != "registry" {
			return // an address of another host
		}
		r := &http.Request{Method: method, URL: u, Host: u.Host, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), ProtoMajor: 1}
		r.Header.Set("Authorization", "Bearer "+writer)
		r.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
		w := httptest.NewRecorder()
		b.reg.ServeHTTP(w, r.WithContext(t.Context()))
		if w.Code >= 500 {
			t.Errorf("%s %q is answered %d %s", method, path, w.Code, w.Body)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Errorf("something was written outside: %v (%v)", entries, err)
		}
	})
}
