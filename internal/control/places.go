package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// place is what an environment's row keeps beside what runs there.
type place struct {
	V           int                   `json:"v"`
	Environment pipeline.Environment  `json:"environment"`        // as of the last promotion that succeeded
	Snapshots   []snapshot            `json:"snapshots"`          // of the current release's counters
	Before      *pipeline.Environment `json:"before,omitempty"`   // as it was with the release before, for the way back
	Measured    []Measured            `json:"measured,omitempty"` // the last one of each kind of way
	Drill       *Drill                `json:"drill,omitempty"`
	Rehearsed   time.Time             `json:"rehearsed,omitzero"` // the last rehearsal that began by itself did
	Strayed     *strayed              `json:"strayed,omitempty"`  // what hosts were found to run otherwise since the last rollout
	StrayedAt   time.Time             `json:"strayedAt,omitzero"` // when that was told last
	Since       time.Time             `json:"since,omitzero"`     // what runs there does so; zero: from before this was kept
	TickedAt    time.Time             `json:"tickedAt,omitzero"`
	Planned     time.Duration         `json:"planned,omitempty"` // until the next turn
}

// tick plans the next turn and returns how much of the time since the last one
// is not believed: the clock jumped, or no control plane ran.
func (p *place) tick(now time.Time, planned time.Duration) (gap time.Duration) {
	if !p.TickedAt.IsZero() {
		passed := now.Sub(p.TickedAt)
		gap = passed - clampElapsed(passed, p.Planned)
	}
	p.TickedAt, p.Planned = now, planned
	return gap
}

// snapshot are the current release's cumulative counters by host and boot.
type snapshot struct {
	At     time.Time             `json:"at"`
	Counts map[string]cumulative `json:"counts"`
}

const (
	snapshotEvery = 5 * time.Minute
	beforeWindow  = time.Hour // judge.md: the stable's own counts before the shift
	maxSnapshots  = int(beforeWindow/snapshotEvery) + 1
)

func decodePlace(row store.Environment) (place, error) {
	var p place
	if len(row.Settings) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(row.Settings, &p); err != nil {
		return p, fmt.Errorf("couldn't read the settings of %s: %w", row.Key, err)
	}
	return p, nil
}

// counters are the current release's counters, by host and boot.
func (c *Controller) counters(tx *store.Tx, key release.Key, hosts []string, id release.ID) (map[string]cumulative, error) {
	reports, err := c.reports.of(tx, hosts...)
	if err != nil {
		return nil, err
	}
	out := map[string]cumulative{}
	for _, n := range host.Counters(reports, key, hosts) {
		if n.Release == id {
			s := sum(n, nil)
			out[n.Host+"/"+n.Boot] = s
		}
	}
	return out, nil
}

// before is what the stable release counted in the window before a rollout: now
// less the oldest snapshot in the window. The snapshots between show how its
// errors spread over hash buckets: an A/A split, before anything is exposed.
func (c *Controller) before(tx *store.Tx, key release.Key, env pipeline.Environment, stable release.ID) (counts cumulative, spread analysis.Spread, window time.Duration, err error) {
	out := cumulative{Latency: map[int]uint64{}}
	row, ok, err := tx.Environment(key)
	if err != nil || !ok {
		return out, spread, 0, err
	}
	p, err := decodePlace(row)
	if err != nil {
		return out, spread, 0, err
	}
	now, err := c.counters(tx, key, env.Target.Hosts, stable)
	if err != nil {
		return out, spread, 0, err
	}
	var old map[string]cumulative
	last := map[string]cumulative{}
	for _, s := range p.Snapshots {
		if tx.Now().Sub(s.At) > beforeWindow {
			continue
		}
		if old == nil {
			old, window = s.Counts, tx.Now().Sub(s.At)
		}
		spread.Join(splitOf(last, s.Counts))
		last = s.Counts
	}
	spread.Join(splitOf(last, now))
	for k, cur := range now {
		prev := old[k]
		out.Requests += analysis.Delta(prev.Requests, cur.Requests)
		out.Bad += analysis.Delta(prev.Bad, cur.Bad)
		for i, n := range analysis.DeltaHistogram(prev.Latency, cur.Latency) {
			out.Latency[i] += n
		}
	}
	return out, spread, window, nil
}

