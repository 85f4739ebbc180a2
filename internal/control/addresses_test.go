package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/check"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// Two hosts that say one address are asked nothing: one answer must not pass for both.
// It is said loudly, and goes on when each has its own.
func TestNoCheckWhereHostsCollide(t *testing.T) {
	stories(t, func(w *world) {
		w.hosts = nil
		one, two := w.addHost("one"), w.addHost("two")
		own := two.server
		two.server = one.server
		def := w.definition(`
  - name: production
    target: {type: host, listen: 127.0.0.1:9001, run: ./app, hosts: [one, two], health: {http: /healthz}}
    verify: [{name: smoke, http: {path: /, timeout: 10s, retries: 0}}]
    rollout: {strategy: all-at-once, timeout: 10s}
`)
		r, _ := w.ship(def, "v1")
		w.until(r, "checking", func(s Status) bool { return s.Environments[0].Phase == rollout.Checking })
		if e := w.env(r); e.Phase != rollout.Checking {
			w.Errorf("both hosts say one address, and it is %s", e.Phase)
		}
		const says = "hosts one and two both say that they answer at"
		// However long it lasts, it says nothing of the release: the timeout stands still.
		w.pause(30 * time.Second)
		if e := w.env(r); e.Phase != rollout.Checking || !strings.Contains(e.WaitingFor, says) || !strings.Contains(e.WaitingFor, "--address") {
			w.Errorf("%s: it waits for %q", e.Phase, e.WaitingFor)
		}
		if log := w.logged.String(); strings.Count(log, says) != 1 || strings.Contains(log, "couldn't run checks") {
			w.Errorf("it is not told once: %s", log)
		}
		two.server = own
		w.untilState(r, run.Succeeded)
	})
}

// redacting notes what checks must not keep.
type redacting struct {
	mu   sync.Mutex
	hide []string
}

func (*redacting) Ready(context.Context, pipeline.Check) error { return nil }

func (r *redacting) Run(_ context.Context, q check.Request) (check.Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hide = append(r.hide, q.Redact...)
	return check.Outcome{OK: true, Tries: 1}, nil
}

// What instances are given, and no build step may have, is taken out of what checks
// keep too.
func TestChecksHideWhatInstancesHave(t *testing.T) {
	stories(t, func(w *world) {
		checks := &redacting{}
		w.config.Checks = checks
		w.config.Secret = func(context.Context, string) (string, error) { return "", errors.New("not for build steps") }
		w.config.Redact = func(_ context.Context, ref string) (string, error) { return "value of " + ref, nil }
		w.front, w.c = w.controller(), w.controller()
		w.first(`
  - name: production
    target: {type: host, listen: 127.0.0.1:9001, run: ./app, env: {TOKEN: {secret: 'file:/named/token'}}, health: {http: /healthz}}
    verify: [{name: smoke, http: {path: /}}]
    rollout: all-at-once
`)
		if !slices.Contains(checks.hide, "value of file:/named/token") {
			w.Errorf("checks hide %q", checks.hide)
		}
	})
}
