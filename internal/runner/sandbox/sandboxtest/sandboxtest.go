// Package sandboxtest lets tests say that they need real sandboxes.
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
