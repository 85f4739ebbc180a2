package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/sluicehq/sluice/internal/agent/wire"
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
	Revision    int64 // of the rollout that the person looked at; 0: whatever it is
}

// Rollout hands a person's command to the rollout of a run's environment. An
// abort beats an advance: it is taken whatever revision it was given for.
func (c *Controller) Rollout(ctx context.Context, project, runID string, cmd Command) error {
	var id string
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.readRun(tx, project, runID)
		if err != nil {
			return err
		}
		if building := t.state.Phase == run.Queued || t.state.Phase == run.Building; building && cmd.Kind == rollout.Abort {
			return t.cancel(cmd.By, cmd.Reason)
		}
		e, err := t.environment(cmd.Environment)
		if err != nil {
			return err
		}
		if e.Rollout == "" || t.state.Phase == run.Ended {
			if cmd.Kind == rollout.Abort && t.state.Phase != run.Ended {
				return t.cancel(cmd.By, cmd.Reason)
			}
			return refuse("%s of run %s has no rollout for %s to act on: it is %s; `sluice explain %s` says more", e.Name, runID, cmd.Kind, orPending(e.State), runID)
		}
		ro, err := c.openTurn(tx, project, e.Rollout)
		if err != nil {
			return err
		}
		if cmd.Revision != 0 && cmd.Revision != ro.row.Revision && cmd.Kind != rollout.Abort {
			return &told{kind: store.ErrStale, text: fmt.Sprintf("the rollout is at revision %d, you looked at %d: it moved meanwhile; look again with `sluice status %s` and repeat the command if you still want it", ro.row.Revision, cmd.Revision, runID)}
		}
		if err := ro.feed(rollout.Event{Command: &cmd.Command}); errors.Is(err, rollout.ErrRefused) || errors.Is(err, rollout.ErrTransition) {
			return refuse("%s", err)
		} else if err != nil {
			return err
		}
		id = ro.row.ID
		return ro.close()
	})
	if err != nil || id == "" {
		return err
	}
	return c.act(ctx, project, id)
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
		return nil, refuse("run %s has ended (%s)", t.row.ID, t.state.Outcome)
	}
	i := slices.IndexFunc(t.state.Environments, func(e run.Environment) bool { return e.Name == name })
	if i < 0 {
		return nil, invalid("run %s has no environment %q", t.row.ID, name)
	}
	return &t.state.Environments[i], nil
}

// cancel ends a run that exposed nobody yet.
func (t *runTurn) cancel(by release.Actor, reason string) error {
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
	if prefix == "" {
		return store.Release{}, invalid("name a release by its digest, or by the first characters of it")
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

// Way says how a release can be brought back, before anything is done.
type Way struct {
	Kind     string     `json:"kind"` // warm, cold, impossible
	From     release.ID `json:"from"`
	To       release.ID `json:"to"`
	Seconds  int        `json:"seconds"` // expected until all traffic is back
	Sentence string     `json:"sentence"`
}

// WayBack says how service would be rolled back in env. An empty to means the
// previous release.
func (c *Controller) WayBack(ctx context.Context, project, service, env, to string) (Way, error) {
	var way Way
	key := release.Key{Project: project, Service: service, Environment: env}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		live, busy, err := tx.LiveRollout(key)
		if err != nil {
			return fmt.Errorf("couldn't look for a live rollout of %s: %w", key, err)
		}
		if busy {
			way, _, err = c.wayOut(tx, live, to)
			return err
		}
		way, _, err = c.wayBack(tx, key, to)
		return err
	})
	return way, err
}

// wayOut says what a rollback does while a rollout is live: it aborts it, unless
// that one is the way back itself.
func (c *Controller) wayOut(tx *store.Tx, live store.Rollout, to string) (way Way, abort bool, err error) {
	t, err := c.turnOf(tx, live)
	if err != nil {
		return Way{}, false, err
	}
	way = Way{Kind: "warm", From: live.Release, To: t.restoreID(), Seconds: 1}
	switch abort = t.plan.Strategy != rollout.StrategyRollback && t.state.Phase != rollout.RollingBack; {
	case t.plan.Strategy == rollout.StrategyRollback && t.state.Phase != rollout.RollingBack:
		way.From, way.To = way.To, way.From
		way.Sentence = fmt.Sprintf("run %s brings release %s back already", live.Run, way.To.Short())
	case t.restore == nil:
		way.Kind, way.Seconds = "impossible", 0
		way.Sentence = fmt.Sprintf("release %s is the first here: run %s is aborted, and users then get 503, as there is nothing to go back to", way.From.Short(), live.Run)
	case !abort:
		way.Sentence = fmt.Sprintf("run %s goes back to release %s already", live.Run, way.To.Short())
	default:
		way.Sentence = fmt.Sprintf("release %s is on its way (run %s): that is aborted, and all traffic goes back to release %s, which still runs, in one step", way.From.Short(), live.Run, way.To.Short())
	}
	if to == "" {
		return way, abort, nil
	}
	rel, err := findRelease(tx, live.Project, live.Service, to)
	if err != nil {
		return way, false, err
	}
	if rel.ID != way.To {
		return way, false, refuse("run %s is live in %s, and what is live can only be aborted: wait for its end, or abort it with `sluice abort %s --env %s`, and then roll back to %s", live.Run, live.Environment, live.Run, live.Environment, rel.ID.Short())
	}
	return way, abort, nil
}

