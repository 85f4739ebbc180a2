package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/sluicehq/sluice/internal/release"
)

// shelf is a Store in memory, with a hand in what comes out.
type shelf struct {
	content map[string][]byte
	types   map[string]string
	tags    map[string]string
	pushes  int
	fetched func(b []byte) io.Reader
}

func newShelf() *shelf {
	return &shelf{content: map[string][]byte{}, types: map[string]string{}, tags: map[string]string{}}
}

func (s *shelf) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	_, ok := s.content[d.Digest.String()]
	return ok, nil
}

func (s *shelf) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b, ok := s.content[d.Digest.String()]
	if !ok {
		return nil, errdef.ErrNotFound
	}
	if s.fetched != nil {
		return io.NopCloser(s.fetched(b)), nil
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *shelf) FetchBlob(ctx context.Context, d release.Digest) (io.ReadCloser, int64, error) {
	rc, err := s.Fetch(ctx, descriptor("", d, 0))
	return rc, int64(len(s.content[string(d)])), err
}

func (s *shelf) Push(_ context.Context, d ocispec.Descriptor, content io.Reader) error {
	b, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	if got := release.DigestOf(b); got != release.Digest(d.Digest) || int64(len(b)) != d.Size {
		return fmt.Errorf("pushed %s (%d bytes), said %s (%d)", got, len(b), d.Digest, d.Size)
	}
	s.pushes++
	s.content[d.Digest.String()], s.types[d.Digest.String()] = b, d.MediaType
	return nil
}

func (s *shelf) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	if d, ok := s.tags[ref]; ok {
		ref = d
	}
	b, ok := s.content[ref]
	if !ok {
		return ocispec.Descriptor{}, errdef.ErrNotFound
	}
	return descriptor(s.types[ref], release.Digest(ref), int64(len(b))), nil
}

func (s *shelf) Tag(_ context.Context, d ocispec.Descriptor, tag string) error {
	if had, ok := s.tags[tag]; ok && had != d.Digest.String() {
		return ErrTagTaken
	}
	s.tags[tag] = d.Digest.String()
	return nil
}

