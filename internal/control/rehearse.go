package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// A rehearsal takes an environment back to the release before, and forward again,
// each way by a rollout like any other: all users at once, with the environment's
// checks. Nothing is quarantined. It is timed, and its statement is what the gate
// rehearsed asks for.
//
//	run   promoting ──▶ back (leg 1) ──▶ forward (leg 2) ──▶ ended
//
// Between the two nobody else may enter: see runTurn.ahead. If a way fails, the
// rollout itself moves users to where they were, and the rehearsal has failed.

// Drill is the last rehearsal in an environment.
type Drill struct {
	Run         string     `json:"run"`
	Environment string     `json:"environment"`
	At          time.Time  `json:"at"` // it ended
	Succeeded   bool       `json:"succeeded"`
	Way         string     `json:"way"` // warm, cold
	From        release.ID `json:"from"`
	To          release.ID `json:"to"`
	BackMillis  int64      `json:"backMillis"`
	OnMillis    int64      `json:"onMillis,omitempty"` // forward again
	Reason      string     `json:"reason,omitempty"`   // why it failed
	Leaf        string     `json:"leaf,omitempty"`     // the statement
}

// Rehearse starts a rehearsal of a rollback.
func (c *Controller) Rehearse(ctx context.Context, project, service, env, reason string, by release.Actor) (string, error) {
	key := release.Key{Project: project, Service: service, Environment: env}
	way, err := c.WayBack(ctx, project, service, env, "")
	if err != nil {
		return "", err
	}
	if way.Kind == impossible {
		return "", refuse("a rollback can't be rehearsed in %s: %s", env, cmp.Or(way.why, way.Sentence))
	}
	var id string
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if live, busy, err := tx.LiveRollout(key); err != nil {
			return fmt.Errorf("couldn't look for a live rollout of %s: %w", key, err)
		} else if busy {
			return refuse("run %s is live in %s: wait for its end, then rehearse", live.Run, env)
		}
		now, point, err := c.wayBack(tx, key, "")
		if err != nil {
			return err
		}
		if point == nil {
			return refuse("a rollback can't be rehearsed in %s: %s", env, cmp.Or(now.why, now.Sentence))
		}
		id, err = c.startBack(tx, key, *point, run.KindRehearse, now.From, reason, by)
		return err
	})
	return id, err
}

// quietBefore is for how long nothing moved before a rehearsal begins by itself.
const quietBefore = 10 * time.Minute

// rehearseOnTime starts the rehearsal that an environment asks for every so often,
// at its row's next turn after the time has come. Where there is no way back, such
// as with a first release, there is nothing to rehearse until there is. Whether the
// way back can be used is not proven before: that is what is found out. It keeps away
// from a rollout that has just ended: somebody may be looking at what came of it, or
// mending it. It waits for hosts that are silent: they may run what somebody is to look
// at first.
//
// Nothing runs there meanwhile but another rehearsal, which is why that is looked
// for: its rollouts come and go.
func (c *Controller) rehearseOnTime(tx *store.Tx, key release.Key, p *place) error {
	if p.Rehearsed.After(tx.Now()) {
		p.Rehearsed = tx.Now() // the clock was wrong then, and would keep the next one away for as long
	}
	due, asked := p.rehearsalDue(tx.Now())
	if !asked || due.After(tx.Now()) {
		return nil
	}
	last, err := tx.Rollouts(store.RolloutFilter{Project: key.Project, Service: key.Service, Environment: key.Environment, Limit: 1})
	if err != nil {
		return fmt.Errorf("couldn't look for the last rollout of %s: %w", key, err)
	}
	if len(last) > 0 && tx.Now().Sub(last[0].UpdatedAt).Abs() < quietBefore {
		return nil
	}
	reports, err := c.reports.of(tx, p.Environment.Target.Hosts...)
	if err != nil {
		return err
	}
	if len(silent(reports, p.Environment.Target.Hosts, tx.Now())) > 0 {
		return nil
	}
	live := true
	runs, err := tx.Runs(store.RunFilter{Project: key.Project, Service: key.Service, Live: &live})
	if err != nil {
		return fmt.Errorf("couldn't look for a rehearsal of %s: %w", key, err)
	}
	if slices.ContainsFunc(runs, func(r store.Run) bool { return r.Kind == run.KindRehearse && r.To == key.Environment }) {
		return nil
	}
	way, point, err := c.wayBack(tx, key, "")
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrMissing) || err == nil && point == nil {
		return nil
	}
	if err != nil {
		return err
	}
	p.Rehearsed = tx.Now()
	_, err = c.startBack(tx, key, *point, run.KindRehearse, way.From, "rehearsed here every "+pipeline.Short(p.Environment.Rehearse.Every), release.System)
	return err
}

