package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/sluicehq/sluice/internal/release"
)

// Media types that Sluice pushes.
const (
	FilesType   = "application/vnd.sluice.files.v1"
	ReleaseType = "application/vnd.sluice.release.v1+json"
	LayerType   = ocispec.MediaTypeImageLayer // an uncompressed tar
)

// ArtifactAnnotation and the artifact's name is an annotation of a release with
// the artifact's digest.
const ArtifactAnnotation = "dev.sluice.artifact."

// maxManifest bounds an OCI manifest, and a release manifest too (bytes).
const maxManifest = 4 << 20

// Store is where artifacts are kept: one repository of a registry. The methods
// are those of oras.Target, whose errors count too: errdef.ErrNotFound is
// [ErrNotFound]. A Store says [ErrUnavailable] when it could not be asked, also
// while reading. Callers verify what they read. Safe for concurrent use.
type Store interface {
	Exists(ctx context.Context, target ocispec.Descriptor) (bool, error)
	Fetch(ctx context.Context, target ocispec.Descriptor) (io.ReadCloser, error)
	Push(ctx context.Context, expected ocispec.Descriptor, content io.Reader) error
	// Resolve describes what a tag or digest names.
	Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error)
	// Tag lets a tag name content; the same again is fine.
	Tag(ctx context.Context, desc ocispec.Descriptor, reference string) error
}

// Push uploads a tree that [Spool] packed, and gives it the tags. It may be
// repeated with the archive from its start: what is there already is not sent
// again. The result's Size is that of the tree's files.
func Push(ctx context.Context, to Store, name string, packed Packed, archive io.Reader, tags ...string) (release.Artifact, error) {
	layer := descriptor(LayerType, packed.Digest, packed.Size)
	d, err := push(ctx, to, ocispec.Manifest{ArtifactType: FilesType, Layers: []ocispec.Descriptor{layer}}, archive, tags)
	if err != nil {
		return release.Artifact{}, fmt.Errorf("couldn't push artifact %s: %w", name, err)
	}
	return release.Artifact{Name: name, Type: Type, Digest: release.Digest(d.Digest), Size: packed.Bytes}, nil
}

// PushTree packs the tree at path inside root, with the archive kept in spool
// for as long as it takes, and pushes it.
func PushTree(ctx context.Context, to Store, name, spool string, root *os.Root, path string, lim Limits, tags ...string) (release.Artifact, error) {
	f, packed, err := Spool(ctx, spool, root, path, lim)
	if err != nil {
		return release.Artifact{}, err
	}
	defer f.Close()
	return Push(ctx, to, name, packed, f, tags...)
}

// PushRelease uploads a release's manifest and returns its id. Its artifacts
// must be there: the first one becomes the subject.
func PushRelease(ctx context.Context, to Store, m release.Manifest, tags ...string) (release.ID, error) {
	b, err := m.Canonical()
	if err != nil {
		return "", err
	}
	id := release.DigestOf(b)
	oci := ocispec.Manifest{
		ArtifactType: ReleaseType,
		Layers:       []ocispec.Descriptor{descriptor(ReleaseType, id, int64(len(b)))},
		Annotations:  map[string]string{},
	}
	for i, a := range m.Artifacts {
		oci.Annotations[ArtifactAnnotation+a.Name] = string(a.Digest)
		subject, err := to.Resolve(ctx, string(a.Digest))
		if err != nil {
			return "", fmt.Errorf("couldn't push release %s: artifact %s (%s): %w", id.Short(), a.Name, a.Digest, classify(err))
		}
		if i == 0 {
			s := descriptor(subject.MediaType, a.Digest, subject.Size)
			oci.Subject = &s
		}
	}
	if _, err := push(ctx, to, oci, bytes.NewReader(b), tags); err != nil {
		return "", fmt.Errorf("couldn't push release %s: %w", id.Short(), err)
	}
	return id, nil
}

