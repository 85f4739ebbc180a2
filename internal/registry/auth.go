package registry

import (
	"errors"
	"net/http"
)

// Action is what a request wants to do in a repository.
type Action string

// Actions. Nothing is deleted over HTTP; see the package's documentation.
const (
	ActionPull Action = "pull"
	ActionPush Action = "push"
)

var (
	// ErrUnauthenticated makes the answer 401 with a challenge.
	ErrUnauthenticated = errors.New("a valid token is needed")
	// ErrForbidden makes the answer 403.
	ErrForbidden = errors.New("the token doesn't allow this")
)

// Authorizer decides who may do what. Any error but the two above is the
// server's fault (503).
type Authorizer interface {
	// Authorize is asked before every request, with repo "" for the version
	// check at /v2/, which needs a valid token and nothing more.
	Authorize(r *http.Request, repo string, action Action) error
}

// AuthorizerFunc is a function that authorizes.
type AuthorizerFunc func(r *http.Request, repo string, action Action) error

// Authorize calls f.
func (f AuthorizerFunc) Authorize(r *http.Request, repo string, action Action) error {
	return f(r, repo, action)
}
