// Package sandboxtest lets tests say that they need real sandboxes, and see that
// nothing outlives one.
package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

// probe asks once: the host does not change while tests run.
var probe = sync.OnceValue(func() error { return sandbox.Probe(context.Background()) })

// Require skips the test where the host forbids sandboxes, loudly, and fails it
// when SLUICE_REQUIRE contains userns. Its program's TestMain must call
// sandbox.MaybeRun.
func Require(t testing.TB) {
	t.Helper()
	err := probe()
	switch {
	case err == nil:
	case !errors.Is(err, sandbox.ErrForbidden):
		t.Fatalf("couldn't probe the sandbox: %v", err)
	default:
		if !machinetest.Required(machinetest.Namespaces) {
			fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: %v ***\n\n", t.Name(), err)
		}
		machinetest.Lacks(t, machinetest.Namespaces, "%v", err)
	}
}

// Beats waits until a daemon, whose heart writes ever new text to the file, lives.
func Beats(t testing.TB, file string) {
	t.Helper()
	for deadline := time.Now().Add(machinetest.Patience); ; time.Sleep(10 * time.Millisecond) {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the daemon never lived")
		}
	}
}

// StopsBeating waits until the file of a daemon that has lived stays as it is for
// many of its beats.
func StopsBeating(t testing.TB, file string) {
	t.Helper()
	last, since := "", time.Now()
	for deadline := time.Now().Add(machinetest.Patience); time.Since(since) < 500*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("the daemon never lived: %v", err)
		}
		if string(b) != last {
			last, since = string(b), time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatal("the daemon lives on")
		}
	}
}

// AsNobody tells the stories of this test program that match a pattern once more
// as an ordinary user, who may have other rights to namespaces than root, and fails
// the test as they do. passed is how many have to pass.
func AsNobody(t testing.TB, pattern string, passed int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: this runs as an ordinary user already, and tried all that one can")
	}
	Require(t)
	const nobody = 65534
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run="+pattern, "-test.v", "-test.timeout=10m")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, "HOME=" + dir, "SLUICE_REQUIRE=" + os.Getenv("SLUICE_REQUIRE")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(string(out), "*** SKIPPED"):
		t.Skip("SKIPPED: this host forbids namespaces to ordinary users; standard error says how to allow them")
	case strings.Count(string(out), "\n--- PASS") < passed:
		t.Errorf("the tests did not run:\n%s", out)
	}
}
