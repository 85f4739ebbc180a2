package server

import (
	"context"
	"fmt"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/registry/remote"
	"github.com/sluicehq/sluice/internal/release"
)

// shelf keeps artifacts in the server's own registry, over its HTTP API like
// any other client.
type shelf struct {
	base  func() string
	token string
	spool string
}

func (s *shelf) repository(project, service string) (*remote.Repository, error) {
	return remote.Open(s.base(), project+"/"+service, remote.Options{Token: s.token})
}

// Publish implements control.Artifacts.
func (s *shelf) Publish(ctx context.Context, project, service, name, dir, path string, tags ...string) (release.Artifact, error) {
	repo, err := s.repository(project, service)
	if err != nil {
		return release.Artifact{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return release.Artifact{}, fmt.Errorf("couldn't open the build's files: %w", err)
	}
	defer root.Close()
	return artifact.PushTree(ctx, repo, name, s.spool, root, path, artifact.Limits{}, tags...)
}

// PublishRelease implements control.Artifacts.
func (s *shelf) PublishRelease(ctx context.Context, m release.Manifest) (release.ID, error) {
	repo, err := s.repository(m.Project, m.Service)
	if err != nil {
		return "", err
	}
	return artifact.PushRelease(ctx, repo, m)
}

// Verify implements control.Artifacts.
func (s *shelf) Verify(ctx context.Context, project, service string, artifacts []release.Artifact) error {
	repo, err := s.repository(project, service)
	if err != nil {
		return err
	}
	for _, a := range artifacts {
		if err := verify(ctx, repo, a); err != nil {
			return fmt.Errorf("artifact %s of %s: %w", a.Name, service, err)
		}
	}
	return nil
}

// Unpack implements control.Unpacker.
func (s *shelf) Unpack(ctx context.Context, project, service string, a release.Artifact, dir string) error {
	repo, err := s.repository(project, service)
	if err != nil {
		return err
	}
	return artifact.Pull(ctx, repo, a.Digest, dir, artifact.Limits{})
}

var _ control.Unpacker = (*shelf)(nil)

func verify(ctx context.Context, repo *remote.Repository, a release.Artifact) error {
	var layer ocispec.Descriptor
	layer, err := artifact.Inspect(ctx, repo, a.Digest)
	if err != nil {
		return err
	}
	r, err := repo.Fetch(ctx, layer)
	if err != nil {
		return err
	}
	defer r.Close()
	return artifact.Verify(r, "layer", release.Digest(layer.Digest), layer.Size, func(r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
}
