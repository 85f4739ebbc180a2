package control

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// Between rollouts nobody moves anything: hosts run what they were last told to. One
// that has applied that and reports something else was changed by somebody. Its
// environment says so, once for each change, and asks for what was set again, at once
// or when a person says so, as its onDrift is. A live rollout looks by itself, and
// begins by telling all its hosts what to run.
//
// A host that has applied a later generation than there is on record was told by somebody
// who knew more: the record is of a backup. It may well be right, so what it runs is
// never put back before a person says so.

// strayed is what was found between two rollouts.
type strayed struct {
	Hosts []string  `json:"hosts"`
	Why   string    `json:"why"` // what differs, by host
	Since time.Time `json:"since"`
	Run   string    `json:"run,omitempty"` // where it is told, the last one's; empty: not told yet
	// A host has applied a later generation than there is on record.
	Forgotten bool      `json:"forgotten,omitempty"`
	Again     time.Time `json:"again,omitzero"` // when what was set is asked for again; zero: when a person says so
}

const (
	strayFor     = 2 * time.Second // a host that is not right for so long was changed
	putBackEvery = 30 * time.Second
)

// told reports whether people see it.
func (s *strayed) told() bool { return s != nil && s.Run != "" }

// stays reports whether what was found is left as it is: until a person says so, or
// for as long as nothing is told of it.
func (s *strayed) stays() bool { return s != nil && s.Again.IsZero() }

// cause says who must have done it.
func (s *strayed) cause() string {
	if s.Forgotten {
		return "the record is of a backup, or another control plane tells hosts what to run too"
	}
	return "somebody else changed it"
}

// outcome says who must have done it and what comes of it.
func (s *strayed) outcome() string {
	if s.Again.IsZero() {
		return s.cause() + "; it stays so until somebody resumes, or the next rollout"
	}
	return s.cause() + "; what was set is asked for again"
}

// sentence says what was found and what comes of it.
func (s *strayed) sentence() string { return s.Why + ": " + s.outcome() }

// lookAround holds the hosts of an idle environment to what they were last told, and
// says when to look again though nothing was reported; 0: then it need not.
func (c *Controller) lookAround(tx *store.Tx, row *store.Environment, p *place, current wire.Revision) (again time.Duration, err error) {
	if promised, err := tx.PendingEffects(row.Project, placeEffects(row.Key)); err != nil {
		return 0, fmt.Errorf("couldn't read pending effects of %s: %w", row.Key, err)
	} else if len(promised) > 0 {
		return time.Second, nil // what was told last is about to be past
	}
	doc, ok, err := lastTold(tx, row.Key)
	if err != nil || !ok {
		return 0, err
	}
	reports, err := c.reports.of(tx, doc.Hosts...)
	if err != nil {
		return 0, err
	}
	s, now := p.Strayed, tx.Now()
	// The last word of a silent host may have been in between: it tells of nothing new,
	// and keeps nobody from telling of the others. What was told stays so.
	reports = slices.DeleteFunc(reports, func(r host.Report) bool {
		return host.Silent(r.Arrived, now) && !(s.told() && slices.Contains(s.Hosts, r.Host))
	})
	found := host.Astray(reports, doc)
	hosts, why := found.Hosts, found.Why
	switch {
	case s == nil && why == "" && found.Ahead: // they run what was set: now they apply a generation that is on record
		left := putBackEvery - now.Sub(p.StrayedAt).Abs()
		if len(reports) < len(doc.Hosts) {
			left = putBackEvery // one that is silent may run something else, and would be put back
		}
		if left > 0 {
			return left, nil
		}
		p.StrayedAt = now
		return time.Second, c.tellAgain(tx, doc)
	case s == nil && why == "":
		return 0, nil
	case s == nil:
		p.Strayed = &strayed{Hosts: hosts, Why: why, Since: now}
		return strayFor, nil
	case why == "" && s.told() && slices.ContainsFunc(s.Hosts, func(h string) bool { return slices.Contains(found.Unread, h) }):
		return 0, nil // it was told again what to run; when it says that it does, that wakes
	case why == "":
		p.Strayed = nil
		if !s.told() {
			return 0, nil
		}
		c.log.Info("hosts run again what they were told", "service", row.Key.String())
		_, err := c.factOfDrift(tx, row, current, evidence.RolloutStep{Kind: evidence.StepDrift, From: s.Why, Reason: "hosts run again what was set"}, release.System, "")
		return 0, err
	}
	if left := p.quiet(why, now); left > 0 {
		return left, nil
	}
	for _, r := range reports {
		if !s.told() && slices.Contains(hosts, r.Host) && !r.Arrived.After(s.Since) {
			return strayFor, nil
		}
	}
	if !s.told() || s.Why != why {
		s.Hosts, s.Why, s.Since, s.Forgotten = hosts, why, now, found.Forgotten
		switch {
		case found.Forgotten:
			s.Again = time.Time{}
		case p.Environment.Rollout.OnDrift != pipeline.DriftHold && s.Again.IsZero():
			s.Again = now
		}
		p.StrayedAt = now
		c.log.Warn("hosts run something else than they were told", "service", row.Key.String(), "what", s.sentence())
		if s.Run, err = c.factOfDrift(tx, row, current, evidence.RolloutStep{Kind: evidence.StepDrift, To: why, Reason: s.outcome()}, release.System, ""); err != nil || s.Run == "" {
			return 0, err
		}
	}
	if !s.Again.IsZero() && (!now.Before(s.Again) || s.Again.Sub(now) > putBackEvery) {
		s.Again = now.Add(putBackEvery)
		if err := c.tellAgain(tx, doc); err != nil {
			return 0, err
		}
	}
	return s.wait(now), nil
}

