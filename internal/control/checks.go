package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/check"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// Checks asks a running version the questions of a definition.
type Checks interface {
	// Ready says why a check could not be run here, and what to do.
	Ready(ctx context.Context, c pipeline.Check) error
	// Run makes a check. An error is no verdict: it is made again.
	Run(ctx context.Context, q check.Request) (check.Outcome, error)
}

// Unpacker is what [Artifacts] may do beside: commands run in a copy of what was
// released.
type Unpacker interface {
	// Unpack writes an artifact's files, verified, into dir, which is not there yet.
	Unpack(ctx context.Context, project, service string, a release.Artifact, dir string) error
}

// checkEffect is the promise to run the checks of a step.
type checkEffect struct {
	Step int `json:"step"`
}

// Checked is what a check of a rollout came to at one address. Output and Shot
// are blobs.
type Checked struct {
	Name    string         `json:"name"`
	Kind    string         `json:"kind"` // http, command, browser
	Step    int            `json:"step"`
	Hook    string         `json:"hook,omitempty"` // beforeTraffic, afterStep, afterTraffic; empty: verify
	Address string         `json:"address"`
	OK      bool           `json:"ok"`
	Reason  string         `json:"reason,omitempty"`
	Tries   int            `json:"tries"`
	Output  release.Digest `json:"output,omitempty"`
	Shot    release.Digest `json:"shot,omitempty"`
	At      time.Time      `json:"at"`
}

// maxChecked bounds how many outcomes a rollout's row keeps; all are in evidence.
const maxChecked = 100

// checking are the checks of a step, as they were when it began.
type checking struct {
	plan      planned
	key       release.Key
	release   release.ID
	manifest  []byte
	commit    string
	hook      string
	checks    []pipeline.Check
	addresses []string
}

// errNoAddress: a host has not told yet where it answers. It soon does, or the
// rollout is held for it or runs out of time, and says so.
var errNoAddress = errors.New("not every host can be asked yet")

// startCheck runs promised checks beside the loop, once at a time here, so that
// an abort or a bad verdict is not kept waiting by a slow check. Checks may be
// repeated; after a crash they are made again.
func (c *Controller) startCheck(e store.Effect) {
	key := fmt.Sprintf("%s/%s/%d", e.Project, e.Rollout, e.Generation)
	if _, running := c.checking.LoadOrStore(key, true); running {
		return
	}
	c.background.Go(func() {
		defer c.checking.Delete(key)
		switch err := c.check(c.ctx, e); {
		case err == nil || c.ctx.Err() != nil:
		case errors.Is(err, errNoAddress):
			c.log.Debug("checks wait", "rollout", e.Rollout, "for", err)
		default:
			c.log.Error("couldn't run checks; trying again", "rollout", e.Rollout, "error", err)
		}
	})
}

func (c *Controller) check(ctx context.Context, e store.Effect) error {
	var want checkEffect
	if err := json.Unmarshal(e.Data, &want); err != nil {
		return fmt.Errorf("couldn't read which checks to run: %w", err)
	}
	var todo checking
	err := c.store.View(ctx, func(tx *store.Tx) error {
		t, err := c.openTurn(tx, e.Project, e.Rollout)
		if err != nil {
			return err
		}
		if !t.wantsChecks(want.Step) {
			return nil // its time is over; the effect is finished below
		}
		todo, err = t.checksOf(want.Step)
		return err
	})
	if err != nil {
		return err
	}
	ctx, stop := c.whileWanted(ctx, e, want.Step)
	defer stop()
	done, failed, err := c.runChecks(ctx, todo, want.Step)
	if errors.Is(err, errNotWanted) {
		return nil // the turn that left the step promised something else
	}
	if err != nil {
		return err
	}
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.FinishEffect(e.Project, e.Rollout, e.Generation, outcomeOf(failed)); err != nil {
			return err
		}
		t, err := c.openTurn(tx, e.Project, e.Rollout)
		if err != nil || !t.row.Live {
			return err
		}
		for i, k := range done {
			if err := t.keepCheck(fmt.Sprintf("check/%s/%d/%d", t.row.ID, e.Generation, i), todo, k); err != nil {
				return err
			}
		}
		if err := t.catchUp(); err != nil {
			return err
		}
		if err := t.feed(rollout.Event{Checked: &rollout.Checked{Step: want.Step, OK: failed == "", Reason: clip(failed)}}); err != nil {
			return err
		}
		return t.close()
	})
	if errors.Is(err, store.ErrExists) {
		return nil // another control plane made them too, and its word stays
	}
	if err != nil {
		return err
	}
	return c.act(ctx, e.Project, e.Rollout)
}

