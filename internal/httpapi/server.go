package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/pipeline"
)

// Prefix is where the REST API is.
const Prefix = "/api/v1"

// Scrapes takes what agents scraped from instances.
type Scrapes interface {
	Append(ctx context.Context, scrapes []wire.Scrape) error
}

// Config is what the edge is made of.
type Config struct {
	Control  *control.Controller
	Access   *Access
	Answers  Answers
	Scrapes  Scrapes
	Registry http.Handler // /v2/, which checks access by itself
	Web      http.Handler // all else; it is told by Allowed whether to show a log-in
	Metrics  http.Handler // /metrics
	Version  string
	Log      *slog.Logger
	Ready    func(context.Context) error
}

// Server is the whole HTTP edge.
type Server struct {
	cfg Config
	api huma.API
	mux *http.ServeMux

	unbound sync.Map    // hosts whose tokens are bound to no addresses, as was told
	unready atomic.Bool // as was told
}

// New returns the edge. Its events end with ctx.
func New(ctx context.Context, cfg Config) *Server {
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	rest := http.NewServeMux()
	hc := huma.DefaultConfig("Sluice", "1")
	hc.OpenAPIPath, hc.DocsPath, hc.SchemasPath = Prefix+"/openapi", "", Prefix+"/schemas"
	hc.Info.Description = "Release-safety control plane: what was built, what runs where, why it waits, and what you can tell it."
	hc.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", Description: "the file token in the data folder"}}
	hc.Security = []map[string][]string{{"token": {}}}
	hc.CreateHooks = nil // answers carry no $schema: their keys are the contract
	s.api = humago.New(rest, hc)
	s.runs()
	s.services()
	s.replay()
	s.evidence()
	rest.HandleFunc("GET "+Prefix+"/projects/{project}/evidence/bundle", s.bundle)
	rest.HandleFunc("GET "+Prefix+"/projects/{project}/events", s.events(ctx))

	var api http.Handler = &idempotent{answers: cfg.Answers, next: http.MaxBytesHandler(rest, maxBody), busy: map[string]bool{}}
	api = http.NewCrossOriginProtection().Handler(api)
	s.mux.Handle(Prefix+"/", s.guard(api))
	s.mux.Handle("GET /agent/v1/desired", s.guardAgent(s.desired(ctx)))
	s.mux.Handle("POST /agent/v1/observed", s.guardAgent(http.HandlerFunc(s.observed)))
	s.mux.Handle("/v2/", s.hurried(cfg.Registry))
	if cfg.Metrics != nil {
		s.mux.Handle("GET /metrics", s.guard(cfg.Metrics))
	}
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	s.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := cfg.Ready(r.Context()); err != nil {
			why := "not ready: send the token to read why, or look into the server's log"
			if cfg.Access.Allowed(r) { // it may name the database
				why = err.Error()
			}
			if !s.unready.Swap(true) {
				cfg.Log.WarnContext(r.Context(), "not ready", "error", err)
			}
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		if s.unready.Swap(false) {
			cfg.Log.InfoContext(r.Context(), "ready again")
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	if cfg.Web != nil {
		s.mux.Handle("/", s.hurried(cfg.Web))
	}
	return s
}

// schemaName tells types of one name in two packages apart.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[pipeline.Problem]() {
		return "DefinitionProblem"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff") // what builds and services made stays what we say that it is
	s.mux.ServeHTTP(w, r)
}

// strangersBody is how long somebody who is not known may take to send a request's
// body. Known ones may send large artifacts, so the server has no time for all.
const strangersBody = 10 * time.Second

// hurry has the rest of the request's body come soon or not at all.
func hurry(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(strangersBody)) // what can't be bounded is no connection
}

// hurried serves what checks access by itself.
func (s *Server) hurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.cfg.Access.Allowed(r) && s.cfg.Access.Agent(r) == nil {
			hurry(w)
		}
		next.ServeHTTP(w, r)
	})
}

// OpenAPI returns the API's document, in the order of the code.
func (s *Server) OpenAPI() *huma.OpenAPI { return s.api.OpenAPI() }

func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.cfg.Access.Allowed(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
			hurry(w)
			problem(w, http.StatusUnauthorized, "the access token is missing or wrong: send it as a bearer token (sluice --token TOKEN, or SLUICE_TOKEN); it is the file token in the server's data folder")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func projectOf(path string) string {
	rest, ok := strings.CutPrefix(path, Prefix+"/projects/")
	if !ok {
		return ""
	}
	project, _, _ := strings.Cut(rest, "/")
	return project
}