// quiet is how long nothing is told yet: a report may come in between, and hosts that
// somebody changes again and again, also each time that they were put back, fill no
// record.
func (p *place) quiet(why string, now time.Time) time.Duration {
	s := p.Strayed
	if s.told() && s.Why == why {
		return 0
	}
	left := putBackEvery - now.Sub(p.StrayedAt).Abs()
	if !s.told() {
		left = max(left, strayFor-now.Sub(s.Since).Abs())
	}
	return left
}

// wakeIdle lets an environment without a live rollout look around when a host's report
// of it differs from what hosts were told, or differed before, or is the first of what
// they were told last. What else changes between rollouts, such as an instance that
// ends and starts again, wakes nobody.
func (c *Controller) wakeIdle(tx *store.Tx, key release.Key, before, now wire.Observed) error {
	doc, ok, err := lastTold(tx, key)
	if err != nil || !ok || !slices.Contains(doc.Hosts, now.Host) {
		return err
	}
	was, is := serviceOf(before, key), serviceOf(now, key)
	applies := is.Generation >= doc.Generation && was.Generation != is.Generation
	if !applies && host.Differs(was, now.Host, doc) == "" && host.Differs(is, now.Host, doc) == "" {
		return nil
	}
	return tx.Wake("environments", key.Project, key.Service+"/"+key.Environment, tx.Now())
}

func serviceOf(o wire.Observed, key release.Key) wire.Service {
	if i := slices.IndexFunc(o.Services, func(s wire.Service) bool { return s.Key == key }); i >= 0 {
		return o.Services[i]
	}
	return wire.Service{}
}

// wait is how long until what was set is asked for again.
func (s *strayed) wait(now time.Time) time.Duration {
	if s.Again.IsZero() {
		return 0
	}
	return max(time.Second, s.Again.Sub(now))
}

// lastTold is what the hosts of an environment were last told to run.
func lastTold(tx *store.Tx, key release.Key) (doc wire.Desired, ok bool, err error) {
	row, ok, err := tx.Desired(key)
	if err != nil || !ok {
		return doc, false, err
	}
	if err := json.Unmarshal(row.Document, &doc); err != nil {
		return doc, false, fmt.Errorf("couldn't read the desired state of %s: %w", key, err)
	}
	return doc, true, nil
}

