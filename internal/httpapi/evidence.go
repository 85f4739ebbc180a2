package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// Statement is one entry of the evidence log.
type Statement struct {
	Index         *int64          `json:"index" doc:"place in the log; null for the moment before it is integrated"`
	ID            string          `json:"id"`
	At            time.Time       `json:"at"`
	Run           string          `json:"run,omitempty"`
	Environment   string          `json:"environment,omitempty"`
	Subject       release.Digest  `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

func (s *Server) evidence() {
	huma.Register(s.api, op(http.MethodGet, "evidence", "list-evidence", "List signed statements, oldest first"), func(ctx context.Context, in *struct {
		Project
		Run         string `query:"run"`
		Release     string `query:"release" doc:"digest of a release"`
		Environment string `query:"environment"`
	}) (*output[[]Statement], error) {
		f := store.LeafFilter{Run: in.Run, Environment: in.Environment, Subject: release.Digest(in.Release)}
		leaves, err := s.cfg.Control.Leaves(ctx, in.Project.Project, f)
		list := make([]Statement, 0, len(leaves))
		for _, l := range leaves {
			st, err := evidence.Peek(l.Envelope)
			if err != nil {
				return nil, fail(err)
			}
			list = append(list, Statement{Index: l.Index, ID: l.ID, At: l.At, Run: l.Run, Environment: l.Environment, Subject: l.Subject, PredicateType: l.PredicateType, Predicate: st.Predicate})
		}
		return out(list, err)
	})
}

// bundle streams a bundle. It is written whole before the first byte goes out,
// so that an error is an answer and never half a bundle.
func (s *Server) bundle(w http.ResponseWriter, r *http.Request) {
	id := release.ID(r.URL.Query().Get("release"))
	if id != "" {
		found, err := s.cfg.Control.FindRelease(r.Context(), r.PathValue("project"), string(id))
		if err != nil {
			writeFailure(w, err)
			return
		}
		id = found.ID
	}
	f, err := os.CreateTemp("", "sluice-bundle-")
	if err != nil {
		writeFailure(w, err)
		return
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		writeFailure(w, err)
		return
	}
	if err := s.cfg.Control.Export(r.Context(), f, r.PathValue("project"), id); err != nil {
		writeFailure(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", `attachment; filename="evidence.json"`)
	http.ServeContent(w, r, "", time.Time{}, f)
}

func writeFailure(w http.ResponseWriter, err error) {
	p, ok := fail(err).(*Problem)
	if !ok {
		p = &Problem{Title: "Internal Server Error", Status: http.StatusInternalServerError, Detail: err.Error()}
	}
	write(w, p)
}
