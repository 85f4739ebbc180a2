package server_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
	"github.com/sluicehq/sluice/internal/server"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	if dir := os.Getenv(agentFolder); dir != "" {
		os.Exit(beAgent(dir))
	}
	os.Exit(m.Run())
}

// plane is a control plane and its agents, for one test.
type plane struct {
	*servertest.Client
	t        *testing.T
	dir      string
	platform []pipeline.Platform
	insecure bool // behind something that does TLS
}

// start runs a server on a data folder; stop ends it and waits.
func (p *plane) start() (stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan server.Running, 1)
	ended := make(chan error, 1)
	addr := "127.0.0.1:0"
	if p.URL != "" {
		addr = strings.TrimPrefix(p.URL, "http://")
	}
	go func() {
		ended <- server.Run(ctx, server.Options{
			Dir: p.dir, Addr: addr, NoAgent: true, Log: logger(p.t), Isolation: isolation(p.t), Platform: p.platform, InsecureListen: p.insecure,
			Ready: func(r server.Running) { ready <- r },
		})
	}()
	select {
	case r := <-ready:
		p.URL, p.Token = r.URL, r.Token
	case err := <-ended:
		p.t.Fatalf("the server did not start: %v", err)
	case <-time.After(machinetest.Patience):
		p.t.Fatal("the server did not start")
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				p.t.Errorf("the server ended with: %v", err)
			}
		})
	}
}

// agent runs an agent in this process.
func (p *plane) agent(host, address string) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- agent.Run(ctx, agent.Config{
			Server: p.URL, Token: p.Token, Host: host, Address: address, DataDir: filepath.Join(p.dir, "agent-"+host),
			TrustFile: filepath.Join(p.dir, "promotion.pub"), StopOnExit: true, DrainOnExit: time.Second, Logger: logger(p.t),
		})
	}()
	p.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("agent %s ended with: %v", host, err)
		}
	})
}

