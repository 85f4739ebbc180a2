package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

const testToken = "0123456789abcdef"

// fake is a server of which each answer is set by a test; what a script can do
// with the real one is in testdata/script.
type fake struct {
	*http.ServeMux
	t   *testing.T
	url string

	mu     sync.Mutex
	status control.Status
	events []string // lines of the feed, in order
	cuts   int      // how often the feed is cut after its first new event
	resume []string // Last-Event-ID of each connection
}

const api = "/api/v1/projects/default/"

func newFake(t *testing.T) *fake {
	f := &fake{ServeMux: http.NewServeMux(), t: t}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+testToken {
			problem(w, http.StatusUnauthorized, httpapi.Problem{Detail: "the access token is missing or wrong"})
			return
		}
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f.url = s.URL
	f.HandleFunc("GET "+api+"runs/{run}", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		answer(w, f.status)
	})
	f.HandleFunc("GET "+api+"events", f.feed)
	return f
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func problem(w http.ResponseWriter, status int, p httpapi.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	p.Status = status
	_ = json.NewEncoder(w).Encode(p)
}

// feed plays the events after Last-Event-ID, and goes on as more are told.
func (f *fake) feed(w http.ResponseWriter, r *http.Request) {
	last := r.Header.Get("Last-Event-ID")
	at := 0
	if last != "" {
		_, err := fmt.Sscan(last, &at)
		if err != nil {
			f.t.Errorf("Last-Event-ID %q", last)
		}
	}
	f.mu.Lock()
	f.resume = append(f.resume, last)
	f.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, ": sluice\n\n")
	out := http.NewResponseController(w)
	for {
		f.mu.Lock()
		var e string
		if at < len(f.events) {
			e = f.events[at]
		}
		cut := e != "" && f.cuts > 0
		if cut {
			f.cuts--
		}
		f.mu.Unlock()
		if e != "" {
			at++
			kind, data, _ := strings.Cut(e, " ")
			fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", at, kind, data)
		}
		if out.Flush() != nil || cut {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(5 * time.Millisecond): // polled, as nothing else tells of a new event
		}
	}
}

// patiently has a command wait, for one test, as long as what it waits for takes.
func patiently(t *testing.T, d *time.Duration) {
	was := *d
	*d = machinetest.Patience
	t.Cleanup(func() { *d = was })
}

// tell adds an event and sets the status.
func (f *fake) tell(kind, env string, data any, change func(*control.Status)) {
	f.t.Helper()
	b, err := json.Marshal(map[string]any{"run": "7", "service": "shop", "environment": env, "at": time.Unix(1767322800, 0).UTC(), "data": data})
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, kind+" "+string(b))
	if change != nil {
		change(&f.status)
	}
}

// asks tells that the run waits for approval in production.
func (f *fake) asks() {
	f.t.Helper()
	f.tell("approval", "production", map[string]string{"packet": string(f.status.Environments[1].Packet)}, nil)
}

// waiting is a run that waits for approval in production.
func waiting() control.Status {
	return control.Status{
		Run: "7", Kind: run.KindRun, Service: "shop", Commit: "2c7bc538971875ac7ef1eb35344c9bf4de786199", Release: release.DigestOf([]byte("r")),
		State: run.Waiting, Actor: "local:ada", CreatedAt: time.Now(), Artifacts: []release.Artifact{}, Steps: []run.Step{},
		Environments: []control.EnvironmentStatus{
			{Name: "dev", State: run.Succeeded, Strategy: "all-at-once", Rollout: "1", Phase: rollout.Succeeded},
			{Name: "production", State: run.Waiting, Strategy: "canary", Packet: release.DigestOf([]byte("p")), WaitingFor: "approval: 0 of 1 given"},
		},
	}
}

// result is what a command line came to.
type result struct {
	code     int
	out, err string
}

