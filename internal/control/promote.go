package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/promotion"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// approvalTick is how often a waiting approval adds up the time that it waited.
const approvalTick = time.Minute

// promote takes one environment of a run towards its rollout: gates, approval,
// and then, in the same transaction as the decision, the promotion and the row
// of the rollout. Nothing else lets a release into an environment.
func (c *Controller) promote(ctx context.Context, lease store.Lease, i int) error {
	found, err := c.look(ctx, lease, i)
	if err != nil {
		return err
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.openRun(tx, lease)
		if err != nil {
			return err
		}
		if action, j := run.Next(t.state); action != run.ActPromote || j != i {
			return nil
		}
		if err := t.promote(i, found); err != nil {
			return err
		}
		return t.close()
	})
}

func (t *runTurn) promote(i int, found findings) error {
	e := &t.state.Environments[i]
	key := release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}
	env, ok := t.def.Environment(e.Name)
	if !ok {
		return t.stop(e, run.Failed, "the definition has no environment "+e.Name)
	}
	if t.state.Cancel != "" {
		return t.stop(e, run.Cancelled, t.state.Cancel)
	}
	if ok, err := t.mayEnter(e, key); err != nil || !ok {
		return err
	}
	switch t.row.Kind {
	case run.KindRollback:
		return t.startRollback(e, key)
	case run.KindRehearse:
		return t.startLeg(e, key)
	}
	if found.altered != "" {
		return t.stop(e, run.Failed, found.altered)
	}
	if found.away != "" {
		t.wait(e, "the registry, to verify the artifacts: "+found.away)
		t.wakeIn(registryRetry)
		return nil
	}
	at, ok, err := t.tx.Environment(key)
	if err != nil {
		return fmt.Errorf("couldn't read %s: %w", key, err)
	}
	var restore *wire.Revision
	if ok {
		if restore, err = decodeRevision(at.Current); err != nil {
			return fmt.Errorf("couldn't read what runs in %s: %w", key, err)
		}
	}
	if restore != nil && restore.Release == t.state.Release {
		// It was let in and held. Two copies of one release could be told apart
		// neither by hosts nor by the judge, and a bad verdict about the second
		// would quarantine the first.
		e.State, e.Reason, e.WaitingFor = run.Succeeded, "this release runs there already", ""
		t.wakeIn(0)
		return t.tell(e.Name, "unchanged", map[string]string{"release": string(restore.Release)})
	}
	e.Previous = ""
	if restore != nil {
		e.Previous = restore.Release
	}
	facts, err := t.facts(e, env)
	if err != nil {
		return err
	}
	if !found.looked || found.proof.Of != e.Previous {
		t.wait(e, "its turn: what it needs is looked at") // what was there changed while nobody looked
		t.wakeIn(0)
		return nil
	}
	if e.Previous != "" { // before a first release there is nothing to prove
		facts.WayBack = found.proof.decision()
	}
	gates := promotion.Decide(env, facts)
	gateEnvelopes, err := t.recordGates(e, gates)
	if err != nil {
		return err
	}
	if d, blocked := promotion.Blocked(gates); blocked && d.Answer == gate.Waiting {
		t.wait(e, fmt.Sprintf("gate %s: %s", d.Gate, d.Reason))
		t.wakeIn(registryRetry)
		return nil
	} else if blocked {
		return t.stop(e, run.Failed, fmt.Sprintf("gate %s: %s", d.Gate, d.Reason))
	}
	plan, err := rollout.Compile(env, restore != nil)
	if err != nil {
		return t.stop(e, run.Failed, err.Error())
	}
	var approvals []release.Digest
	if env.Approval != nil {
		done, envelopes, err := t.approval(e, env, plan, gates)
		if err != nil || !done {
			return err
		}
		approvals = envelopes
	}
	if !found.stored {
		t.wakeIn(0) // it was decided meanwhile: first its artifacts are read
		return nil
	}
	return t.enter(e, env, plan, restore, gateEnvelopes, approvals)
}

