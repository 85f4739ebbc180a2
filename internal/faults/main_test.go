package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

// What all tests share: built once.
var (
	program   string // sluice itself
	service   []byte // the service that is released
	isolation = runner.Namespaces
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// The stories wait far more than they compute. -parallel overrides it.
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "sluice-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "sluice")
	made := filepath.Join(dir, "service")
	for out, from := range map[string]string{program: "../../cmd/sluice", made: "./testdata/service"} {
		if b, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, from).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "couldn't build %s: %v\n%s", from, err, b)
			return 1
		}
	}
	if service, err = os.ReadFile(made); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := runner.Probe(context.Background()); err != nil {
		if machinetest.Required(machinetest.Namespaces) {
			fmt.Fprintln(os.Stderr, "SLUICE_REQUIRE names userns:", err)
			return 1
		}
		fmt.Fprintln(os.Stderr, "STEPS RUN WITHOUT ISOLATION HERE:", err)
		isolation = runner.None
	}
	return m.Run()
}
