package httpapi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// sessionCookie holds what a browser got for the token.
const sessionCookie = "sluice-session"

// sessionLife is how long a browser stays logged in.
const sessionLife = 12 * time.Hour

// Access checks who calls. Sessions are derived from the token, so that they
// hold on every replica and end when the token is changed.
type Access struct {
	token        []byte
	certificates bool // see RequireCertificates
	proxied      bool // see BehindProxy

	mu    sync.Mutex
	codes map[string]time.Time // log-in codes by their end
}

// NewAccess returns the check for an access token of at least 16 characters.
func NewAccess(token string) (*Access, error) {
	if len(token) < 16 {
		return nil, errors.New("the access token is shorter than 16 characters; delete the file token in the data folder, and sluice up makes a new one")
	}
	return &Access{token: []byte(token), codes: map[string]time.Time{}}, nil
}

func (a *Access) isToken(s string) bool {
	return subtle.ConstantTimeCompare([]byte(s), a.token) == 1
}

// session is valid until its end: END.MAC in hex.
func (a *Access) session(until time.Time) string {
	end := hex.EncodeToString([]byte(until.UTC().Format(time.RFC3339)))
	m := hmac.New(sha256.New, a.token)
	m.Write([]byte("session " + end))
	return end + "." + hex.EncodeToString(m.Sum(nil))
}

func (a *Access) isSession(s string, now time.Time) bool {
	end, _, ok := strings.Cut(s, ".")
	if !ok || len(s) > 200 {
		return false
	}
	b, err := hex.DecodeString(end)
	if err != nil {
		return false
	}
	until, err := time.Parse(time.RFC3339, string(b))
	if err != nil || !now.Before(until) {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(s), []byte(a.session(until))) == 1
}

// Code returns a code that logs one browser in, once, within d.
func (a *Access) Code(now time.Time, d time.Duration) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	code := hex.EncodeToString(b[:])
	a.mu.Lock()
	defer a.mu.Unlock()
	for c, end := range a.codes {
		if now.After(end) {
			delete(a.codes, c)
		}
	}
	a.codes[code] = now.Add(d)
	return code
}

func (a *Access) spend(code string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	end, ok := a.codes[code]
	delete(a.codes, code)
	return ok && now.Before(end)
}

// Login takes a code or the token and sets the session cookie; false if neither
// is right.
func (a *Access) Login(w http.ResponseWriter, r *http.Request, code, token string) bool {
	now := time.Now()
	if !a.spend(code, now) && !a.isToken(strings.TrimSpace(token)) {
		return false
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: a.session(now.Add(sessionLife)), Path: "/", MaxAge: int(sessionLife.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
	return true
}

// Logout takes the session cookie back.
func (a *Access) Logout(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// Allowed reports whether the request carries the token or a session.
func (a *Access) Allowed(r *http.Request) bool {
	if t, ok := borne(r); ok {
		return a.isToken(t)
	}
	c, err := r.Cookie(sessionCookie)
	return err == nil && a.isSession(c.Value, time.Now())
}

// Bears reports whether the request carries the token itself. A session is not
// enough where no browser is meant to call: a browser sends it also for a page of
// another port of this machine, where a service listens.
func (a *Access) Bears(r *http.Request) bool {
	t, ok := borne(r)
	return ok && a.isToken(t)
}

// borne is the token in a request's header: a bearer's, or the password of OCI clients.
func borne(r *http.Request) (token string, ok bool) {
	if t := bearerToken(r); t != "" {
		return t, true
	}
	_, password, ok := r.BasicAuth()
	return password, ok
}

// bearerToken is the bearer token of a request (RFC 6750); the name of the scheme is read
// in any case (RFC 9110, section 11.1).
func bearerToken(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}

type actorKey struct{}

// ConnContext notes who is at the other end of a new connection, for
// http.Server. The answer is looked up when it is first asked for, and once.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	remote, local := c.RemoteAddr().String(), c.LocalAddr().String()
	return context.WithValue(ctx, actorKey{}, sync.OnceValue(func() release.Actor { return Peer(remote, local) }))
}

// Actor is who called.
func Actor(ctx context.Context) release.Actor {
	if a, ok := ctx.Value(actorKey{}).(func() release.Actor); ok {
		return a()
	}
	return unknownActor
}
