package runner_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
	"github.com/sluicehq/sluice/internal/runner/sandbox/sandboxtest"
	"github.com/sluicehq/sluice/internal/source"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	os.Exit(m.Run())
}

var ctx = context.Background()

// bench is a build in preparation, with its log at hand.
type bench struct {
	t    *testing.T
	spec runner.Spec

	mu  sync.Mutex
	log map[string][]string
}

func newBench(t *testing.T, steps ...pipeline.Step) *bench {
	t.Helper()
	sandboxtest.Require(t)
	// Like a data folder below /root: closed to everybody else.
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, log: map[string][]string{}}
	b.spec = runner.Spec{
		Project: "default", Service: "shop", Commit: strings.Repeat("a", 40),
		Checkout: filepath.Join(dir, "src"), Scratch: filepath.Join(dir, "scratch"), Caches: filepath.Join(dir, "caches"),
		Steps: steps, Parallel: 4,
		Log: func(step string, l runner.Line) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.log[step] = append(b.log[step], l.Text)
		},
	}
	b.write("README", "a checkout\n")
	t.Cleanup(func() {
		if err := runner.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) write(name, content string) {
	b.t.Helper()
	file := filepath.Join(b.spec.Checkout, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) run() runner.Result {
	b.t.Helper()
	res, err := runner.Run(ctx, b.spec)
	if err != nil {
		b.t.Fatalf("Run: %v", err)
	}
	return res
}

func (b *bench) text(step string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.log[step], "\n")
}

func step(name, script string, needs ...string) pipeline.Step {
	return pipeline.Step{Name: name, Kind: "custom", Run: script, Needs: needs, Timeout: 5 * time.Minute}
}

func TestAStepRunsInItsOwnWorld(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "from the host")
	b := newBench(t, step("look", `env; id -u; pwd; cat README; echo made > made; cat < /dev/stdin; ls -A "$HOME"`))
	res := b.run()
	if res.State != runner.Succeeded || res.Steps[0].State != runner.Succeeded || res.Isolation != runner.Namespaces {
		t.Fatalf("got %+v\n%s", res, b.text("look"))
	}
	log := b.text("look")
	for _, want := range []string{"CI=true", "HOME=/home/build", "TMPDIR=/tmp", "GOPROXY=off", "SLUICE_COMMIT=aaaa", "SLUICE_STEP=look", "1000", "/workspace", "a checkout"} {
		if !strings.Contains(log, want) {
			t.Errorf("the step does not see %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "AWS_SECRET") || strings.Contains(log, "from the host") {
		t.Errorf("the host's environment came along:\n%s", log)
	}
	if got, err := os.ReadFile(filepath.Join(b.spec.Checkout, "made")); err != nil || string(got) != "made\n" {
		t.Errorf("the checkout does not keep what a step made: %q, %v", got, err)
	}
	if _, err := os.Stat(b.spec.Scratch); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch folder stays: %v", err)
	}
}

func TestARealGoServiceIsBuilt(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal("these tests need Go")
	}
	b := newBench(t)
	repo, commit := goService(t)
	if err := os.RemoveAll(b.spec.Checkout); err != nil {
		t.Fatal(err)
	}
	if err := source.Checkout(ctx, repo, commit, b.spec.Checkout); err != nil {
		t.Fatal(err)
	}
	unit := step("unit", "go test -vet=off -json ./... > unit.json", "compile")
	// The same flags in each step, so that each compiles what the others did.
	flags := map[string]pipeline.Value{"CGO_ENABLED": {Plain: "0"}, "GOFLAGS": {Plain: "-trimpath"}}
	unit.Env, unit.Cache = flags, []string{"gobuild"}
	unit.Reports = []pipeline.Report{{Format: "go-test", Path: "unit.json"}}
	b.spec.Commit = commit
	b.spec.Outputs = []string{"out"}
	b.spec.Steps = []pipeline.Step{
		{Name: "deps", Kind: "fetch", Run: "go mod download", Network: true, Cache: []string{"gomod"}},
		step("format", `test -z "$(gofmt -l .)"`),
		{Name: "compile", Kind: "compile", Run: "go build ./...", Needs: []string{"deps"}, Cache: []string{"gobuild"}, Env: flags},
		unit,
		{Name: "package", Kind: "package", Run: "go build -buildvcs=true -o out/shop ./cmd/shop && go version -m out/shop", Needs: []string{"unit"}, Cache: []string{"gobuild"}, Env: flags},
	}
	serveModules(t)
	res := b.run()
	if res.State != runner.Succeeded {
		t.Fatalf("%s\n%s", res.Reason, b.log)
	}
	for _, s := range res.Steps {
		t.Logf("%s took %s", s.Name, s.Ended.Sub(s.Started))
	}
	if r := res.Steps[3].Reports; len(r) != 1 || !r[0].Passes() || r[0].Passed != 1 || r[0].Digest == "" {
		t.Errorf("the report is %+v", r)
	}
	if out, err := exec.Command(filepath.Join(b.spec.Checkout, "out/shop")).CombinedOutput(); err != nil || string(out) != "ok\n" {
		t.Errorf("the service says %q, %v", out, err)
	}
	stamp := b.text("package")
	for _, want := range []string{"vcs.revision=" + commit, "vcs.modified=false", "golang.org/x/sync"} {
		if !strings.Contains(stamp, want) {
			t.Errorf("the binary is not stamped with %s:\n%s", want, stamp)
		}
	}
	if v := res.Tools["go"]; !strings.HasPrefix(v, "go1.") {
		t.Errorf("the toolchain is %q", v)
	}
	names := map[string]bool{}
	for _, m := range res.Materials {
		names[m.Name] = m.Digest != "" || m.Commit == commit
	}
	if !names["commit"] || !names["go.sum"] || !names["go.mod"] {
		t.Errorf("the materials are %+v", res.Materials)
	}
}

// TestAsAnOrdinaryUser runs stories of this package once more without root.
func TestAsAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	sandboxtest.AsNobody(t, "AStepRuns|Caches|HomeIsShared|AHang|NetworkOnly", 5)
}
