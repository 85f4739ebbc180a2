// Package registrytest has an index in memory, the suite that every index must pass,
// and what an authorizer of tests needs.
package registrytest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/release"
)

type key struct{ repo, name string }

// Index is a [registry.Index] in memory.
type Index struct {
	mu        sync.Mutex
	tags      map[key]release.Digest
	referrers map[key]map[release.Digest]registry.Descriptor
}

var _ registry.Index = (*Index)(nil)

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{tags: map[key]release.Digest{}, referrers: map[key]map[release.Digest]registry.Descriptor{}}
}

// Tag implements [registry.Index].
func (x *Index) Tag(_ context.Context, repo, tag string, d release.Digest) (release.Digest, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if had, ok := x.tags[key{repo, tag}]; ok {
		return had, nil
	}
	x.tags[key{repo, tag}] = d
	return d, nil
}

// Resolve implements [registry.Index].
func (x *Index) Resolve(_ context.Context, repo, tag string) (release.Digest, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	d, ok := x.tags[key{repo, tag}]
	if !ok {
		return "", registry.ErrNoTag
	}
	return d, nil
}

// Tags implements [registry.Index].
func (x *Index) Tags(_ context.Context, repo, after string, limit int) ([]string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var tags []string
	for k := range x.tags {
		if k.repo == repo && k.name > after {
			tags = append(tags, k.name)
		}
	}
	slices.Sort(tags)
	return tags[:min(limit, len(tags))], nil
}

// AddReferrer implements [registry.Index].
func (x *Index) AddReferrer(_ context.Context, repo string, subject release.Digest, d registry.Descriptor) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := key{repo, string(subject)}
	if x.referrers[k] == nil {
		x.referrers[k] = map[release.Digest]registry.Descriptor{}
	}
	d.Annotations = maps.Clone(d.Annotations)
	x.referrers[k][d.Digest] = d
	return nil
}

// Referrers implements [registry.Index].
func (x *Index) Referrers(_ context.Context, repo string, subject release.Digest, artifactType string, after release.Digest, limit int) ([]registry.Descriptor, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var found []registry.Descriptor
	for d, desc := range x.referrers[key{repo, string(subject)}] {
		if d > after && (artifactType == "" || desc.ArtifactType == artifactType) {
			found = append(found, desc)
		}
	}
	slices.SortFunc(found, func(a, b registry.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return found[:min(limit, len(found))], nil
}
