package check

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
	"github.com/sluicehq/sluice/internal/runner/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	os.Exit(m.Run())
}

var key = release.Key{Project: "default", Service: "shop", Environment: "production"}

// ask makes one check against a handler.
func ask(t *testing.T, r *Runner, c pipeline.Check, h http.Handler, hide ...string) (Outcome, error) {
	t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	c.Name = "smoke"
	return r.Run(t.Context(), Request{
		Check: c, Address: s.Listener.Addr().String(), Key: key, Release: release.DigestOf([]byte("v2")), Commit: strings.Repeat("a", 40), Redact: hide,
		Files: func(_ context.Context, dir string) error {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "smoke.sh"), []byte("#!/bin/sh\necho from the artifact\n"), 0o755)
		},
	})
}

func isolations(t *testing.T, story func(t *testing.T, r *Runner)) {
	for _, iso := range []runner.Isolation{runner.Namespaces, runner.None} {
		t.Run(string(iso), func(t *testing.T) {
			if iso == runner.Namespaces {
				sandboxtest.Require(t)
			}
			dir := t.TempDir()
			r := New(Config{Dir: dir, Isolation: iso})
			t.Cleanup(func() { // after the parts of the story, also those beside each other
				if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
					t.Errorf("it left %v behind", left)
				}
			})
			story(t, r)
		})
	}
}

// A request is judged by status and body; what was answered is kept without secrets.
func TestHTTP(t *testing.T) {
	r := New(Config{Dir: t.TempDir()})
	var hits atomic.Int32
	h := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/flaky":
			if hits.Add(1) < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		case "/moved":
			http.Redirect(w, req, "/", http.StatusFound)
			return
		case "/slow":
			<-req.Context().Done()
		}
		fmt.Fprint(w, "welcome, the password is hunter2-hunter2")
	})
	for name, c := range map[string]struct {
		k      pipeline.HTTPCheck
		ok     bool
		reason string
		tries  int
	}{
		"good":     {pipeline.HTTPCheck{Path: "/", Status: 200, Contains: "welcome"}, true, "", 1},
		"status":   {pipeline.HTTPCheck{Path: "/", Status: 204, Retries: 1}, false, "GET / answered 200, wanted 204", 2},
		"body":     {pipeline.HTTPCheck{Path: "/", Status: 200, Contains: "farewell"}, false, `GET / answered without "farewell"`, 1},
		"retried":  {pipeline.HTTPCheck{Path: "/flaky", Status: 200, Retries: 5}, true, "", 3},
		"redirect": {pipeline.HTTPCheck{Path: "/moved", Status: 302}, true, "", 1},
		"slow":     {pipeline.HTTPCheck{Path: "/slow", Status: 200, Timeout: 50 * time.Millisecond}, false, "GET /slow was not answered", 1},
	} {
		t.Run(name, func(t *testing.T) {
			if c.k.Timeout == 0 {
				c.k.Timeout = machinetest.Patience
			}
			out, err := ask(t, r, pipeline.Check{HTTP: &c.k}, h, "hunter2-hunter2")
			if err != nil || out.OK != c.ok || !strings.HasPrefix(out.Reason, c.reason) || out.Tries != c.tries || (c.reason == "") != (out.Reason == "") {
				t.Errorf("%+v, %v", out, err)
			}
			if strings.Contains(string(out.Output), "hunter2") || name == "good" && !strings.Contains(string(out.Output), "welcome, the password is ***") {
				t.Errorf("kept %q", out.Output)
			}
		})
	}
}

// A command runs in the artifact, reaches the service, and knows what it checks.
func TestCommand(t *testing.T) {
	isolations(t, func(t *testing.T, r *Runner) {
		asked := make(chan string, 10)
		h := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			asked <- req.URL.Path
			fmt.Fprint(w, "fine")
		})
		script := `./smoke.sh
case "$SLUICE_URL" in http://127.0.0.1:*) ;; *) exit 7 ;; esac
echo "$SLUICE_SERVICE $SLUICE_ENVIRONMENT $SLUICE_RELEASE $(pwd)"
command -v curl >/dev/null && curl -sf "$SLUICE_URL/from-the-command"
echo key=hunter2-hunter2`
		out, err := ask(t, r, pipeline.Check{Command: &pipeline.CommandCheck{Run: script, Timeout: machinetest.Patience}}, h, "hunter2-hunter2")
		if err != nil || !out.OK || out.Tries != 1 {
			t.Fatalf("%+v (%s), %v", out, out.Output, err)
		}
		for _, want := range []string{"from the artifact", "shop production sha256:", "key=***"} {
			if !strings.Contains(string(out.Output), want) {
				t.Errorf("no %q in what was kept:\n%s", want, out.Output)
			}
		}
		select {
		case path := <-asked:
			if path != "/from-the-command" {
				t.Errorf("asked %s", path)
			}
		default:
			if !strings.Contains(string(out.Output), "fine") {
				t.Log("no curl on this machine")
			}
		}
	})
}

