package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// checkEffect is the promise to run the checks of a step.
type checkEffect struct {
	Step int `json:"step"`
}

// startCheck runs promised checks beside the loop, once at a time here, so that
// an abort or a bad verdict is not kept waiting by a slow check. Checks are
// requests that may be repeated; after a crash they are made again.
func (c *Controller) startCheck(e store.Effect) {
	key := fmt.Sprintf("%s/%s/%d", e.Project, e.Rollout, e.Generation)
	if _, running := c.checking.LoadOrStore(key, true); running {
		return
	}
	c.background.Go(func() {
		defer c.checking.Delete(key)
		if err := c.check(c.ctx, e); err != nil && c.ctx.Err() == nil {
			c.log.Error("couldn't run checks; trying again", "rollout", e.Rollout, "error", err)
		}
	})
}

func (c *Controller) check(ctx context.Context, e store.Effect) error {
	var want checkEffect
	if err := json.Unmarshal(e.Data, &want); err != nil {
		return fmt.Errorf("couldn't read which checks to run: %w", err)
	}
	var checks []pipeline.Check
	var addresses []string
	err := c.store.View(ctx, func(tx *store.Tx) error {
		t, err := c.openTurn(tx, e.Project, e.Rollout)
		if err != nil {
			return err
		}
		if t.state.Step != want.Step || !t.row.Live {
			return nil
		}
		for _, name := range t.plan.Steps[want.Step].Checks {
			for _, k := range t.plan.Environment.Verify {
				if k.Name == name {
					checks = append(checks, k)
				}
			}
		}
		rows, err := tx.ObservedHosts()
		if err != nil {
			return fmt.Errorf("couldn't read what hosts report: %w", err)
		}
		// Only what was asked can pass: each check, at each host.
		to := t.plan.Environment.Target
		if addresses = host.Addresses(host.Decode(rows), t.key(), to); len(addresses) < len(to.Hosts) {
			return fmt.Errorf("%d of %d hosts say where %s answers", len(addresses), len(to.Hosts), t.key())
		}
		if n := len(t.plan.Steps[want.Step].Checks); len(checks) != n {
			return fmt.Errorf("%d of the %d checks of step %d are in the definition that %s was started with", len(checks), n, want.Step, e.Rollout)
		}
		return nil
	})
	if err != nil {
		return err
	}
	failed := ""
	for _, k := range checks {
		for _, a := range addresses {
			if err := request(ctx, a, *k.HTTP); err != nil {
				if ctx.Err() != nil {
					return ctx.Err() // a shutdown says nothing of the release
				}
				failed = fmt.Sprintf("check %s at %s: %v", k.Name, a, err)
			}
		}
	}
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.FinishEffect(e.Project, e.Rollout, e.Generation, outcomeOf(failed)); err != nil {
			return err
		}
		t, err := c.openTurn(tx, e.Project, e.Rollout)
		if err != nil || !t.row.Live {
			return err
		}
		if err := t.feed(rollout.Event{Checked: &rollout.Checked{Step: want.Step, OK: failed == "", Reason: clip(failed)}}); err != nil {
			return err
		}
		return t.close()
	})
	if err != nil {
		return err
	}
	return c.act(ctx, e.Project, e.Rollout)
}

func outcomeOf(failed string) string {
	if failed == "" {
		return "ok"
	}
	return failed
}

// checkPause lies between two tries of a check.
const checkPause = 250 * time.Millisecond

// request makes one check, with its retries.
func request(ctx context.Context, address string, k pipeline.HTTPCheck) error {
	var last error
	for try := 0; try <= k.Retries; try++ {
		if try > 0 {
			timer := time.NewTimer(checkPause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			case <-timer.C:
			}
		}
		if last = requestOnce(ctx, address, k); last == nil || ctx.Err() != nil {
			return last
		}
	}
	return last
}

// checkBody bounds how much of an answer is searched.
const checkBody = 1 << 20

func requestOnce(ctx context.Context, address string, k pipeline.HTTPCheck) error {
	ctx, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+k.Path, nil)
	if err != nil {
		return fmt.Errorf("couldn't make the request: %w", err)
	}
	req.Header.Set("User-Agent", "sluice-check")
	res, err := checkClient.Do(req)
	if err != nil {
		return fmt.Errorf("GET %s was not answered: %w", k.Path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, checkBody))
	if err != nil {
		return fmt.Errorf("GET %s was answered in part: %w", k.Path, err)
	}
	if res.StatusCode != k.Status {
		return fmt.Errorf("GET %s answered %d, wanted %d", k.Path, res.StatusCode, k.Status)
	}
	if k.Contains != "" && !strings.Contains(string(body), k.Contains) {
		return fmt.Errorf("GET %s answered without %q", k.Path, k.Contains)
	}
	return nil
}

// checkClient follows no redirect: a check says which status it wants. Each
// check has a connection of its own, as a new user would.
var checkClient = &http.Client{
	Transport: &http.Transport{
		DisableKeepAlives: true, Proxy: nil,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// keyOf names the environment that a rollout's row is of.
func keyOf(r store.Rollout) release.Key {
	return release.Key{Project: r.Project, Service: r.Service, Environment: r.Environment}
}
