package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
)

// ServicePath names a service in an environment.
type ServicePath struct {
	Project
	Service     string `path:"service"`
	Environment string `path:"environment"`
}

// PromoteRequest takes a release into an environment.
type PromoteRequest struct {
	Release     string `json:"release" doc:"digest, or the first characters of it" minLength:"1" maxLength:"71"`
	Environment string `json:"environment" minLength:"1" maxLength:"63"`
}

// RollbackRequest takes a service back.
type RollbackRequest struct {
	To     string `json:"to,omitempty" doc:"release, default the previous one" maxLength:"71"`
	Reason string `json:"reason,omitempty" maxLength:"4096"`
}

// RehearseRequest takes a service back and forward again.
type RehearseRequest struct {
	Reason string `json:"reason,omitempty" maxLength:"4096"`
}

// LiftRequest ends a quarantine.
type LiftRequest struct {
	Reason string `json:"reason" minLength:"1" maxLength:"4096" doc:"why the release is safe now; it is recorded"`
}

// Quarantine is a release that may not be promoted.
type Quarantine struct {
	Service      string        `json:"service"`
	Release      release.ID    `json:"release"`
	Reason       string        `json:"reason"`
	At           time.Time     `json:"at"`
	LiftedAt     *time.Time    `json:"liftedAt,omitempty"`
	LiftedBy     release.Actor `json:"liftedBy,omitempty"`
	LiftedReason string        `json:"liftedReason,omitempty"`
}

// Release is what can be promoted.
type Release struct {
	Release   release.ID      `json:"release"`
	Service   string          `json:"service"`
	Commit    string          `json:"commit"`
	Run       string          `json:"run"`
	CreatedAt time.Time       `json:"createdAt"`
	Manifest  json.RawMessage `json:"manifest,omitempty" doc:"canonical JSON; its SHA-256 is the release's id"`
}

