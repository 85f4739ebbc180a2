// Package sandboxtest lets tests say that they need real sandboxes, and see that
// nothing outlives one.
package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	case slices.Contains(strings.Split(os.Getenv("SLUICE_REQUIRE"), ","), "userns"):
		t.Fatalf("SLUICE_REQUIRE has userns: %v", err)
	default:
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: %v ***\n\n", t.Name(), err)
		t.Skip(err)
	}
}

// patience is for machines that do much else; it is never what a test is about.
const patience = 2 * time.Minute

// Beats waits until a daemon, whose heart writes ever new text to the file, lives.
func Beats(t testing.TB, file string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
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
	for deadline := time.Now().Add(patience); time.Since(since) < 500*time.Millisecond; time.Sleep(20 * time.Millisecond) {
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
