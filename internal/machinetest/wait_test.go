package machinetest

import (
	"strings"
	"testing"
	"testing/synctest"
)

// What comes late is waited for; what never comes is told with how far it came.
func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, asked := &fake{TB: t}, 0
		Until(f, "the third", func() bool { asked++; return asked == 3 })
		if f.said != "" || asked != 3 {
			t.Errorf("asked %d times: %q", asked, f.said)
		}
		Until(f, "what never comes", func() bool { return false }, func() string { return "not even begun" })
		if !strings.HasPrefix(f.said, "fail: ") || !strings.HasSuffix(f.said, "what never comes\nnot even begun") {
			t.Errorf("%q", f.said)
		}
	})
}
