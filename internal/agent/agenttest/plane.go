package agenttest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/release"
)

// Token is what a Plane wants from its agents.
const Token = "agenttest-token"

// Plane is a control plane with a registry, on a real port.
type Plane struct {
	URL  string
	Keys *evidence.KeyRing

	t    testing.TB
	addr string

	mu         sync.Mutex
	server     *http.Server
	generation int64
	desired    map[release.Key]wire.Desired
	changed    chan struct{} // closed and replaced at each change
	observed   map[string]wire.Observed
	first      map[string]wire.Observed // by boot
	reports    int
	content    map[release.Digest]stored
	pulls      map[release.Digest]int
	refuse     bool // the registry answers 503
}

type stored struct {
	mediaType string
	body      []byte
}

// NewPlane starts a control plane that stops with the test.
func NewPlane(t testing.TB) *Plane {
	t.Helper()
	key, err := evidence.Generate(evidence.PurposePromotion)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := evidence.NewKeyRing(key)
	if err != nil {
		t.Fatal(err)
	}
	p := &Plane{
		Keys: ring, t: t, addr: porttest.Free(t), // nobody else's while it is stopped
		desired: make(map[release.Key]wire.Desired), changed: make(chan struct{}),
		observed: make(map[string]wire.Observed), first: make(map[string]wire.Observed), content: make(map[release.Digest]stored), pulls: make(map[release.Digest]int),
	}
	p.Start()
	t.Cleanup(p.Stop)
	return p
}

// Start serves, after Stop again on the same port.
func (p *Plane) Start() {
	var l net.Listener
	if !machinetest.Eventually(func() bool { // what this process began a moment ago may have the port still
		var err error
		l, err = net.Listen("tcp", p.addr)
		return err == nil
	}) {
		p.t.Fatalf("couldn't start the control plane again on %s", p.addr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addr = l.Addr().String()
	p.URL = "http://" + p.addr
	mux := http.NewServeMux()
	mux.HandleFunc("GET /agent/v1/desired", p.serveDesired)
	mux.HandleFunc("POST /agent/v1/observed", p.serveObserved)
	mux.HandleFunc("GET /v2/", p.serveContent)
	p.server = &http.Server{Handler: mux}
	go p.server.Serve(l) //nolint:errcheck // ends with Stop
}

// Stop dies at once, as by kill -9: streams break, nothing is answered.
func (p *Plane) Stop() {
	p.mu.Lock()
	s := p.server
	p.server = nil
	p.mu.Unlock()
	if s != nil {
		_ = s.Close()
	}
}

// Desire sets a desired state and returns its generation, which is the next one
// unless d has one.
func (p *Plane) Desire(d wire.Desired) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.Protocol = max(d.Protocol, wire.Protocol)
	if d.Generation == 0 {
		d.Generation = p.generation + 1
	}
	p.generation = max(p.generation, d.Generation)
	p.desired[d.Key] = d
	close(p.changed)
	p.changed = make(chan struct{})
	return d.Generation
}

func (p *Plane) authorized(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Authorization") != "Bearer "+Token {
		http.Error(w, "no valid token", http.StatusUnauthorized)
		return false
	}
	return true
}

func (p *Plane) serveDesired(w http.ResponseWriter, r *http.Request) {
	if !p.authorized(w, r) {
		return
	}
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if err != nil || r.URL.Query().Get("host") == "" {
		http.Error(w, "want host and after", http.StatusBadRequest)
		return
	}
	sent := make(map[release.Key]int64)
	first := true
	enc := json.NewEncoder(w)
	for {
		p.mu.Lock()
		changed := p.changed
		all := slices.SortedFunc(maps.Values(p.desired), func(x, y wire.Desired) int { return int(x.Generation - y.Generation) })
		p.mu.Unlock()
		for _, d := range all {
			// Behind a reconnect only newer ones; on a stream whatever a test says.
			if sent[d.Key] != d.Generation && (!first || d.Generation > after) {
				sent[d.Key] = d.Generation
				if enc.Encode(d) != nil {
					return
				}
			}
			sent[d.Key] = d.Generation
		}
		if first {
			_, _ = io.WriteString(w, "\n")
		}
		first = false
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (p *Plane) serveObserved(w http.ResponseWriter, r *http.Request) {
	if !p.authorized(w, r) {
		return
	}
	var o wire.Observed
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports++
	if len(o.Scrapes) == 0 {
		o.Scrapes = p.observed[o.Host].Scrapes
	}
	p.observed[o.Host] = o
	if _, told := p.first[o.Boot]; !told {
		p.first[o.Boot] = o
	}
}

// First returns what a host said first since a boot.
func (p *Plane) First(boot string) wire.Observed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first[boot]
}

// Observed returns what a host said last.
func (p *Plane) Observed(host string) wire.Observed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.observed[host]
}

