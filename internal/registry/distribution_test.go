package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/release"
)

// These are the behaviours that the OCI distribution specification 1.1 asks for,
// seen from a client. Names of tests say the part of the specification.

func TestPing(t *testing.T) {
	b := open(t)
	b.want(b.do("GET", "/v2/", ""), http.StatusOK, "")
}

func TestPullBlobs(t *testing.T) {
	b := open(t)
	content := strings.Repeat("0123456789", 200)
	d := b.blob(repo, content)
	path := "/v2/" + repo + "/blobs/" + string(d)
	for _, method := range []string{"GET", "HEAD"} {
		a := b.want(b.do(method, path, ""), http.StatusOK, "")
		if a.header.Get("Docker-Content-Digest") != string(d) || a.header.Get("Content-Length") != "2000" {
			t.Errorf("%s: headers are %v", method, a.header)
		}
		if method == "GET" && a.body != content {
			t.Errorf("got %d bytes, want %d", len(a.body), len(content))
		}
	}
	missing := "/v2/" + repo + "/blobs/" + string(release.DigestOf([]byte("missing")))
	b.want(b.do("GET", missing, ""), http.StatusNotFound, "BLOB_UNKNOWN")
	if a := b.do("HEAD", missing, ""); a.status != http.StatusNotFound {
		t.Errorf("HEAD of a missing blob is %d", a.status)
	}
	b.want(b.do("GET", "/v2/"+repo+"/blobs/sha256:1", ""), http.StatusBadRequest, "DIGEST_INVALID")
	// A blob is only in the repository that it was pushed to.
	b.want(b.do("GET", "/v2/default/other/blobs/"+string(d), ""), http.StatusNotFound, "BLOB_UNKNOWN")
	for asked, want := range map[string]string{
		"bytes=500-1499":   "bytes 500-1499/2000",
		"bytes=500-":       "bytes 500-1999/2000",
		"bytes=-500":       "bytes 1500-1999/2000",
		"bytes=1900-5000":  "bytes 1900-1999/2000",
		"bytes=500-0":      "",
		"bytes=5000-10000": "",
	} {
		a := b.do("GET", path, "", "Range", asked)
		if want == "" {
			if a.status != http.StatusRequestedRangeNotSatisfiable {
				t.Errorf("%s: answer is %d", asked, a.status)
			}
			continue
		}
		var from, to int
		if _, err := fmt.Sscanf(want, "bytes %d-%d/", &from, &to); err != nil {
			t.Fatal(err)
		}
		if a.status != http.StatusPartialContent || a.header.Get("Content-Range") != want || a.body != content[from:to+1] {
			t.Errorf("%s: answer is %d, %q, %d bytes", asked, a.status, a.header.Get("Content-Range"), len(a.body))
		}
	}
}

