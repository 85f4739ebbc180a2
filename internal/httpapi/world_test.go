package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/blob"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/store/storetest"
)

const token = "0123456789abcdef0123456789abcdef"

// edge is a server at the wire over a real database.
type edge struct {
	testing.TB
	store   *store.Store
	control *control.Controller
	keys    *evidence.KeyRing
	blobs   *blob.Dir
	access  *Access
	server  *httptest.Server
	answers Answers
	scraped []wire.Scrape
	mu      sync.Mutex
	ready   error
	logged  logged
}

func (e *edge) Append(_ context.Context, s []wire.Scrape) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.scraped = append(e.scraped, s...)
	return nil
}

// logged is what the edge said.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

// edges runs a story on each dialect.
func edges(t *testing.T, f func(t testing.TB, e *edge)) {
	t.Run("sqlite", func(t *testing.T) { f(t, newEdge(t, filepath.Join(t.TempDir(), "sluice.db"))) })
	t.Run("postgres", func(t *testing.T) { f(t, newEdge(t, storetest.Postgres(t))) })
}

func newEdge(t testing.TB, url string) *edge {
	t.Helper()
	e := &edge{TB: t}
	log := slog.New(slog.NewTextHandler(&e.logged, nil))
	var err error
	if e.store, err = store.Open(t.Context(), url, store.Options{Logger: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.store.Close() })
	var all []*evidence.Key
	for _, p := range evidence.Purposes() {
		k, err := evidence.Generate(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	ring, err := evidence.NewKeyRing(all...)
	if err != nil {
		t.Fatal(err)
	}
	e.keys = ring
	if e.blobs, err = blob.Open(t.TempDir(), 0); err != nil {
		t.Fatal(err)
	}
	e.control, err = control.New(control.Config{Store: e.store, Keys: ring, Blobs: e.blobs, Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if e.access, err = NewAccess(token); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	e.answers = e.control
	api := New(ctx, Config{
		Control: e.control, Access: e.access, Answers: answers{e}, Scrapes: e, Version: "test", Log: log,
		Registry: http.NotFoundHandler(), Metrics: http.NotFoundHandler(), Web: http.NotFoundHandler(),
		Ready: func(context.Context) error { return e.ready },
	})
	e.server = httptest.NewServer(api)
	t.Cleanup(func() { cancel(); e.server.Close() })
	return e
}

// answers lets a test put something in the place of what keeps answers.
type answers struct{ e *edge }

func (a answers) Answer(ctx context.Context, project, key string) (store.Answer, bool, error) {
	return a.e.answers.Answer(ctx, project, key)
}
func (a answers) PutAnswer(ctx context.Context, x store.Answer) error {
	return a.e.answers.PutAnswer(ctx, x)
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem(t testing.TB) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" || p.Status != a.status || p.Title != http.StatusText(a.status) || p.Detail == "" {
		t.Errorf("not a problem: %d %s %s", a.status, ct, a.body)
	}
	return p
}

// call sends a request with the token; headers are pairs.
func (e *edge) call(method, path string, body any, headers ...string) answer {
	e.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = bytes.NewReader([]byte(b))
	case []byte:
		r = bytes.NewReader(b)
	default:
		x, err := json.Marshal(b)
		if err != nil {
			e.Fatal(err)
		}
		r = bytes.NewReader(x)
	}
	req, err := http.NewRequestWithContext(e.Context(), method, e.server.URL+path, r)
	if err != nil {
		e.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := e.server.Client().Do(req)
	if err != nil {
		e.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		e.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, b}
}

const project = Prefix + "/projects/default/"

// insertRun writes a run that has ended.
func (e *edge) insertRun() string {
	e.Helper()
	var id string
	err := e.store.Update(e.Context(), func(tx *store.Tx) error {
		row := store.Run{Project: "default", Kind: "run", Service: "shop", Phase: "failed", Definition: []byte(`{"environments":[{"name":"dev"}]}`), State: []byte(`{"v":1,"phase":"ended","outcome":"failed","environments":[{"name":"dev"}]}`)}
		err := tx.InsertRun(&row)
		id = row.ID
		return err
	})
	if err != nil {
		e.Fatal(err)
	}
	return id
}

// insertRelease writes a release and its run, and returns its id.
func (e *edge) insertRelease(n string) release.ID {
	e.Helper()
	m := release.Manifest{Version: 1, Project: "default", Service: "shop", Commit: n}
	b, err := m.Canonical()
	if err != nil {
		e.Fatal(err)
	}
	run := e.insertRun()
	err = e.store.Update(e.Context(), func(tx *store.Tx) error {
		return tx.InsertRelease(&store.Release{Project: "default", ID: release.DigestOf(b), Service: "shop", Commit: n, Run: run, Manifest: b, CreatedAt: tx.Now()})
	})
	if err != nil {
		e.Fatal(err)
	}
	return release.DigestOf(b)
}

// feed adds lines to the feed of the project.
func (e *edge) feed(run string, n int) {
	e.Helper()
	for range n {
		err := e.store.Update(context.Background(), func(tx *store.Tx) error {
			return tx.AddFeed(&store.Feed{Project: "default", Run: run, Kind: "test", Data: []byte(`{}`)})
		})
		if err != nil {
			e.Error(err)
		}
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("SLUICE_DIAL") != "" {
		dial() // see peer_test.go
	}
	os.Exit(m.Run())
}

// get reads what is under a project's path.
func (e *edge) get(path string, into any) {
	e.Helper()
	a := e.call("GET", project+path, nil)
	if err := json.Unmarshal(a.body, into); err != nil || a.status != http.StatusOK {
		e.Fatalf("%s: %d %s (%v)", path, a.status, a.body, err)
	}
}