// enter writes the promotion and the rollout that it lets begin.
func (t *runTurn) enter(e *run.Environment, env pipeline.Environment, plan rollout.Plan, restore *wire.Revision, gates, approvals []release.Digest) error {
	key := release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}
	rel, ok, err := t.tx.Release(t.row.Project, t.state.Release)
	if err != nil || !ok {
		return fmt.Errorf("couldn't read release %s: %w", t.state.Release.Short(), orNotFound(err))
	}
	m, err := release.ParseManifest(rel.Manifest, rel.ID)
	if err != nil {
		return err
	}
	at := about{project: t.row.Project, run: t.row.ID, environment: e.Name}
	ev, err := t.c.event(t.tx, at, t.row.Actor, "")
	if err != nil {
		return err
	}
	signed, err := t.c.record(t.tx, fmt.Sprintf("promotion/%s/%s", t.row.ID, e.Name), at, evidence.Promotion{
		Event: ev, Project: t.row.Project, Service: t.row.Service, Release: rel.ID, Previous: e.Previous,
		Packet: e.Packet, Gates: gates, Approvals: approvals,
	}, evidence.Subjects(m, rel.ID)...)
	if err != nil {
		return err
	}
	if err := t.tx.InsertPromotion(&store.Promotion{Key: key, Release: rel.ID, Run: t.row.ID, Envelope: signed.Envelope, At: t.tx.Now()}); err != nil {
		return fmt.Errorf("couldn't write the promotion: %w", err)
	}
	candidate := revision(m, rel, signed.Envelope, env)
	gone, err := t.displace(key, rel.ID)
	if err != nil {
		return err
	}
	if gone != nil {
		plan = plan.Replacing()
	}
	return t.start(e, planned{Plan: plan, Environment: env, Displaced: gone}, candidate, restore)
}

// start writes the row of a rollout.
func (t *runTurn) start(e *run.Environment, p planned, candidate wire.Revision, restore *wire.Revision) error {
	env, plan := p.Environment, p.Plan
	row := store.Rollout{
		Project: t.row.Project, Run: t.row.ID, Service: t.row.Service, Environment: e.Name, Release: candidate.Release,
		Phase: string(rollout.Pending), Live: true, Engine: plan.Engine,
	}
	w, err := t.c.newWatch(t.tx, release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}, env, plan, restore)
	if err != nil {
		return err
	}
	if t.row.Kind == run.KindRollback {
		w.Why = t.state.Reason
	}
	if p.Before, err = t.reachedAt(release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}, restore); err != nil {
		return err
	}
	for dst, v := range map[*json.RawMessage]any{
		&row.Plan: p, &row.State: rollout.New(plan), &row.Judge: w, &row.Candidate: candidate, &row.Restore: restore,
	} {
		if *dst, err = json.Marshal(v); err != nil {
			return fmt.Errorf("couldn't encode the rollout: %w", err)
		}
	}
	now := t.tx.Now()
	row.WakeAt = &now
	if err := t.tx.InsertRollout(&row); err != nil {
		return fmt.Errorf("couldn't start the rollout: %w", err)
	}
	e.State, e.Rollout, e.Strategy, e.WaitingFor, e.Reason = run.Running, row.ID, plan.Strategy, "", ""
	return t.tell(e.Name, "promoted", map[string]string{"release": string(candidate.Release), "rollout": row.ID, "strategy": plan.Strategy})
}

// reachedAt is the target of what runs in an environment; nil if nothing does.
func (t *runTurn) reachedAt(key release.Key, restore *wire.Revision) (*pipeline.Target, error) {
	at, ok, err := t.tx.Environment(key)
	if err != nil || !ok || restore == nil {
		return nil, err
	}
	p, err := decodePlace(at)
	return &p.Environment.Target, err
}

// revision is what hosts need to run a release in an environment.
func revision(m release.Manifest, rel store.Release, promotion []byte, env pipeline.Environment) wire.Revision {
	cfg := m.Environments[env.Name]
	r := wire.Revision{
		Release: rel.ID, Manifest: rel.Manifest, Promotion: promotion,
		Artifact: fmt.Sprintf("%s/%s@%s", m.Project, m.Service, m.Artifacts[0].Digest),
		Run:      env.Target.Run, Instances: env.Target.Instances, Env: cfg.Env, Secrets: cfg.Secrets,
		Health: wire.Health(env.Target.Health),
	}
	if env.Target.Metrics != nil {
		r.Metrics = env.Target.Metrics.Path
	}
	return r
}

func decodeRevision(b json.RawMessage) (*wire.Revision, error) {
	if len(b) == 0 || string(b) == "null" {
		return nil, nil
	}
	r := new(wire.Revision)
	return r, json.Unmarshal(b, r)
}

