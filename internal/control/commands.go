package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// Command is a person's wish for one rollout.
type Command struct {
	rollout.Command
	Environment string
	Revision    int64 // of facts, that the person looked at; 0: whatever it is
}

// maxMeet bounds how often a command is taken anew because a worker's turn, which
// only counted, was written at the same moment.
const maxMeet = 10

// Rollout hands a person's command to the rollout of a run's environment. An
// abort beats an advance: it is taken whatever revision it was given for.
func (c *Controller) Rollout(ctx context.Context, project, runID string, cmd Command) error {
	var id string
	var err error
	for range maxMeet {
		id, err = c.command(ctx, project, runID, cmd)
		if _, said := errors.AsType[*told](err); said || !errors.Is(err, store.ErrStale) {
			break
		}
	}
	if err != nil || id == "" {
		return err
	}
	return c.act(ctx, project, id)
}

// verb is a command in a sentence.
func verb(k rollout.CommandKind) string { return strings.ReplaceAll(string(k), "-", " ") }

// command takes a person's command in one turn, and returns the rollout that has
// something to do then.
func (c *Controller) command(ctx context.Context, project, runID string, cmd Command) (id string, err error) {
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.readRun(tx, project, runID)
		if err != nil {
			return err
		}
		if building := t.state.Phase == run.Queued || t.state.Phase == run.Building; building && cmd.Kind == rollout.Abort {
			return t.cancel(cmd.By, cmd.Reason)
		}
		if cmd.Kind == rollout.Resume {
			if id, err = t.putBack(cmd); err != nil || id != "" {
				return err
			}
		}
		if t.state.Phase == run.Ended {
			return refuse("run %s has ended (%s), so there is nothing to %s; `sluice explain %s` says what you can do", runID, t.state.Outcome, verb(cmd.Kind), runID)
		}
		e, err := t.environment(cmd.Environment)
		if err != nil {
			return err
		}
		if e.Rollout == "" {
			if cmd.Kind == rollout.Abort {
				return t.cancel(cmd.By, cmd.Reason)
			}
			return refuse("%s of run %s has no rollout for %s to act on: it is %s; `sluice explain %s` says more", e.Name, runID, cmd.Kind, orPending(e.State), runID)
		}
		ro, err := c.openTurn(tx, project, e.Rollout)
		if err != nil {
			return err
		}
		if ro.state.Phase.Terminal() {
			return refuse("the rollout of run %s in %s has ended (%s), so there is nothing to %s; `sluice explain %s` says what you can do", runID, e.Name, ro.state.Phase, verb(cmd.Kind), runID)
		}
		if cmd.Revision != 0 && cmd.Revision != ro.revision() && cmd.Kind != rollout.Abort {
			return &told{kind: store.ErrStale, text: fmt.Sprintf("the rollout is at revision %d, you looked at %d: it moved meanwhile; look again with `sluice status %s` and repeat the command if you still want it", ro.revision(), cmd.Revision, runID)}
		}
		if err := ro.catchUp(); err != nil {
			return err
		}
		if err := ro.feed(rollout.Event{Command: &cmd.Command}); errors.Is(err, rollout.ErrRefused) || errors.Is(err, rollout.ErrTransition) {
			if ro.state.Paused.On && (cmd.Kind == rollout.Pause || cmd.Kind == rollout.Advance) {
				return refuse("%s; `sluice resume %s --env %s` lets it go on", err, runID, e.Name)
			}
			return refuse("%s", err)
		} else if err != nil {
			return err
		}
		id = ro.row.ID
		return ro.close()
	})
	return id, err
}

// environment finds the one that a command names, or the one that is under way.
func (t *runTurn) environment(name string) (*run.Environment, error) {
	if name == "" {
		action, i := run.Next(t.state)
		if action == run.ActBuild {
			return nil, refuse("run %s is still building; `sluice explain %s` says more", t.row.ID, t.row.ID)
		}
		if i >= 0 {
			return &t.state.Environments[i], nil
		}
		return nil, refuse("run %s is about to end", t.row.ID)
	}
	i := slices.IndexFunc(t.state.Environments, func(e run.Environment) bool { return e.Name == name })
	if i < 0 {
		return nil, invalid("run %s has no environment %q; it has %s", t.row.ID, name, t.places())
	}
	return &t.state.Environments[i], nil
}

// places names the environments that the run goes through.
func (t *runTurn) places() string {
	var all []string
	for _, e := range t.state.Environments {
		all = append(all, e.Name)
	}
	return strings.Join(all, ", ")
}

// cancel ends a run that exposed nobody yet.
func (t *runTurn) cancel(by release.Actor, reason string) error {
	if t.state.Cancel != "" {
		return nil // asked twice: the first one's words stay
	}
	if reason == "" {
		reason = "aborted"
	}
	t.state.Cancel, t.state.CancelBy = fmt.Sprintf("%s by %s", reason, by), by
	t.wakeIn(0)
	return t.close()
}

