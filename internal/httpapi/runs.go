package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
)

// Project is the first part of every path.
type Project struct {
	Project string `path:"project" doc:"project, default is called default" example:"default" pattern:"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"`
}

// RunPath names a run.
type RunPath struct {
	Project
	Run string `path:"run" doc:"number of the run" example:"12" pattern:"^[0-9]{1,12}$"`
}

// EnvironmentPath names an environment of a run.
type EnvironmentPath struct {
	RunPath
	Environment string `path:"environment" doc:"environment" example:"production"`
}

// Started is the answer to what begins a run.
type Started struct {
	Run string `json:"run" doc:"number of the run"`
}

// Done is the answer to a command.
type Done struct {
	Done bool `json:"done"`
}

type output[T any] struct{ Body T }

func out[T any](body T, err error) (*output[T], error) {
	if err != nil {
		return nil, fail(err)
	}
	return &output[T]{Body: body}, nil
}

func done(err error) (*output[Done], error) { return out(Done{Done: true}, err) }

// RunRequest starts a run of a commit.
type RunRequest struct {
	Repository  string `json:"repository" doc:"folder of a local Git repository, absolute" minLength:"1" maxLength:"4096"`
	Path        string `json:"path,omitempty" doc:"definition inside the repository, default sluice.yaml" maxLength:"1024"`
	Ref         string `json:"ref,omitempty" doc:"commit, branch or tag, default HEAD" maxLength:"1024"`
	Environment string `json:"environment,omitempty" doc:"last environment, default all" maxLength:"63"`
}

// CommandRequest tells a rollout something.
type CommandRequest struct {
	Command  rollout.CommandKind `json:"command" enum:"advance,pause,resume,abort,give-up" doc:"what to do; abort beats advance"`
	Full     bool                `json:"full,omitempty" doc:"advance: to 100 %"`
	Override bool                `json:"override,omitempty" doc:"advance without a pass; needs a reason, which is recorded"`
	Reason   string              `json:"reason,omitempty" maxLength:"4096"`
	Revision int64               `json:"revision,omitempty" doc:"of the rollout that you looked at (it rises with each fact, not with what is only counted); another one answers 409"`
}

// DecisionRequest is a person's answer to a packet.
type DecisionRequest struct {
	Packet   release.Digest `json:"packet" doc:"digest of the packet that you saw; another one answers 409 with the difference" pattern:"^sha256:[0-9a-f]{64}$"`
	Decision string         `json:"decision" enum:"approve,reject"`
	Comment  string         `json:"comment,omitempty" maxLength:"4096"`
}

// Packet is the evidence that an approver decides on.
type Packet struct {
	Digest    release.Digest  `json:"digest" doc:"SHA-256 of the packet's canonical JSON (RFC 8785)"`
	Packet    json.RawMessage `json:"packet" doc:"see the type Packet in docs/reference"`
	CreatedAt time.Time       `json:"createdAt"`
	ExpiresAt time.Time       `json:"expiresAt"`
}

