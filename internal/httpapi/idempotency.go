package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// Answers keeps what commands with an Idempotency-Key were answered.
type Answers interface {
	Answer(ctx context.Context, project, key string) (store.Answer, bool, error)
	PutAnswer(ctx context.Context, a store.Answer) error
}

// maxBody bounds a request to the API, in bytes.
const maxBody = 1 << 20

// idempotent answers a repeated command with what it was answered first. A key
// that comes with another request is refused: it is a client's mistake.
type idempotent struct {
	answers Answers
	next    http.Handler
	mu      sync.Mutex
	busy    map[string]bool
}

func (h *idempotent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Idempotency-Key")
	if key == "" || r.Method != http.MethodPost {
		h.next.ServeHTTP(w, r)
		return
	}
	if len(key) > 255 {
		problem(w, http.StatusBadRequest, "the Idempotency-Key has more than 255 characters")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			problem(w, http.StatusRequestEntityTooLarge, "the request has more than 1 MiB")
		}
		return // otherwise the client went away
	}
	project := projectOf(r.URL.Path)
	request := release.DigestOf(append([]byte(r.Method+" "+r.URL.RequestURI()+"\n"), body...))
	if !h.enter(project + "/" + key) {
		problem(w, http.StatusConflict, "a command with this Idempotency-Key is under way; ask again in a moment")
		return
	}
	defer h.leave(project + "/" + key)
	kept, ok, err := h.answers.Answer(r.Context(), project, key)
	if err != nil {
		problem(w, http.StatusServiceUnavailable, "couldn't look whether this command was given before: "+err.Error())
		return
	}
	if ok {
		if kept.Request != request {
			problem(w, http.StatusUnprocessableEntity, "this Idempotency-Key was used for another request; take a new one for each command")
			return
		}
		kind := "application/json"
		if kept.Status >= 400 {
			kind = (&Problem{}).ContentType("")
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Idempotency-Replayed", "true")
		w.WriteHeader(kept.Status)
		_, _ = w.Write(kept.Body) // the client may have gone
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	h.next.ServeHTTP(rec, r)
	if rec.status >= 500 {
		return // it may be tried again
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Second)
	defer cancel()
	_ = h.answers.PutAnswer(ctx, store.Answer{Project: project, Key: key, Request: request, Status: rec.status, Body: rec.body.Bytes()}) // the answer went out; without the record a repetition meets the command's own checks
}

func (h *idempotent) enter(k string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[k] {
		return false
	}
	h.busy[k] = true
	return true
}

func (h *idempotent) leave(k string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, k)
}

type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(s int) {
	r.status = s
	r.ResponseWriter.WriteHeader(s)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.body.Len() < maxBody {
		r.body.Write(b)
	}
	return r.ResponseWriter.Write(b)
}
