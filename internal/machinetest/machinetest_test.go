package machinetest

import (
	"fmt"
	"strings"
	"testing"
)

// fake notes how a test ended.
type fake struct {
	testing.TB
	said string
}

func (f *fake) Helper()                           {}
func (f *fake) Skipf(format string, args ...any)  { f.end("skip: "+format, args) }
func (f *fake) Fatalf(format string, args ...any) { f.end("fail: "+format, args) }

func (f *fake) end(format string, args []any) {
	if f.said == "" { // a real one would not come to the next
		f.said = fmt.Sprintf(format, args...)
	}
}

// What is missing is said, and is a failure where it is required by its whole name.
func TestLacks(t *testing.T) {
	for require, want := range map[string]string{
		"": "skip: SKIPPED: no 3 of it", "postgres": "skip: ", "userns2,chromium": "skip: ",
		"userns": "fail: SLUICE_REQUIRE names userns: no 3 of it", "postgres,userns": "fail: ",
	} {
		t.Setenv("SLUICE_REQUIRE", require)
		f := &fake{TB: t}
		Lacks(f, Namespaces, "no %d of it", 3)
		if !strings.HasPrefix(f.said, want) {
			t.Errorf("SLUICE_REQUIRE=%s: %q, want %q", require, f.said, want)
		}
	}
}
