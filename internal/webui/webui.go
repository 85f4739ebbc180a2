package webui

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/a-h/templ"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// Control is what the pages ask and tell. Errors wrap control's sentinels; their
// texts are shown as they are.
type Control interface {
	Overview(ctx context.Context, project string) ([]control.Cell, error)
	Runs(ctx context.Context, f store.RunFilter) ([]control.Status, error)
	Status(ctx context.Context, project, run string, points bool) (control.Status, error)
	Explain(ctx context.Context, project, run string) (control.Explanation, error)
	PacketOf(ctx context.Context, project, run, env string) (store.Packet, error)
	Log(ctx context.Context, project, run, step string, offset int64) (control.StepLog, error)
	Leaves(ctx context.Context, project string, f store.LeafFilter) ([]store.Leaf, error)
	CountLeaves(ctx context.Context, project string, f store.LeafFilter) (int64, error)
	FindRelease(ctx context.Context, project, prefix string) (store.Release, error)
	WayBack(ctx context.Context, project, service, env, to string) (control.Way, error)
	Quarantines(ctx context.Context, project, service string) ([]store.Quarantine, error)
	FeedEnd(ctx context.Context) (int64, error)

	Rollout(ctx context.Context, project, run string, cmd control.Command) error
	Decide(ctx context.Context, project, run, env string, packet release.Digest, approve bool, comment string, by release.Actor) error
	Rollback(ctx context.Context, project, service, env, to, reason string, by release.Actor) (string, error)
	Rehearse(ctx context.Context, project, service, env, reason string, by release.Actor) (string, error)
	Lift(ctx context.Context, project, service, prefix, reason string, by release.Actor) error
}

var _ Control = (*control.Controller)(nil)

// Access tells who may look, and logs browsers in and out.
type Access interface {
	Allowed(r *http.Request) bool
	Login(w http.ResponseWriter, r *http.Request, code, token string) bool
	Logout(w http.ResponseWriter)
}

var _ Access = (*httpapi.Access)(nil)

// Config is what the pages are made of.
type Config struct {
	Control Control
	Access  Access
	Version string
	Now     func() time.Time // default time.Now
}

// project is the one that the pages are about; the API serves all.
const project = release.DefaultProject

// maxForm bounds what a form may send, in bytes.
const maxForm = 64 << 10

// policy lets a page load and send only what is this server's own, and nothing
// inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

type ui struct {
	cfg   Config
	c     Control
	files *files
}

// New returns the handler of all that is not the API.
func New(cfg Config) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f, err := loadFiles(embedded)
	if err != nil {
		panic(err) // the files are part of the program
	}
	u := &ui{cfg: cfg, c: cfg.Control, files: f}
	mux := http.NewServeMux()
	mux.Handle("GET /static/", f)
	mux.Handle("GET /login", u.open(u.login))
	mux.Handle("POST /login", u.open(u.loginForm))
	mux.Handle("POST /logout", u.open(u.logout))
	mux.Handle("GET /{$}", u.guard(u.overview))
	mux.Handle("GET /runs", u.guard(u.runs))
	mux.Handle("GET /runs/{run}", u.guard(u.run))
	mux.Handle("POST /runs/{run}/commands", u.guard(u.command))
	mux.Handle("POST /runs/{run}/decisions", u.guard(u.decide))
	mux.Handle("GET /runs/{run}/steps/{step}", u.guard(u.step))
	mux.Handle("GET /runs/{run}/steps/{step}/log", u.guard(u.rawLog))
	mux.Handle("GET /evidence", u.guard(u.evidence))
	mux.Handle("GET /services/{service}/environments/{environment}", u.guard(u.place))
	mux.Handle("POST /services/{service}/environments/{environment}/rollback", u.guard(u.rollback))
	mux.Handle("POST /services/{service}/environments/{environment}/rehearsals", u.guard(u.rehearse))
	mux.Handle("POST /services/{service}/environments/{environment}/lift", u.guard(u.lift))
	mux.Handle("/", u.guard(func(http.ResponseWriter, *http.Request) error { return errNowhere }))

	safe := http.NewCrossOriginProtection()
	safe.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.show(w, r, http.StatusForbidden, u.page(r, "Refused"), failed(failure{
			Title: "Refused", What: "The form came from another website than this one, so it was not taken.",
			Do: "Nothing was done. Open the page here, and use its own buttons.",
		}))
	}))
	return secure(http.MaxBytesHandler(safe.Handler(mux), maxForm))
}

// secure sets what holds for every answer.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

type handler func(w http.ResponseWriter, r *http.Request) error

// open serves without a session.
func (u *ui) open(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			f := explain(err)
			u.show(w, r, f.Status, u.page(r, f.Title), failed(f))
		}
	})
}

// guard serves those who are logged in, and leads others to the log-in.
func (u *ui) guard(h handler) http.Handler {
	inner := u.open(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u.cfg.Access.Allowed(r) {
			inner.ServeHTTP(w, r)
			return
		}
		to := "/login"
		if next := r.URL.RequestURI(); r.Method == http.MethodGet && localPath(next) && next != "/" {
			to += "?next=" + url.QueryEscape(next)
		}
		if isFragment(r) {
			w.Header().Set("HX-Redirect", to) // a log-in must not be morphed into a page
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
	})
}

// isFragment reports whether a page that is shown asks for its own renewal.
func isFragment(r *http.Request) bool { return r.Header.Get("HX-Request") == "true" }

// localPath reports whether s leads to a page of this server and no other.
func localPath(s string) bool {
	if len(s) > 2048 || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") {
		return false
	}
	to, err := url.Parse(s)
	return err == nil && to.Scheme == "" && to.Host == "" && to.User == nil && !strings.HasPrefix(to.Path, "//")
}

// page is what the frame around every page shows.
type page struct {
	Title    string
	Here     string // which link of the navigation is current
	Actor    release.Actor
	Version  string
	LoggedIn bool
	Live     *live
	Now      time.Time
	Notice   *notice
	fragment bool
	files    *files
}

// live says how a page is kept up to date.
type live struct {
	Get   string        // address that renders it again
	Feed  string        // address of its events
	Poll  time.Duration // renewal without an event
	Plain time.Duration // reload by a browser without JavaScript; 0: none
}

// notice is what came of a form.
type notice struct {
	Good    bool
	Title   string
	Text    string
	Do      string
	Changes []control.Change
}

func (u *ui) page(r *http.Request, title string) page {
	return page{
		Title: title, Actor: httpapi.Actor(r.Context()), Version: u.cfg.Version, LoggedIn: u.cfg.Access.Allowed(r),
		Now: u.cfg.Now(), fragment: isFragment(r), files: u.files,
	}
}

// show renders a page whole before its first byte goes out, so that an error is
// never half a page.
func (u *ui) show(w http.ResponseWriter, r *http.Request, status int, p page, content templ.Component) {
	var b bytes.Buffer
	ctx := templ.WithChildren(r.Context(), content)
	frame := layout(p)
	if p.fragment {
		frame = fragment(p)
	}
	if err := frame.Render(ctx, &b); err != nil {
		http.Error(w, "couldn't render the page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Vary", "HX-Request")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // the browser may have gone
	}
}

// feed returns how a page that shows the present is kept up to date: by all
// events after this moment, or those of one run.
func (u *ui) feed(r *http.Request, run string) (*live, error) {
	end, err := u.c.FeedEnd(r.Context())
	if err != nil {
		return nil, err
	}
	l := &live{Get: r.URL.RequestURI(), Feed: feedURL(run, end), Poll: pollQuiet, Plain: plainReload}
	return l, nil
}
