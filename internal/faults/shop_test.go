package faults

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// behaviour is what the released service is told; see testdata/service.
type behaviour struct {
	Version      string
	Bad          float64
	StartMillis  int
	CheckMillis  int
	Exit         bool
	NeverHealthy bool
	ExitAfter    int64
	Dead         int
}

// shop is a repository whose build copies a service that was compiled once.
type shop struct {
	*servertest.Repo
	addr    string // of production
	dev     string // of dev, for definitions that have it
	yaml    string
	rollout string
}

// Strategies. A bake is judged in four bins at least, so it takes five seconds.
const (
	atOnce    = "all-at-once"
	oneStep   = "{canary: {steps: [{weight: 10, bake: 5s}]}}" + judged
	twoSteps  = "{canary: {steps: [{weight: 10, bake: 5s}, {weight: 50, bake: 5s}]}}" + judged
	aLongBake = "{canary: {steps: [{weight: 10, bake: 30m}]}}" + judged
	judged    = "\n    analysis: {warmUp: 0s, bin: 1s, maxExcess: 20, metrics: [http-errors]}"
)

// definition is the usual one; tests replace parts of it.
const definition = `version: 1
service: shop
owner: team-shop
build:
  steps:
    - {name: package, kind: package, run: 'mkdir -p out && cp bin/service behaviour.json out/'}
  artifact: {type: files, path: out}
environments:
  - name: production
    target: {type: host, listen: 'ADDR', run: ./service, instances: 2, health: {http: /healthz, interval: 200ms, startIn: 1m}}
    rollout: ROLLOUT
`

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{Repo: servertest.NewRepo(t), addr: porttest.Free(t), dev: porttest.Free(t), yaml: definition, rollout: atOnce}
	if err := os.MkdirAll(filepath.Join(s.Dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "bin", "service"), service, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// replace changes a part of the definition, which has to be there.
func (s *shop) replace(was, now string) {
	s.T.Helper()
	if !strings.Contains(s.yaml, was) {
		s.T.Fatalf("the definition has no %q:\n%s", was, s.yaml)
	}
	s.yaml = strings.ReplaceAll(s.yaml, was, now)
}

// ship commits a version.
func (s *shop) ship(b behaviour) {
	s.T.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		s.T.Fatal(err)
	}
	s.Write("behaviour.json", string(text))
	s.Write("sluice.yaml", strings.NewReplacer("ADDR", s.addr, "DEV", s.dev, "ROLLOUT", s.rollout).Replace(s.yaml))
	s.Commit("version " + b.Version)
}

// first releases the first version and waits for it.
func (s *shop) first(p *plane) {
	s.T.Helper()
	s.ship(behaviour{Version: "v0"})
	p.WaitState(p.Run(s.Dir), "succeeded")
}