// splitOf is the A/A split of what was counted between two snapshots.
func splitOf(prev, cur map[string]cumulative) analysis.Spread {
	joined := cumulative{Buckets: map[int][2]int64{}}
	for k, c := range cur {
		p, known := prev[k]
		if !known || len(p.Buckets) == 0 {
			continue
		}
		for i, b := range c.Buckets {
			o := joined.Buckets[i]
			joined.Buckets[i] = [2]int64{o[0] + analysis.Delta(p.Buckets[i][0], b[0]), o[1] + analysis.Delta(p.Buckets[i][1], b[1])}
		}
	}
	errs, _ := splits(joined, 0)
	return errs
}

// stepPlace takes one environment's row further: a snapshot of the counters, and
// the retirement of the previous release when its time has come.
func (c *Controller) stepPlace(ctx context.Context, lease store.Lease) error {
	service, env, _ := strings.Cut(lease.ID, "/")
	key := release.Key{Project: lease.Project, Service: service, Environment: env}
	if err := c.act(ctx, lease.Project, placeEffects(key)); err != nil {
		return err
	}
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Check(lease); err != nil {
			return err
		}
		row, ok, err := tx.Environment(key)
		if err != nil || !ok {
			return err
		}
		p, err := decodePlace(row)
		if err != nil {
			return err
		}
		current, err := decodeRevision(row.Current)
		if err != nil || current == nil {
			row.WakeAt = nil
			return errors.Join(err, tx.PutEnvironment(&row))
		}
		if n := len(p.Snapshots); n == 0 || tx.Now().Sub(p.Snapshots[n-1].At) >= snapshotEvery || p.Snapshots[n-1].At.After(tx.Now()) {
			counts, err := c.counters(tx, key, p.Environment.Target.Hosts, current.Release)
			if err != nil {
				return err
			}
			p.Snapshots = append(p.Snapshots, snapshot{At: tx.Now(), Counts: counts})
			p.Snapshots = p.Snapshots[max(0, len(p.Snapshots)-maxSnapshots):]
		}
		next := tx.Now().Add(snapshotEvery)
		if gap := p.tick(tx.Now(), snapshotEvery); row.RetireAt != nil && gap.Abs() > clockGap {
			at := row.RetireAt.Add(gap) // what was promised to stay warm stays so for its time
			row.RetireAt = &at
		}
		_, busy, err := tx.LiveRollout(key)
		if err != nil {
			return fmt.Errorf("couldn't look for a live rollout of %s: %w", key, err)
		}
		switch {
		case row.RetireAt == nil, busy: // a live rollout says what runs, and its end what is left to retire
		case p.Strayed.stays(): // until then hosts are told nothing
		case !row.RetireAt.After(tx.Now()):
			if err := c.retire(tx, &row, p, *current); err != nil {
				return err
			}
			next = tx.Now().Add(time.Second) // if we die before the effect, another repeats it soon
		case row.RetireAt.Before(next):
			next = *row.RetireAt
		}
		if !busy {
			again, err := c.lookAround(tx, &row, &p, *current)
			if err != nil {
				return err
			}
			if at := tx.Now().Add(again); again > 0 && at.Before(next) {
				next = at
			}
			if p.Strayed == nil { // what somebody changed is not put back by the way
				if err := c.rehearseOnTime(tx, key, &p); err != nil {
					return err
				}
			}
		}
		row.WakeAt, p.Planned = &next, next.Sub(tx.Now())
		return c.putPlace(tx, &row, p)
	})
	if err != nil {
		return err
	}
	return c.act(ctx, lease.Project, placeEffects(key))
}

func (c *Controller) putPlace(tx *store.Tx, row *store.Environment, p place) error {
	var err error
	if row.Settings, err = json.Marshal(p); err != nil {
		return fmt.Errorf("couldn't encode the settings of %s: %w", row.Key, err)
	}
	return tx.PutEnvironment(row)
}

