package machinetest

import (
	"testing"
	"time"
)

// Patience bounds the wait for what has to come. It is for machines that do much
// else, and never what a test is about.
const Patience = 5 * time.Minute

// Until waits for what must come to be. Where it does not, state says how far it came.
func Until(t testing.TB, what string, ok func() bool, state ...func() string) {
	t.Helper()
	if Eventually(ok) {
		return
	}
	for _, s := range state {
		what += "\n" + s()
	}
	t.Fatalf("did not come to be within %s: %s", Patience, what)
}

// Eventually is Until whose failure the caller tells.
func Eventually(ok func() bool) bool {
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
