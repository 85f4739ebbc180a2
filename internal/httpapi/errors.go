package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// Problem is an error as RFC 9457 writes it, with what a client can use.
type Problem struct {
	Title    string            `json:"title"`
	Status   int               `json:"status"`
	Detail   string            `json:"detail" doc:"what happened, why, and what to do"`
	Packet   release.Digest    `json:"packet,omitempty" doc:"409 of a decision: the packet that waits now"`
	Changes  []control.Change  `json:"changes,omitempty" doc:"409 of a decision: how it differs from the one that was named"`
	Problems pipeline.Problems `json:"problems,omitempty" doc:"422 of a run: what is wrong in sluice.yaml"`
	Errors   []string          `json:"errors,omitempty" doc:"what is wrong in the request"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		p := &Problem{Title: http.StatusText(status), Status: status, Detail: msg}
		for _, e := range errs {
			if e != nil {
				p.Errors = append(p.Errors, e.Error())
			}
		}
		return p
	}
}

// fail turns an error of control into a problem: the only place where errors
// become statuses.
func fail(err error) error {
	if err == nil {
		return nil
	}
	p := &Problem{Status: http.StatusInternalServerError, Detail: err.Error()}
	var moved *control.Moved
	var bad *control.Problems
	switch {
	case errors.As(err, &moved):
		p.Status, p.Packet, p.Changes = http.StatusConflict, moved.Packet, moved.Changes
	case errors.As(err, &bad):
		p.Status, p.Problems = http.StatusUnprocessableEntity, bad.List
	case errors.Is(err, control.ErrInvalid):
		p.Status = http.StatusUnprocessableEntity
	case errors.Is(err, control.ErrMissing), errors.Is(err, store.ErrNotFound):
		p.Status = http.StatusNotFound
	case errors.Is(err, control.ErrRefused), errors.Is(err, store.ErrStale), errors.Is(err, store.ErrLive), errors.Is(err, store.ErrExists):
		p.Status = http.StatusConflict
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// problem answers outside huma's handlers.
func problem(w http.ResponseWriter, status int, detail string) {
	write(w, &Problem{Title: http.StatusText(status), Status: status, Detail: detail})
}

func write(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may have gone
}