func (s *Server) services() {
	c := s.cfg.Control
	huma.Register(s.api, op(http.MethodGet, "overview", "overview", "What runs where"), func(ctx context.Context, in *Project) (*output[[]control.Cell], error) {
		return out(c.Overview(ctx, in.Project))
	})
	huma.Register(s.api, op(http.MethodGet, "hosts", "list-hosts", "What hosts say that they run, and what their routers counted"), func(ctx context.Context, in *Project) (*output[[]control.Host], error) {
		return out(c.Hosts(ctx, in.Project))
	})
	huma.Register(s.api, op(http.MethodPost, "promotions", "promote", "Promote a release into an environment"), func(ctx context.Context, in *struct {
		Project
		Body PromoteRequest
	}) (*output[Started], error) {
		id, err := c.Promote(ctx, in.Project.Project, in.Body.Release, in.Body.Environment, Actor(ctx))
		return out(Started{Run: id}, err)
	})
	huma.Register(s.api, op(http.MethodGet, "services/{service}/environments/{environment}/way-back", "way-back", "How a rollback would go, before anything is done"), func(ctx context.Context, in *struct {
		ServicePath
		To string `query:"to" doc:"release, default the previous one"`
	}) (*output[control.Way], error) {
		return out(c.WayBack(ctx, in.Project.Project, in.Service, in.Environment, in.To))
	})
	huma.Register(s.api, op(http.MethodGet, "services/{service}/environments/{environment}/traffic", "traffic", "What the release that runs there was asked for in the last hour"), func(ctx context.Context, in *struct {
		ServicePath
	}) (*output[preview.Traffic], error) {
		return out(c.Traffic(ctx, in.Project.Project, in.Service, in.Environment))
	})
	huma.Register(s.api, op(http.MethodPost, "services/{service}/environments/{environment}/rollbacks", "rollback", "Take a service back in one step"), func(ctx context.Context, in *struct {
		ServicePath
		Body RollbackRequest
	}) (*output[Started], error) {
		id, err := c.Rollback(ctx, in.Project.Project, in.Service, in.Environment, in.Body.To, in.Body.Reason, Actor(ctx))
		return out(Started{Run: id}, err)
	})
	huma.Register(s.api, op(http.MethodPost, "services/{service}/environments/{environment}/rehearsals", "rehearse", "Go back to the previous release and forward again, to see that it works and how long it takes"), func(ctx context.Context, in *struct {
		ServicePath
		Body RehearseRequest
	}) (*output[Started], error) {
		id, err := c.Rehearse(ctx, in.Project.Project, in.Service, in.Environment, in.Body.Reason, Actor(ctx))
		return out(Started{Run: id}, err)
	})
	huma.Register(s.api, op(http.MethodGet, "quarantines", "list-quarantines", "List quarantined releases"), func(ctx context.Context, in *struct {
		Project
		Service string `query:"service"`
	}) (*output[[]Quarantine], error) {
		rows, err := c.Quarantines(ctx, in.Project.Project, in.Service)
		list := make([]Quarantine, 0, len(rows))
		for _, q := range rows {
			list = append(list, Quarantine{Service: q.Service, Release: q.Release, Reason: q.Reason, At: q.At, LiftedAt: q.LiftedAt, LiftedBy: q.LiftedBy, LiftedReason: q.LiftedReason})
		}
		return out(list, err)
	})
	huma.Register(s.api, op(http.MethodPost, "quarantines/{release}/lift", "lift-quarantine", "Let a quarantined release be promoted again"), func(ctx context.Context, in *struct {
		Project
		Release string `path:"release" doc:"digest, or the first characters of it"`
		Body    LiftRequest
	}) (*output[Done], error) {
		return done(c.Lift(ctx, in.Project.Project, "", in.Release, in.Body.Reason, Actor(ctx)))
	})
	huma.Register(s.api, op(http.MethodGet, "releases", "list-releases", "List releases, newest first"), func(ctx context.Context, in *struct {
		Project
		Service string `query:"service"`
	}) (*output[[]Release], error) {
		rows, err := c.Releases(ctx, in.Project.Project, in.Service)
		list := make([]Release, 0, len(rows))
		for _, r := range rows {
			list = append(list, Release{Release: r.ID, Service: r.Service, Commit: r.Commit, Run: r.Run, CreatedAt: r.CreatedAt})
		}
		return out(list, err)
	})
	huma.Register(s.api, op(http.MethodGet, "releases/{release}", "get-release", "Read a release's manifest"), func(ctx context.Context, in *struct {
		Project
		Release string `path:"release" doc:"digest, or the first characters of it"`
	}) (*output[Release], error) {
		r, err := c.FindRelease(ctx, in.Project.Project, in.Release)
		return out(Release{Release: r.ID, Service: r.Service, Commit: r.Commit, Run: r.Run, CreatedAt: r.CreatedAt, Manifest: r.Manifest}, err)
	})
	huma.Register(s.api, op(http.MethodPost, "login-codes", "login-code", "Make a code that logs one browser in, once"), func(_ context.Context, in *struct {
		Project
		Body struct {
			Seconds int `json:"seconds,omitempty" minimum:"1" maximum:"86400" doc:"how long it is valid, default 600"`
		}
	}) (*output[LoginCode], error) {
		if in.Body.Seconds == 0 {
			in.Body.Seconds = 600
		}
		return out(LoginCode{Code: s.cfg.Access.Code(time.Now(), time.Duration(in.Body.Seconds)*time.Second)}, nil)
	})
	huma.Register(s.api, op(http.MethodGet, "server", "server", "Which server this is, and who you are to it"), func(ctx context.Context, _ *Project) (*output[ServerInfo], error) {
		return out(ServerInfo{Version: s.cfg.Version, You: Actor(ctx)}, nil)
	})
}

// LoginCode logs a browser in at /login?code=CODE.
type LoginCode struct {
	Code string `json:"code"`
}

// ServerInfo is what a client may want to know first.
type ServerInfo struct {
	Version string        `json:"version"`
	You     release.Actor `json:"you"`
}
