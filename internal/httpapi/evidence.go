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
	Number        int64           `json:"number" doc:"place in the order of commits, from 1"`
	ID            string          `json:"id"`
	At            time.Time       `json:"at"`
	Run           string          `json:"run,omitempty"`
	Environment   string          `json:"environment,omitempty"`
	Subject       release.Digest  `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
	// What a check left; entries/{entry}/output gives it.
	Outputs []evidence.Output `json:"outputs,omitempty"`
}

func statement(l store.Leaf) (Statement, error) {
	st, err := evidence.Peek(l.Envelope)
	if err != nil {
		return Statement{}, err
	}
	return Statement{
		Index: l.Index, Number: l.Number, ID: l.ID, At: l.At, Run: l.Run, Environment: l.Environment, Subject: l.Subject,
		PredicateType: l.PredicateType, Predicate: st.Predicate, Outputs: st.Outputs(),
	}, nil
}

// EntryPath names an entry of the log.
type EntryPath struct {
	Project
	Entry int64 `path:"entry" minimum:"0" doc:"index in the log" example:"12"`
}

func (s *Server) evidence() {
	huma.Register(s.api, op(http.MethodGet, "evidence", "list-evidence", "List signed statements, oldest first"), func(ctx context.Context, in *struct {
		Project
		Run         string `query:"run"`
		Release     string `query:"release" doc:"digest of a release"`
		Environment string `query:"environment"`
		Before      int64  `query:"before" minimum:"0" doc:"only those before the statement of this number"`
		Limit       int    `query:"limit" minimum:"0" maximum:"10000" doc:"only so many, the newest of them; 0: all"`
	}) (*output[[]Statement], error) {
		f := store.LeafFilter{Run: in.Run, Environment: in.Environment, Subject: release.Digest(in.Release), Before: in.Before, Limit: in.Limit}
		leaves, err := s.cfg.Control.Leaves(ctx, in.Project.Project, f)
		list := make([]Statement, 0, len(leaves))
		for _, l := range leaves {
			st, err := statement(l)
			if err != nil {
				return nil, fail(err)
			}
			list = append(list, st)
		}
		return out(list, err)
	})
	huma.Register(s.api, op(http.MethodGet, "evidence/entries/{entry}", "get-entry", "Read one signed statement"), func(ctx context.Context, in *EntryPath) (*output[Statement], error) {
		l, err := s.cfg.Control.Entry(ctx, in.Project.Project, in.Entry)
		if err != nil {
			return nil, fail(err)
		}
		return out(statement(l))
	})
	huma.Register(s.api, op(http.MethodGet, "evidence/entries/{entry}/output", "read-output", "Read what a check was answered or printed, or the picture of its page, as an entry names it"), func(ctx context.Context, in *struct {
		EntryPath
		Name string `query:"name" required:"true" doc:"as the entry names it" example:"output/smoke" maxLength:"512"`
	}) (*checkOutput, error) {
		o, b, err := s.cfg.Control.Output(ctx, in.Project.Project, in.Entry, in.Name)
		if err != nil {
			return nil, fail(err)
		}
		// A version that is checked may have written anything: it is shown, and
		// nothing in it runs.
		return &checkOutput{Type: shownType(o.MediaType), Policy: "sandbox; default-src 'none'", Body: b}, nil
	})
}

// checkOutput is what a check left, as it is.
type checkOutput struct {
	Type   string `header:"Content-Type"`
	Policy string `header:"Content-Security-Policy"`
	Body   []byte
}

// shownType is a type that a browser shows without running anything.
func shownType(mediaType string) string {
	if mediaType == "image/png" {
		return mediaType
	}
	return "text/plain; charset=utf-8"
}

// bundle streams a bundle; with outputs=none without what checks were answered. It is written whole before the first byte goes out,
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
	if err := s.cfg.Control.Export(r.Context(), f, r.PathValue("project"), id, r.URL.Query().Get("outputs") != "none"); err != nil {
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
