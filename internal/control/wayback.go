package control

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// Kinds of a way back.
const (
	warm       = "warm"       // it still runs, without users
	cold       = "cold"       // it must be started first
	impossible = "impossible" // and the sentence says why
)

// Way says how a release can be brought back, before anything is done.
type Way struct {
	Kind        string     `json:"kind"` // warm, cold, impossible
	From        release.ID `json:"from"`
	To          release.ID `json:"to"`
	Seconds     int        `json:"seconds"` // expected until all traffic is back
	Sentence    string     `json:"sentence"`
	Measured    *Measured  `json:"measured,omitempty"`    // what Seconds comes from; none: the definition
	Artifact    string     `json:"artifact,omitempty"`    // where the release's files come from
	Quarantines release.ID `json:"quarantines,omitempty"` // release that is kept out afterwards, until a person lifts it
	Drill       *Drill     `json:"drill,omitempty"`       // the last rehearsal here
	NextDrill   *time.Time `json:"nextDrill,omitempty"`   // when the next one begins by itself, or as soon as it can
	Aborts      string     `json:"aborts,omitempty"`      // run that is live, and is ended for it
	why         string     // it is impossible, without what a rollback alone could do about it
}

// drills says when it was rehearsed last, and will be next.
func (w *Way) drills(p place, now time.Time) {
	w.Drill = p.Drill
	if due, asked := p.rehearsalDue(now); asked {
		w.NextDrill = &due
	}
}

// blocked says why there is no way.
func (w *Way) blocked(why, mend string) { w.why, w.Sentence = why, why+mend }

// Measured is how long a rollback or a rehearsal took, from its start until all
// users were on the other release and its checks were answered.
type Measured struct {
	Way    string    `json:"way"` // warm, cold
	Millis int64     `json:"millis"`
	Run    string    `json:"run"`
	Drill  bool      `json:"drill,omitempty"` // a rehearsal's
	At     time.Time `json:"at"`
}

// restorePoint is all that a release needs to be what it was: what hosts run, and
// the environment's settings as they were with it (address, hosts, instances).
type restorePoint struct {
	wire.Revision
	Environment pipeline.Environment
}

// WayBack says how service would be rolled back in env. An empty to means the
// previous release.
func (c *Controller) WayBack(ctx context.Context, project, service, env, to string) (Way, error) {
	way, point, err := c.way(ctx, release.Key{Project: project, Service: service, Environment: env}, to)
	if err != nil || point == nil || way.Kind == warm {
		return way, err
	}
	return way, c.provable(ctx, release.Key{Project: project, Service: service, Environment: env}, *point, &way, provenFor)
}

// provenFor is how long it is believed that a release could be started, for those
// who only look: it takes to read every byte of it. Who acts looks anew.
const provenFor = time.Minute

// way is WayBack without a look into the registry. The point is nil where a
// rollout is live, or there is no way.
func (c *Controller) way(ctx context.Context, key release.Key, to string) (way Way, point *restorePoint, err error) {
	err = c.store.View(ctx, func(tx *store.Tx) error {
		live, busy, err := tx.LiveRollout(key)
		if err != nil {
			return fmt.Errorf("couldn't look for a live rollout of %s: %w", key, err)
		}
		if busy {
			way, _, err = c.wayOut(tx, live, to)
			return err
		}
		way, point, err = c.wayBack(tx, key, to)
		return err
	})
	return way, point, err
}

// proven remembers when it was last proven that a release could be started, by
// environment. It is this process's own knowledge, and so is its clock, which
// does not jump.
type proven struct {
	mu sync.Mutex
	at map[string]time.Time
}

// maxProven bounds what is remembered; all is forgotten when there is more.
const maxProven = 10_000

func (p *proven) within(d time.Duration, key release.Key, id release.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.at[key.String()+id.Hex()]
	return ok && time.Since(at) < d
}

func (p *proven) now(key release.Key, id release.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil || len(p.at) >= maxProven {
		p.at = map[string]time.Time{}
	}
	p.at[key.String()+id.Hex()] = time.Now()
}