// A hook that lies about its end, in every way that one can: what counts is the
// exit code, and nothing of it lives on.
func TestCommandsThatLie(t *testing.T) {
	isolations(t, func(t *testing.T, r *Runner) {
		const hangs = 4 * time.Second // is what a case has that ends only by its time
		for name, c := range map[string]struct {
			run, reason, kept string
			ok                bool
		}{
			"prints failure, ends well": {"echo FAILED; exit 0", "", "FAILED", true},
			"prints ok, ends badly":     {"echo all good; exit 3", "exit code 3", "all good", false},
			"kills itself":              {"kill -9 $$", "SIGKILL", "", false},
			"dies by a signal":          {"kill -TERM $$", "SIGTERM", "", false},
			"writes without end":        {"yes tick", "still running after 4s", "tick", false},
			"outlives its time":         {"trap '' TERM INT HUP; sleep 1000 & wait; sleep 1000", "still running after 4s", "", false},
			"holds the output open":     {"sleep 1000 & exit 0", "", "", true},
			"is not there":              {"./no-such-file", "exit code 127", "", false},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				timeout := machinetest.Patience
				if strings.Contains(c.reason, hangs.String()) {
					timeout = hangs
				}
				out, err := ask(t, r, pipeline.Check{Command: &pipeline.CommandCheck{Run: c.run, Timeout: timeout}}, http.NotFoundHandler())
				if err != nil || out.OK != c.ok || !strings.Contains(out.Reason, c.reason) || !strings.Contains(string(out.Output), c.kept) {
					t.Errorf("%t %q %.300q, %v", out.OK, out.Reason, out.Output, err)
				}
				if len(out.Output) > 2*maxOutput {
					t.Errorf("kept %d bytes", len(out.Output))
				}
			})
		}
	})
}

// What a command leaves behind when it ends well is ended too.
func TestNothingLivesOn(t *testing.T) {
	isolations(t, func(t *testing.T, r *Runner) {
		var asked, later atomic.Int32
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/now" {
				asked.Add(1)
			} else {
				later.Add(1)
			}
		}))
		defer s.Close()
		out, err := r.Run(t.Context(), Request{
			Check: pipeline.Check{Name: "smoke", Command: &pipeline.CommandCheck{
				Run:     "curl -sf $SLUICE_URL/now; (while sleep 0.1; do curl -s $SLUICE_URL/later; done) >/dev/null 2>&1 & exit 0",
				Timeout: machinetest.Patience,
			}},
			Address: s.Listener.Addr().String(), Key: key, Files: func(_ context.Context, dir string) error { return os.Mkdir(dir, 0o755) },
		})
		if err != nil || !out.OK || asked.Load() != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
		// What it had asked while the sandbox ended may still arrive; a child that
		// lives would go on asking, ten times a second.
		last, since := later.Load(), time.Now()
		for deadline := time.Now().Add(machinetest.Patience); time.Since(since) < time.Second; time.Sleep(20 * time.Millisecond) {
			if n := later.Load(); n != last {
				last, since = n, time.Now()
			}
			if time.Now().After(deadline) {
				t.Fatalf("a child lived on and asked %d times", last)
			}
		}
	})
}

// A shutdown is no verdict.
func TestInterrupted(t *testing.T) {
	isolations(t, func(t *testing.T, r *Runner) {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("the server ends")
		began := make(chan struct{})
		s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(began) }))
		defer s.Close()
		go func() {
			<-began
			cancel(stop)
		}()
		out, err := r.Run(ctx, Request{
			Check:   pipeline.Check{Name: "slow", Command: &pipeline.CommandCheck{Run: "curl -s $SLUICE_URL; sleep 1000", Timeout: machinetest.Patience}},
			Address: s.Listener.Addr().String(), Key: key, Files: func(_ context.Context, dir string) error { return os.Mkdir(dir, 0o755) },
		})
		if !errors.Is(err, stop) || out.OK {
			t.Errorf("%+v, %v", out, err)
		}
	})
}

// Without an artifact, or without what a check needs, there is no verdict.
func TestNotReady(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	r := New(Config{Dir: t.TempDir()})
	browser := pipeline.Check{Name: "seen", Browser: &pipeline.BrowserCheck{Path: "/", Timeout: time.Second}}
	if err := r.Ready(t.Context(), browser); !errors.Is(err, ErrNoBrowser) || !strings.Contains(err.Error(), "apt-get install chromium") {
		t.Errorf("%v", err)
	}
	if out, err := r.Run(t.Context(), Request{Check: browser, Key: key}); !errors.Is(err, ErrNoBrowser) || out.OK {
		t.Errorf("%+v, %v", out, err)
	}
	if out, err := r.Run(t.Context(), Request{Check: pipeline.Check{Name: "x", Command: &pipeline.CommandCheck{Run: "true"}}, Key: key}); err == nil || out.OK {
		t.Errorf("without an artifact: %+v", out)
	}
	if err := r.Ready(t.Context(), pipeline.Check{HTTP: &pipeline.HTTPCheck{Path: "/"}}); err != nil {
		t.Errorf("a request needs nothing: %v", err)
	}
	if _, err := r.Run(t.Context(), Request{Check: pipeline.Check{Name: "new"}}); err == nil {
		t.Error("a check of no kind passed")
	}
}
