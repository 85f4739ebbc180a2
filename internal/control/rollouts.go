package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/crashpoint"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// planned is what a rollout keeps of its start, whatever changes meanwhile.
type planned struct {
	rollout.Plan
	Environment pipeline.Environment `json:"environment"`
	Before      *pipeline.Target     `json:"before,omitempty"` // where what runs there was reached, for the way back
	Displaced   *displaced           `json:"displaced,omitempty"`
	Way         string               `json:"way,omitempty"`   // of a rollback: warm or cold
	Drill       bool                 `json:"drill,omitempty"` // part of a rehearsal: nothing is taken back for good
}

// turn is one decision about one rollout inside one transaction: open it, feed
// it events, close it. Workers and people's commands take the same turn.
type turn struct {
	c         *Controller
	tx        *store.Tx
	row       store.Rollout
	plan      planned
	state     rollout.State
	watch     watch
	candidate wire.Revision
	restore   *wire.Revision
	apply     int64    // generation that the target shall be brought to the state with; 0: none
	check     bool     // the checks of the current step shall run
	alarms    []string // to be told loudly
	bins      []closed // that this turn closed
}

func (t *turn) key() release.Key {
	return release.Key{Project: t.row.Project, Service: t.row.Service, Environment: t.row.Environment}
}

func (c *Controller) openTurn(tx *store.Tx, project, id string) (*turn, error) {
	row, err := tx.Rollout(project, id)
	if err != nil {
		return nil, fmt.Errorf("couldn't read rollout %s: %w", id, err)
	}
	return c.turnOf(tx, row)
}

// turnOf opens a turn on a row that was just read.
func (c *Controller) turnOf(tx *store.Tx, row store.Rollout) (*turn, error) {
	id := row.ID
	t := &turn{c: c, tx: tx, row: row}
	if row.Engine > rollout.Engine {
		return nil, fmt.Errorf("rollout %s was started by a newer sluice (engine %d, this one knows %d): run the newer one", id, row.Engine, rollout.Engine)
	}
	if err := json.Unmarshal(row.Plan, &t.plan); err != nil {
		return nil, fmt.Errorf("couldn't read the plan of rollout %s: %w", id, err)
	}
	var err error
	if t.state, err = rollout.DecodeState(row.State); err != nil {
		return nil, fmt.Errorf("couldn't read the state of rollout %s: %w", id, err)
	}
	if t.watch, err = decodeWatch(row.Judge); err != nil {
		return nil, fmt.Errorf("couldn't read the analysis of rollout %s: %w", id, err)
	}
	if err := json.Unmarshal(row.Candidate, &t.candidate); err != nil {
		return nil, fmt.Errorf("couldn't read the candidate of rollout %s: %w", id, err)
	}
	if len(row.Restore) > 0 && string(row.Restore) != "null" {
		t.restore = new(wire.Revision)
		if err := json.Unmarshal(row.Restore, t.restore); err != nil {
			return nil, fmt.Errorf("couldn't read the restore point of rollout %s: %w", id, err)
		}
	}
	return t, nil
}

// feed lets one event happen: state, event log, evidence and live feed go into
// the transaction together.
func (t *turn) feed(e rollout.Event) error {
	before := t.state
	after, effects, err := rollout.Step(t.plan.Plan, before, e)
	if err != nil {
		return err
	}
	t.state = after
	t.watch.follow(before, after, t.tx.Now())
	if before.Phase != rollout.RollingBack && after.Phase == rollout.RollingBack {
		t.watch.Cause = causeOf(e)
	}
	if before.Frozen == "" && after.Frozen != "" {
		if err := t.wakeWaiting(); err != nil { // the fix may be among them
			return err
		}
	}
	seq, err := t.log(e, rollout.Quiet(before, after, e, effects))
	if err != nil {
		return err
	}
	for i, f := range rollout.Facts(before, after, e) {
		if err := t.fact(fmt.Sprintf("rollout/%s/%d/%d", t.row.ID, seq, i), f); err != nil {
			return err
		}
	}
	for _, ef := range effects {
		switch ef.Kind {
		case rollout.Apply:
			if err := t.generation(); err != nil {
				return err
			}
		case rollout.Check:
			t.check = true
		case rollout.Alarm:
			t.alarms = append(t.alarms, ef.Reason)
		default:
			return fmt.Errorf("rollout %s wants the unknown effect %q", t.row.ID, ef.Kind)
		}
	}
	return nil
}

