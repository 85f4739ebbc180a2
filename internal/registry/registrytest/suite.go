package registrytest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/release"
)

// TestIndex is what every [registry.Index] must pass. open returns an empty one.
func TestIndex(t *testing.T, open func(t *testing.T) registry.Index) {
	digest := func(s string) release.Digest { return release.DigestOf([]byte(s)) }
	const repo, other = "default/shop", "default/shop2"

	t.Run("a tag never moves", func(t *testing.T) {
		x := open(t)
		for _, d := range []release.Digest{digest("a"), digest("a"), digest("b")} {
			if got, err := x.Tag(t.Context(), repo, "v1", d); err != nil || got != digest("a") {
				t.Errorf("Tag = %s, %v; want %s", got, err, digest("a"))
			}
		}
		if got, err := x.Resolve(t.Context(), repo, "v1"); err != nil || got != digest("a") {
			t.Errorf("Resolve = %s, %v", got, err)
		}
		if got, err := x.Tag(t.Context(), other, "v1", digest("b")); err != nil || got != digest("b") {
			t.Errorf("the same tag in another repository is %s, %v", got, err)
		}
		for _, missing := range [][2]string{{repo, "V1"}, {repo, "v"}, {"default/none", "v1"}} {
			if got, err := x.Resolve(t.Context(), missing[0], missing[1]); !errors.Is(err, registry.ErrNoTag) {
				t.Errorf("Resolve%v = %s, %v; want ErrNoTag", missing, got, err)
			}
		}
	})

	t.Run("of concurrent taggers one wins", func(t *testing.T) {
		x := open(t)
		var wg sync.WaitGroup
		answers := make([]release.Digest, 8)
		for i := range answers {
			wg.Go(func() {
				got, err := x.Tag(t.Context(), repo, "v1", digest(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
				}
				answers[i] = got
			})
		}
		wg.Wait()
		if len(slices.Compact(answers)) != 1 {
			t.Errorf("the callers were told different things: %v", answers)
		}
	})

	t.Run("tags in order, page by page", func(t *testing.T) {
		x := open(t)
		want := []string{"0", "B", "_", "a", "a-b", "a.b", "aa"} // by bytes
		for _, tag := range want {
			if _, err := x.Tag(t.Context(), repo, tag, digest("a")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := x.Tag(t.Context(), other, "other", digest("a")); err != nil {
			t.Fatal(err)
		}
		var got []string
		for last := ""; ; last = got[len(got)-1] {
			page, err := x.Tags(t.Context(), repo, last, 2)
			if err != nil || len(page) > 2 {
				t.Fatalf("a page is %v, %v", page, err)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})

	t.Run("referrers", func(t *testing.T) {
		x := open(t)
		var want []registry.Descriptor
		for i := range 5 {
			d := registry.Descriptor{
				MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: digest(fmt.Sprint(i)), Size: int64(100 + i),
				ArtifactType: fmt.Sprint("type/", i%2), Annotations: map[string]string{"i": fmt.Sprint(i)},
			}
			want = append(want, d)
			for range 2 { // the same again changes nothing
				if err := x.AddReferrer(t.Context(), repo, digest("subject"), d); err != nil {
					t.Fatal(err)
				}
			}
		}
		slices.SortFunc(want, func(a, b registry.Descriptor) int {
			if a.Digest < b.Digest {
				return -1
			}
			return 1
		})
		var got []registry.Descriptor
		for last := release.Digest(""); ; last = got[len(got)-1].Digest {
			page, err := x.Referrers(t.Context(), repo, digest("subject"), "", last, 2)
			if err != nil || len(page) > 2 {
				t.Fatalf("a page is %v, %v", page, err)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		odd, err := x.Referrers(t.Context(), repo, digest("subject"), "type/1", "", 10)
		if err != nil || len(odd) != 2 {
			t.Errorf("of type/1: %v, %v; want 2", odd, err)
		}
		for _, no := range [][2]string{{other, "subject"}, {repo, "unknown"}} {
			if none, err := x.Referrers(t.Context(), no[0], digest(no[1]), "", "", 10); err != nil || len(none) != 0 {
				t.Errorf("%v has %v, %v; want none", no, none, err)
			}
		}
	})
}

// Token returns the request's token: a bearer's, or the password of basic
// authentication (any user name), which is how OCI clients send one.
func Token(r *http.Request) string {
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(rest)
	}
	_, password, _ := r.BasicAuth()
	return password
}
