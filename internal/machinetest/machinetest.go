package machinetest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// What SLUICE_REQUIRE may name.
const (
	Namespaces = "userns"
	Postgres   = "postgres"
	Chromium   = "chromium"
)

// Required reports whether SLUICE_REQUIRE names what.
func Required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("SLUICE_REQUIRE"), ","), what)
}

// Lacks ends a test that can't be told here. The text says what was not tried, and how
// it could be.
func Lacks(t testing.TB, what, format string, args ...any) {
	t.Helper()
	if Required(what) {
		t.Fatalf("SLUICE_REQUIRE names "+what+": "+format, args...)
	}
	t.Skipf("SKIPPED: "+format, args...)
}