func TestPushBlobs(t *testing.T) {
	b := open(t)
	start := func() answer {
		t.Helper()
		return b.want(b.do("POST", "/v2/"+repo+"/blobs/uploads/", ""), http.StatusAccepted, "")
	}
	stored := func(content string, a answer) {
		t.Helper()
		b.want(a, http.StatusCreated, "")
		if got := b.do("GET", b.location(a), ""); got.body != content {
			t.Errorf("Location gives %d %q, want %q", got.status, got.body, content)
		}
	}
	digest := func(s string) string { return "&digest=" + string(release.DigestOf([]byte(s))) }
	patch := func(a answer, piece string, headers ...string) answer {
		t.Helper()
		return b.do("PATCH", b.location(a), piece, append(headers, "Content-Type", "application/octet-stream")...)
	}

	t.Run("POST then PUT", func(*testing.T) {
		stored("monolithic", b.do("PUT", b.location(start())+digest("monolithic"), "monolithic", "Content-Type", "application/octet-stream"))
	})
	t.Run("POST alone falls back", func(*testing.T) {
		a := b.want(b.do("POST", "/v2/"+repo+"/blobs/uploads/?"+digest("single")[1:], "single"), http.StatusAccepted, "")
		stored("single", b.do("PUT", b.location(a)+digest("single"), "single"))
	})
	t.Run("empty", func(*testing.T) {
		stored("", b.do("PUT", b.location(start())+digest(""), ""))
	})
	t.Run("stream", func(*testing.T) {
		a := b.want(patch(start(), "streamed"), http.StatusAccepted, "")
		stored("streamed", b.do("PUT", b.location(a)+digest("streamed"), ""))
	})
	t.Run("chunks", func(t *testing.T) {
		a := b.want(patch(start(), "chun", "Content-Range", "0-3"), http.StatusAccepted, "")
		if got := a.header.Get("Range"); got != "0-3" {
			t.Errorf("Range is %q", got)
		}
		// Out of order, then on from where the registry says it is.
		b.want(patch(a, "xx", "Content-Range", "7-8"), http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID")
		where := b.do("GET", b.location(a), "")
		if where.status != http.StatusNoContent || where.header.Get("Range") != "0-3" {
			t.Errorf("the upload's state is %d %v", where.status, where.header)
		}
		a = b.want(patch(where, "ked", "Content-Range", "4-6"), http.StatusAccepted, "")
		stored("chunked", b.do("PUT", b.location(a)+digest("chunked"), ""))
	})
	t.Run("last chunk with PUT", func(*testing.T) {
		a := b.want(patch(start(), "first ", "Content-Range", "0-5"), http.StatusAccepted, "")
		stored("first last", b.do("PUT", b.location(a)+digest("first last"), "last", "Content-Range", "6-9", "Content-Type", "application/octet-stream"))
	})
	t.Run("cancel", func(t *testing.T) {
		a := start()
		if got := b.do("DELETE", b.location(a), ""); got.status != http.StatusNoContent {
			t.Errorf("cancelling is %d %s", got.status, got.body)
		}
		b.want(b.do("GET", b.location(a), ""), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	})
	t.Run("wrong digest", func(*testing.T) {
		b.want(b.do("PUT", b.location(start())+digest("this"), "that"), http.StatusBadRequest, "DIGEST_INVALID")
		b.want(b.do("PUT", b.location(start())+"&digest=sha256:nonsense", "x"), http.StatusBadRequest, "DIGEST_INVALID")
		b.want(b.do("PUT", b.location(start()), "x"), http.StatusBadRequest, "DIGEST_INVALID")
	})
	t.Run("foreign state", func(*testing.T) {
		forged := strings.Replace(b.location(start()), "_state=", "_state=A", 1)
		b.want(b.do("PUT", forged+digest("x"), "x"), http.StatusNotFound, "BLOB_UPLOAD_INVALID")
		b.want(b.do("PUT", "/v2/"+repo+"/blobs/uploads/..%2f..?"+digest("x")[1:], "x"), http.StatusNotFound, "NAME_INVALID")
	})
}

func TestManifests(t *testing.T) {
	b := open(t)
	image, d := b.manifest("layer", "")
	size := len(image)
	index := func(entries ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, strings.Join(entries, ","))
	}
	entry := func(mediaType string, d release.Digest, size int) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}`, mediaType, d, size)
	}
	inner := index(entry(ocispec.MediaTypeImageManifest, d, size))
	innerDigest := release.DigestOf([]byte(inner))
	layer, emptyBlob := release.DigestOf([]byte("layer")), release.DigestOf([]byte("{}"))
	annotations := map[string]string{}
	for i := range 390 {
		annotations[fmt.Sprint("annotation-", i)] = strings.Repeat("A", 10000)
	}
	large, err := json.Marshal(annotations)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2}`, emptyBlob)
	head := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,`, ocispec.MediaTypeImageManifest)
	for _, test := range []struct{ name, mediaType, body string }{
		{"image", ocispec.MediaTypeImageManifest, image},
		{"index-v1", ocispec.MediaTypeImageIndex, inner},
		{"nested-index", ocispec.MediaTypeImageIndex, index(entry(ocispec.MediaTypeImageIndex, innerDigest, len(inner)))},
		{"empty-index", ocispec.MediaTypeImageIndex, index()},
		{"no-layers", ocispec.MediaTypeImageManifest, head + config + `,"layers":[]}`},
		{"without-media-type", ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,%s,"layers":[{"mediaType":"a/b","digest":%q,"size":5}]}`, config, layer)},
		{"data-field", ocispec.MediaTypeImageManifest, head + strings.Replace(config, `"size"`, `"data":"e30=","size"`, 1) + `,"layers":[]}`},
		{"custom-fields", ocispec.MediaTypeImageManifest, head + `"org.example":{"x":[1]},` + config + `,"layers":[]}`},
		{"large", ocispec.MediaTypeImageManifest, head + `"annotations":` + string(large) + "," + config + `,"layers":[]}`},
		{"elsewhere", ocispec.MediaTypeImageManifest, head + config + fmt.Sprintf(`,"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":%q,"size":7,"urls":["https://store.example.com/x"]}]}`, release.DigestOf([]byte("elsewhere")))},
		{"docker", "application/vnd.docker.distribution.manifest.v2+json", strings.ReplaceAll(strings.Replace(head, ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json", 1)+config, "application/vnd.oci.empty.v1+json", "application/vnd.docker.container.image.v1+json") + `,"layers":[]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := *b
			b.t = t
			d := release.DigestOf([]byte(test.body))
			for _, ref := range []string{string(d), test.name} {
				a := b.want(b.do("PUT", "/v2/"+repo+"/manifests/"+ref, test.body, "Content-Type", test.mediaType), http.StatusCreated, "")
				if a.status != http.StatusCreated {
					return
				}
				for _, path := range []string{b.location(a), b.url + "/v2/" + repo + "/manifests/" + ref} {
					for _, method := range []string{"GET", "HEAD"} {
						got := b.do(method, path, "", "Accept", test.mediaType)
						if got.status != http.StatusOK || got.header.Get("Content-Type") != test.mediaType || got.header.Get("Docker-Content-Digest") != string(d) ||
							got.header.Get("Content-Length") != fmt.Sprint(len(test.body)) || method == "GET" && got.body != test.body {
							t.Errorf("%s %s: %d %v", method, path, got.status, got.header)
						}
					}
				}
			}
			if a := b.do("GET", "/v2/"+repo+"/manifests/"+test.name, "", "If-None-Match", `"`+string(d)+`"`); a.status != http.StatusNotModified {
				t.Errorf("a client that has it gets %d", a.status)
			}
		})
	}
	b.want(b.do("GET", "/v2/"+repo+"/manifests/missing", ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
	b.want(b.do("GET", "/v2/"+repo+"/manifests/"+string(release.DigestOf([]byte("missing"))), ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
	b.want(b.do("GET", "/v2/"+repo+"/manifests/sha256:baddigeststring", ""), http.StatusBadRequest, "DIGEST_INVALID")
	b.want(b.do("GET", "/v2/default/other/manifests/"+string(d), ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
}

// An index may refer to something, too.
func TestIndexWithSubject(t *testing.T) {
	b := open(t)
	about := release.DigestOf([]byte("subject"))
	m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"a/b","manifests":[],"subject":{"mediaType":%q,"digest":%q,"size":7}}`,
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, about)
	a := b.want(b.do("PUT", "/v2/"+repo+"/manifests/refers", m, "Content-Type", ocispec.MediaTypeImageIndex), http.StatusCreated, "")
	if got := a.header.Get("OCI-Subject"); got != string(about) {
		t.Errorf("OCI-Subject is %q", got)
	}
	var list struct{ Manifests []registry.Descriptor }
	if err := json.Unmarshal([]byte(b.do("GET", "/v2/"+repo+"/referrers/"+string(about), "").body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Manifests) != 1 || list.Manifests[0].MediaType != ocispec.MediaTypeImageIndex || list.Manifests[0].ArtifactType != "a/b" {
		t.Errorf("referrers are %v", list.Manifests)
	}
}

func TestListTags(t *testing.T) {
	b := open(t)
	list := func(query string) ([]string, string) {
		t.Helper()
		a := b.want(b.do("GET", "/v2/"+repo+"/tags/list"+query, ""), http.StatusOK, "")
		var got struct {
			Name string
			Tags *[]string
		}
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || got.Name != repo || got.Tags == nil {
			t.Fatalf("the list is %s (%v)", a.body, err)
		}
		return *got.Tags, a.header.Get("Link")
	}
	if got, _ := list(""); len(got) != 0 {
		t.Errorf("an empty repository has tags %v", got)
	}
	m, _ := b.manifest("m", "")
	want := []string{"V0", "a", "v1", "v10", "v2"} // by bytes
	for i := range want {
		b.want(b.put(m, want[(i*3)%len(want)]), http.StatusCreated, "")
	}
	for query, want := range map[string][]string{
		"":             want,
		"?last=a":      want[2:],
		"?n=2":         want[:2],
		"?n=2&last=v1": want[3:],
		"?n=0":         {},
		"?last=zzz":    {},
	} {
		got, link := list(query)
		if !slices.Equal(got, want) || (link != "") != (query == "?n=2") {
			t.Errorf("%s gives %v and Link %q, want %v", query, got, link, want)
		}
	}
	var all []string
	for next := "?n=2"; next != ""; {
		page, link := list(next)
		all = append(all, page...)
		_, link, _ = strings.Cut(link, "?")
		next, _, _ = strings.Cut(link, ">")
		if next != "" {
			next = "?" + next
		}
	}
	if !slices.Equal(all, want) {
		t.Errorf("page by page: %v, want %v", all, want)
	}
	b.want(b.do("GET", "/v2/"+repo+"/tags/list?n=x", ""), http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
	b.want(b.do("GET", "/v2/"+repo+"/tags/list?n=-1", ""), http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
}