// push uploads the only layer, the empty config and then the manifest, so that
// whoever sees the manifest can read all of it. If we die before the manifest,
// the blobs stay without a name until the registry collects them; pushing again
// finds them.
func push(ctx context.Context, to Store, m ocispec.Manifest, layer io.Reader, tags []string) (ocispec.Descriptor, error) {
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Config = ocispec.DescriptorEmptyJSON
	b, err := release.Canonical(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := descriptor(m.MediaType, release.DigestOf(b), int64(len(b)))
	desc.ArtifactType = m.ArtifactType
	for _, part := range []struct {
		desc    ocispec.Descriptor
		content io.Reader
	}{
		{m.Layers[0], layer},
		{ocispec.DescriptorEmptyJSON, bytes.NewReader(ocispec.DescriptorEmptyJSON.Data)},
		{desc, bytes.NewReader(b)},
	} {
		if err := pushOnce(ctx, to, part.desc, part.content); err != nil {
			return ocispec.Descriptor{}, classify(err)
		}
	}
	for _, tag := range tags {
		if err := to.Tag(ctx, desc, tag); err != nil {
			return ocispec.Descriptor{}, classify(err)
		}
	}
	return desc, nil
}

func pushOnce(ctx context.Context, to Store, d ocispec.Descriptor, content io.Reader) error {
	there, err := to.Exists(ctx, d)
	if err != nil || there {
		return err
	}
	d.Data = nil
	if err := to.Push(ctx, d, content); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	return nil
}

// Pull downloads the artifact and unpacks it to dir, which must not exist
// ([ErrExists]). Manifest and content are compared with their digests before
// dir appears.
func Pull(ctx context.Context, from Store, d release.Digest, dir string, lim Limits) error {
	layer, err := Inspect(ctx, from, d)
	if err != nil {
		return err
	}
	err = read(ctx, from, "layer", layer, func(r io.Reader) error {
		return Unpack(r, dir, lim)
	})
	if err != nil {
		return fmt.Errorf("couldn't pull artifact %s: %w", d, err)
	}
	return nil
}

// Inspect fetches the artifact's OCI manifest, verifies it, and returns the
// descriptor of its only layer.
func Inspect(ctx context.Context, from Store, d release.Digest) (ocispec.Descriptor, error) {
	layer, err := inspect(ctx, from, d, FilesType, LayerType)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("couldn't read artifact %s: %w", d, err)
	}
	return layer, nil
}

func inspect(ctx context.Context, from Store, d release.Digest, artifactType, layerType string) (ocispec.Descriptor, error) {
	desc, err := from.Resolve(ctx, string(d))
	if err != nil {
		return ocispec.Descriptor{}, classify(err)
	}
	if desc.Size > maxManifest {
		return ocispec.Descriptor{}, fmt.Errorf("%w: its manifest has %d bytes, allowed are %d", ErrLimit, desc.Size, maxManifest)
	}
	// The digest is what the caller asked for, whatever the registry answered.
	desc.Digest = digest.Digest(d)
	var b []byte
	err = read(ctx, from, "manifest", desc, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("its manifest is not JSON: %w", err)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest || m.ArtifactType != artifactType || len(m.Layers) != 1 || m.Layers[0].MediaType != layerType {
		return ocispec.Descriptor{}, fmt.Errorf("it is not a %s artifact with one %s layer (it is %q with %d layers)", artifactType, layerType, m.ArtifactType, len(m.Layers))
	}
	layer := m.Layers[0]
	if _, err := release.ParseDigest(string(layer.Digest)); err != nil {
		return ocispec.Descriptor{}, err
	}
	if layer.Size < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("its layer's size is %d", layer.Size)
	}
	return layer, nil
}

// BlobFetcher reads a blob of which only the digest is known; it also says the
// size. A [Store]'s promises hold.
type BlobFetcher interface {
	FetchBlob(ctx context.Context, d release.Digest) (r io.ReadCloser, size int64, err error)
}

