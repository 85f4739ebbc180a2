package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"oras.land/oras-go/v2"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/registry/registrytest"
	"github.com/sluicehq/sluice/internal/registry/remote"
	"github.com/sluicehq/sluice/internal/release"
)

const (
	repo  = "default/shop"
	token = "secret"
)

var _ oras.Target = (*remote.Repository)(nil)

// serve starts a registry, with around between it and the network.
func serve(t *testing.T, around func(http.Handler) http.Handler) (url, root string) {
	t.Helper()
	root = t.TempDir()
	g, err := registry.New(registry.Options{
		Root: root, Key: make([]byte, 32), Index: registrytest.NewIndex(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Authorizer: registry.AuthorizerFunc(func(r *http.Request, _ string, _ registry.Action) error {
			switch registrytest.Token(r) {
			case token:
				return nil
			case "weak":
				return registry.ErrForbidden
			}
			return registry.ErrUnauthenticated
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var h http.Handler = g
	if around != nil {
		h = around(g)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv.URL, root
}

func open(t *testing.T, url string, o remote.Options) *remote.Repository {
	t.Helper()
	r, err := remote.Open(url, repo, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func push(t *testing.T, r *remote.Repository, content string, tags ...string) (release.Artifact, error) {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/bin", 0o755), os.WriteFile(dir+"/bin/server", []byte(content), 0o755)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return artifact.PushTree(t.Context(), r, "main", t.TempDir(), root, ".", artifact.Limits{}, tags...)
}

func manifestOf(a release.Artifact) release.Manifest {
	return release.Manifest{Version: 1, Project: "default", Service: "shop", Commit: "abc", Artifacts: []release.Artifact{a}, Engine: 1}
}

// The life of a release in the registry: pushed, tagged, found, pulled.
func TestRoundTrip(t *testing.T) {
	url, _ := serve(t, nil)
	for name, o := range map[string]remote.Options{
		"bearer token":      {Token: token},
		"token as password": {Username: "any", Password: token},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, url, o)
			a, err := push(t, r, "hello "+name, "v-"+o.Username)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "out")
			if err := artifact.Pull(t.Context(), r, a.Digest, dir, artifact.Limits{}); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(dir + "/bin/server"); err != nil || string(got) != "hello "+name {
				t.Errorf("pulled %q (%v)", got, err)
			}
			if again, err := push(t, r, "hello "+name, "v-"+o.Username); err != nil || again != a {
				t.Errorf("pushing again: %+v, %v", again, err)
			}
			if _, err := push(t, r, "other "+name, "v-"+o.Username); !errors.Is(err, artifact.ErrTagTaken) || !strings.Contains(err.Error(), "never move") {
				t.Errorf("moving a tag: %v, want ErrTagTaken with the reason", err)
			}
			if _, err := push(t, r, "hello "+name, "latest"); err == nil || !strings.Contains(err.Error(), "floating") {
				t.Errorf("tagging latest: %v", err)
			}
			if d, err := r.Resolve(t.Context(), "v-"+o.Username); err != nil || release.Digest(d.Digest) != a.Digest {
				t.Errorf("the tag names %v (%v), want %s", d, err, a.Digest)
			}

			m := manifestOf(a)
			id, err := artifact.PushRelease(t.Context(), r, m)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := artifact.PullRelease(t.Context(), r, id); err != nil || got.Commit != "abc" || got.Artifacts[0] != a {
				t.Errorf("pulled release %+v (%v)", got, err)
			}
			for artifactType, want := range map[string]int{"": 1, artifact.ReleaseType: 1, "other/type": 0} {
				refs, err := r.Referrers(t.Context(), a.Digest, artifactType)
				if err != nil || len(refs) != want {
					t.Errorf("referrers of type %q: %v (%v), want %d", artifactType, refs, err, want)
				}
			}
			size, err := r.HeadBlob(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			b, err := r.GetBlob(t.Context(), id, size)
			if err != nil || release.DigestOf(b) != id {
				t.Errorf("GetBlob: %d bytes, %v", len(b), err)
			}
			if _, err := r.GetBlob(t.Context(), id, size-1); !errors.Is(err, artifact.ErrLimit) {
				t.Errorf("over the limit: %v", err)
			}
		})
	}
}

func TestConcurrentPushes(t *testing.T) {
	url, _ := serve(t, nil)
	r := open(t, url, remote.Options{Token: token})
	var wg sync.WaitGroup
	errs, got := make([]error, 8), make([]release.Artifact, 8)
	for i := range errs {
		wg.Go(func() { got[i], errs[i] = push(t, r, fmt.Sprint("content ", i/4), "v1") })
	}
	wg.Wait()
	won, err := r.Resolve(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, err := range errs {
		switch {
		case err == nil && got[i].Digest == release.Digest(won.Digest):
			n++
		case !errors.Is(err, artifact.ErrTagTaken):
			t.Errorf("push %d: %v of %s; v1 is %s", i, err, got[i].Digest, won.Digest)
		}
	}
	if n != 4 {
		t.Errorf("%d pushes say that they won, want the 4 with the winner's content", n)
	}
}

// stored finds a blob's file in the registry's folder.
func stored(root string, d release.Digest) string {
	return filepath.Join(root, "docker/registry/v2/blobs/sha256", d.Hex()[:2], d.Hex(), "data")
}

// Whatever is altered on the registry's disk is found and named by the client.
func TestAlteredOnDisk(t *testing.T) {
	url, root := serve(t, nil)
	r := open(t, url, remote.Options{Token: token})
	a, err := push(t, r, "hello")
	if err != nil {
		t.Fatal(err)
	}
	layer, err := artifact.Inspect(t.Context(), r, a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	id, err := artifact.PushRelease(t.Context(), r, manifestOf(a))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"a bit":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":     func(b []byte) []byte { return b[:len(b)/2] },
		"longer":  func(b []byte) []byte { return append(b, '\n') },
		"emptied": func([]byte) []byte { return nil },
	} {
		for what, d := range map[string]release.Digest{"manifest": a.Digest, "layer": release.Digest(layer.Digest), "release": id} {
			t.Run(what+" "+name, func(t *testing.T) {
				good, err := os.ReadFile(stored(root, d))
				if err != nil {
					t.Fatal(err)
				}
				bad := change(bytes.Clone(good))
				if err := os.WriteFile(stored(root, d), bad, 0o644); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := os.WriteFile(stored(root, d), good, 0o644); err != nil {
						t.Error(err)
					}
				}()
				parent := t.TempDir()
				if what == "release" {
					_, err = artifact.PullRelease(t.Context(), r, id)
				} else {
					err = artifact.Pull(t.Context(), r, a.Digest, filepath.Join(parent, "out"), artifact.Limits{})
				}
				if !errors.Is(err, artifact.ErrAltered) || errors.Is(err, artifact.ErrUnavailable) {
					t.Fatalf("error is %v, want an ErrAltered", err)
				}
				if !strings.Contains(err.Error(), string(d)) {
					t.Errorf("error %q doesn't name what was expected, %s", err, d)
				}
				if got := string(release.DigestOf(bad)); name != "longer" && !strings.Contains(err.Error(), got) {
					t.Errorf("error %q doesn't name what came, %s", err, got)
				}
				if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
					t.Errorf("left behind: %v (%v)", left, err)
				}
			})
		}
	}
	if err := artifact.Pull(t.Context(), r, a.Digest, filepath.Join(t.TempDir(), "out"), artifact.Limits{}); err != nil {
		t.Errorf("with everything back in place: %v", err)
	}
	// A push must not rest on a copy that is known to be broken.
	if err := os.Truncate(stored(root, release.Digest(layer.Digest)), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := push(t, r, "hello"); !errors.Is(err, artifact.ErrAltered) {
		t.Errorf("pushing over a cut blob: %v, want ErrAltered", err)
	}
}

func TestErrors(t *testing.T) {
	url, _ := serve(t, nil)
	missing := release.DigestOf([]byte("missing"))
	pull := func(r *remote.Repository) error {
		return artifact.Pull(t.Context(), r, missing, filepath.Join(t.TempDir(), "out"), artifact.Limits{})
	}
	if err := pull(open(t, url, remote.Options{Token: token})); !errors.Is(err, artifact.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	for _, bad := range []string{"", "wrong", "weak"} {
		r := open(t, url, remote.Options{Token: bad})
		if err := pull(r); !errors.Is(err, artifact.ErrDenied) {
			t.Errorf("pull with token %q: %v", bad, err)
		}
		if _, err := push(t, r, "x"); !errors.Is(err, artifact.ErrDenied) {
			t.Errorf("push with token %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "127.0.0.1:1", "ftp://x", "http://", "::"} {
		if _, err := remote.Open(bad, repo, remote.Options{}); err == nil {
			t.Errorf("registry %q was accepted", bad)
		}
	}
	if _, err := remote.Open(url, "../x", remote.Options{}); err == nil {
		t.Error("repository ../x was accepted")
	}
}

// A registry that is gone, busy or breaks off may come back; nothing is judged.
func TestUnavailable(t *testing.T) {
	r := open(t, "http://"+porttest.Refused(t), remote.Options{Token: token})
	unavailable := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, artifact.ErrUnavailable) || errors.Is(err, artifact.ErrAltered) || errors.Is(err, artifact.ErrNotFound) {
			t.Errorf("%s: error is %v, want only ErrUnavailable", what, err)
		}
	}
	d := release.DigestOf([]byte("x"))
	unavailable("pull", artifact.Pull(t.Context(), r, d, filepath.Join(t.TempDir(), "out"), artifact.Limits{}))
	_, err := push(t, r, "x")
	unavailable("push", err)
	_, err = artifact.PullRelease(t.Context(), r, d)
	unavailable("release", err)
	_, err = r.Referrers(t.Context(), d, "")
	unavailable("referrers", err)
	_, err = r.HeadBlob(t.Context(), d)
	unavailable("head", err)

	type handle = func(w http.ResponseWriter, r *http.Request) bool
	var fault atomic.Value
	fault.Store(handle(func(http.ResponseWriter, *http.Request) bool { return false }))
	url, _ := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !fault.Load().(handle)(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	})
	r = open(t, url, remote.Options{Token: token})
	a, err := push(t, r, "hello")
	if err != nil {
		t.Fatal(err)
	}
	pull := func(ctx context.Context) error {
		parent := t.TempDir()
		err := artifact.Pull(ctx, r, a.Digest, filepath.Join(parent, "out"), artifact.Limits{})
		if left, rerr := os.ReadDir(parent); rerr != nil || err != nil && len(left) != 0 {
			t.Errorf("left behind: %v (%v)", left, rerr)
		}
		return err
	}
	for _, code := range []int{408, 429, 500, 502, 503} {
		fault.Store(handle(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }))
		unavailable(fmt.Sprint(code), pull(t.Context()))
	}
	blobs := func(r *http.Request) bool { return r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/") }
	fault.Store(handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !blobs(r) {
			return false
		}
		w.Header().Set("Content-Length", "4096")
		_, _ = w.Write(make([]byte, 100))
		panic(http.ErrAbortHandler)
	}))
	unavailable("broken off", pull(t.Context()))

	// Our own shutdown is neither.
	ctx, cancel := context.WithCancel(t.Context())
	fault.Store(handle(func(_ http.ResponseWriter, r *http.Request) bool {
		if blobs(r) {
			cancel()
			<-r.Context().Done()
		}
		return false
	}))
	if err := pull(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, artifact.ErrUnavailable) || errors.Is(err, artifact.ErrAltered) {
		t.Errorf("cancelled: %v", err)
	}
	fault.Store(handle(func(http.ResponseWriter, *http.Request) bool { return false }))
	if err := pull(t.Context()); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

// Storage elsewhere is followed, but never sees the token.
func TestRedirectLosesTheToken(t *testing.T) {
	const content = "elsewhere"
	var seen []string
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, content)
	}))
	defer storage.Close()
	url, _ := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, storage.URL+"/x", http.StatusTemporaryRedirect)
		})
	})
	b, err := open(t, url, remote.Options{Token: token}).GetBlob(t.Context(), release.DigestOf([]byte(content)), 100)
	if err != nil || string(b) != content {
		t.Errorf("got %q, %v", b, err)
	}
	if len(seen) != 1 || seen[0] != "" {
		t.Errorf("the storage saw %q", seen)
	}
}