// generation numbers what the target shall be brought to. The document itself
// is made when the turn closes, from the state as it is then.
func (t *turn) generation() error {
	gen, err := t.tx.NextGeneration()
	if err != nil {
		return fmt.Errorf("couldn't take a generation: %w", err)
	}
	t.apply = gen
	return t.feed(rollout.Event{Applied: &rollout.Applied{Generation: gen}})
}

// log appends e to the event log, or merges it into the last entry. Only events
// that moved nothing but counters are merged: the sum of two others need not
// lead to the same state.
func (t *turn) log(e rollout.Event, quiet bool) (int64, error) {
	seq, encoded := int64(0), e
	if last, ok := t.watch.lastEvent(); ok && quiet {
		if merged, ok := rollout.Merge(last, e); ok {
			seq, encoded = t.watch.LastSeq, merged
		}
	}
	b, err := json.Marshal(encoded)
	if err != nil {
		return 0, fmt.Errorf("couldn't encode an event: %w", err)
	}
	if seq != 0 {
		err = t.tx.ReplaceEvent(t.row.Project, t.row.ID, seq, b)
	} else {
		seq, err = t.tx.AppendEvent(t.row.Project, t.row.ID, b)
	}
	if err != nil {
		return 0, fmt.Errorf("couldn't write the event log of rollout %s: %w", t.row.ID, err)
	}
	t.watch.setLastEvent(seq, nil)
	if quiet {
		t.watch.setLastEvent(seq, b)
	}
	return seq, nil
}

// tell adds a line to the live feed.
func (t *turn) tell(kind string, data any) error {
	return addFeed(t.tx, store.Feed{Project: t.row.Project, Run: t.row.Run, Service: t.row.Service, Environment: t.row.Environment, Kind: kind}, data)
}

// close writes the turn: the effects that the new state wants, and the row.
func (t *turn) close() error {
	if t.apply > 0 {
		doc, err := json.Marshal(t.document(t.apply))
		if err != nil {
			return fmt.Errorf("couldn't encode the desired state: %w", err)
		}
		if err := t.promise(rollout.Apply, t.apply, doc); err != nil {
			return err
		}
	}
	if t.check {
		gen, err := t.tx.NextGeneration()
		if err != nil {
			return fmt.Errorf("couldn't take a generation: %w", err)
		}
		data, err := json.Marshal(checkEffect{Step: t.state.Step})
		if err != nil {
			return fmt.Errorf("couldn't encode a check: %w", err)
		}
		if err := t.promise(rollout.Check, gen, data); err != nil {
			return err
		}
	}
	for _, a := range t.alarms {
		if err := t.tell("alarm", map[string]string{"reason": a}); err != nil {
			return err
		}
		t.c.log.Error("a rollout raised an alarm", "project", t.row.Project, "service", t.row.Service, "environment", t.row.Environment, "rollout", t.row.ID, "reason", a)
	}
	if t.state.Phase.Terminal() && t.row.Live {
		t.row.Live = false
		if err := t.finish(); err != nil {
			return err
		}
	}
	for _, c := range t.bins {
		if err := t.keep(c); err != nil {
			return err
		}
	}
	changed := t.row.Phase != string(t.state.Phase) || !t.row.Live
	t.row.Phase = string(t.state.Phase)
	t.schedule()
	var err error
	if t.row.State, err = json.Marshal(t.state); err != nil {
		return fmt.Errorf("couldn't encode the state: %w", err)
	}
	if t.row.Judge, err = json.Marshal(t.watch); err != nil {
		return fmt.Errorf("couldn't encode the analysis: %w", err)
	}
	if err := t.tx.SaveRollout(&t.row); err != nil {
		return fmt.Errorf("couldn't save rollout %s: %w", t.row.ID, err)
	}
	if !changed {
		return nil
	}
	if err := t.tx.Wake("runs", t.row.Project, t.row.Run, t.tx.Now()); err != nil {
		return fmt.Errorf("couldn't wake run %s: %w", t.row.Run, err)
	}
	return nil
}

