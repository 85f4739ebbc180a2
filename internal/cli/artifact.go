package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/registry/remote"
	"github.com/sluicehq/sluice/internal/release"
)

func (a *app) artifact() *cobra.Command {
	c := &cobra.Command{
		Use: "artifact", Short: "List, inspect, verify and push what was built",
		Example: "  sluice artifact ls checkout\n  sluice artifact verify 9f86d081884c",
	}
	c.AddCommand(a.artifactList(), a.artifactInspect(), a.artifactVerify(), a.artifactPush())
	return needsVerb(c)
}

func (a *app) artifactList() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "ls [SERVICE]", Short: "List releases, newest first", Example: "  sluice artifact ls checkout", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usage("--limit is %d; it is at least 1", limit)
			}
			service := ""
			if len(args) > 0 {
				service = args[0]
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			var list []httpapi.Release
			if err := c.do(cmd.Context(), http.MethodGet, c.path("releases")+query("service", service), nil, &list); err != nil {
				return err
			}
			list = list[:min(len(list), limit)]
			out := make([]releaseInfo, 0, len(list))
			for _, r := range list {
				x, err := c.release(cmd.Context(), string(r.Release))
				if err != nil {
					return err
				}
				out = append(out, x)
			}
			if a.json {
				return a.printJSON(out)
			}
			if len(out) == 0 {
				a.say("There are no releases yet. Make one in a service's repository: sluice run")
				return nil
			}
			return a.table("RELEASE\tSERVICE\tCOMMIT\tRUN\tMADE\tARTIFACTS", func(row func(...string)) {
				for _, r := range out {
					var arts []string
					for _, x := range r.Manifest.Artifacts {
						arts = append(arts, fmt.Sprintf("%s %s (%s)", x.Name, x.Digest.Short(), bytesOf(x.Size)))
					}
					row(r.Release.Short(), r.Service, commit(r.Commit), r.Run, ago(r.CreatedAt), strings.Join(arts, ", "))
				}
			})
		},
	}
	c.Flags().IntVarP(&limit, "limit", "n", 20, "how many")
	c.ValidArgsFunction = first(a.services())
	return c
}

// releaseInfo is a release with its manifest, of which the digest was checked.
type releaseInfo struct {
	Release   release.ID       `json:"release"`
	Service   string           `json:"service"`
	Commit    string           `json:"commit"`
	Run       string           `json:"run"`
	CreatedAt time.Time        `json:"createdAt"`
	Manifest  release.Manifest `json:"manifest"`
}

func (c *client) release(ctx context.Context, prefix string) (releaseInfo, error) {
	var r httpapi.Release
	if err := c.do(ctx, http.MethodGet, c.path("releases/%s", prefix), nil, &r); err != nil {
		return releaseInfo{}, err
	}
	x := releaseInfo{Release: r.Release, Service: r.Service, Commit: r.Commit, Run: r.Run, CreatedAt: r.CreatedAt}
	canonical, err := release.Canonical(r.Manifest)
	if err != nil {
		return x, err
	}
	x.Manifest, err = release.ParseManifest(canonical, r.Release)
	return x, err
}

// repository is where the artifacts of a service are.
func (c *client) repository(service string) (*remote.Repository, error) {
	return remote.Open(c.base, c.project+"/"+service, remote.Options{Token: c.token})
}

func (a *app) artifactInspect() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect RELEASE|SERVICE@sha256:…",
		Short: "Show what a release, or an artifact, is made of",
		Example: "  sluice artifact inspect 9f86d081884c\n" +
			"  sluice artifact inspect checkout@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if strings.Contains(args[0], "@") {
				return a.inspectArtifact(cmd.Context(), c, args[0])
			}
			x, err := c.release(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(x)
			}
			a.printRelease(x)
			return nil
		},
	}
	c.ValidArgsFunction = first(a.releases())
	return c
}

func (a *app) printRelease(x releaseInfo) {
	m := x.Manifest
	s := sheet{a: a, w: a.out, label: 9}
	s.put("release", clean(string(x.Release)))
	s.put("service", clean(m.Service))
	s.put("commit", clean(m.Commit))
	s.put("source", clean(m.Repository+", "+m.Path))
	s.put("run", clean(x.Run)+", "+moment(x.CreatedAt))
	s.put("defined", clean(string(m.Definition)))
	for _, v := range m.Artifacts {
		s.put("artifact", clean(fmt.Sprintf("%s, %s, %s", v.Name, v.Type, bytesOf(v.Size))))
		s.put("", clean(artifact.Reference(m.Project, m.Service, v.Digest)))
	}
	for _, env := range sorted(m.Environments) {
		cfg := m.Environments[env]
		label := clean(env)
		for _, k := range sorted(cfg.Env) {
			s.hang(label, clean(k+"="+cfg.Env[k]), 2)
			label = ""
		}
		for _, k := range sorted(cfg.Secrets) {
			s.hang(label, clean(fmt.Sprintf("%s=(secret %s, version %s)", k, cfg.Secrets[k].Ref, cfg.Secrets[k].Version)), 2)
			label = ""
		}
		if label != "" {
			s.put(label, "no configuration")
		}
	}
}