func (f *fake) run(args ...string) result {
	f.t.Helper()
	f.t.Setenv("SLUICE_SERVER", f.url)
	f.t.Setenv("SLUICE_TOKEN", testToken)
	var out, errOut bytes.Buffer
	code := execute(f.t.Context(), args, strings.NewReader(""), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

func (r result) want(t *testing.T, code int, inErr ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("code %d, want %d", r.code, code)
	}
	for _, s := range inErr {
		if !strings.Contains(r.err, s) {
			t.Errorf("standard error lacks %q", s)
		}
	}
	if t.Failed() {
		t.Fatalf("stdout:\n%s\nstderr:\n%s", r.out, r.err)
	}
}

// repository makes a Git repository with one commit of the files.
func repository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit", "-q", "-m", "first"}} {
		c := exec.Command("git", args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

const definition = `version: 1
service: shop
owner: team-shop
build:
  steps:
    - {name: package, kind: package, run: make out}
  artifact: {type: files, path: out}
environments:
  - name: dev
    target: {type: host, listen: 127.0.0.1:9001, run: ./shop, health: {http: /healthz}}
`

// withPacket has production wait for a decision on a packet.
func (f *fake) withPacket() (decided *[]httpapi.DecisionRequest, digest release.Digest) {
	f.status = waiting()
	body, err := release.Canonical(control.Packet{
		Version: 1, Project: "default", Service: "shop", Owner: "team-shop", Environment: "production", Run: "7",
		Release: release.DigestOf([]byte("r")), Commit: f.status.Commit, Isolation: "namespaces", Previous: release.DigestOf([]byte("old")),
		Artifacts: []release.Artifact{{Name: "main", Type: "files", Digest: release.DigestOf([]byte("a")), Size: 8_388_608}},
		Tests:     gate.Tests{Reports: 1, Passed: 14, Skipped: 1},
		Gates:     []gate.Decision{{Gate: "tests-passed", Answer: gate.Pass, Reason: "14 tests passed, 1 were skipped"}},
		Plan: rollout.Plan{Strategy: "canary", Steps: []rollout.PlanStep{
			{Kind: rollout.StepPrepare}, {Kind: rollout.StepShift, Weight: 500}, {Kind: rollout.StepBake, Weight: 500, Bake: 15 * 60e9, Basis: rollout.BasisConcurrent, Analysis: true},
			{Kind: rollout.StepShift, Weight: 10000}, {Kind: rollout.StepCheck, Weight: 10000, Checks: []string{"smoke"}}, {Kind: rollout.StepRetire, Weight: 10000},
		}},
		Changes: []control.Change{{Path: "env.LOG_LEVEL", Was: "info", Now: "debug"}},
		RollbackPlan: control.RollbackPlan{
			Kind: "warm", Sentence: "It keeps running at weight 0 for 1h.", Warm: "1h", Cold: "it must be started first, which takes at most 1m", OnFail: "At any time, also while paused or held, a failing verdict, health, check or timeout moves all users back to the previous release in one step.",
			Drill: &control.Drill{Run: "5", Environment: "staging", At: time.Unix(1767319200, 0), Succeeded: true, Way: "warm", BackMillis: 9100, OnMillis: 1140},
		},
		Findings:   []string{"in the last rehearsal, in staging by run 5, going back took 9.1 s and going forward 1.1 s: the way back is slower than the deployment"},
		Monitoring: control.Monitoring{Metrics: []string{"http-errors"}, Owner: "team-shop"},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	digest = release.DigestOf(body)
	f.HandleFunc("GET "+api+"runs/7/environments/production/packet", func(w httpWriter, _ *httpRequest) {
		answer(w, httpapi.Packet{Digest: digest, Packet: body, CreatedAt: time.Unix(1767322800, 0), ExpiresAt: time.Unix(1767409200, 0)})
	})
	decided = new([]httpapi.DecisionRequest)
	f.HandleFunc("POST "+api+"runs/7/environments/production/decisions", func(w httpWriter, r *httpRequest) {
		var q httpapi.DecisionRequest
		_ = json.NewDecoder(r.Body).Decode(&q)
		*decided = append(*decided, q)
		answer(w, httpapi.Done{Done: true})
	})
	return decided, digest
}