func (c *Controller) wayBack(tx *store.Tx, key release.Key, to string) (Way, *wire.Revision, error) {
	row, ok, err := tx.Environment(key)
	if err != nil {
		return Way{}, nil, fmt.Errorf("couldn't read %s: %w", key, err)
	}
	if !ok {
		return Way{}, nil, missing("%s never ran in %s", key.Service, key.Environment)
	}
	current, err := decodeRevision(row.Current)
	if err != nil || current == nil {
		return Way{}, nil, errors.Join(err, refuse("nothing runs of %s in %s, so nothing can be rolled back", key.Service, key.Environment))
	}
	previous, err := decodeRevision(row.Previous)
	if err != nil {
		return Way{}, nil, fmt.Errorf("couldn't read the previous release of %s: %w", key, err)
	}
	way := Way{Kind: "impossible", From: current.Release}
	target := previous
	if to != "" {
		rel, err := findRelease(tx, key.Project, key.Service, to)
		if err != nil {
			return way, nil, err
		}
		if rel.ID == current.Release {
			return way, nil, refuse("release %s runs in %s already", rel.ID.Short(), key.Environment)
		}
		if previous == nil || previous.Release != rel.ID {
			if target, err = c.revisionOf(tx, key, rel, row); err != nil {
				return way, nil, err
			}
		}
	}
	if target == nil {
		way.Sentence = fmt.Sprintf("no earlier release of %s is known in %s; ship a fix, or name one with --to", key.Service, key.Environment)
		return way, nil, nil
	}
	if q, bad, err := tx.Quarantined(key.Project, key.Service, target.Release); err != nil {
		return way, nil, fmt.Errorf("couldn't read the quarantine: %w", err)
	} else if bad {
		way.Sentence = fmt.Sprintf("release %s is quarantined: %s; lift it first with `sluice quarantine lift %s --reason …`, or name another with --to", target.Release.Short(), q.Reason, target.Release.Short())
		return way, nil, nil
	}
	way.To = target.Release
	if previous != nil && target.Release == previous.Release && row.RetireAt != nil {
		way.Kind, way.Seconds = "warm", 1
		way.Sentence = fmt.Sprintf("release %s still runs at weight 0: all traffic goes back to it in one step, in about a second", way.To.Short())
	} else {
		way.Kind, way.Seconds = "cold", int(target.Health.StartIn.Seconds())
		way.Sentence = fmt.Sprintf("release %s must be started first (at most %d s), then all traffic goes back to it in one step", way.To.Short(), way.Seconds)
	}
	return way, target, nil
}

// revisionOf rebuilds what an earlier release needs to run here.
func (c *Controller) revisionOf(tx *store.Tx, key release.Key, rel store.Release, row store.Environment) (*wire.Revision, error) {
	p, ok, err := tx.Promotion(key, rel.ID)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the promotion of %s: %w", rel.ID.Short(), err)
	}
	if !ok {
		return nil, refuse("release %s never ran in %s, so it is no way back; promote it instead: `sluice promote %s --env %s`", rel.ID.Short(), key.Environment, rel.ID.Short(), key.Environment)
	}
	// A rollback is neither baked nor judged: only what once held here may come
	// back that way. What was stopped on its way in must pass its gates again.
	done, err := tx.Rollouts(store.RolloutFilter{Project: key.Project, Service: key.Service, Environment: key.Environment, Release: rel.ID, Phase: string(rollout.Succeeded), Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("couldn't read the rollouts of %s: %w", key, err)
	}
	if len(done) == 0 {
		return nil, refuse("release %s never finished its rollout in %s, so it is no way back; promote it instead: `sluice promote %s --env %s`", rel.ID.Short(), key.Environment, rel.ID.Short(), key.Environment)
	}
	made, err := c.readRun(tx, key.Project, p.Run)
	if err != nil {
		return nil, err
	}
	env, ok := made.def.Environment(key.Environment)
	if !ok {
		return nil, refuse("the definition of release %s has no environment %s any more", rel.ID.Short(), key.Environment)
	}
	m, err := release.ParseManifest(rel.Manifest, rel.ID)
	if err != nil {
		return nil, err
	}
	r := revision(m, rel, p.Envelope, env)
	return &r, nil
}