// rehearsalDue is when the next rehearsal shall begin by itself, if any shall.
func (p *place) rehearsalDue(now time.Time) (time.Time, bool) {
	ask := p.Environment.Rehearse
	if ask == nil {
		return time.Time{}, false
	}
	last := p.Rehearsed
	if p.Drill != nil && p.Drill.At.After(last) && !p.Drill.At.After(now) {
		last = p.Drill.At
	}
	if last.IsZero() {
		return now, true
	}
	return last.Add(ask.Every), true
}

// startLeg writes the rollout of the next way of a rehearsal: back, or forward
// again to what ran there.
func (t *runTurn) startLeg(e *run.Environment, key release.Key) error {
	way, point, err := t.c.wayBack(t.tx, key, "")
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrMissing) {
		return t.failRehearsal(e, err.Error())
	}
	if err != nil {
		return err
	}
	if point == nil {
		return t.failRehearsal(e, cmp.Or(way.why, way.Sentence))
	}
	current, err := t.current(key)
	if err != nil {
		return err
	}
	if first := len(e.Legs) == 0; first && current.Release != t.state.Release || !first && point.Release != t.state.Release {
		return t.failRehearsal(e, fmt.Sprintf("another release runs in %s meanwhile; rehearse again", e.Name))
	}
	e.Previous = current.Release
	return t.start(e, planned{Plan: rollout.CompileRollback(point.Environment), Environment: point.Environment, Way: way.Kind, Drill: true}, point.Revision, current)
}

func (t *runTurn) failRehearsal(e *run.Environment, why string) error {
	if len(e.Legs) == 0 { // nothing was tried: that says nothing about the way back
		return t.stop(e, run.Failed, "a rollback can't be rehearsed: "+why)
	}
	if err := t.stateRehearsal(e, false, why); err != nil {
		return err
	}
	return t.stop(e, run.Failed, why)
}

// endLeg takes what a way of a rehearsal came to.
func (t *runTurn) endLeg(e *run.Environment, ro *turn) error {
	leg := run.Leg{Rollout: ro.row.ID, To: ro.row.Release, Way: ro.plan.Way, Millis: ro.row.UpdatedAt.Sub(ro.row.CreatedAt).Milliseconds()}
	e.Legs = append(e.Legs, leg)
	t.wakeIn(0)
	if o := outcomeOfRollout(ro.state); o != run.Succeeded {
		why := ro.state.Reason
		if len(e.Legs) == 2 {
			why = fmt.Sprintf("release %s could not be brought forward again (%s), so release %s runs in %s now: promote it again with `sluice promote %s --env %s`", t.state.Release.Short(), why, ro.restoreID().Short(), e.Name, t.state.Release.Short(), e.Name)
		}
		e.State, e.Reason = o, why
		return t.stateRehearsal(e, false, why)
	}
	if len(e.Legs) == 1 {
		e.State, e.Rollout, e.Reason = "", "", ""
		return t.tell(e.Name, "rehearsed", map[string]any{"reason": fmt.Sprintf("back on release %s after %d ms; now forward again", leg.To.Short(), leg.Millis)})
	}
	e.State, e.Reason = run.Succeeded, fmt.Sprintf("back in %d ms, forward again in %d ms", e.Legs[0].Millis, leg.Millis)
	return t.stateRehearsal(e, true, "")
}