func (t *turn) promise(kind rollout.EffectKind, gen int64, data json.RawMessage) error {
	err := t.tx.AddEffect(&store.Effect{Project: t.row.Project, Rollout: t.row.ID, Generation: gen, Kind: string(kind), Data: data})
	if err != nil {
		return fmt.Errorf("couldn't promise an effect: %w", err)
	}
	return nil
}

// schedule decides when the row wakes up next, and remembers what was planned:
// the next tick counts at most twice of it, whatever the clock does.
func (t *turn) schedule() {
	t.row.WakeAt = nil
	if !t.row.Live {
		return
	}
	next := rollout.Rest(t.state)
	if d, ok := rollout.NextWake(t.plan.Plan, t.state); ok {
		next = min(next, d)
	}
	if d, ok := t.watch.nextBin(t.state, t.plan.Environment.Analysis); ok {
		next = min(next, d)
	}
	next = max(next, 5*time.Millisecond)
	t.watch.TickedAt, t.watch.Planned = t.tx.Now(), next
	at := t.tx.Now().Add(next)
	t.row.WakeAt = &at
}

// stepRollout takes one leased rollout one turn further: observe, decide and
// commit, act.
func (c *Controller) stepRollout(ctx context.Context, lease store.Lease) error {
	if err := c.act(ctx, lease.Project, lease.ID); err != nil {
		return err
	}
	ask, err := c.ask(ctx, lease.Project, lease.ID)
	if err != nil {
		return err
	}
	promised := false
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Check(lease); err != nil {
			return err
		}
		t, err := c.openTurn(tx, lease.Project, lease.ID)
		if err != nil || !t.row.Live {
			return err
		}
		if err := t.events(ask); err != nil {
			return err
		}
		if promised = t.apply > 0 || t.check; !promised {
			if err := tx.GiveBack(lease); err != nil { // nothing is left to do under it
				return err
			}
		}
		return t.close()
	})
	if err != nil || !promised {
		return err
	}
	return c.act(ctx, lease.Project, lease.ID)
}

// events feeds a turn what happened since the last one.
func (t *turn) events(ask answers) error {
	if t.state.Phase == rollout.Pending {
		return t.feed(rollout.Event{Start: &rollout.Start{}})
	}
	reports, err := t.c.reports.of(t.tx, t.plan.Environment.Target.Hosts...)
	if err != nil {
		return err
	}
	seen := t.told().Observe(reports, t.key(), t.plan.Environment.Target.Hosts, t.row.Release, t.restoreID(), t.tx.Now())
	seen.Misplaced = t.misplaced(reports)
	elapsed, err := t.lapse()
	if err != nil {
		return err
	}
	judged, err := t.judge(reports, ask, elapsed)
	if err != nil {
		return err
	}
	if judged != nil {
		if err := t.feed(rollout.Event{Judged: judged}); err != nil {
			return err
		}
	}
	if err := t.tick(elapsed); err != nil {
		return err
	}
	if seen == t.state.Seen || t.state.Phase.Terminal() {
		return nil
	}
	return t.feed(rollout.Event{Seen: &seen})
}

// lapse is the time that passed since the last turn, as far as it is believed.
func (t *turn) lapse() (time.Duration, error) {
	elapsed := t.watch.elapsed(t.tx.Now())
	if gap := t.watch.gap(t.tx.Now()); gap.Abs() > clockGap {
		// The clock jumped, or no control plane ran: an event, never a verdict.
		if err := t.tell("gap", map[string]float64{"passedSeconds": gap.Seconds() + elapsed.Seconds(), "countedSeconds": elapsed.Seconds()}); err != nil {
			return 0, err
		}
	}
	t.watch.BinElapsed += elapsed
	return elapsed, nil
}

func (t *turn) tick(elapsed time.Duration) error {
	if elapsed == 0 {
		return nil
	}
	return t.feed(rollout.Event{Tick: &rollout.Tick{Elapsed: elapsed}})
}

// catchUp counts the time until something that comes between a worker's turns: a
// command, or the outcome of a check. What passed before belongs to the state as
// it was, paused or not, and whoever commands every second starves nothing.
func (t *turn) catchUp() error {
	elapsed, err := t.lapse()
	if err != nil {
		return err
	}
	return t.tick(elapsed)
}

func (t *turn) restoreID() release.ID {
	if t.restore == nil {
		return ""
	}
	return t.restore.Release
}