// Rollback takes service back in env. A live rollout is aborted, unless it is a
// way back itself; otherwise a run brings the earlier release back in one step.
func (c *Controller) Rollback(ctx context.Context, project, service, env, to, reason string, by release.Actor) (string, error) {
	key := release.Key{Project: project, Service: service, Environment: env}
	var live store.Rollout
	var busy, abort bool
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		if live, busy, err = tx.LiveRollout(key); err != nil || !busy {
			return err
		}
		_, abort, err = c.wayOut(tx, live, to)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("couldn't take %s back: %w", key, err)
	}
	if busy && !abort {
		return live.Run, nil // it does already what is asked
	}
	if busy {
		return live.Run, c.Abort(ctx, project, live.Run, env, reason, by)
	}
	var id string
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		way, target, err := c.wayBack(tx, key, to)
		if err != nil {
			return err
		}
		if target == nil {
			return refuse("%s", way.Sentence)
		}
		row, _, err := tx.Environment(key)
		if err != nil {
			return err
		}
		p, err := decodePlace(row)
		if err != nil {
			return err
		}
		rel, ok, err := tx.Release(project, target.Release)
		if err != nil || !ok {
			return fmt.Errorf("couldn't read release %s: %w", target.Release.Short(), orNotFound(err))
		}
		m, err := release.ParseManifest(rel.Manifest, rel.ID)
		if err != nil {
			return err
		}
		def := pipeline.Definition{Version: 1, Service: service, Environments: []pipeline.Environment{p.Environment}}
		id, err = c.insertRun(tx, store.Run{
			Project: project, Kind: run.KindRollback, Service: service, Commit: rel.Commit, To: env, Release: rel.ID, Actor: by,
		}, def, run.State{Phase: run.Promoting, Release: rel.ID, Artifacts: m.Artifacts, Environments: []run.Environment{{Name: env}}, Reason: reason})
		return err
	})
	return id, err
}

// startRollback writes the rollout that brings an earlier release back. It was
// promoted into this environment before, so no gate is asked again.
func (t *runTurn) startRollback(e *run.Environment, env pipeline.Environment, key release.Key) error {
	way, target, err := t.c.wayBack(t.tx, key, string(t.row.Release))
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrMissing) {
		return t.stop(e, run.Failed, "there is no way back any more: "+err.Error())
	}
	if err != nil {
		return err
	}
	if target == nil {
		return t.stop(e, run.Failed, "there is no way back any more: "+way.Sentence)
	}
	row, _, err := t.tx.Environment(key)
	if err != nil {
		return fmt.Errorf("couldn't read %s: %w", key, err)
	}
	current, err := decodeRevision(row.Current)
	if err != nil || current == nil {
		return fmt.Errorf("couldn't read what runs in %s: %w", key, orNotFound(err))
	}
	e.Previous = current.Release
	if err := t.start(e, env, rollout.CompileRollback(env), *target, current); err != nil {
		return err
	}
	at := about{project: t.row.Project, run: t.row.ID, environment: e.Name}
	ev, err := t.c.event(t.tx, at, t.row.Actor, t.state.Reason)
	if err != nil {
		return err
	}
	return t.c.takenBack(t.tx, at, *current, evidence.Rollback{Event: ev, Rollout: e.Rollout, Stage: evidence.RollbackStarted, Cause: causeCommand, To: target.Release})
}

// takenBack states a stage of a rollback that a person asked for, about the
// release that is taken back.
func (c *Controller) takenBack(tx *store.Tx, at about, back wire.Revision, p evidence.Rollback) error {
	m, err := release.ParseManifest(back.Manifest, back.Release)
	if err != nil {
		return err
	}
	_, err = c.record(tx, fmt.Sprintf("rollback/%s/%s", p.Rollout, p.Stage), at, p, evidence.Subjects(m, back.Release)...)
	return err
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