func newPlane(t *testing.T, platform ...pipeline.Platform) *plane {
	t.Helper()
	p := &plane{t: t, dir: t.TempDir(), platform: platform}
	p.Client = &servertest.Client{T: t, Patience: 2 * machinetest.Patience} // the first build compiles the standard library
	t.Cleanup(p.start())
	p.agent(server.LocalHost, "127.0.0.1")
	return p
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func isolation(t *testing.T) runner.Isolation {
	if err := runner.Probe(context.Background()); err != nil {
		t.Logf("steps run without isolation here: %v", err)
		return runner.None
	}
	return runner.Namespaces
}

// service is a Git repository with a small Go server.
type service struct {
	*servertest.Repo
	dev, prod string
}

const program = `package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync/atomic"
)

const version, badRate = %q, %g

var (
	answers        = os.Getenv("GREETING")
	orders, failed atomic.Int64
)

func main() {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {})
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Version", version)
		orders.Add(1)
		if rand.Float64()*100 < badRate {
			failed.Add(1)
			w.WriteHeader(500)
			return
		}
		fmt.Fprintln(w, answers, version)
	})
	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "orders_total %%d\norders_failed_total %%d\nqueue_depth 3\n", orders.Load(), failed.Load())
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil); err != nil {
		panic(err)
	}
}
`

const definition = `version: 1
service: hello
owner: team-hello
build:
  steps:
    # The same flags in each step, so that each takes up what the others compiled.
    - {name: compile, kind: compile, cache: [gobuild], env: {CGO_ENABLED: "0", GOFLAGS: -trimpath}, run: go build ./...}
    - name: unit
      kind: unit
      needs: [compile]
      cache: [gobuild]
      env: {CGO_ENABLED: "0", GOFLAGS: -trimpath}
      run: go test -vet=off -json ./... > unit.json
      reports: [{format: go-test, path: unit.json}]
    - {name: package, kind: package, needs: [unit], cache: [gobuild], env: {CGO_ENABLED: "0", GOFLAGS: -trimpath}, run: go build -o out/hello .}
  artifact: {type: files, path: out}
environments:
  - name: dev
    target: {type: host, listen: '%[1]s', run: ./hello, health: {http: /healthz}, env: {GREETING: %[3]s}}
    rollout: all-at-once
    verify: [{name: smoke, http: {path: /healthz, status: 200}}]
  - name: production
    after: [dev]
    target:
      type: host
      listen: '%[2]s'
      run: ./hello
      instances: 2
      env: {GREETING: %[3]s}
      health: {http: /healthz}
      metrics: {path: /metrics}
    gates: [tests-passed, {name: size, cel: 'artifact.size < 200000000'}]
    rollout:
      canary: {steps: [{weight: 10, bake: 5s}, {weight: 50, bake: 5s}]}
    analysis:
      warmUp: 0s
      bin: 1s
      maxExcess: 5
      metrics:
        - http-errors
        - {name: http-latency, quantile: 0.95, maxRatio: 50} # a machine that does much else is no finding
        - {name: orders, kind: rate, bad: 'orders_failed_total{revision="$revision"}', total: 'orders_total{revision="$revision"}'}
        - {name: queue, kind: limit, query: 'max(queue_depth{revision="$revision"})', max: 10}
`

func newService(t *testing.T) *service {
	s := &service{Repo: servertest.NewRepo(t), dev: porttest.Free(t), prod: porttest.Free(t)}
	s.Write("go.mod", "module example.test/hello\n\ngo 1.26\n")
	s.Write("hello_test.go", "package main\n\nimport \"testing\"\n\nfunc TestVersion(t *testing.T) {\n\tif version == \"\" {\n\t\tt.Fatal(\"no version\")\n\t}\n}\n")
	return s
}

// commit makes a version of the service.
func (s *service) commit(version string, badRate float64, greeting string) {
	s.T.Helper()
	s.Write("main.go", fmt.Sprintf(program, version, badRate))
	s.Write("sluice.yaml", fmt.Sprintf(definition, s.dev, s.prod, greeting))
	s.Commit("version " + version)
}

// The main story: a first release, a good canary, a bad one that is taken back,
// a change of configuration only, and evidence that verifies.
func TestMainJob(t *testing.T) {
	p, s := newPlane(t), newService(t)
	s.commit("v1", 0, "hello")
	first := p.WaitState(p.Run(s.Dir), "succeeded")
	if first.Release == "" || first.Environments[1].PreviousRelease != "" {
		t.Errorf("first release: %+v", first)
	}
	l := servertest.StartLoad(s.prod, 4)
	defer l.Stop()
	s.commit("v2", 0, "hello")
	second := p.WaitState(p.Run(s.Dir), "succeeded")
	if e := second.Environments[1]; e.Verdict != "pass" || e.PreviousRelease != first.Release || e.Strategy != "canary" {
		t.Errorf("good canary: %+v", e)
	}
	if m := second.Environments[1].Metrics; len(m) != 4 {
		t.Errorf("metrics: %+v", m)
	} else {
		for _, m := range m {
			t.Logf("%s: %s: %s", m.Name, m.Verdict, m.Sentence)
		}
	}
	s.commit("v3", 30, "hello")
	third := p.WaitState(p.Run(s.Dir), "rolled-back")
	if e := third.Environments[1]; e.Verdict != "fail" || e.RollbackMillis == nil || e.Signals.RequestsToDetect == 0 {
		t.Errorf("bad canary: %+v", e)
	}
	s.commit("v2", 0, "servus")
	fourth := p.WaitState(p.Run(s.Dir), "succeeded")
	if fourth.ReusedFrom == "" || fourth.Digest != second.Digest || fourth.Release == second.Release {
		t.Errorf("config-only change: reused from %q, digest %s, was %s", fourth.ReusedFrom, fourth.Digest, second.Digest)
	}
	got := l.Stop()
	if got.Dropped > 0 {
		t.Errorf("%d of %d requests were dropped: %v", got.Dropped, got.All, got.Errors)
	}
	bundle := p.Bundle()
	rep, err := evidence.Verify(bytes.NewReader(bundle), evidence.VerifyOptions{})
	if err != nil || !rep.OK {
		t.Errorf("evidence: %+v, %v", rep, err)
	}
	t.Logf("load: %d requests, %d bad, by version %v; %d statements", got.All, got.Bad, got.By, rep.Statements)
}