// document is what hosts shall run for the state.
func (t *turn) document(gen int64) wire.Desired {
	d := host.Document(t.key(), t.plan.Environment.Target, gen)
	if t.state.Phase != rollout.Succeeded && (t.state.Phase == rollout.RollingBack || t.state.Phase.Terminal()) && t.plan.Before != nil {
		// Who goes back goes back to the old address and the old way to know users.
		before := host.Document(t.key(), *t.plan.Before, gen)
		d.Listen, d.Sticky, d.Requires = before.Listen, before.Sticky, before.Requires
	}
	var leaving []string
	if b := t.plan.Before; b != nil && t.state.Phase != rollout.Succeeded {
		// Until it was judged good nothing moves away, neither to another address nor
		// from a host.
		host.Underway(&d, *b)
		leaving = host.Leaving(d.Hosts, b.Hosts)
	}
	t.besides(&d)
	var old, cand, frozen *wire.Revision
	if n := t.plan.Displaced.share(t.state); n > 0 {
		r := t.plan.Displaced.Revision
		r.Weight, r.Candidate = n, false
		frozen = &r
	}
	if t.state.Old && t.restore != nil {
		r := *t.restore
		r.Weight, r.Candidate = wire.FullWeight-t.state.Weight, false
		if frozen != nil {
			r.Weight -= frozen.Weight
		}
		old = &r
	}
	if t.state.Capacity {
		r := t.candidate
		r.Weight, r.Candidate = t.state.Weight, true
		cand = &r
	}
	t.wanted().Put(&d, old, cand)
	host.Stay(&d, leaving, old, frozen, cand)
	for _, r := range []*wire.Revision{old, frozen, cand} {
		if r != nil {
			d.Revisions = append(d.Revisions, *r)
		}
	}
	return d
}

// wanted is the share of each host, where the plan counts instances.
func (t *turn) wanted() *host.Wanted {
	instances := t.plan.Instances
	if t.restore != nil {
		instances = t.restore.Instances
	}
	return host.WantedOf(t.plan.Plan, t.state, t.plan.Environment.Target.Hosts, instances)
}

// told is what hosts are held to: their shares, and what they were last told to run. A
// rollback looks at weights and readiness alone: whatever else runs must not keep it
// from its end.
func (t *turn) told() *host.Wanted {
	w := t.wanted()
	if t.state.Wanted == 0 || t.state.Phase == rollout.RollingBack {
		return w
	}
	return w.Tell(t.document(t.state.Wanted))
}

// act runs the effects that were promised, the newest first: what an older one
// wanted is past, above all more exposure than is wanted now. Each may run again
// after a crash, or late by a worker that lost its lease: the target refuses a
// generation lower than the highest that it has seen.
func (c *Controller) act(ctx context.Context, project, id string) error {
	var pending []store.Effect
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		pending, err = tx.PendingEffects(project, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't read pending effects of rollout %s: %w", id, err)
	}
	for _, e := range slices.Backward(pending) {
		switch rollout.EffectKind(e.Kind) {
		case rollout.Apply:
			if err := c.applyEffect(ctx, e); err != nil {
				return err
			}
		case rollout.Check:
			c.startCheck(e)
		default:
			return fmt.Errorf("rollout %s promised the unknown effect %q", id, e.Kind)
		}
	}
	return nil
}

func (c *Controller) applyEffect(ctx context.Context, e store.Effect) error {
	var doc wire.Desired
	if err := json.Unmarshal(e.Data, &doc); err != nil {
		return fmt.Errorf("couldn't read the effect of generation %d: %w", e.Generation, err)
	}
	crashpoint.Here(crashpoint.BeforeEffect)
	applied, err := c.target.Apply(ctx, doc)
	crashpoint.Here(crashpoint.AfterEffect)
	if err != nil {
		return fmt.Errorf("couldn't apply generation %d to %s: %w", e.Generation, doc.Key, err)
	}
	outcome := "applied"
	if !applied {
		outcome = "refused: a newer generation was applied"
	}
	crashpoint.Here(crashpoint.BeforeOutcome)
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		return tx.FinishEffect(e.Project, e.Rollout, e.Generation, outcome)
	})
	crashpoint.Here(crashpoint.AfterOutcome)
	if errors.Is(err, store.ErrExists) {
		return nil // another worker did it before, and its word stays
	}
	return err
}
