package compattest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
	"github.com/sluicehq/sluice/internal/server"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	os.Exit(m.Run())
}

// plane is today's server on a data folder.
type plane struct {
	t          *testing.T
	dir        string
	url, token string
	log        *lines
}

// up starts a server; down ends it and waits.
func up(t *testing.T, dir string) (p *plane, down func()) {
	t.Helper()
	p = &plane{t: t, dir: dir, log: &lines{}}
	isolation := runner.Namespaces
	if err := runner.Probe(t.Context()); err != nil {
		t.Logf("steps run without isolation here: %v", err)
		isolation = runner.None
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan server.Running, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Options{
			Dir: dir, Addr: "127.0.0.1:0", NoAgent: true, Isolation: isolation,
			Log:   slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelWarn})),
			Ready: func(r server.Running) { ready <- r },
		})
	}()
	select {
	case r := <-ready:
		p.url, p.token = r.URL, r.Token
	case err := <-ended:
		cancel()
		t.Fatalf("the server did not start: %v", err)
	case <-time.After(machinetest.Patience):
		cancel()
		t.Fatal("the server did not start")
	}
	down = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	t.Cleanup(down)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	return p, down
}

// lines keeps a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// call sends a request to the API. The answer is decoded, or its text returned
// with its status.
func (p *plane) call(method, path string, in, out any) (int, string) {
	p.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequest(method, p.url+"/api/v1/projects/default/"+path, bytes.NewReader(b))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if out != nil && res.StatusCode < 400 {
		if err := json.Unmarshal(body, out); err != nil {
			p.t.Fatalf("%s %s answered %.200s: %v", method, path, body, err)
		}
	}
	return res.StatusCode, string(body)
}

// must is call, whose failure ends the test.
func (p *plane) must(method, path string, in, out any) {
	p.t.Helper()
	if status, text := p.call(method, path, in, out); status >= 400 {
		p.t.Fatalf("%s %s answered %d: %s", method, path, status, text)
	}
}

func (p *plane) status(id string) control.Status {
	p.t.Helper()
	var s control.Status
	p.must("GET", "runs/"+id, nil, &s)
	return s
}

func ended(o run.Outcome) bool {
	switch o {
	case run.Succeeded, run.Failed, run.RolledBack, run.RollbackFailed, run.Cancelled, run.Superseded:
		return true
	}
	return false
}

// git runs git in a folder, with nothing of this machine in what it makes.
func git(t *testing.T, dir string, in io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	cmd.Stdin = in
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.test", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z",
		"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.test", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// copyTree copies a folder; files are for their owner alone.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