// reference reads SERVICE@DIGEST or PROJECT/SERVICE@DIGEST.
func (c *client) reference(text string) (*remote.Repository, release.Digest, error) {
	if !strings.Contains(strings.SplitN(text, "@", 2)[0], "/") {
		text = c.project + "/" + text
	}
	name, d, err := artifact.ParseReference(text)
	if err != nil {
		return nil, "", usage("%w", err)
	}
	repo, err := remote.Open(c.base, name, remote.Options{Token: c.token})
	if err != nil {
		return nil, "", usage("%w", err)
	}
	return repo, d, nil
}

type artifactInfo struct {
	Repository string         `json:"repository"`
	Digest     release.Digest `json:"digest"`
	MediaType  string         `json:"mediaType"` // of the layer
	Layer      release.Digest `json:"layer"`
	Size       int64          `json:"size"` // of the layer, in bytes
	Referrers  []referrer     `json:"referrers"`
}

type referrer struct {
	Digest       string `json:"digest"`
	ArtifactType string `json:"artifactType"`
	Size         int64  `json:"size"`
}

func (a *app) inspectArtifact(ctx context.Context, c *client, text string) error {
	repo, d, err := c.reference(text)
	if err != nil {
		return err
	}
	layer, err := artifact.Inspect(ctx, repo, d)
	if err != nil {
		return c.registryError(err)
	}
	refs, err := repo.Referrers(ctx, d, "")
	if err != nil {
		return c.registryError(err)
	}
	x := artifactInfo{Repository: repo.Name(), Digest: d, MediaType: layer.MediaType, Layer: release.Digest(layer.Digest), Size: layer.Size, Referrers: []referrer{}}
	for _, r := range refs {
		x.Referrers = append(x.Referrers, referrer{Digest: string(r.Digest), ArtifactType: r.ArtifactType, Size: r.Size})
	}
	if a.json {
		return a.printJSON(x)
	}
	s := sheet{a: a, w: a.out, label: 9}
	s.put("artifact", clean(x.Repository))
	s.put("", clean(string(x.Digest)))
	s.put("layer", clean(string(x.Layer)))
	s.put("size", bytesOf(x.Size))
	s.put("type", clean(x.MediaType))
	for _, r := range x.Referrers {
		s.put("referrer", clean(r.ArtifactType))
		s.put("", clean(r.Digest))
	}
	return nil
}

// registryError gives an error of the registry its exit code.
func (c *client) registryError(err error) error {
	switch {
	case errors.Is(err, artifact.ErrUnavailable):
		return c.unreachable(err)
	case errors.Is(err, artifact.ErrNotFound), errors.Is(err, artifact.ErrDenied):
		return usage("%w", err)
	}
	return err
}

// verification is what artifact verify came to.
type verification struct {
	Release   release.ID       `json:"release"`
	OK        bool             `json:"ok"`
	Manifest  string           `json:"manifest"` // "ok", or what is wrong
	Artifacts []verified       `json:"artifacts"`
	Evidence  *evidence.Report `json:"evidence,omitempty"`
}

type verified struct {
	release.Artifact
	Result string `json:"result"` // "ok", or what is wrong
}

func (a *app) artifactVerify() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use:   "verify RELEASE",
		Short: "Pull a release from the registry and verify every byte and its evidence",
		Long: `Fetches the release's manifest and artifacts from the registry, compares every byte
with its digest, and verifies the evidence about the release. Exit code 1 when
anything is not what it should be. With --key only those keys are trusted; without,
the evidence is only shown to agree with itself.`,
		Example: "  sluice artifact verify 9f86d081884c",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			trusted, err := keyRefs(keys)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			v, err := c.verify(cmd.Context(), args[0], trusted)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(v)
			} else {
				err = a.printVerification(v)
			}
			if err == nil && !v.OK {
				return &exit{code: Failed}
			}
			return err
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "trust only this key, PURPOSE:HEX (repeatable)")
	c.ValidArgsFunction = first(a.releases())
	return c
}