// provable looks whether a release that runs nowhere could be started, and says
// where its files come from. One that could not be is no way back.
func (c *Controller) provable(ctx context.Context, key release.Key, point restorePoint, way *Way, believe time.Duration) error {
	var lacks, err error
	unpacked, unheard := false, []string{}
	if err := c.store.View(ctx, func(tx *store.Tx) error {
		reports, err := c.reports.of(tx, point.Environment.Target.Hosts...)
		unpacked = err == nil && kept(reports, point.Environment.Target.Hosts, point.Release, tx.Now())
		unheard = silent(reports, point.Environment.Target.Hosts, tx.Now())
		return err
	}); err != nil {
		return err
	}
	if !c.proven.within(believe, key, point.Release) {
		if lacks, err = c.lacks(ctx, key, point.Revision, unpacked); err == nil && lacks == nil {
			c.proven.now(key, point.Release)
		}
	}
	switch {
	case err != nil:
		return err
	case lacks == nil && unpacked:
		way.Artifact = "its hosts have it unpacked: neither registry nor network is needed"
		way.Sentence += ". Its hosts have it unpacked: neither registry nor network is needed"
	case lacks == nil:
		way.Artifact = "the registry has every byte of it; a host that still has it unpacked needs no network"
		way.Sentence += ". The registry has every byte of it; a host that still has it unpacked needs no network"
	case errors.Is(lacks, errAway):
		way.Artifact = "only what hosts still have unpacked: the registry can't be asked now"
		way.Sentence += ". Its files come from what hosts still have unpacked: the registry can't be asked now"
	default:
		id := point.Release
		*way = Way{Kind: impossible, From: way.From, Drill: way.Drill, NextDrill: way.NextDrill}
		why := fmt.Sprintf("release %s can't be brought back: %s", id.Short(), lacks)
		if len(unheard) > 0 {
			why += fmt.Sprintf(". Hosts that say nothing now (%s) may keep it: ask again when they report", strings.Join(unheard, ", "))
		}
		way.blocked(why, ". Name another with --to, or ship it anew: it is built again from its commit")
	}
	return nil
}

