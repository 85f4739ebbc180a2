package webui

import (
	"context"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// Control is what the pages ask and tell. Errors wrap control's sentinels; their
// texts are shown as they are.
type Control interface {
	Overview(ctx context.Context, project string) ([]control.Cell, error)
	Runs(ctx context.Context, f store.RunFilter) ([]control.Status, error)
	Status(ctx context.Context, project, run string, points bool) (control.Status, error)
	Explain(ctx context.Context, project, run string) (control.Explanation, error)
	PacketOf(ctx context.Context, project, run, env string) (store.Packet, error)
	Log(ctx context.Context, project, run, step string, offset int64) (control.StepLog, error)
	Leaves(ctx context.Context, project string, f store.LeafFilter) ([]store.Leaf, error)
	FindRelease(ctx context.Context, project, prefix string) (store.Release, error)
	WayBack(ctx context.Context, project, service, env, to string) (control.Way, error)
	Quarantines(ctx context.Context, project, service string) ([]store.Quarantine, error)
	FeedEnd(ctx context.Context) (int64, error)

	Rollout(ctx context.Context, project, run string, cmd control.Command) error
	Decide(ctx context.Context, project, run, env string, packet release.Digest, approve bool, comment string, by release.Actor) error
	Rollback(ctx context.Context, project, service, env, to, reason string, by release.Actor) (string, error)
	Lift(ctx context.Context, project, service, prefix, reason string, by release.Actor) error
}

var _ Control = (*control.Controller)(nil)

// Access tells who may look, and logs browsers in and out.
type Access interface {
	Allowed(r *http.Request) bool
	Login(w http.ResponseWriter, r *http.Request, code, token string) bool
	Logout(w http.ResponseWriter)
}

var _ Access = (*httpapi.Access)(nil)

// Config is what the pages are made of.
type Config struct {
	Control Control
	Access  Access
	Version string
	Now     func() time.Time // default time.Now
}

// New returns the handler of all that is not the API.
func New(cfg Config) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return http.NotFoundHandler()
}
