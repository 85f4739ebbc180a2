package agent

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/registry/remote"
	"github.com/sluicehq/sluice/internal/release"
)

// Verifier decides whether an envelope lets a revision into key's environment. It
// is called from several goroutines.
type Verifier interface {
	VerifyPromotion(envelope []byte, rev wire.Revision, key release.Key) error
}

// Fetcher brings the files of an artifact. It is called from several goroutines.
type Fetcher interface {
	// Fetch unpacks the artifact that reference names to dir, which does not exist,
	// having compared every byte with its digest: all or nothing. An error that
	// wraps artifact.ErrUnavailable says that trying again may help.
	Fetch(ctx context.Context, reference string, dir string) error
}

// keys is the Verifier of real promotions.
type keys struct{ set *evidence.KeySet }

func (k keys) VerifyPromotion(envelope []byte, rev wire.Revision, key release.Key) error {
	_, err := k.set.VerifyPromotion(envelope, key, rev.Release)
	return err
}

// trust collects the keys that may sign promotions. Without any the agent would
// never run anything, so that is an error.
func trust(list []evidence.PublicKey, path string) (Verifier, error) {
	all := append([]evidence.PublicKey(nil), list...)
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("couldn't read the keys that may sign promotions: %w", err)
		}
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			k, err := evidence.ParsePublicKey(evidence.PurposePromotion, pem.EncodeToMemory(block))
			if err != nil {
				return nil, fmt.Errorf("couldn't read a key of %s: %w", path, err)
			}
			all = append(all, k)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("couldn't start the agent: it trusts no key that signs promotions, so it could run nothing: set TrustKeys or TrustFile")
	}
	set, err := evidence.NewKeySet(all...)
	if err != nil {
		return nil, fmt.Errorf("couldn't use the keys that may sign promotions: %w", err)
	}
	return keys{set}, nil
}

// registryFetcher pulls from the registry that the control plane serves.
type registryFetcher struct {
	server, token string
	transport     http.RoundTripper
}

func (f registryFetcher) Fetch(ctx context.Context, reference string, dir string) error {
	repo, digest, err := artifact.ParseReference(reference)
	if err != nil {
		return err
	}
	r, err := remote.Open(f.server, repo, remote.Options{Token: f.token, Transport: f.transport})
	if err != nil {
		return err
	}
	return artifact.Pull(ctx, r, digest, dir, artifact.Limits{})
}

// verify holds a revision against its promotion and its manifest: all that can be
// known without its files. It returns the artifact's digest.
func verify(v Verifier, key release.Key, r wire.Revision) (release.Digest, error) {
	if err := v.VerifyPromotion(r.Promotion, r, key); err != nil {
		return "", err
	}
	m, err := release.ParseManifest(r.Manifest, r.Release)
	if err != nil {
		return "", err
	}
	if m.Project != key.Project || m.Service != key.Service {
		return "", fmt.Errorf("release %s is of %s/%s, not of %s/%s", r.Release.Short(), m.Project, m.Service, key.Project, key.Service)
	}
	repo, digest, err := artifact.ParseReference(r.Artifact)
	if err != nil {
		return "", err
	}
	if want := key.Project + "/" + key.Service; repo != want {
		return "", fmt.Errorf("artifact %.200q is not in the repository %s", r.Artifact, want)
	}
	listed := false
	for _, a := range m.Artifacts {
		listed = listed || a.Digest == digest
	}
	if !listed {
		return "", fmt.Errorf("artifact %s is not one of release %s", digest.Short(), r.Release.Short())
	}
	// The command and the configuration are a part of what was promoted.
	c := m.Environments[key.Environment]
	if c.Run != r.Run {
		return "", fmt.Errorf("the command for %s is not that of release %s: it was altered", key.Environment, r.Release.Short())
	}
	if !maps.Equal(c.Env, r.Env) || !maps.Equal(c.Secrets, r.Secrets) {
		return "", fmt.Errorf("the configuration for %s is not that of release %s: it was altered", key.Environment, r.Release.Short())
	}
	return digest, nil
}