// wayOut says what a rollback does while a rollout is live: it aborts it, unless
// that one is the way back itself.
func (c *Controller) wayOut(tx *store.Tx, live store.Rollout, to string) (way Way, abort bool, err error) {
	t, err := c.turnOf(tx, live)
	if err != nil {
		return Way{}, false, err
	}
	if t.plan.Drill {
		return way, false, refuse("a rehearsal is under way in %s (run %s): end it with `sluice abort %s --env %s`, then roll back", live.Environment, live.Run, live.Run, live.Environment)
	}
	way = Way{Kind: warm, From: live.Release, To: t.restoreID(), Seconds: 1, Artifact: "it still runs on its hosts"}
	switch abort = t.plan.Strategy != rollout.StrategyRollback && t.state.Phase != rollout.RollingBack; {
	case t.plan.Strategy == rollout.StrategyRollback && t.state.Phase != rollout.RollingBack:
		way.From, way.To = way.To, way.From
		way.Sentence = fmt.Sprintf("run %s brings release %s back already", live.Run, way.To.Short())
	case t.restore == nil:
		way.Kind, way.Seconds, way.Artifact = impossible, 0, ""
		way.Sentence = fmt.Sprintf("release %s is the first here: run %s is aborted, and users then get 503, as there is nothing to go back to", way.From.Short(), live.Run)
	case !abort:
		way.Sentence = fmt.Sprintf("run %s goes back to release %s already", live.Run, way.To.Short())
	default:
		way.Sentence = fmt.Sprintf("release %s is on its way (run %s): that is aborted, and all traffic goes back to release %s, which still runs, in one step", way.From.Short(), live.Run, way.To.Short())
	}
	if abort {
		way.Aborts = live.Run
	}
	if abort && t.state.Exposed {
		way.Quarantines = way.From
		way.Sentence += fmt.Sprintf(". Release %s is then quarantined, until a person lifts that", way.From.Short())
	}
	row, _, err := tx.Environment(t.key())
	if err != nil {
		return way, false, err
	}
	p, err := decodePlace(row)
	if err != nil {
		return way, false, err
	}
	way.drills(p, tx.Now())
	if way.Kind == warm {
		way.expect(p, way.Seconds)
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

// wayBack says how a release is brought back while no rollout is live, and what
// it needs. The point is nil where there is no way.
func (c *Controller) wayBack(tx *store.Tx, key release.Key, to string) (Way, *restorePoint, error) {
	row, ok, err := tx.Environment(key)
	if err != nil {
		return Way{}, nil, fmt.Errorf("couldn't read %s: %w", key, err)
	}
	if !ok {
		return Way{}, nil, missing("%s never ran in %s; `sluice status` shows what does", key.Service, key.Environment)
	}
	current, err := decodeRevision(row.Current)
	if err != nil || current == nil {
		return Way{}, nil, errors.Join(err, refuse("nothing runs of %s in %s, so nothing can be rolled back", key.Service, key.Environment))
	}
	previous, err := decodeRevision(row.Previous)
	if err != nil {
		return Way{}, nil, fmt.Errorf("couldn't read the previous release of %s: %w", key, err)
	}
	p, err := decodePlace(row)
	if err != nil {
		return Way{}, nil, err
	}
	way := Way{Kind: impossible, From: current.Release}
	way.drills(p, tx.Now())
	var point *restorePoint
	if previous != nil {
		point = &restorePoint{Revision: *previous, Environment: p.Environment}
		if p.Before != nil {
			point.Environment = *p.Before
		} else if env, err := c.environmentOf(tx, key, previous.Release); err == nil { // written before it was kept
			point.Environment = env
		}
	}
	if to != "" {
		rel, err := findRelease(tx, key.Project, key.Service, to)
		if err != nil {
			return way, nil, err
		}
		if rel.ID == current.Release {
			return way, nil, refuse("release %s runs in %s already", rel.ID.Short(), key.Environment)
		}
		if previous == nil || previous.Release != rel.ID {
			if point, err = c.pointOf(tx, key, rel); err != nil {
				return way, nil, err
			}
		}
	}
	if point == nil {
		way.blocked(fmt.Sprintf("no earlier release of %s is kept as the way back of %s", key.Service, key.Environment), "; ship a fix, or name one with --to (`sluice artifact ls` lists them)")
		return way, nil, nil
	}
	if q, bad, err := tx.Quarantined(key.Project, key.Service, point.Release); err != nil {
		return way, nil, fmt.Errorf("couldn't read the quarantine: %w", err)
	} else if bad {
		way.blocked(fmt.Sprintf("release %s is quarantined: %s; lift it first with `sluice quarantine lift %s --reason …`", point.Release.Short(), q.Reason, point.Release.Short()), ", or name another with --to")
		return way, nil, nil
	}
	way.To, way.Quarantines = point.Release, way.From
	elsewhere := p.Strayed.told() && p.Strayed.Forgotten // nobody knows whether hosts run it still
	if previous != nil && point.Release == previous.Release && row.RetireAt != nil && !elsewhere {
		way.Kind, way.Artifact = warm, "it still runs on its hosts"
		way.expect(p, 1)
		way.Sentence = fmt.Sprintf("release %s still runs at weight 0: all traffic goes back to it in one step, in about %s", way.To.Short(), way.about("a second"))
	} else {
		way.Kind = cold
		way.expect(p, int(point.Health.StartIn.Seconds()))
		way.Sentence = fmt.Sprintf("release %s must be started first (%s), then all traffic goes back to it in one step", way.To.Short(), way.about(fmt.Sprintf("at most %d s", way.Seconds)))
	}
	way.Sentence += fmt.Sprintf(". Release %s is then quarantined, until a person lifts that", way.From.Short())
	return way, point, nil
}

// expect takes the seconds of the last time that it was done here, if it was.
func (w *Way) expect(p place, otherwise int) {
	w.Seconds = otherwise
	for _, m := range p.Measured {
		if m.Way == w.Kind {
			w.Measured, w.Seconds = &m, max(1, int(math.Ceil(float64(m.Millis)/1000)))
		}
	}
}

func (w *Way) about(otherwise string) string {
	if w.Measured == nil {
		return otherwise
	}
	what := "rollback"
	if w.Measured.Drill {
		what = "rehearsal"
	}
	return fmt.Sprintf("%d s, as the %s of run %s took on %s", w.Seconds, what, w.Measured.Run, w.Measured.At.UTC().Format("2006-01-02"))
}

// environmentOf is an environment as the release's own definition has it.
func (c *Controller) environmentOf(tx *store.Tx, key release.Key, id release.ID) (pipeline.Environment, error) {
	p, ok, err := tx.Promotion(key, id)
	if err != nil || !ok {
		return pipeline.Environment{}, fmt.Errorf("couldn't read the promotion of %s: %w", id.Short(), orNotFound(err))
	}
	made, err := c.readRun(tx, key.Project, p.Run)
	if err != nil {
		return pipeline.Environment{}, err
	}
	env, ok := made.def.Environment(key.Environment)
	if !ok {
		return pipeline.Environment{}, refuse("the definition of release %s has no environment %s any more", id.Short(), key.Environment)
	}
	return env, nil
}

// pointOf rebuilds what an earlier release needs to run here.
func (c *Controller) pointOf(tx *store.Tx, key release.Key, rel store.Release) (*restorePoint, error) {
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
	env, err := c.environmentOf(tx, key, rel.ID)
	if err != nil {
		return nil, err
	}
	m, err := release.ParseManifest(rel.Manifest, rel.ID)
	if err != nil {
		return nil, err
	}
	return &restorePoint{Revision: revision(m, rel, p.Envelope, env), Environment: env}, nil
}

// Rollback takes service back in env. A live rollout is aborted, unless it is a
// way back itself; otherwise a run brings the earlier release back in one step.
// What can't be brought back is refused before anything moves.
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
	way, point, err := c.way(ctx, key, to)
	if err != nil {
		return "", err
	}
	if point != nil && way.Kind == cold {
		if err := c.provable(ctx, key, *point, &way, 0); err != nil {
			return "", err
		}
	}
	if way.Kind == impossible {
		return "", refuse("%s", way.Sentence)
	}
	var id string
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		now, point, err := c.wayBack(tx, key, to)
		if err != nil {
			return err
		}
		if point == nil || now.To != way.To || now.From != way.From {
			return refuse("what runs in %s changed just now: look at it again", env)
		}
		id, err = c.startBack(tx, key, *point, run.KindRollback, point.Release, reason, by)
		return err
	})
	return id, err
}

