package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/run"
)

// api is the server as any other client sees it.
type api struct {
	base, token string
	http        *http.Client
	patience    time.Duration // with a run that is held
}

// holdPatience is how long a run may be held before a person is needed: a machine
// that does much else lets a host fall silent for a moment, or an interval go by
// without data, and the run goes on by itself.
const holdPatience = 30 * time.Second

// project is where the demo's service lives.
const project = "default"

func newAPI(base, token string) *api {
	return &api{base: base + httpapi.Prefix + "/projects/" + project + "/", token: token, http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}, patience: holdPatience}
}

func (a *api) close() { a.http.CloseIdleConnections() }

func (a *api) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("couldn't encode the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("couldn't make the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("couldn't ask the server: %w", err)
	}
	if res.StatusCode < 400 {
		return res, nil
	}
	defer res.Body.Close()
	var p httpapi.Problem
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&p); err != nil || p.Detail == "" {
		p.Detail = res.Status
	}
	return nil, fmt.Errorf("the server refused %s %s: %s", method, path, p.Detail)
}

func (a *api) json(ctx context.Context, method, path string, in, out any) error {
	res, err := a.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("couldn't read the server's answer: %w", err)
	}
	return nil
}

// start starts a run of a commit and returns its number.
func (a *api) start(ctx context.Context, repository, commit string) (string, error) {
	var s httpapi.Started
	err := a.json(ctx, http.MethodPost, "runs", httpapi.RunRequest{Repository: repository, Ref: commit}, &s)
	return s.Run, err
}

func (a *api) status(ctx context.Context, id string) (control.Status, error) {
	var s control.Status
	err := a.json(ctx, http.MethodGet, "runs/"+url.PathEscape(id), nil, &s)
	return s, err
}

// abort takes a rollout back that waits for a person.
func (a *api) abort(ctx context.Context, id, reason string) error {
	var d httpapi.Done
	return a.json(ctx, http.MethodPost, "runs/"+url.PathEscape(id)+"/abort", map[string]string{"reason": reason}, &d)
}

// statusEvery is how often a run is looked at.
const statusEvery = 150 * time.Millisecond

// follow shows a run to f until it has ended, or waits for a person.
func (a *api) follow(ctx context.Context, id string, f func(control.Status)) (control.Status, error) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	var since time.Time // it is held
	for {
		s, err := a.status(ctx, id)
		if err != nil {
			return s, err
		}
		f(s)
		switch {
		case s.State != run.Waiting || held(s) == "":
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		if ended(s.State) || !since.IsZero() && time.Since(since) >= a.patience {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-tick.C:
		}
	}
}

func ended(o run.Outcome) bool {
	switch o {
	case run.Succeeded, run.Failed, run.RolledBack, run.RollbackFailed, run.Cancelled, run.Superseded:
		return true
	}
	return false
}

// held is why a run's rollout waits for a person.
func held(s control.Status) string {
	for _, e := range s.Environments {
		if e.Held != "" {
			return e.Held
		}
	}
	return ""
}

// environment returns what is known of one environment of a run.
func environment(s control.Status, name string) control.EnvironmentStatus {
	for _, e := range s.Environments {
		if e.Name == name {
			return e
		}
	}
	return control.EnvironmentStatus{Name: name}
}

// proxied sums up what the proxies counted for an environment, over all
// releases that it has had.
func (a *api) proxied(ctx context.Context, environment string) (int64, error) {
	var hosts []struct {
		Services []struct {
			Environment string `json:"environment"`
			Requests    int64  `json:"requests"`
		} `json:"services"`
	}
	if err := a.json(ctx, http.MethodGet, "hosts", nil, &hosts); err != nil {
		return 0, err
	}
	n := int64(0)
	for _, h := range hosts {
		for _, s := range h.Services {
			if s.Environment != environment {
				continue
			}
			n += s.Requests
		}
	}
	return n, nil
}

// export writes the project's evidence into a file.
func (a *api) export(ctx context.Context, path string) error {
	res, err := a.do(ctx, http.MethodGet, "evidence/bundle", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("couldn't write the evidence: %w", err)
	}
	if _, err := io.Copy(f, res.Body); err != nil {
		_ = f.Close()
		return fmt.Errorf("couldn't write the evidence: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("couldn't write the evidence: %w", err)
	}
	return nil
}