// Abort ends a run: a build is stopped, a wait given up, a rollout rolled back.
func (c *Controller) Abort(ctx context.Context, project, runID, env, reason string, by release.Actor) error {
	return c.Rollout(ctx, project, runID, Command{Environment: env, Command: rollout.Command{Kind: rollout.Abort, By: by, Reason: reason}})
}

// Promote starts a run that takes a release, which exists, into an environment.
func (c *Controller) Promote(ctx context.Context, project, prefix, env string, by release.Actor) (string, error) {
	var id string
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		rel, err := findRelease(tx, project, "", prefix)
		if err != nil {
			return err
		}
		from, err := c.readRun(tx, project, rel.Run)
		if err != nil {
			return err
		}
		if _, ok := from.def.Environment(env); !ok {
			return invalid("%s has no environment %q; it has %s", rel.Service, env, names(from.def))
		}
		m, err := release.ParseManifest(rel.Manifest, rel.ID)
		if err != nil {
			return err
		}
		id, err = c.insertRun(tx, store.Run{
			Project: project, Kind: run.KindPromote, Service: rel.Service, Repository: from.row.Repository, Path: from.row.Path,
			Commit: rel.Commit, To: env, Release: rel.ID, Actor: by,
		}, from.def, run.State{Phase: run.Promoting, Release: rel.ID, Artifacts: m.Artifacts, Environments: []run.Environment{{Name: env}}})
		return err
	})
	return id, err
}

func names(d pipeline.Definition) string {
	s := ""
	for i, e := range d.Environments {
		if i > 0 {
			s += ", "
		}
		s += e.Name
	}
	return s
}

func findRelease(tx *store.Tx, project, service, prefix string) (store.Release, error) {
	if hex := strings.TrimPrefix(prefix, "sha256:"); len(hex) < 4 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return store.Release{}, invalid("%q names no release: give its digest, or at least the first four characters of it; `sluice artifact ls` lists them", clip(prefix))
	}
	found, err := tx.FindReleases(project, service, prefix)
	if err != nil {
		return store.Release{}, fmt.Errorf("couldn't look for release %s: %w", prefix, err)
	}
	switch len(found) {
	case 0:
		return store.Release{}, missing("there is no release %q; `sluice artifact ls` lists them", prefix)
	case 1:
		return found[0], nil
	}
	return store.Release{}, invalid("%d releases begin with %q; give more characters", len(found), prefix)
}

// insertRun writes a new run and wakes it.
func (c *Controller) insertRun(tx *store.Tx, row store.Run, def pipeline.Definition, s run.State) (string, error) {
	s.V, s.Outcome = run.Version, run.Running
	row.Phase, row.Live = string(s.Outcome), true
	now := tx.Now()
	row.WakeAt = &now
	var err error
	if row.Definition, err = json.Marshal(def); err != nil {
		return "", fmt.Errorf("couldn't encode the definition: %w", err)
	}
	if row.State, err = json.Marshal(s); err != nil {
		return "", fmt.Errorf("couldn't encode the run: %w", err)
	}
	if err := tx.InsertRun(&row); err != nil {
		return "", fmt.Errorf("couldn't write the run: %w", err)
	}
	t := &runTurn{c: c, tx: tx, row: row, def: def, state: s}
	return row.ID, t.tell("", "run", map[string]string{"state": row.Phase, "kind": row.Kind, "by": string(row.Actor)})
}

// Lift ends a quarantine.
func (c *Controller) Lift(ctx context.Context, project, service, prefix, reason string, by release.Actor) error {
	if reason == "" {
		return invalid("say why the release is safe now: --reason TEXT")
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		rel, err := findRelease(tx, project, service, prefix)
		if err != nil {
			return err
		}
		if _, bad, err := tx.Quarantined(project, rel.Service, rel.ID); err != nil {
			return err
		} else if !bad {
			return refuse("release %s is not quarantined", rel.ID.Short())
		}
		if err := tx.LiftQuarantine(project, rel.Service, rel.ID, by, reason); err != nil {
			return fmt.Errorf("couldn't lift the quarantine: %w", err)
		}
		at := about{project: project, run: rel.Run}
		ev, err := c.event(tx, at, by, reason)
		if err != nil {
			return err
		}
		_, err = c.record(tx, fmt.Sprintf("lift/%s/%d", rel.ID.Short(), tx.Now().UnixMicro()), at,
			evidence.Quarantine{Event: ev, Change: evidence.Lifted}, evidence.ReleaseSubject(project, rel.Service, rel.ID))
		return err
	})
}