// checksOf gathers what a step asks, and where.
func (t *turn) checksOf(step int) (checking, error) {
	p := t.plan.Steps[step]
	out := checking{plan: t.plan, key: t.key(), release: t.row.Release, manifest: t.candidate.Manifest, hook: p.Hook}
	for _, name := range p.Checks {
		for _, k := range t.plan.Environment.Checks() {
			if k.Name == name {
				out.checks = append(out.checks, k)
			}
		}
	}
	if n := len(p.Checks); len(out.checks) != n {
		return out, fmt.Errorf("%d of the %d checks of step %d are in the definition that %s was started with", len(out.checks), n, step, t.row.ID)
	}
	rows, err := t.tx.ObservedHosts()
	if err != nil {
		return out, fmt.Errorf("couldn't read what hosts report: %w", err)
	}
	reports := host.Decode(rows)
	// Only what was asked can pass: each check, at each host. Before traffic it is
	// the candidate alone that is asked, later whatever users get.
	to, where := t.plan.Environment.Target, host.Addresses
	if p.Weight == 0 {
		where = host.Previews
	}
	if to.Listen == "" {
		out.addresses = []string{""} // a worker has none; commands know where it works
	} else if err := host.Misplaced(reports, t.key(), to); err != nil {
		return out, fmt.Errorf("%w: %w", errNoAddress, err) // the rollout is held for it
	} else if out.addresses = where(reports, t.key(), to); len(out.addresses) < len(to.Hosts) {
		return out, fmt.Errorf("%w: %d of %d hosts say where %s answers", errNoAddress, len(out.addresses), len(to.Hosts), t.key())
	}
	row, err := t.tx.Run(t.row.Project, t.row.Run)
	if err != nil {
		return out, fmt.Errorf("couldn't read run %s: %w", t.row.Run, err)
	}
	out.commit = row.Commit
	return out, nil
}

// misplaced says why the hosts can't be asked where they say that they answer, if a
// step of the plan would ask them.
func (t *turn) misplaced(reports []host.Report) string {
	to := t.plan.Environment.Target
	if to.Listen == "" || !slices.ContainsFunc(t.plan.Plan.Steps, func(s rollout.PlanStep) bool { return s.Kind == rollout.StepCheck }) {
		return ""
	}
	err := host.Misplaced(reports, t.key(), to)
	if err == nil {
		return ""
	}
	return clip("checks can't be made: " + strings.ReplaceAll(err.Error(), "\n", "; "))
}

// wantsChecks says whether a rollout still waits for the checks of a step.
func (t *turn) wantsChecks(step int) bool {
	return t.row.Live && t.state.Step == step && t.state.Phase == rollout.Checking
}

// wantedPoll is how soon checks end that nobody waits for any more.
const wantedPoll = 500 * time.Millisecond

// errNotWanted ends checks whose rollout has left their step.
var errNotWanted = errors.New("the rollout went on without these checks")

// whileWanted ends the checks when the rollout leaves their step: one that goes
// back, or was aborted, waits for no command.
func (c *Controller) whileWanted(ctx context.Context, e store.Effect, step int) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	poll := time.NewTicker(wantedPoll)
	go func() {
		defer close(ended)
		defer poll.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
			}
			wanted := true
			err := c.store.View(ctx, func(tx *store.Tx) error {
				t, err := c.openTurn(tx, e.Project, e.Rollout)
				wanted = err != nil || t.wantsChecks(step)
				return err
			})
			if err == nil && !wanted {
				cancel(errNotWanted)
				return
			}
		}
	}()
	return ctx, func() { cancel(nil); <-ended }
}

// runChecks makes the checks one after the other and stops at the first that
// fails.
func (c *Controller) runChecks(ctx context.Context, todo checking, step int) (done []Checked, failed string, err error) {
	hide := c.knownSecrets(ctx, todo.plan.Environment)
	for _, k := range todo.checks {
		for _, a := range todo.addresses {
			out, err := c.checks.Run(ctx, check.Request{
				Check: k, Address: a, Key: todo.key, Release: todo.release, Commit: todo.commit, Redact: hide,
				Files: func(ctx context.Context, dir string) error { return c.unpack(ctx, todo, dir) },
			})
			if err != nil {
				return nil, "", err
			}
			x := Checked{Name: k.Name, Kind: k.Kind(), Step: step, Hook: todo.hook, Address: a, OK: out.OK, Reason: out.Reason, Tries: out.Tries}
			for _, b := range []struct {
				content []byte
				to      *release.Digest
			}{{out.Output, &x.Output}, {out.Shot, &x.Shot}} {
				if len(b.content) == 0 {
					continue
				}
				if *b.to, _, err = c.blobs.Put(ctx, bytes.NewReader(b.content)); err != nil {
					return nil, "", fmt.Errorf("couldn't keep the output of check %s: %w", k.Name, err)
				}
			}
			if done = append(done, x); !out.OK {
				where := ""
				if a != "" {
					where = " at " + a
				}
				return done, fmt.Sprintf("check %s%s: %s", k.Name, where, out.Reason), nil
			}
		}
	}
	return done, "", nil
}