// placeEffects is where the effects that an environment's row wants are kept.
func placeEffects(key release.Key) string { return "env:" + key.Service + "/" + key.Environment }

// retire stops the previous release, which stayed warm for a fast way back. Its
// unpacked files stay on the hosts.
func (c *Controller) retire(tx *store.Tx, row *store.Environment, p place, current wire.Revision) error {
	row.RetireAt = nil
	current.Weight, current.Candidate = wire.FullWeight, false
	if err := c.want(tx, row.Key, placeEffects(row.Key), p.Environment.Target, current); err != nil {
		return err
	}
	return stillIdle(tx, row.Key)
}

// stillIdle fails where a rollout began since this transaction looked, as others commit
// beside it on PostgreSQL. Whoever asks holds the counter of generations: a rollout
// that begins after this takes a higher one, and what it wants stands.
func stillIdle(tx *store.Tx, key release.Key) error {
	_, busy, err := tx.LiveRollout(key)
	if err != nil {
		return fmt.Errorf("couldn't look for a live rollout of %s: %w", key, err)
	}
	if busy {
		return &told{kind: store.ErrStale, text: fmt.Sprintf("a rollout of %s began just now, and says what its hosts run", key)}
	}
	return nil
}

// want promises that exactly these revisions shall run.
func (c *Controller) want(tx *store.Tx, key release.Key, owner string, t pipeline.Target, revisions ...wire.Revision) error {
	gen, err := tx.NextGeneration()
	if err != nil {
		return fmt.Errorf("couldn't take a generation: %w", err)
	}
	doc := host.Document(key, t, gen)
	doc.Revisions = append(doc.Revisions, revisions...)
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("couldn't encode the desired state: %w", err)
	}
	if err := tx.AddEffect(&store.Effect{Project: key.Project, Rollout: owner, Generation: gen, Kind: string(rollout.Apply), Data: b}); err != nil {
		return fmt.Errorf("couldn't promise an effect: %w", err)
	}
	return nil
}

// finish writes what an ended rollout leaves behind: what runs in the
// environment, the quarantine, and who waits for the environment.
func (t *turn) finish() error {
	key := t.key()
	row, ok, err := t.tx.Environment(key)
	if err != nil {
		return fmt.Errorf("couldn't read %s: %w", key, err)
	}
	if !ok {
		row = store.Environment{Key: key}
	}
	p, err := decodePlace(row)
	if err != nil {
		return err
	}
	if t.state.Phase == rollout.Succeeded {
		if err := t.settle(&row, &p); err != nil {
			return err
		}
		p.Since = t.tx.Now()
		if err := t.move(&row); err != nil {
			return err
		}
	} else if t.state.Exposed && !t.plan.Drill {
		// A release that nobody was exposed to may be tried again as it is: what
		// stopped it can lie outside of it, such as a port that was taken.
		if err := t.quarantine(t.row.Release, t.state.Reason); err != nil {
			return err
		}
	}
	if t.state.Phase != rollout.Succeeded && row.RetireAt != nil {
		if t.state.Wanted > 0 {
			row.RetireAt = nil // the release before stopped when this rollout told hosts what to run
		} else {
			now := t.tx.Now()
			row.WakeAt = &now // its time may have come meanwhile
		}
	}
	p.V, p.Strayed = 1, nil
	t.measure(&p)
	if err := t.c.putPlace(t.tx, &row, p); err != nil {
		return fmt.Errorf("couldn't write what runs in %s: %w", key, err)
	}
	return t.tx.WakeRuns(t.row.Project, t.row.Service, "", t.tx.Now())
}

// move leaves the address and the hosts of the release before, now that the one
// after it was judged good.
func (t *turn) move(row *store.Environment) error {
	to := t.plan.Environment.Target
	if t.plan.Before == nil || !host.Moves(*t.plan.Before, to) {
		return nil
	}
	now := t.candidate
	now.Weight, now.Candidate = wire.FullWeight, false
	all := []wire.Revision{now}
	if t.state.Old && t.restore != nil { // warm for a way back
		old := *t.restore
		old.Weight, old.Candidate = 0, false
		all = append(all, old)
	}
	if err := t.c.want(t.tx, row.Key, placeEffects(row.Key), to, all...); err != nil {
		return err
	}
	at := t.tx.Now()
	row.WakeAt = &at
	return nil
}

