package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/pipeline"
)

// replay judges recorded rollouts again. It changes nothing, so it is a GET.
func (s *Server) replay() {
	huma.Register(s.api, op(http.MethodGet, "services/{service}/environments/{environment}/replay", "replay-rollouts", "Judge recorded rollouts again under other settings"), func(ctx context.Context, in *struct {
		ServicePath
		Limit    int    `query:"limit" default:"20" minimum:"1" maximum:"200" doc:"how many rollouts, the newest first"`
		Analysis string `query:"analysis" maxLength:"16384" doc:"keys of an analysis as YAML, laid over what was recorded; empty: as recorded"`
	}) (*output[control.Replay], error) {
		q := control.ReplayRequest{Project: in.Project.Project, Service: in.Service, Environment: in.Environment, Limit: in.Limit}
		if strings.TrimSpace(in.Analysis) != "" {
			q.Change = func(a pipeline.Analysis) (pipeline.Analysis, error) {
				out, problems := pipeline.Overlay(a, "analysis", []byte(in.Analysis))
				if problems.Failed() {
					return a, fmt.Errorf("the changed settings are wrong: %w", problems.Err())
				}
				return out, nil
			}
		}
		return out(s.cfg.Control.Replay(ctx, q))
	})
}
