package cli

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/internal/preview"
)

// measuredWithin bounds how long a command that works alone waits for the server.
var measuredWithin = 3 * time.Second

// measured asks the server, if one is there, what the service is asked for in an
// environment. Nothing is known without a server, or of another's project, and
// that is no error: these commands work alone.
func (a *app) measured(ctx context.Context, service, env string) (preview.Traffic, bool) {
	c, err := a.connect()
	if err != nil {
		return preview.Traffic{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, measuredWithin)
	defer cancel()
	var t preview.Traffic
	err = c.do(ctx, http.MethodGet, c.path("services/%s/environments/%s/traffic", service, env), nil, &t)
	return t, err == nil && t.RPS > 0
}

// measuredWords says where numbers come from that nobody gave.
func measuredWords(t preview.Traffic, env string) string {
	return clean(fmt.Sprintf("At %.3g requests per second, %.2g %% of which fail: measured in %s over the last hour.", t.RPS, 100*t.BaselineRate, env))
}