// startBack writes a run that goes back to point, about release id.
func (c *Controller) startBack(tx *store.Tx, key release.Key, point restorePoint, kind string, id release.ID, reason string, by release.Actor) (string, error) {
	rel, ok, err := tx.Release(key.Project, id)
	if err != nil || !ok {
		return "", fmt.Errorf("couldn't read release %s: %w", id.Short(), orNotFound(err))
	}
	m, err := release.ParseManifest(rel.Manifest, rel.ID)
	if err != nil {
		return "", err
	}
	def := pipeline.Definition{Version: 1, Service: key.Service, Environments: []pipeline.Environment{point.Environment}}
	return c.insertRun(tx, store.Run{
		Project: key.Project, Kind: kind, Service: key.Service, Commit: rel.Commit, To: key.Environment, Release: rel.ID, Actor: by,
	}, def, run.State{Phase: run.Promoting, Release: rel.ID, Artifacts: m.Artifacts, Environments: []run.Environment{{Name: key.Environment}}, Reason: reason})
}

// startRollback writes the rollout that brings an earlier release back. It was
// promoted into this environment before, so no gate is asked again.
func (t *runTurn) startRollback(e *run.Environment, key release.Key) error {
	way, point, err := t.c.wayBack(t.tx, key, string(t.row.Release))
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrMissing) {
		return t.stop(e, run.Failed, "there is no way back any more: "+err.Error())
	}
	if err != nil {
		return err
	}
	if point == nil {
		return t.stop(e, run.Failed, "there is no way back any more: "+way.Sentence)
	}
	current, err := t.current(key)
	if err != nil {
		return err
	}
	e.Previous = current.Release
	p := planned{Plan: rollout.CompileRollback(point.Environment), Environment: point.Environment, Way: way.Kind}
	if err := t.start(e, p, point.Revision, current); err != nil {
		return err
	}
	at := about{project: t.row.Project, run: t.row.ID, environment: e.Name}
	ev, err := t.c.event(t.tx, at, t.row.Actor, t.state.Reason)
	if err != nil {
		return err
	}
	return t.c.takenBack(t.tx, at, *current, evidence.Rollback{Event: ev, Rollout: e.Rollout, Stage: evidence.RollbackStarted, Cause: causeCommand, To: point.Release})
}

// current is what runs in an environment.
func (t *runTurn) current(key release.Key) (*wire.Revision, error) {
	row, _, err := t.tx.Environment(key)
	if err != nil {
		return nil, fmt.Errorf("couldn't read %s: %w", key, err)
	}
	current, err := decodeRevision(row.Current)
	if err != nil || current == nil {
		return nil, fmt.Errorf("couldn't read what runs in %s: %w", key, orNotFound(err))
	}
	return current, nil
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
