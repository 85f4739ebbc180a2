package servertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
)

// Client talks to one server's API for a test.
type Client struct {
	T          testing.TB
	URL, Token string
	Patience   time.Duration // bounds every wait for a run; default [machinetest.Patience]
}

// Refused is an answer with status 400 or more.
type Refused struct {
	Status int
	Body   string
}

func (r *Refused) Error() string { return fmt.Sprintf("answered %d: %s", r.Status, r.Body) }

var client = &http.Client{Timeout: time.Minute}

// Try sends a request and decodes the answer; it leaves errors to the caller,
// whose server may be about to die.
func (c *Client) Try(method, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	body, err := c.raw(method, path, b)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(body, out)
}

func (c *Client) raw(method, path string, in []byte) ([]byte, error) {
	req, err := http.NewRequest(method, c.URL+"/api/v1/projects/default/"+path, bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 400 {
		return nil, &Refused{res.StatusCode, string(body)}
	}
	return body, nil
}

// Call sends a request that has to be answered well.
func (c *Client) Call(method, path string, in, out any) {
	c.T.Helper()
	if err := c.Try(method, path, in, out); err != nil {
		c.T.Fatalf("%s %s: %v", method, path, err)
	}
}

// Run starts a run of a repository's HEAD and returns its number.
func (c *Client) Run(repo string) string {
	c.T.Helper()
	var started struct{ Run string }
	c.Call("POST", "runs", map[string]string{"repository": repo}, &started)
	return started.Run
}

// Status reads a run.
func (c *Client) Status(run string) control.Status {
	c.T.Helper()
	var s control.Status
	c.Call("GET", "runs/"+run, nil, &s)
	return s
}

// Wait polls a run until ok, and fails with what it is at otherwise. A server
// that does not answer is asked again: it may be starting.
func (c *Client) Wait(run, what string, ok func(control.Status) bool) control.Status {
	c.T.Helper()
	patience := c.Patience
	if patience == 0 {
		patience = machinetest.Patience
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var s control.Status // a new one: absent fields must not be an earlier answer's
		err := c.Try("GET", "runs/"+run, nil, &s)
		if err == nil && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			c.T.Fatalf("run %s is not %s within %s (%v): %s", run, what, patience, err, Show(s))
		}
	}
}

// WaitState polls a run until it has a state; another final one fails the test.
func (c *Client) WaitState(run, state string) control.Status {
	c.T.Helper()
	return c.Wait(run, state, func(s control.Status) bool {
		if string(s.State) != state && Ended(s) {
			c.T.Fatalf("run %s is %s, not %s: %s", run, s.State, state, Show(s))
		}
		return string(s.State) == state
	})
}

// Bundle exports all evidence.
func (c *Client) Bundle() []byte {
	c.T.Helper()
	b, err := c.raw("GET", "evidence/bundle", nil)
	if err != nil {
		c.T.Fatalf("couldn't export the evidence: %v", err)
	}
	return b
}

// Ended reports whether a run is over.
func Ended(s control.Status) bool {
	switch s.State {
	case "succeeded", "failed", "rolled-back", "rollback-failed", "cancelled", "superseded":
		return true
	}
	return false
}

// Show is a status for people who read a failed test.
func Show(s control.Status) string {
	b, _ := json.MarshalIndent(s, "", "  ")
	return string(b)
}