// measure keeps how long going back took, so that the next one can say what to
// expect.
func (t *turn) measure(p *place) {
	m := Measured{Way: t.plan.Way, Run: t.row.Run, Drill: t.plan.Drill, At: t.tx.Now()}
	switch {
	case t.state.Phase == rollout.Succeeded && t.plan.Strategy == rollout.StrategyRollback && m.Way != "":
		m.Millis = t.tx.Now().Sub(t.row.CreatedAt).Milliseconds()
	case t.state.Phase == rollout.RolledBack && t.state.Exposed && t.restore != nil && t.watch.rollbackMillis() != nil:
		m.Way, m.Millis = warm, *t.watch.rollbackMillis()
	default:
		return
	}
	p.Measured = append(slices.DeleteFunc(p.Measured, func(x Measured) bool { return x.Way == m.Way }), m)
}

// settle makes the candidate what runs.
func (t *turn) settle(row *store.Environment, p *place) error {
	before := p.Environment
	p.Environment, p.Snapshots, p.Before = t.plan.Environment, nil, nil
	current := t.candidate
	current.Weight, current.Candidate = wire.FullWeight, false
	var err error
	if row.Current, err = json.Marshal(current); err != nil {
		return fmt.Errorf("couldn't encode what runs: %w", err)
	}
	row.Previous, row.RetireAt = nil, nil
	now := t.tx.Now()
	row.WakeAt = &now
	p.TickedAt = time.Time{}
	if err := t.endSynthetic(current); err != nil {
		return err
	}
	if t.restore == nil {
		return nil
	}
	retire := now.Add(t.plan.RetireAfter)
	if !t.plan.Warm() {
		retire = now // its last instance was replaced
	}
	if t.plan.Strategy == rollout.StrategyRollback && !t.plan.Drill {
		// What was taken back is no way back, and need not stay warm.
		retire = now
		at := about{project: t.row.Project, run: t.row.Run, environment: t.row.Environment}
		ev, err := t.c.event(t.tx, at, release.System, "")
		if err != nil {
			return err
		}
		done := evidence.Rollback{Event: ev, Rollout: t.row.ID, Stage: evidence.RollbackCompleted, Cause: causeCommand, To: t.row.Release}
		if err := t.c.takenBack(t.tx, at, *t.restore, done); err != nil {
			return err
		}
		if err := t.quarantine(t.restore.Release, "rolled back: "+t.watch.Why); err != nil {
			return err
		}
	} else {
		p.Before = &before
		if row.Previous, err = json.Marshal(t.restore); err != nil {
			return fmt.Errorf("couldn't encode the previous release: %w", err)
		}
	}
	row.RetireAt = &retire
	return nil
}

// quarantine keeps a release out until a person lifts it.
func (t *turn) quarantine(id release.ID, why string) error {
	if _, already, err := t.tx.Quarantined(t.row.Project, t.row.Service, id); err != nil || already {
		return err
	}
	q := store.Quarantine{Project: t.row.Project, Service: t.row.Service, Release: id, Reason: fmt.Sprintf("it was taken back from %s: %s", t.row.Environment, why), At: t.tx.Now()}
	if err := t.tx.PutQuarantine(&q); err != nil {
		return fmt.Errorf("couldn't quarantine release %s: %w", id.Short(), err)
	}
	at := about{project: t.row.Project, run: t.row.Run, environment: t.row.Environment}
	ev, err := t.c.event(t.tx, at, release.System, "")
	if err != nil {
		return err
	}
	_, err = t.c.record(t.tx, fmt.Sprintf("quarantine/%s/%s", t.row.ID, id.Short()), at,
		evidence.Quarantine{Event: ev, Change: evidence.Quarantined, Cause: "rollout " + t.row.ID}, evidence.ReleaseSubject(t.row.Project, t.row.Service, id))
	return err
}