// facts gathers what gates may ask about, from what signed statements say.
func (t *runTurn) facts(e *run.Environment, target pipeline.Environment) (promotion.Facts, error) {
	f := promotion.Facts{Facts: gate.Facts{
		Project: t.row.Project, Service: t.row.Service, Environment: e.Name, Commit: t.row.Commit,
		Release: t.state.Release, Previous: e.Previous, Artifacts: t.state.Artifacts,
	}}
	q, bad, err := t.tx.Quarantined(t.row.Project, t.row.Service, t.state.Release)
	if err != nil {
		return f, fmt.Errorf("couldn't read the quarantine: %w", err)
	}
	if bad {
		f.Quarantine = q.Reason
	}
	for _, env := range t.def.Environments {
		done, err := t.succeededIn(env.Name)
		if err != nil {
			return f, err
		}
		if done {
			f.Passed = append(f.Passed, env.Name)
		}
	}
	if f.Drills, err = t.drills(target); err != nil {
		return f, err
	}
	if f.Tests, f.Isolation, err = t.c.built(t.tx, t.row.Project, t.state.Artifacts); err != nil {
		return f, err
	}
	return f, nil
}

// succeededIn reports whether this very release once finished its rollout, with
// its checks, in an environment.
func (t *runTurn) succeededIn(env string) (bool, error) {
	rows, err := t.tx.Rollouts(store.RolloutFilter{Project: t.row.Project, Service: t.row.Service, Environment: env, Release: t.state.Release, Phase: string(rollout.Succeeded), Limit: 1})
	if err != nil {
		return false, fmt.Errorf("couldn't read the rollouts of %s: %w", env, err)
	}
	return len(rows) > 0, nil
}

// built reads the tests and the isolation of the build from the statements
// about the artifacts.
func (c *Controller) built(tx *store.Tx, project string, artifacts []release.Artifact) (gate.Tests, string, error) {
	var tests gate.Tests
	isolation := ""
	if len(artifacts) == 0 {
		return tests, isolation, nil
	}
	leaves, err := tx.LeavesOf(project, store.LeafFilter{Subject: artifacts[0].Digest})
	if err != nil {
		return tests, "", fmt.Errorf("couldn't read the evidence of %s: %w", artifacts[0].Digest.Short(), err)
	}
	if len(leaves) == 0 {
		return tests, "", nil
	}
	last := leaves[len(leaves)-1].Run // of several builds with the same outcome
	for _, l := range leaves {
		if l.Run != last {
			continue
		}
		st, err := c.trusted.Verify(l.Envelope)
		if err != nil {
			return tests, "", fmt.Errorf("couldn't trust statement %s: %w", l.ID, err)
		}
		switch l.PredicateType {
		case evidence.TypeTestResult:
			r, err := evidence.Decode[evidence.TestResult](st)
			if err != nil {
				return tests, "", err
			}
			if r.Environment != "" || r.Counts == nil {
				continue
			}
			tests.Reports++
			tests.Passed += r.Counts.Passed
			tests.Failed += r.Counts.Failed
			tests.Skipped += r.Counts.Skipped
		case evidence.TypeProvenance:
			p, err := evidence.Decode[evidence.Provenance](st)
			if err != nil {
				return tests, "", err
			}
			isolation = p.BuildDefinition.InternalParameters.Isolation
		}
	}
	return tests, isolation, nil
}

// recordGates keeps each decision as a statement, unless it is the one that was
// kept last, and returns the envelopes' digests.
func (t *runTurn) recordGates(e *run.Environment, gates []gate.Decision) ([]release.Digest, error) {
	at := about{project: t.row.Project, run: t.row.ID, environment: e.Name}
	var out []release.Digest
	for _, g := range gates {
		ev, err := t.c.event(t.tx, at, release.System, "")
		if err != nil {
			return nil, err
		}
		key, err := release.Canonical(g)
		if err != nil {
			return nil, err
		}
		id := fmt.Sprintf("gate/%s/%s/%s", t.row.ID, e.Name, release.DigestOf(key).Short())
		if kept, ok, err := t.tx.Leaf(t.row.Project, id); err != nil {
			return nil, fmt.Errorf("couldn't read the evidence of gate %s: %w", g.Gate, err)
		} else if ok {
			out = append(out, release.DigestOf(kept.Envelope))
			continue
		}
		signed, err := t.c.record(t.tx, id, at, evidence.GateDecision{Event: ev, Gate: g.Gate, Outcome: string(g.Answer), Reason: clip(g.Reason)}, t.subject())
		if err != nil {
			return nil, err
		}
		out = append(out, release.DigestOf(signed.Envelope))
	}
	e.Gates = gates
	return out, nil
}

// clip bounds a sentence to what a predicate takes.
func clip(s string) string {
	const most = 2000
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