// Reports returns how many reports came.
func (p *Plane) Reports() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reports
}

// Pulls returns how often the artifact of a revision was asked for.
func (p *Plane) Pulls(r wire.Revision) int {
	_, digest, _ := strings.Cut(r.Artifact, "@")
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pulls[release.Digest(digest)]
}

// Wait waits until a host's report fulfils the condition.
func (p *Plane) Wait(t testing.TB, host, what string, ok func(wire.Observed) bool) wire.Observed {
	t.Helper()
	var last wire.Observed
	machinetest.Until(t, what, func() bool {
		last = p.Observed(host)
		return ok(last)
	}, func() string {
		b, _ := json.MarshalIndent(last, "", " ")
		return string(b)
	})
	return last
}

// WaitWeights waits until the host has applied the generation and routes a
// service by these weights.
func (p *Plane) WaitWeights(t testing.TB, host string, k release.Key, generation int64, weights map[release.ID]int) wire.Service {
	t.Helper()
	var s wire.Service
	p.Wait(t, host, "weights in effect", func(o wire.Observed) bool {
		s = ServiceOf(o, k)
		if s.Generation < generation || !s.Listening {
			return false
		}
		for id, w := range weights {
			if RevisionOf(s, id).Weight != w || RevisionOf(s, id).Release == "" {
				return false
			}
		}
		return true
	})
	return s
}

// ServiceOf finds a service in a report.
func ServiceOf(o wire.Observed, k release.Key) wire.Service {
	for _, s := range o.Services {
		if s.Key == k {
			return s
		}
	}
	return wire.Service{}
}

// RevisionOf finds a revision in a service.
func RevisionOf(s wire.Service, id release.ID) wire.RevisionObserved {
	for _, r := range s.Revisions {
		if r.Release == id {
			return r
		}
	}
	return wire.RevisionObserved{}
}

// BreakRegistry has the registry answer 503, or heals it.
func (p *Plane) BreakRegistry(broken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = broken
}

// Alter changes a byte of each stored layer that holds the text.
func (p *Plane) Alter(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, s := range p.content {
		if i := bytes.Index(s.body, []byte(text)); i >= 0 {
			s.body = bytes.Clone(s.body)
			s.body[i] ^= 1
			p.content[d] = s
		}
	}
}

func (p *Plane) serveContent(w http.ResponseWriter, r *http.Request) {
	if !p.authorized(w, r) {
		return
	}
	i := strings.LastIndexByte(r.URL.Path, '/')
	p.mu.Lock()
	s, ok := p.content[release.Digest(r.URL.Path[i+1:])]
	p.pulls[release.Digest(r.URL.Path[i+1:])]++
	refuse := p.refuse
	p.mu.Unlock()
	switch {
	case refuse:
		http.Error(w, "the registry is away", http.StatusServiceUnavailable)
	case !ok:
		http.NotFound(w, r)
	default:
		w.Header().Set("Content-Type", s.mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(s.body)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(s.body)
		}
	}
}

// registry is the Plane's content as an artifact.Store.
type registry struct{ *Plane }

var _ artifact.Store = registry{}

func (r registry) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.content[release.Digest(d.Digest)]
	return ok, nil
}