// PullRelease downloads and verifies the release's manifest.
func PullRelease(ctx context.Context, from BlobFetcher, id release.ID) (release.Manifest, error) {
	m, err := pullRelease(ctx, from, id)
	if err != nil {
		return release.Manifest{}, fmt.Errorf("couldn't pull release %s: %w", id, err)
	}
	return m, nil
}

func pullRelease(ctx context.Context, from BlobFetcher, id release.ID) (release.Manifest, error) {
	r, size, err := from.FetchBlob(ctx, id)
	if err != nil {
		return release.Manifest{}, classify(err)
	}
	defer r.Close()
	if size > maxManifest {
		return release.Manifest{}, fmt.Errorf("%w: its manifest has %d bytes, allowed are %d", ErrLimit, size, maxManifest)
	}
	var b []byte
	err = Verify(r, "release manifest", id, size, func(r io.Reader) (err error) {
		b, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		return release.Manifest{}, err
	}
	return release.ParseManifest(b, id)
}

// read gives desc's content to use. What use made must count only if read
// returns nil, because the last byte decides whether the first was right.
func read(ctx context.Context, from Store, what string, desc ocispec.Descriptor, use func(io.Reader) error) error {
	r, err := from.Fetch(ctx, desc)
	if err != nil {
		return classify(err)
	}
	defer r.Close()
	return Verify(interruptible{ctx, r}, what, release.Digest(desc.Digest), desc.Size, use)
}

// Verify gives r to use and fails with an [AlteredError] if r's content is not
// what d names. use sees the end of r only once everything was right, and sees
// the AlteredError instead if it was not; so what use does after the end is safe.
func Verify(r io.Reader, what string, d release.Digest, size int64, use func(io.Reader) error) error {
	v := &verifier{r: r, what: what, want: d, size: size, hash: sha256.New()}
	err := use(v)
	if err == nil || errors.Is(err, ErrAltered) {
		// Also where use stopped early: an archive can't be read when its bytes
		// were altered, and then the digest is what the reader wants to know.
		if _, verr := io.Copy(io.Discard, v); verr != nil {
			return classify(verr)
		}
	}
	return classify(err)
}

type verifier struct {
	r    io.Reader
	what string
	want release.Digest
	size int64
	hash hash.Hash
	n    int64
	err  error // the end of r: io.EOF or why it may not be used
}

func (v *verifier) Read(b []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	// One byte more than expected shows that there is more.
	if room := v.size + 1 - v.n; int64(len(b)) > room {
		b = b[:room]
	}
	n, err := v.r.Read(b)
	v.hash.Write(b[:n])
	v.n += int64(n)
	if err == nil && v.n <= v.size {
		return n, nil
	}
	v.err = err
	if v.n > v.size || err == io.EOF {
		v.err = io.EOF
		if got := digestOf(v.hash); got != v.want || v.n != v.size {
			v.err = &AlteredError{What: v.what, Expected: v.want, Got: got, ExpectedSize: v.size, GotSize: v.n}
		}
	}
	return n, v.err
}

// classify gives oras's errors our names. Others pass.
func classify(err error) error {
	if errors.Is(err, errdef.ErrNotFound) && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

func descriptor(mediaType string, d release.Digest, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: size}
}

// Reference names an artifact in a registry: PROJECT/SERVICE@sha256:….
func Reference(project, service string, d release.Digest) string {
	return project + "/" + service + "@" + string(d)
}

// ParseReference splits a reference into the repository and the digest. A tag is
// refused: only digests are deployed.
func ParseReference(s string) (repo string, d release.Digest, err error) {
	repo, rest, ok := strings.Cut(s, "@")
	project, service, two := strings.Cut(repo, "/")
	if !ok || !two || release.CheckName(project) != nil || release.CheckName(service) != nil {
		return "", "", fmt.Errorf("%.200q is not a reference to an artifact: want PROJECT/SERVICE@sha256:…", s)
	}
	d, err = release.ParseDigest(rest)
	if err != nil {
		return "", "", fmt.Errorf("%.200q is not a reference to an artifact: %w", s, err)
	}
	return repo, d, nil
}
