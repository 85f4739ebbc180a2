package registry

import (
	"bytes"
	"net/http"
)

// recorder keeps distribution's answer until we know what else happened. Only
// answers without content pass through it.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{header: http.Header{}, code: http.StatusOK} }

func (a *recorder) Header() http.Header { return a.header }

func (a *recorder) WriteHeader(code int) { a.code = code }

func (a *recorder) Write(b []byte) (int, error) { return a.body.Write(b) }

// relay sends what distribution answered.
func (g *Registry) relay(w http.ResponseWriter, r *http.Request, answer *recorder) *failure {
	if answer.code >= 500 && r.Context().Err() == nil {
		g.opt.Log.ErrorContext(r.Context(), "registry request failed", "method", r.Method, "path", r.URL.Path, "status", answer.code, "answer", answer.body.String())
	}
	for k, v := range answer.header {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.code)
	_, _ = w.Write(answer.body.Bytes()) // the client is gone if this fails
	return nil
}
