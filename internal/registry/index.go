package registry

import (
	"context"
	"errors"

	"github.com/sluicehq/sluice/internal/release"
)

// ErrNoTag reports a tag that names nothing.
var ErrNoTag = errors.New("no such tag")

// Index is the registry's memory beside its blobs: which tag names what, and
// what refers to what. Package store implements it in SQL, [registrytest.NewIndex]
// in memory. Repositories are named PROJECT/SERVICE. Each method is one
// transaction, durable when it returns, and safe for concurrent use, also by
// several control planes.
type Index interface {
	// Tag lets tag name d if it names nothing yet, and returns what it names
	// afterwards. Of two concurrent calls exactly one inserts; both get the same
	// answer.
	Tag(ctx context.Context, repo, tag string, d release.Digest) (release.Digest, error)
	// Resolve returns what tag names, or [ErrNoTag].
	Resolve(ctx context.Context, repo, tag string) (release.Digest, error)
	// Tags lists at most limit tags that sort (by bytes) behind after.
	Tags(ctx context.Context, repo, after string, limit int) ([]string, error)
	// AddReferrer stores that the manifest d refers to subject. The same again
	// changes nothing.
	AddReferrer(ctx context.Context, repo string, subject release.Digest, d Descriptor) error
	// Referrers lists at most limit manifests that refer to subject and whose
	// digest sorts behind after, sorted by digest. An empty artifactType means all.
	Referrers(ctx context.Context, repo string, subject release.Digest, artifactType string, after release.Digest, limit int) ([]Descriptor, error)
}

// Descriptor is an OCI content descriptor of a manifest, as the referrers API
// lists it.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       release.Digest    `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}
