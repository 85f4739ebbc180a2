package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/server"
)

// client talks to a server.
type client struct {
	base    string
	token   string
	project string
	http    *http.Client
}

// connect finds the server: by flag or environment, or in the data folder.
func (a *app) connect() (*client, error) {
	c := &client{base: strings.TrimRight(a.server, "/"), token: a.token, project: a.project, http: &http.Client{}}
	if c.token == "" {
		c.token = os.Getenv("SLUICE_TOKEN")
	}
	if c.base != "" {
		if u, err := url.Parse(c.base); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, usage("the server's address %q is no URL: give one like http://127.0.0.1:8711 with --server or SLUICE_SERVER", c.base)
		}
		if c.token == "" {
			return nil, usage("no access token for %s: give --token or SLUICE_TOKEN; it is the file token in the server's data folder", c.base)
		}
		return c, nil
	}
	folder := server.Folder(a.data)
	info, running, err := folder.Find()
	if err != nil {
		return nil, err
	}
	if !running {
		return nil, &exit{code: Unreachable, err: fmt.Errorf("no server runs on the data folder %s; start one: sluice up --data %s (or name the folder of one with --data, or its address with --server)", a.data, a.data)}
	}
	c.base = info.URL
	if c.token == "" {
		if c.token, err = folder.Token(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *client) path(format string, args ...any) string {
	for i, x := range args {
		if s, ok := x.(string); ok {
			args[i] = url.PathEscape(s)
		}
	}
	return c.base + httpapi.Prefix + "/projects/" + url.PathEscape(c.project) + "/" + fmt.Sprintf(format, args...)
}

// unreachable is the error of a server that does not answer.
func (c *client) unreachable(err error) error {
	return &exit{code: Unreachable, err: fmt.Errorf("couldn't reach the server at %s: %w; start one: sluice up", c.base, err)}
}

// do sends a request and decodes the answer into out.
func (c *client) do(ctx context.Context, method, target string, in, out any) error {
	b, err := c.raw(ctx, method, target, in)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("couldn't read the server's answer: %w; is %s a Sluice server of this version?", err, c.base)
	}
	return nil
}

// maxAnswer bounds an answer that is held in memory, in bytes.
const maxAnswer = 256 << 20

// raw sends a request and returns the answer as it is. A command carries a key
// by which the server knows it again, so that it can be sent once more when the
// connection broke and nobody knows whether it arrived.
func (c *client) raw(ctx context.Context, method, target string, in any) (json.RawMessage, error) {
	var body []byte
	h := http.Header{}
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("couldn't encode the request: %w", err)
		}
	}
	if method == http.MethodPost {
		h.Set("Idempotency-Key", rand.Text())
	}
	for try := 0; ; try++ {
		b, err := c.once(ctx, method, target, body, h)
		var broke *broken
		if err == nil || try == 2 || !errors.As(err, &broke) || ctx.Err() != nil {
			return b, err
		}
	}
}

// broken is a connection that was there and broke.
type broken struct{ error }

func (b *broken) Unwrap() error { return b.error }

func (c *client) once(ctx context.Context, method, target string, body []byte, h http.Header) (json.RawMessage, error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	res, err := c.send(ctx, method, target, in, h)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, c.unreachable(&broken{err})
	}
	return b, nil
}

func (c *client) send(ctx context.Context, method, target string, body io.Reader, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, usage("couldn't make the request: %w; is the address of the server right?", err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		cause := errors.Unwrap(err)
		var dial *net.OpError
		if !errors.As(cause, &dial) || dial.Op != "dial" {
			cause = &broken{cause}
		}
		return nil, c.unreachable(cause)
	}
	if res.StatusCode < 400 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, readProblem(res)
}

// refused is what the server would not do, with the reason.
type refused struct{ httpapi.Problem }

func (r *refused) Error() string {
	s := lines(pipeline.PlainTimes(r.Detail))
	for _, e := range r.Errors {
		s += "\n  " + clean(e)
	}
	return s
}

// lines cleans every line of a text.
func lines(text string) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range all {
		all[i] = clean(l)
	}
	return strings.Join(all, "\n")
}

func readProblem(res *http.Response) error {
	var p refused
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&p.Problem); err != nil || p.Detail == "" {
		p.Problem = httpapi.Problem{Status: res.StatusCode, Detail: "the server answered " + res.Status}
	}
	code := Failed
	switch res.StatusCode {
	case http.StatusUnprocessableEntity, http.StatusBadRequest, http.StatusNotFound, http.StatusUnauthorized:
		code = Usage
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		code = Unreachable
	}
	return &exit{code: code, err: &p}
}

// event is one server-sent event.
type event struct {
	ID, Kind string
	Data     eventData
}

type eventData struct {
	Run         string          `json:"run"`
	Service     string          `json:"service"`
	Environment string          `json:"environment,omitempty"`
	At          time.Time       `json:"at"`
	Data        json.RawMessage `json:"data"`
}

// comeBack is how long a lost server is waited for: long enough for an upgrade.
const comeBack = 30 * time.Second

// events follows the live feed of a run until ctx ends or f says stop. It comes
// back by itself after the connection was lost, and misses nothing.
func (c *client) events(ctx context.Context, run string, f func(event) (stop bool)) error {
	last := ""
	var since time.Time // the connection was lost
	for {
		before, started := last, time.Now()
		err := c.follow(ctx, run, &last, f)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		var e *exit
		if errors.As(err, &e) && e.code != Unreachable {
			return err
		}
		if since.IsZero() || last != before || time.Since(started) > 5*time.Second {
			since = time.Now()
		}
		if time.Since(since) > comeBack {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// follow reads one connection's events; nil says that f wanted to stop.
func (c *client) follow(ctx context.Context, run string, last *string, f func(event) bool) error {
	h := http.Header{}
	if *last != "" {
		h.Set("Last-Event-ID", *last)
	}
	res, err := c.send(ctx, http.MethodGet, c.path("events")+"?run="+url.QueryEscape(run), nil, h)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	s := bufio.NewScanner(res.Body)
	s.Buffer(nil, 4<<20)
	var e event
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ": ")
		switch key {
		case "id":
			e.ID = value
		case "event":
			e.Kind = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.Data); err != nil {
				return fmt.Errorf("couldn't read an event: %w", err)
			}
		case "":
			if e.ID == "" {
				continue
			}
			*last = e.ID
			if f(e) {
				return nil
			}
			e = event{}
		}
	}
	return c.unreachable(errors.Join(errors.New("the connection was lost"), s.Err()))
}
