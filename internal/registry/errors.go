package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// CodeUnverified is the code of an answer to a request for a manifest whose
// stored bytes are not what its digest names.
const CodeUnverified = "MANIFEST_UNVERIFIED"

// failure is an answer in the OCI error form.
type failure struct {
	status  int
	code    string
	message string
	detail  any
	cause   error // for the log, not for the client
}

func (f *failure) Error() string {
	if f.cause != nil {
		return fmt.Sprintf("%s: %v", f.message, f.cause)
	}
	return f.message
}

func fail(status int, code, format string, args ...any) *failure {
	return &failure{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func (f *failure) with(detail any) *failure {
	f.detail = detail
	return f
}

// unavailable is for what this side could not do, and a client may try again.
func unavailable(doing string, cause error) *failure {
	f := fail(http.StatusServiceUnavailable, "UNAVAILABLE", "couldn't %s; try again", doing)
	f.cause = cause
	return f
}

func (f *failure) write(w http.ResponseWriter, r *http.Request) {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	b, err := json.Marshal(map[string][]problem{"errors": {{f.code, f.message, f.detail}}})
	if err != nil {
		b = []byte(`{"errors":[]}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b) // the client is gone if this fails
	}
}
