package cli

import (
	"time"

	"github.com/sluicehq/sluice/internal/preview"
)

// foretold are the lines on what a bake can see, and what would let it see more.
func foretold(b *preview.Bake) []string {
	if b == nil {
		return nil
	}
	var out []string
	for _, line := range append(b.Telling(func(t time.Time) string { return t.Local().Format("15:04") }), b.Advice...) {
		out = append(out, prose(line))
	}
	return out
}