// stateRehearsal keeps a rehearsal as evidence, and in its environment.
func (t *runTurn) stateRehearsal(e *run.Environment, ok bool, why string) error {
	first := e.Legs[0]
	d := Drill{Run: t.row.ID, Environment: e.Name, At: t.tx.Now(), Succeeded: ok, Way: first.Way, From: t.state.Release, To: first.To, BackMillis: first.Millis, Reason: clip(why), Leaf: "rehearsal/" + t.row.ID}
	p := evidence.Rehearsal{Result: evidence.RehearsalFailed, From: d.From, To: d.To, Way: d.Way, BackMillis: d.BackMillis, Reason: d.Reason}
	if ok {
		d.OnMillis = e.Legs[1].Millis
		p.Result, p.OnMillis = evidence.RehearsalSucceeded, d.OnMillis
	}
	for _, l := range e.Legs {
		p.Rollouts = append(p.Rollouts, l.Rollout)
	}
	at := about{project: t.row.Project, run: t.row.ID, environment: e.Name}
	var err error
	if p.Event, err = t.c.event(t.tx, at, t.row.Actor, t.state.Reason); err != nil {
		return err
	}
	if _, err := t.c.record(t.tx, d.Leaf, at, p, t.subject()); err != nil {
		return err
	}
	key := release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}
	row, found, err := t.tx.Environment(key)
	if err != nil || !found {
		return fmt.Errorf("couldn't read %s: %w", key, orNotFound(err))
	}
	pl, err := decodePlace(row)
	if err != nil {
		return err
	}
	pl.Drill = &d
	if err := t.c.putPlace(t.tx, &row, pl); err != nil {
		return err
	}
	if !ok && t.row.Actor == release.System { // nobody is looking
		if err := t.tell(e.Name, "alarm", map[string]string{"reason": "a rehearsal of a rollback failed: " + d.Reason}); err != nil {
			return err
		}
		t.c.log.Error("a rehearsal of a rollback failed", "environment", key.String(), "run", t.row.ID, "reason", d.Reason)
	}
	// Gates ask for rehearsals, and packets tell of them.
	return t.tx.WakeRuns(t.row.Project, t.row.Service, t.row.ID, t.tx.Now())
}

// drills are the rehearsals that an environment's gates ask for, as their signed
// statements tell them.
func (t *runTurn) drills(env pipeline.Environment) (map[string]gate.Drill, error) {
	out := map[string]gate.Drill{}
	for _, g := range env.Gates {
		if g.Within == 0 {
			continue
		}
		where := g.Env
		if where == "" {
			where = env.Name
		}
		d, err := t.drillIn(where)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		said, err := t.c.said(t.tx, release.Key{Project: t.row.Project, Service: t.row.Service, Environment: where}, *d)
		if err != nil {
			return nil, err
		}
		at, err := said.At.Time()
		if err != nil {
			return nil, err
		}
		out[where] = gate.Drill{
			Run: said.Run, Succeeded: said.Result == evidence.RehearsalSucceeded, At: at.UTC().Format("2006-01-02 15:04 UTC"), Age: t.tx.Now().Sub(at),
			Back: time.Duration(said.BackMillis) * time.Millisecond, On: time.Duration(said.OnMillis) * time.Millisecond,
		}
	}
	return out, nil
}

// said is what the signed statement of a rehearsal tells. It must be of that very
// environment: which statement is looked at stands in a row that nobody signed.
func (c *Controller) said(tx *store.Tx, key release.Key, d Drill) (evidence.Rehearsal, error) {
	kept, ok, err := tx.Leaf(key.Project, d.Leaf)
	if err != nil || !ok {
		return evidence.Rehearsal{}, fmt.Errorf("couldn't read the evidence of the rehearsal of run %s: %w", d.Run, orNotFound(err))
	}
	st, err := c.trusted.Verify(kept.Envelope)
	if err != nil {
		return evidence.Rehearsal{}, fmt.Errorf("couldn't trust statement %s: %w", kept.ID, err)
	}
	said, err := evidence.Decode[evidence.Rehearsal](st)
	if err != nil {
		return evidence.Rehearsal{}, err
	}
	if said.Environment != key.Environment || !slices.Contains(st.Subject, evidence.ReleaseSubject(key.Project, key.Service, said.From)) {
		return evidence.Rehearsal{}, fmt.Errorf("couldn't trust statement %s: it is not of a rehearsal of %s", kept.ID, key)
	}
	return said, nil
}

// drillIn is the last rehearsal of the service in an environment; nil: none.
func (t *runTurn) drillIn(env string) (*Drill, error) {
	row, ok, err := t.tx.Environment(release.Key{Project: t.row.Project, Service: t.row.Service, Environment: env})
	if err != nil || !ok {
		return nil, err
	}
	p, err := decodePlace(row)
	return p.Drill, err
}