func (s *Server) runs() {
	c := s.cfg.Control
	huma.Register(s.api, op(http.MethodPost, "runs", "start-run", "Start a run of a commit"), func(ctx context.Context, in *struct {
		Project
		Body RunRequest
	}) (*output[Started], error) {
		q := control.Request{Project: in.Project.Project, Repository: in.Body.Repository, Path: in.Body.Path, Ref: in.Body.Ref, To: in.Body.Environment, By: Actor(ctx)}
		if !filepath.IsAbs(q.Repository) {
			return nil, huma.Error422UnprocessableEntity("repository must be an absolute path on the server's machine")
		}
		if q.Path == "" {
			q.Path = "sluice.yaml"
		}
		if q.Ref == "" {
			q.Ref = "HEAD"
		}
		id, err := c.Start(ctx, q)
		return out(Started{Run: id}, err)
	})
	huma.Register(s.api, op(http.MethodGet, "runs", "list-runs", "List runs, newest first"), func(ctx context.Context, in *struct {
		Project
		Service string `query:"service" doc:"only of this service"`
		Before  string `query:"before" doc:"only older than this run"`
		Limit   int    `query:"limit" default:"50" minimum:"1" maximum:"500"`
	}) (*output[[]control.Status], error) {
		return out(c.Runs(ctx, store.RunFilter{Project: in.Project.Project, Service: in.Service, Before: in.Before, Limit: in.Limit}))
	})
	huma.Register(s.api, op(http.MethodGet, "runs/{run}", "get-run", "Read a run"), func(ctx context.Context, in *struct {
		RunPath
		Points bool `query:"points" doc:"with the counts of each closed bin, for a chart"`
	}) (*output[control.Status], error) {
		return out(c.Status(ctx, in.Project.Project, in.Run, in.Points))
	})
	huma.Register(s.api, op(http.MethodGet, "runs/{run}/explanation", "explain-run", "Why it waits, what is next, what you can do"), func(ctx context.Context, in *RunPath) (*output[control.Explanation], error) {
		return out(c.Explain(ctx, in.Project.Project, in.Run))
	})
	huma.Register(s.api, op(http.MethodGet, "runs/{run}/steps/{step}/log", "read-log", "Read a step's log from an offset on"), func(ctx context.Context, in *struct {
		RunPath
		Step   string `path:"step"`
		Offset int64  `query:"offset" minimum:"0" doc:"bytes already read"`
	}) (*output[control.StepLog], error) {
		return out(c.Log(ctx, in.Project.Project, in.Run, in.Step, in.Offset))
	})
	huma.Register(s.api, op(http.MethodPost, "runs/{run}/abort", "abort-run", "End a run: stop its build, give up a wait, or roll back"), func(ctx context.Context, in *struct {
		RunPath
		Body struct {
			Environment string `json:"environment,omitempty"`
			Reason      string `json:"reason,omitempty" maxLength:"4096"`
		}
	}) (*output[Done], error) {
		return done(c.Abort(ctx, in.Project.Project, in.Run, in.Body.Environment, in.Body.Reason, Actor(ctx)))
	})
	huma.Register(s.api, op(http.MethodPost, "runs/{run}/environments/{environment}/commands", "command-rollout", "Advance, pause, resume, abort or give up a rollout"), func(ctx context.Context, in *struct {
		EnvironmentPath
		Body CommandRequest
	}) (*output[Done], error) {
		return done(c.Rollout(ctx, in.Project.Project, in.Run, control.Command{
			Command:     rollout.Command{Kind: in.Body.Command, By: Actor(ctx), Reason: in.Body.Reason, Full: in.Body.Full, Override: in.Body.Override},
			Environment: in.Environment, Revision: in.Body.Revision,
		}))
	})
	huma.Register(s.api, op(http.MethodGet, "runs/{run}/environments/{environment}/packet", "get-packet", "Read the approval packet"), func(ctx context.Context, in *EnvironmentPath) (*output[Packet], error) {
		p, err := c.PacketOf(ctx, in.Project.Project, in.Run, in.Environment)
		return out(Packet{Digest: p.Digest, Packet: p.Body, CreatedAt: p.CreatedAt, ExpiresAt: p.ExpiresAt}, err)
	})
	huma.Register(s.api, op(http.MethodPost, "runs/{run}/environments/{environment}/decisions", "decide", "Approve or reject the packet that you saw"), func(ctx context.Context, in *struct {
		EnvironmentPath
		Body DecisionRequest
	}) (*output[Done], error) {
		return done(c.Decide(ctx, in.Project.Project, in.Run, in.Environment, in.Body.Packet, in.Body.Decision == "approve", in.Body.Comment, Actor(ctx)))
	})
}

func op(method, path, id, summary string) huma.Operation {
	o := huma.Operation{Method: method, Path: Prefix + "/projects/{project}/" + path, OperationID: id, Summary: summary, MaxBodyBytes: maxBody}
	o.Errors = []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusConflict}
	return o
}