func pushSample(t *testing.T, s *shelf, tags ...string) release.Artifact {
	t.Helper()
	dir := t.TempDir()
	sample.write(t, dir, sample.names())
	a, err := PushTree(t.Context(), s, "main", t.TempDir(), openRoot(t, dir), ".", Limits{}, tags...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPushAndPull(t *testing.T) {
	s := newShelf()
	a := pushSample(t, s, "v1")
	// The artifact's digest is as fixed as the archive's.
	const want = "sha256:d348e5d5ca0d4d7df58e445199b03d69d93670e8c7316ff877acee22cb7ea83b"
	if a.Digest != want || a.Type != "files" || a.Name != "main" {
		t.Errorf("pushed %+v, want digest %s", a, want)
	}
	if s.tags["v1"] != string(a.Digest) {
		t.Errorf("v1 names %s", s.tags["v1"])
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := Pull(t.Context(), s, a.Digest, dir, Limits{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := packDir(t, dir); got.Bytes != a.Size || got.Digest == "" {
		t.Errorf("pulled %d bytes, pushed %d", got.Bytes, a.Size)
	}
	before := s.pushes
	if again := pushSample(t, s, "v1"); again != a || s.pushes != before {
		t.Errorf("pushing again gives %+v with %d uploads", again, s.pushes-before)
	}
}

// Every single changed byte of what a pull reads makes it fail, and leaves nothing.
func TestPullFindsEveryAlteredByte(t *testing.T) {
	s := newShelf()
	a := pushSample(t, s)
	layer, err := Inspect(t.Context(), s, a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{string(a.Digest), layer.Digest.String()} {
		b := s.content[d]
		for i := 0; i < len(b); i += 1 + len(b)/60 {
			b[i] ^= 1
			parent := t.TempDir()
			err := Pull(t.Context(), s, a.Digest, filepath.Join(parent, "out"), Limits{})
			var altered *AlteredError
			if !errors.As(err, &altered) || string(altered.Expected) != d || altered.Got != release.DigestOf(b) {
				t.Errorf("byte %d of %s: error is %v, want both digests", i, d, err)
			} else if !strings.Contains(err.Error(), d) || !strings.Contains(err.Error(), string(release.DigestOf(b))) {
				t.Errorf("error %q doesn't name both digests", err)
			}
			assertEmpty(t, parent)
			b[i] ^= 1
		}
	}
}

func TestPullFaults(t *testing.T) {
	s := newShelf()
	a := pushSample(t, s)
	for name, test := range map[string]struct {
		fetched func(b []byte) io.Reader
		want    error
		not     error
	}{
		"cut":     {func(b []byte) io.Reader { return bytes.NewReader(b[:len(b)/2]) }, ErrAltered, ErrUnavailable},
		"longer":  {func(b []byte) io.Reader { return bytes.NewReader(append(bytes.Clone(b), 'x')) }, ErrAltered, ErrUnavailable},
		"endless": {func(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b), endless{}) }, ErrAltered, ErrUnavailable},
		"broken off": {func(b []byte) io.Reader {
			return io.MultiReader(bytes.NewReader(b[:100]), iotest.ErrReader(ErrUnavailable))
		}, ErrUnavailable, ErrAltered},
	} {
		t.Run(name, func(t *testing.T) {
			s.fetched = test.fetched
			parent := t.TempDir()
			err := Pull(t.Context(), s, a.Digest, filepath.Join(parent, "out"), Limits{})
			if !errors.Is(err, test.want) || errors.Is(err, test.not) {
				t.Errorf("error is %v, want %v and not %v", err, test.want, test.not)
			}
			assertEmpty(t, parent)
		})
	}
	s.fetched = nil
	if err := Pull(t.Context(), s, release.DigestOf([]byte("other")), t.TempDir(), Limits{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("error is %v, want ErrNotFound", err)
	}
	if err := Pull(t.Context(), s, a.Digest, filepath.Join(t.TempDir(), "out"), Limits{Files: 3}); !errors.Is(err, ErrLimit) {
		t.Errorf("error is %v, want ErrLimit", err)
	}
}

func TestPushRefusesATakenTag(t *testing.T) {
	s := newShelf()
	pushSample(t, s, "v1")
	dir := t.TempDir()
	tree{"other": "x"}.write(t, dir, []string{"other"})
	_, err := PushTree(t.Context(), s, "main", t.TempDir(), openRoot(t, dir), ".", Limits{}, "v1")
	if !errors.Is(err, ErrTagTaken) {
		t.Errorf("error is %v, want ErrTagTaken", err)
	}
}

func TestReleaseRoundTrip(t *testing.T) {
	s := newShelf()
	a := pushSample(t, s)
	m := release.Manifest{
		Version: 1, Project: "default", Service: "shop", Repository: "/src/shop", Commit: "abc", Engine: 1,
		Definition: release.DigestOf([]byte("d")), Artifacts: []release.Artifact{a},
		Environments: map[string]release.Config{"dev": {Env: map[string]string{"A": "1"}}},
	}
	id, err := PushRelease(t.Context(), s, m, "r1")
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := m.ID(); id != want {
		t.Errorf("id is %s, the manifest's is %s", id, want)
	}
	got, err := PullRelease(t.Context(), s, id)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := got.ID(); again != id {
		t.Errorf("pulled a release with id %s, want %s", again, id)
	}
	// Who holds the artifact finds its releases, and the other way round.
	oci := string(s.content[s.tags["r1"]])
	for _, part := range []string{
		`"artifactType":"` + ReleaseType + `"`,
		`"subject":{"digest":"` + string(a.Digest) + `"`,
		`"dev.sluice.artifact.main":"` + string(a.Digest) + `"`,
	} {
		if !strings.Contains(oci, part) {
			t.Errorf("the release's OCI manifest %s lacks %s", oci, part)
		}
	}
	if err := Pull(t.Context(), s, release.Digest(s.tags["r1"]), filepath.Join(t.TempDir(), "out"), Limits{}); err == nil || !strings.Contains(err.Error(), FilesType) {
		t.Errorf("a release was pulled as files: %v", err)
	}
	s.content[string(id)][5] ^= 1
	if _, err := PullRelease(t.Context(), s, id); !errors.Is(err, ErrAltered) {
		t.Errorf("error is %v, want ErrAltered", err)
	}
	m.Artifacts[0].Digest = release.DigestOf([]byte("never pushed"))
	if _, err := PushRelease(t.Context(), s, m); !errors.Is(err, ErrNotFound) {
		t.Errorf("a release without its artifact: error is %v, want ErrNotFound", err)
	}
}

func TestPullCancelled(t *testing.T) {
	s := newShelf()
	a := pushSample(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	s.fetched = func(b []byte) io.Reader { cancel(); return bytes.NewReader(b) }
	parent := t.TempDir()
	err := Pull(ctx, s, a.Digest, filepath.Join(parent, "out"), Limits{})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrAltered) || errors.Is(err, ErrUnavailable) {
		t.Errorf("error is %v, want only %v", err, context.Canceled)
	}
	assertEmpty(t, parent)
}

func TestReference(t *testing.T) {
	d := release.DigestOf(nil)
	repo, got, err := ParseReference(Reference("default", "shop", d))
	if repo != "default/shop" || got != d || err != nil {
		t.Errorf("got %s, %s, %v", repo, got, err)
	}
	for _, bad := range []string{"", "shop@" + string(d), "default/shop:v1", "default/shop", "default/shop@sha256:1", "a/b/c@" + string(d), "../x@" + string(d), "default/shop@" + string(d) + "@" + string(d)} {
		if _, _, err := ParseReference(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add(Reference("default", "shop", release.DigestOf(nil)))
	f.Add("default/shop:latest")
	f.Fuzz(func(t *testing.T, s string) {
		repo, d, err := ParseReference(s)
		if err == nil && repo+"@"+string(d) != s {
			t.Errorf("%q was read as %q and %q", s, repo, d)
		}
	})
}

// BenchmarkPack and BenchmarkUnpack say how many bytes of content a second.
func BenchmarkPack(b *testing.B) {
	dir := benchTree(b)
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	for b.Loop() {
		p, err := Pack(b.Context(), io.Discard, root, ".", Limits{})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(p.Bytes)
	}
}

func BenchmarkUnpack(b *testing.B) {
	p, archive := packDir(b, benchTree(b))
	b.SetBytes(p.Bytes)
	parent := b.TempDir()
	for i := 0; b.Loop(); i++ {
		dir := filepath.Join(parent, fmt.Sprint(i))
		if err := Unpack(bytes.NewReader(archive), dir, Limits{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}

func benchTree(b *testing.B) string {
	dir := b.TempDir()
	for i := range 100 {
		if err := os.WriteFile(fmt.Sprint(dir, "/", i), bytes.Repeat([]byte{byte(i)}, 200<<10), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}