func (r registry) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.content[release.Digest(d.Digest)]
	if !ok {
		return nil, artifact.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(s.body)), nil
}

func (r registry) Push(_ context.Context, d ocispec.Descriptor, content io.Reader) error {
	b, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content[release.Digest(d.Digest)] = stored{d.MediaType, b}
	return nil
}

func (r registry) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, artifact.ErrNotFound
}

func (r registry) Tag(context.Context, ocispec.Descriptor, string) error { return nil }

// Release describes a release to be made: its files and its configuration.
type Release struct {
	Files map[string]string
	Env   map[string]string
}

// Revision packs, stores and promotes a release that runs the service of this
// package. More can be changed before it is desired.
func (p *Plane) Revision(t testing.TB, k release.Key, r Release) wire.Revision {
	t.Helper()
	dir := t.TempDir()
	for name, body := range r.Files {
		path := filepath.Join(dir, "out", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	archive, packed, err := artifact.Spool(t.Context(), dir, root, "out", artifact.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	art, err := artifact.Push(t.Context(), registry{p}, "main", packed, archive)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{roleEnv: roleService}
	maps.Copy(env, r.Env)
	run := "exec " + self(t) + " -test.run=^$"
	m := release.Manifest{
		Version: 1, Project: k.Project, Service: k.Service, Repository: "test", Path: "sluice.yaml",
		Commit: "0000000000000000000000000000000000000000", Artifacts: []release.Artifact{art},
		Environments: map[string]release.Config{k.Environment: {Run: run, Env: env}},
	}
	rev := wire.Revision{
		Artifact: k.Project + "/" + k.Service + "@" + string(art.Digest),
		Run:      run, Instances: 1, Env: env,
		Health: wire.Health{HTTP: "/healthz", Timeout: 10 * time.Second, Interval: 100 * time.Millisecond, Healthy: 1, Failing: 3, StartIn: time.Minute, DrainIn: 5 * time.Second},
	}
	p.promote(t, k, m, &rev)
	return rev
}

// WithSecrets gives a revision's release secrets and promotes it anew.
func (p *Plane) WithSecrets(t testing.TB, k release.Key, rev wire.Revision, secrets map[string]release.SecretRef) wire.Revision {
	t.Helper()
	rev.Secrets = secrets
	p.reconfigure(t, k, &rev, func(c *release.Config) { c.Secrets = secrets })
	return rev
}

// WithRun gives a revision's release another command and promotes it anew.
func (p *Plane) WithRun(t testing.TB, k release.Key, rev wire.Revision, run string) wire.Revision {
	t.Helper()
	rev.Run = run
	p.reconfigure(t, k, &rev, func(c *release.Config) { c.Run = run })
	return rev
}

func (p *Plane) reconfigure(t testing.TB, k release.Key, rev *wire.Revision, change func(*release.Config)) {
	t.Helper()
	m, err := release.ParseManifest(rev.Manifest, rev.Release)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Environments[k.Environment]
	change(&c)
	m.Environments[k.Environment] = c
	p.promote(t, k, m, rev)
}

func (p *Plane) promote(t testing.TB, k release.Key, m release.Manifest, rev *wire.Revision) {
	t.Helper()
	var err error
	if rev.Manifest, err = m.Canonical(); err != nil {
		t.Fatal(err)
	}
	if rev.Release, err = m.ID(); err != nil {
		t.Fatal(err)
	}
	rev.Promotion = p.Promote(t, k, rev.Release)
}

// Promote signs that a release may enter an environment.
func (p *Plane) Promote(t testing.TB, k release.Key, id release.ID) []byte {
	t.Helper()
	signed, err := p.Keys.State(evidence.Promotion{
		Event:   evidence.Event{At: evidence.StampOf(time.Now()), Actor: evidence.ActorID(release.System), Environment: k.Environment},
		Project: k.Project, Service: k.Service, Release: id,
	}, evidence.ReleaseSubject(k.Project, k.Service, id))
	if err != nil {
		t.Fatal(err)
	}
	return signed.Envelope
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