// knownSecrets are the values that instances have and that this machine can
// read: a check that meets one must not keep it.
func (c *Controller) knownSecrets(ctx context.Context, e pipeline.Environment) []string {
	var out []string
	for _, v := range e.Target.Env {
		if v.Secret == "" || c.redact == nil {
			continue
		}
		if s, err := c.redact(ctx, v.Secret); err == nil { // what we cannot read is another host's
			out = append(out, s)
		}
	}
	return out
}

// unpack writes the files of the release that is checked.
func (c *Controller) unpack(ctx context.Context, todo checking, dir string) error {
	shelf, ok := c.artifacts.(Unpacker)
	if !ok {
		return errors.New("this control plane cannot unpack artifacts")
	}
	m, err := release.ParseManifest(todo.manifest, todo.release)
	if err != nil {
		return err
	}
	if len(m.Artifacts) != 1 {
		return fmt.Errorf("release %s has %d artifacts, and a command runs in one", todo.release.Short(), len(m.Artifacts))
	}
	return shelf.Unpack(ctx, todo.key.Project, todo.key.Service, m.Artifacts[0], dir)
}

// keepCheck records one outcome as a statement about the release, and in the row.
func (t *turn) keepCheck(id string, todo checking, k Checked) error {
	var asked pipeline.Check
	for _, x := range todo.checks {
		if x.Name == k.Name {
			asked = x
		}
	}
	definition, err := release.Canonical(asked)
	if err != nil {
		return err
	}
	st := evidence.TestResult{
		Result: evidence.TestsPassed, PassedTests: []string{k.Name},
		Configuration: []evidence.Resource{{Name: "check/" + k.Name, Digest: map[string]string{"sha256": release.DigestOf(definition).Hex()}}},
		Run:           t.row.Run, Step: k.Name, Environment: t.row.Environment, At: evidence.StampOf(t.tx.Now()),
	}
	if k.Address != "" {
		st.URL = "http://" + k.Address
	}
	if !k.OK {
		st.Result, st.PassedTests, st.FailedTests = evidence.TestsFailed, nil, []string{k.Name}
	}
	for _, b := range []struct {
		name, media string
		digest      release.Digest
	}{{"output/" + k.Name, "text/plain", k.Output}, {"screenshot/" + k.Name, "image/png", k.Shot}} {
		if b.digest != "" {
			st.Byproducts = append(st.Byproducts, evidence.Resource{Name: b.name, Digest: map[string]string{"sha256": b.digest.Hex()}, MediaType: b.media})
		}
	}
	at := about{project: t.row.Project, run: t.row.Run, environment: t.row.Environment}
	if _, err := t.c.record(t.tx, id, at, st, evidence.ReleaseSubject(t.row.Project, t.row.Service, t.row.Release)); err != nil {
		return err
	}
	k.At = t.tx.Now()
	t.watch.Checks = append(t.watch.Checks, k)
	t.watch.Checks = t.watch.Checks[max(0, len(t.watch.Checks)-maxChecked):]
	return nil
}

func outcomeOf(failed string) string {
	if failed == "" {
		return "ok"
	}
	return failed
}

// readyFor refuses checks that could not be run here, before anything is built.
func (c *Controller) readyFor(ctx context.Context, d pipeline.Definition, envs []string) error {
	for _, name := range envs {
		e, _ := d.Environment(name)
		for _, k := range e.Checks() {
			if err := c.checks.Ready(ctx, k); err != nil {
				return refuse("check %s of %s can't be run on the server's machine: %s", k.Name, name, err)
			}
			if _, ok := c.artifacts.(Unpacker); k.Command != nil && !ok {
				return refuse("check %s of %s is a command, and this control plane cannot unpack artifacts", k.Name, name)
			}
		}
	}
	return nil
}
