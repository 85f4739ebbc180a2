package control

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sluicehq/sluice/internal/store"
)

// FeedKinds are the kinds of the live feed's lines. Pages renew themselves at each of
// them, so that another one is refused.
func FeedKinds() []string {
	return []string{"run", "step", "release", "promoted", "unchanged", "rollout", "approval", "approve", "reject", "alarm", "stopped", "rehearsed", "gap", "drift"}
}

// addFeed adds a line to the live feed.
func addFeed(tx *store.Tx, line store.Feed, data any) error {
	if !slices.Contains(FeedKinds(), line.Kind) {
		return fmt.Errorf("couldn't tell of run %s: %q is none of the feed's kinds", line.Run, line.Kind)
	}
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("couldn't encode a feed line: %w", err)
	}
	line.Data = b
	return tx.AddFeed(&line)
}