func (c *client) verify(ctx context.Context, prefix string, trusted []evidence.KeyRef) (verification, error) {
	var known httpapi.Release
	if err := c.do(ctx, http.MethodGet, c.path("releases/%s", prefix), nil, &known); err != nil {
		return verification{}, err
	}
	v := verification{Release: known.Release, OK: true, Manifest: "ok", Artifacts: []verified{}}
	repo, err := c.repository(known.Service)
	if err != nil {
		return v, err
	}
	m, err := artifact.PullRelease(ctx, repo, known.Release)
	if wrong, err := c.finding(err); err != nil {
		return v, err
	} else if wrong != "" {
		v.OK, v.Manifest = false, wrong
	}
	dir, err := os.MkdirTemp("", "sluice-verify-")
	if err != nil {
		return v, fmt.Errorf("couldn't make a folder to unpack into: %w", err)
	}
	defer os.RemoveAll(dir)
	for i, x := range m.Artifacts {
		r := verified{Artifact: x, Result: "ok"}
		to := filepath.Join(dir, fmt.Sprint(i))
		wrong, err := c.finding(artifact.Pull(ctx, repo, x.Digest, to, artifact.Limits{}))
		if err != nil {
			return v, err
		}
		if wrong != "" {
			v.OK, r.Result = false, wrong
		}
		v.Artifacts = append(v.Artifacts, r)
		if err := os.RemoveAll(to); err != nil {
			return v, fmt.Errorf("couldn't remove what was unpacked: %w", err)
		}
	}
	res, err := c.send(ctx, http.MethodGet, c.path("evidence/bundle")+query("release", string(known.Release), "outputs", "none"), nil, nil)
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	report, err := evidence.Verify(res.Body, evidence.VerifyOptions{Project: c.project, Release: known.Release, TrustedKeys: trusted})
	if err != nil {
		return v, fmt.Errorf("couldn't read the evidence: %w", err)
	}
	v.Evidence, v.OK = &report, v.OK && report.OK
	return v, nil
}

// finding tells what is wrong with content apart from what kept us from reading.
func (c *client) finding(err error) (string, error) {
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, artifact.ErrAltered), errors.Is(err, artifact.ErrNotFound), errors.Is(err, artifact.ErrLimit):
		return err.Error(), nil
	case errors.Is(err, artifact.ErrUnavailable), errors.Is(err, artifact.ErrDenied), errors.Is(err, context.Canceled):
		return "", c.registryError(err)
	}
	return err.Error(), nil // a manifest that is not what its digest names
}

func (a *app) printVerification(v verification) error {
	s := sheet{a: a, w: a.out, label: 9}
	mark := func(result string) string {
		if result == "ok" {
			return a.paint(a.out, green, "ok")
		}
		return a.paint(a.out, red, "WRONG") + " " + clean(result)
	}
	s.put("release", mark(v.Manifest))
	s.put("", clean(string(v.Release)))
	for _, x := range v.Artifacts {
		s.put("artifact", mark(x.Result)+" "+clean(x.Name))
		s.put("", clean(string(x.Digest)))
	}
	if v.Evidence == nil {
		return nil
	}
	return v.Evidence.WriteText(a.out)
}

func (a *app) artifactPush() *cobra.Command {
	var service, name string
	var tags []string
	c := &cobra.Command{
		Use:   "push DIR --service SERVICE",
		Short: "Push a folder as an artifact of type files",
		Long: `Packs a folder deterministically (the same files have the same digest) and pushes it
to the server's registry. Tags never move: one that names other content is refused.`,
		Example: "  sluice artifact push out --service checkout --tag 1a2b3c4",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := release.CheckName(service); err != nil {
				return usage("name the service whose artifact it is with --service: %w", err)
			}
			if err := release.CheckName(name); err != nil {
				return usage("--name: %w", err)
			}
			root, err := os.OpenRoot(args[0])
			if err != nil {
				return usage("couldn't open the folder: %w", err)
			}
			defer root.Close()
			c, err := a.connect()
			if err != nil {
				return err
			}
			repo, err := c.repository(service)
			if err != nil {
				return usage("%w", err)
			}
			x, err := artifact.PushTree(cmd.Context(), repo, name, os.TempDir(), root, ".", artifact.Limits{}, tags...)
			if err != nil {
				return c.registryError(err)
			}
			ref := artifact.Reference(c.project, service, x.Digest)
			if a.json {
				return a.printJSON(struct {
					release.Artifact
					Reference string `json:"reference"`
				}{x, ref})
			}
			fmt.Fprintln(a.out, ref)
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&service, "service", "s", "", "service whose artifact it is")
	f.StringVar(&name, "name", "main", "of the artifact")
	f.StringArrayVar(&tags, "tag", nil, "an immutable tag (repeatable)")
	c.ValidArgsFunction = first(fixed(cobra.ShellCompDirectiveFilterDirs))
	complete(c, "service", a.services())
	return c
}
