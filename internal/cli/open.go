package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sluicehq/sluice/internal/control"
)

// warnOpen names hosts whose services can read the keys of those that run them.
func (a *app) warnOpen(ctx context.Context, c *client) {
	raw, err := c.raw(ctx, http.MethodGet, c.path("hosts"), nil)
	var hosts []control.Host
	if err != nil || json.Unmarshal(raw, &hosts) != nil {
		return // the status is what was asked for
	}
	for _, h := range hosts {
		if why, open := strings.CutPrefix(h.Isolation, "none: "); open && !h.Missing {
			a.say("%s services on host %s are not isolated from its keys: %s", a.paint(a.err, yellow, "warning:"), h.Host, clean(why))
		}
	}
}