// tellAgain promises the same document under another generation, which hosts take.
func (c *Controller) tellAgain(tx *store.Tx, doc wire.Desired) error {
	var err error
	if doc.Generation, err = tx.NextGeneration(); err != nil {
		return fmt.Errorf("couldn't take a generation: %w", err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("couldn't encode the desired state: %w", err)
	}
	if err := tx.AddEffect(&store.Effect{Project: doc.Project, Rollout: placeEffects(doc.Key), Generation: doc.Generation, Kind: string(rollout.Apply), Data: b}); err != nil {
		return fmt.Errorf("couldn't promise an effect: %w", err)
	}
	return stillIdle(tx, doc.Key)
}

// factOfDrift makes what was found, what a person says to it, or that it is over a
// statement about what runs there, and a line of the feed of the last run.
func (c *Controller) factOfDrift(tx *store.Tx, row *store.Environment, current wire.Revision, step evidence.RolloutStep, by release.Actor, typed string) (runID string, err error) {
	last, err := tx.Rollouts(store.RolloutFilter{Project: row.Project, Service: row.Service, Environment: row.Key.Environment, Limit: 1})
	if err != nil || len(last) == 0 {
		return "", err
	}
	at := about{project: row.Project, run: last[0].Run, environment: row.Key.Environment}
	if step.Event, err = c.event(tx, at, by, typed); err != nil {
		return "", err
	}
	m, err := release.ParseManifest(current.Manifest, current.Release)
	if err != nil {
		return "", err
	}
	step.Rollout, step.Revision, step.Phase, step.Observed = last[0].ID, row.Revision, last[0].Phase, step.Kind == evidence.StepDrift
	step.From, step.To, step.Reason = clip(step.From), clip(step.To), clip(step.Reason)
	id := fmt.Sprintf("drift/%s/%s/%d/%s", row.Service, row.Key.Environment, row.Revision, step.Kind)
	if _, err := c.record(tx, id, at, step, evidence.Subjects(m, current.Release)...); err != nil {
		return "", err
	}
	words := step.Reason
	switch {
	case step.To != "":
		words = step.To + ": " + words
	case step.Kind == evidence.StepCommand:
		words = "it is put back, as " + string(by) + " says"
	}
	return at.run, addFeed(tx, store.Feed{Project: at.project, Run: at.run, Service: row.Service, Environment: at.environment, Kind: "drift"}, map[string]string{"reason": words})
}

// strayedOf is what people see of a run's environment, nil where nothing was found, or
// since then another rollout began.
func (t *runTurn) strayedOf(env string) (row store.Environment, p place, err error) {
	key := release.Key{Project: t.row.Project, Service: t.row.Service, Environment: env}
	row, ok, err := t.tx.Environment(key)
	if err != nil || !ok {
		return row, p, err
	}
	if p, err = decodePlace(row); err != nil || !p.Strayed.told() {
		return row, p, err
	}
	if _, busy, err := t.tx.LiveRollout(key); busy || err != nil || p.Strayed.Run != t.row.ID {
		p.Strayed = nil
		return row, p, err
	}
	return row, p, nil
}

// explainStrayed adds to an ended run what hosts run otherwise since.
func (t *runTurn) explainStrayed(x *Explanation) error {
	for _, e := range t.state.Environments {
		_, p, err := t.strayedOf(e.Name)
		if err != nil {
			return err
		}
		if !p.Strayed.told() {
			continue
		}
		x.Environment, x.Now = e.Name, x.Now+"; since then hosts in "+e.Name+" were changed"
		if p.Strayed.Forgotten {
			x.Now = fmt.Sprintf("the record ends with this run; hosts in %s were told more since", e.Name)
		}
		x.Why, x.Next, x.When = p.Strayed.Why+": "+p.Strayed.cause(), "what was set is asked for again each 30 s, until hosts say that they run it", "now"
		if p.Strayed.Again.IsZero() {
			x.Next = "it is left as it is (onDrift: hold)"
			if p.Strayed.Forgotten {
				x.Next = "it is left as it is: the hosts may be right"
			}
			x.When = "when somebody resumes, or with the next rollout"
		}
		put := choice("puts it back to what was set", "resume", t.row.ID, "--env", e.Name, "--reason", "TEXT")
		next := choice("the next rollout puts it back before it exposes anybody", "run")
		x.Choices = append([]Choice{put, next}, x.Choices...)
	}
	return nil
}

// putBack takes a person's word that what hosts run otherwise between rollouts is to be
// put back, and returns the owner of the effect; "" where nothing was found.
func (t *runTurn) putBack(cmd Command) (owner string, err error) {
	for _, e := range t.state.Environments {
		if cmd.Environment != "" && cmd.Environment != e.Name || cmd.Environment == "" && t.state.Phase != run.Ended {
			continue
		}
		row, p, err := t.strayedOf(e.Name)
		if err != nil {
			return "", err
		}
		if !p.Strayed.told() {
			continue
		}
		current, err := decodeRevision(row.Current)
		if err != nil || current == nil {
			return "", err
		}
		doc, ok, err := lastTold(t.tx, row.Key)
		if err != nil || !ok {
			return "", err
		}
		if err := t.c.tellAgain(t.tx, doc); err != nil {
			return "", err
		}
		step := evidence.RolloutStep{Kind: evidence.StepCommand, Command: string(cmd.Kind), From: p.Strayed.Why}
		if _, err := t.c.factOfDrift(t.tx, &row, *current, step, cmd.By, cmd.Reason); err != nil {
			return "", err
		}
		at := t.tx.Now().Add(putBackEvery)
		p.Strayed.Again, row.WakeAt = at, &at
		return placeEffects(row.Key), t.c.putPlace(t.tx, &row, p)
	}
	return "", nil
}
