package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"github.com/sluicehq/sluice/internal/release"
)

const (
	// DefaultMaxBlob is enough for a default artifact and its tar headers.
	DefaultMaxBlob = 9 << 30
	maxManifest    = 4 << 20 // bytes, as the OCI specification asks for
	fileThreads    = 64      // concurrent file operations
)

// Options is what a registry needs.
type Options struct {
	// Root is the folder of the content, made if it is not there. Several
	// registries may share it.
	Root string
	// Key signs the state of uploads that clients hold: 32 bytes or more, the
	// same for all registries that share Root.
	Key        []byte
	Index      Index
	Authorizer Authorizer
	// Log gets what answers 5xx, and distribution's own log at debug level.
	Log *slog.Logger
	// MaxBlob bounds a blob, in bytes; 0 is [DefaultMaxBlob].
	MaxBlob int64
}

// Registry serves /v2/.
type Registry struct {
	opt    Options
	app    *handlers.App
	driver driver.StorageDriver
	repos  distribution.Namespace
	blobs  distribution.BlobProvider // of all repositories; for verified reads
}

// New opens a registry. Close it to stop its clean-up of abandoned uploads.
func New(o Options) (reg *Registry, err error) {
	defer func() {
		// Distribution panics on a configuration that it does not like.
		if p := recover(); p != nil {
			reg, err = nil, fmt.Errorf("couldn't open the registry in %s: %v", o.Root, p)
		}
	}()
	switch {
	case o.Root == "":
		return nil, errors.New("couldn't open the registry: no folder given")
	case len(o.Key) < 32:
		return nil, fmt.Errorf("couldn't open the registry in %s: its key has %d bytes, 32 are needed", o.Root, len(o.Key))
	case o.Index == nil || o.Authorizer == nil || o.Log == nil:
		return nil, fmt.Errorf("couldn't open the registry in %s: it needs an index, an authorizer and a log", o.Root)
	}
	if o.MaxBlob == 0 {
		o.MaxBlob = DefaultMaxBlob
	}
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't open the registry: %w", err)
	}
	routeLogrus(o.Log)

	files := filesystem.New(filesystem.DriverParameters{RootDirectory: o.Root, MaxThreads: fileThreads})
	repos, err := storage.NewRegistry(context.Background(), files)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the registry in %s: %w", o.Root, err)
	}
	blobs, ok := repos.Blobs().(distribution.BlobProvider)
	if !ok {
		return nil, fmt.Errorf("couldn't open the registry in %s: this version of distribution can't read blobs by digest", o.Root)
	}
	return &Registry{
		opt:    o,
		app:    handlers.NewApp(context.Background(), config(o)),
		driver: files,
		repos:  repos,
		blobs:  blobs,
	}, nil
}

func config(o Options) *configuration.Configuration {
	c := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": o.Root, "maxthreads": fileThreads},
			"redirect":   configuration.Parameters{"disable": true},
			// Only uploads that nobody finished for a week.
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{
				"enabled": true, "age": "168h", "interval": "24h", "dryrun": false,
			}},
		},
	}
	c.HTTP.Secret = hex.EncodeToString(o.Key)
	c.HTTP.RelativeURLs = true // right behind any proxy
	// Layers that are kept elsewhere may be described; nothing is fetched.
	c.Validation.Manifests.URLs.Allow = []string{"^https?://"}
	return c
}

// Close stops the registry's own work. Requests must have ended. One idle
// goroutine of distribution stays, for each registry of the process.
func (g *Registry) Close() error {
	if err := g.app.Shutdown(); err != nil {
		return fmt.Errorf("couldn't close the registry: %w", err)
	}
	return nil
}

// ServeHTTP serves the OCI distribution API, version 1.1.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := g.serve(w, r); f != nil {
		if f.status >= 500 && r.Context().Err() == nil {
			g.opt.Log.ErrorContext(r.Context(), "registry request failed", "method", r.Method, "path", r.URL.Path, "status", f.status, "error", f)
		}
		f.write(w, r)
	}
}

// serve answers, or returns the failure that is the answer.
func (g *Registry) serve(w http.ResponseWriter, r *http.Request) *failure {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		return fail(http.StatusNotFound, "UNSUPPORTED", "the registry is at /v2/")
	}
	if rest == "" {
		if f := g.authorize(w, r, "", ActionPull); f != nil {
			return f
		}
		return g.inner(w, r)
	}
	parts := strings.Split(rest, "/")
	if parts[0] == "_catalog" {
		return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "repositories are not listed here: each is PROJECT/SERVICE; see `sluice status`")
	}
	if len(parts) < 3 {
		return badName(rest)
	}
	repo := parts[0] + "/" + parts[1]
	for _, name := range parts[:2] {
		if err := release.CheckName(name); err != nil {
			return badName(repo).with(err.Error())
		}
	}
	action := ActionPush
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		action = ActionPull
	}
	if f := g.authorize(w, r, repo, action); f != nil {
		return f
	}
	switch kind, args := parts[2], parts[3:]; {
	case kind == "manifests" && len(args) == 1:
		return g.manifest(w, r, repo, args[0])
	case kind == "tags" && len(args) == 1 && args[0] == "list":
		return g.tags(w, r, repo)
	case kind == "referrers" && len(args) == 1:
		return g.referrers(w, r, repo, args[0])
	case kind == "blobs" && len(args) == 1 && args[0] != "uploads":
		return g.blob(w, r, args[0])
	case kind == "blobs" && len(args) == 1, kind == "blobs" && len(args) == 2 && args[0] == "uploads":
		return g.upload(w, r, repo, strings.Join(args[1:], ""))
	}
	return badName(rest)
}

func badName(got string) *failure {
	return fail(http.StatusNotFound, "NAME_INVALID", "%.200q is not a repository of this registry: they are named PROJECT/SERVICE", got)
}

func (g *Registry) authorize(w http.ResponseWriter, r *http.Request, repo string, action Action) *failure {
	err := g.opt.Authorizer.Authorize(r, repo, action)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrForbidden):
		return fail(http.StatusForbidden, "DENIED", "this token may not %s in %s", action, repo)
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", `Basic realm="sluice"`)
		return fail(http.StatusUnauthorized, "UNAUTHORIZED", "a valid token is needed: as bearer token, or as password with any user name")
	}
	return unavailable("check the token", err)
}

// inner lets distribution answer straight to the client.
func (g *Registry) inner(w http.ResponseWriter, r *http.Request) *failure {
	g.app.ServeHTTP(w, r)
	return nil
}

// repository is PROJECT/SERVICE's manifests as they are stored.
func (g *Registry) manifests(ctx context.Context, repo string) (distribution.ManifestService, error) {
	r, err := g.repos.Repository(ctx, named(repo))
	if err != nil {
		return nil, err
	}
	return r.Manifests(ctx)
}

// named is a repository's name in distribution's clothes.
type named string

func (n named) Name() string   { return string(n) }
func (n named) String() string { return string(n) }
