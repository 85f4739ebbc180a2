package demo

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/run"
)

// serve answers the API's paths, below the project.
func serve(t *testing.T, paths map[string]http.HandlerFunc) *api {
	t.Helper()
	mux := http.NewServeMux()
	for p, h := range paths {
		method, path, _ := strings.Cut(p, " ")
		mux.HandleFunc(method+" "+httpapi.Prefix+"/projects/default/"+path, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" {
				t.Errorf("%s came without the token", r.URL)
			}
			h(w, r)
		})
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	a := newAPI(srv.URL, "secret")
	t.Cleanup(a.close)
	return a
}

func answerWith(all ...any) http.HandlerFunc {
	n := 0
	return func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(all[min(n, len(all)-1)])
		n++
	}
}

func TestARunIsFollowedToItsEnd(t *testing.T) {
	a := serve(t, map[string]http.HandlerFunc{"GET runs/7": answerWith(
		control.Status{State: run.Running},
		// Waiting for another rollout is nothing that a person has to see to.
		control.Status{State: run.Waiting, Environments: []control.EnvironmentStatus{{Name: "production", WaitingFor: "the rollout of run 6"}}},
		control.Status{State: run.RollingBack},
		control.Status{State: run.RolledBack},
	)})
	var seen []run.Outcome
	s, err := a.follow(t.Context(), "7", func(s control.Status) { seen = append(seen, s.State) })
	if err != nil || s.State != run.RolledBack || len(seen) != 4 {
		t.Errorf("ended as %s after %v: %v", s.State, seen, err)
	}
}

func TestARunThatIsHeldIsNotWaitedFor(t *testing.T) {
	a := serve(t, map[string]http.HandlerFunc{"GET runs/7": answerWith(
		control.Status{State: run.Waiting, Environments: []control.EnvironmentStatus{{Name: "dev"}, {Name: "production", Held: "nothing was proved"}}},
	)})
	a.patience = 0
	s, err := a.follow(t.Context(), "7", func(control.Status) {})
	if err != nil || held(s) != "nothing was proved" {
		t.Errorf("held by %q: %v", held(s), err)
	}
}

// A hold that ends by itself needs nobody.
func TestARunThatIsHeldForAMomentGoesOn(t *testing.T) {
	a := serve(t, map[string]http.HandlerFunc{"GET runs/7": answerWith(
		control.Status{State: run.Waiting, Environments: []control.EnvironmentStatus{{Name: "production", Held: "host local is silent"}}},
		control.Status{State: run.Running},
		control.Status{State: run.Succeeded},
	)})
	a.patience = machinetest.Patience
	if s, err := a.follow(t.Context(), "7", func(control.Status) {}); err != nil || s.State != run.Succeeded {
		t.Errorf("ended as %s: %v", s.State, err)
	}
}

// Demos beside each other, and what else runs, never get each other's ports, though
// nobody listens there yet.
func TestNoTwoDemosGetOnePort(t *testing.T) {
	given := map[int]bool{}
	for range 4 {
		s := &story{}
		for range 100 {
			p, err := s.freePort()
			if err != nil {
				t.Fatal(err)
			}
			if given[p] {
				t.Fatalf("port %d was given twice", p)
			}
			given[p] = true
		}
		t.Cleanup(func() {
			for _, p := range s.kept {
				p.Close()
			}
		})
	}
}

func TestFollowingEndsWithItsContext(t *testing.T) {
	a := serve(t, map[string]http.HandlerFunc{"GET runs/7": answerWith(control.Status{State: run.Running})})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := a.follow(ctx, "7", func(control.Status) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the context was cancelled", err)
	}
}

func TestTheServersReasonIsTold(t *testing.T) {
	a := serve(t, map[string]http.HandlerFunc{"POST runs": func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(httpapi.Problem{Detail: "namespaces are forbidden"})
	}})
	if _, err := a.start(t.Context(), "/r", "abc"); err == nil || !strings.Contains(err.Error(), "namespaces are forbidden") {
		t.Errorf("error %v lacks the reason", err)
	}
	if _, err := a.status(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("error %v lacks the status", err)
	}
}

func TestTheProxysCountsAreSummedUp(t *testing.T) {
	type m = map[string]any
	a := serve(t, map[string]http.HandlerFunc{"GET hosts": answerWith([]m{
		{"services": []m{{"environment": "dev", "requests": 1000}, {"environment": "production", "requests": 21}}},
		{"services": []m{{"environment": "production", "requests": 300}}},
	})})
	if n, err := a.proxied(t.Context(), "production"); n != 321 || err != nil {
		t.Errorf("%d requests, %v; want 321", n, err)
	}
}

func TestTheEvidenceIsWrittenOnce(t *testing.T) {
	a := serve(t, map[string]http.HandlerFunc{"GET evidence/bundle": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("bundle")) }})
	path := filepath.Join(t.TempDir(), "evidence.json")
	if err := a.export(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); string(b) != "bundle" || err != nil {
		t.Errorf("the file holds %q: %v", b, err)
	}
	if err := a.export(t.Context(), path); err == nil {
		t.Error("a file that is there was overwritten")
	}
}
