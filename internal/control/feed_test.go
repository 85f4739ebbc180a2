package control

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/store"
)

// What no page listens to is not told.
func TestTheFeedHasKnownKinds(t *testing.T) {
	if err := addFeed(nil, store.Feed{Run: "7", Kind: "rumour"}, nil); err == nil || !strings.Contains(err.Error(), `"rumour" is none of the feed's kinds`) {
		t.Errorf("%v", err)
	}
}
