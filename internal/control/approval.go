package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// Packet is what an approver decides on. Its canonical JSON is hashed; a
// decision names the hash, and holds for nothing else.
type Packet struct {
	Version      int                `json:"version"`
	Project      string             `json:"project"`
	Service      string             `json:"service"`
	Owner        string             `json:"owner"`
	Environment  string             `json:"environment"`
	Run          string             `json:"run"`
	Release      release.ID         `json:"release"`
	Commit       string             `json:"commit"`
	Artifacts    []release.Artifact `json:"artifacts"`
	Tests        gate.Tests         `json:"tests"`
	Isolation    string             `json:"isolation"`
	Gates        []gate.Decision    `json:"gates"`
	Plan         rollout.Plan       `json:"plan"`
	Previous     release.ID         `json:"previous,omitempty"`
	Changes      []Change           `json:"changes"` // of configuration against the previous release
	RollbackPlan RollbackPlan       `json:"rollbackPlan"`
	Monitoring   Monitoring         `json:"monitoring"`
	Findings     []string           `json:"findings,omitempty"` // what an approver should know before saying yes
}

// Change is one value that differs.
type Change struct {
	Path string `json:"path"`
	Was  string `json:"was"`
	Now  string `json:"now"`
}

// RollbackPlan says beforehand how the release is taken back.
type RollbackPlan struct {
	To       release.ID `json:"to,omitempty"`
	Kind     string     `json:"kind"` // warm, cold, none
	Sentence string     `json:"sentence"`
	Warm     string     `json:"warm,omitempty"`   // how long it stays warm
	Cold     string     `json:"cold,omitempty"`   // how it goes afterwards
	OnFail   string     `json:"onFail,omitempty"` // what a failure does
	Drill    *Drill     `json:"drill,omitempty"`  // the last rehearsal
}

// Monitoring says what is watched while it bakes.
type Monitoring struct {
	Metrics []string `json:"metrics"`
	Owner   string   `json:"owner"`
}

// approval reports whether the packet has its quorum, and the envelopes of the
// decisions. Otherwise it leaves the environment waiting, or ended.
func (t *runTurn) approval(e *run.Environment, env pipeline.Environment, plan rollout.Plan, gates []gate.Decision) (bool, []release.Digest, error) {
	packet, body, err := t.packet(e, env, plan, gates)
	if err != nil {
		return false, nil, err
	}
	digest := release.DigestOf(body)
	if e.Packet != "" && e.Packet != digest {
		if stands, err := t.stands(e, packet); err != nil {
			return false, nil, err
		} else if stands {
			digest = e.Packet
		}
	}
	if e.Packet != digest {
		was := e.Packet
		row := store.Packet{Project: t.row.Project, Run: t.row.ID, Environment: e.Name, Digest: digest, Body: body, CreatedAt: t.tx.Now(), ExpiresAt: t.tx.Now().Add(env.Approval.Expires - e.Waited)}
		if err := t.tx.PutPacket(&row); err != nil {
			return false, nil, fmt.Errorf("couldn't keep the packet: %w", err)
		}
		e.Packet = digest
		if err := t.tell(e.Name, "approval", map[string]string{"packet": string(digest), "was": string(was), "release": string(packet.Release)}); err != nil {
			return false, nil, err
		}
	}
	decisions, err := t.tx.Decisions(t.row.Project, t.row.ID, e.Name, digest)
	if err != nil {
		return false, nil, fmt.Errorf("couldn't read the decisions: %w", err)
	}
	var approvers []string
	var envelopes []release.Digest
	for _, d := range decisions {
		if d.Decision == "reject" {
			return false, nil, t.stop(e, run.Failed, fmt.Sprintf("rejected by %s: %s", d.Actor, d.Comment))
		}
		if !slices.Contains(approvers, string(d.Actor)) {
			approvers = append(approvers, string(d.Actor))
		}
		if l, ok, err := t.tx.Leaf(t.row.Project, approvalID(d)); err != nil {
			return false, nil, fmt.Errorf("couldn't read the evidence of an approval: %w", err)
		} else if ok {
			envelopes = append(envelopes, release.DigestOf(l.Envelope))
		}
	}
	if len(approvers) >= env.Approval.Quorum {
		e.Approved = true
		return true, envelopes, nil
	}
	e.Waited += t.elapsed()
	if e.Waited >= env.Approval.Expires {
		return false, nil, t.stop(e, run.Failed, fmt.Sprintf("nobody decided within %s; start the run again with `sluice promote %s --env %s`", pipeline.Short(env.Approval.Expires), t.state.Release.Short(), e.Name))
	}
	t.wait(e, fmt.Sprintf("approval: %d of %d given; decide with `sluice approve %s --env %s`", len(approvers), env.Approval.Quorum, t.row.ID, e.Name))
	t.wakeIn(min(approvalTick, env.Approval.Expires-e.Waited))
	return false, nil, nil
}

// stands reports whether the packet that some of a quorum decided on stays the one: the
// only news is that a rollback was rehearsed once more, and succeeded as before. What
// rehearses by itself would otherwise void what they said, each time.
func (t *runTurn) stands(e *run.Environment, now Packet) (bool, error) {
	decisions, err := t.tx.Decisions(t.row.Project, t.row.ID, e.Name, e.Packet)
	if err != nil {
		return false, fmt.Errorf("couldn't read the decisions: %w", err)
	}
	row, ok, err := t.tx.Packet(t.row.Project, t.row.ID, e.Name)
	if err != nil || !ok || len(decisions) == 0 || row.Digest != e.Packet {
		return false, err
	}
	var was Packet
	if json.Unmarshal(row.Body, &was) != nil {
		return false, nil // it is of a newer version: the one of now counts
	}
	d := was.RollbackPlan.Drill
	if n := now.RollbackPlan.Drill; d == nil || n == nil || !d.Succeeded || !n.Succeeded || d.Environment != n.Environment {
		return false, nil
	}
	now.RollbackPlan.Drill, now.Gates = d, slices.Clone(now.Gates)
	for i, g := range now.Gates {
		if g.Gate == pipeline.Rehearsed && i < len(was.Gates) && was.Gates[i].Gate == g.Gate && was.Gates[i].Answer == g.Answer {
			now.Gates[i] = was.Gates[i] // which tells when and where
		}
	}
	body, err := release.Canonical(now)
	return release.DigestOf(body) == e.Packet, err
}

func (t *runTurn) packet(e *run.Environment, env pipeline.Environment, plan rollout.Plan, gates []gate.Decision) (Packet, []byte, error) {
	tests, isolation, err := t.c.built(t.tx, t.row.Project, t.state.Artifacts)
	if err != nil {
		return Packet{}, nil, err
	}
	p := Packet{
		Version: 1, Project: t.row.Project, Service: t.row.Service, Owner: t.def.Owner, Environment: e.Name, Run: t.row.ID,
		Release: t.state.Release, Commit: t.row.Commit, Artifacts: t.state.Artifacts, Tests: tests, Isolation: isolation,
		Gates: gates, Plan: plan, Previous: e.Previous, Changes: []Change{}, Monitoring: Monitoring{Metrics: metricNames(env), Owner: t.def.Owner},
		RollbackPlan: RollbackPlan{Kind: "none", Sentence: "This is the first release here: there is nothing to go back to. Taking it back means to answer 503."},
	}
	if e.Previous != "" {
		if p.RollbackPlan, err = t.rollbackPlan(e, plan); err != nil {
			return Packet{}, nil, err
		}
		d := p.RollbackPlan.Drill
		p.Findings = findingsOf(t.row.Service, e.Name, d, t.rehearsedWithin(d), t.tx.Now())
		if p.Changes, err = t.configChanges(e); err != nil {
			return Packet{}, nil, err
		}
	}
	p.RollbackPlan.OnFail = preview.Failing(plan)
	body, err := release.Canonical(p)
	return p, body, err
}

// rollbackPlan says how the release would be taken back, now and later.
func (t *runTurn) rollbackPlan(e *run.Environment, plan rollout.Plan) (RollbackPlan, error) {
	out := RollbackPlan{To: e.Previous, Kind: warm}
	key := release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name}
	current, err := t.current(key)
	if err != nil {
		return out, err
	}
	id, stays := e.Previous.Short(), pipeline.Short(plan.RetireAfter)
	out.Cold = fmt.Sprintf("it must be started first, which takes at most %s", pipeline.Short(current.Health.StartIn))
	if !plan.Warm() || plan.RetireAfter == 0 {
		out.Kind, out.Cold = cold, ""
		out.Sentence = fmt.Sprintf("Release %s has stopped when the rollout has ended; it is started first, which takes at most %s, then everything goes back to it in one step, without registry or network.", id, pipeline.Short(current.Health.StartIn))
		out.Drill, err = t.lastDrill(e.Name)
		return out, err
	}
	out.Sentence = fmt.Sprintf("Release %s keeps running at weight 0 for %s after the rollout; all traffic goes back to it in one step, without registry or network.", id, stays)
	out.Warm = stays
	out.Drill, err = t.lastDrill(e.Name)
	return out, err
}

// lastDrill is the last rehearsal in an environment, or where there was none the
// newest of the service.
func (t *runTurn) lastDrill(env string) (*Drill, error) {
	d, err := t.drillIn(env)
	if err != nil || d != nil {
		return d, err
	}
	for _, e := range t.def.Environments {
		other, err := t.drillIn(e.Name)
		if err != nil {
			return nil, err
		}
		if other != nil && (d == nil || other.At.After(d.At)) {
			d = other
		}
	}
	return d, nil
}

// slower is how much longer going back may take than going forward.
const slower = time.Second

// drillDue is how old the last rehearsal may be where nobody says it.
const drillDue = 90 * 24 * time.Hour

// rehearsedWithin is how old a rehearsal may be: where its environment rehearses by
// itself, a tenth more than that, as the next one takes its time too.
func (t *runTurn) rehearsedWithin(d *Drill) time.Duration {
	if d != nil {
		if env, ok := t.def.Environment(d.Environment); ok && env.Rehearse != nil {
			return env.Rehearse.Every + env.Rehearse.Every/10
		}
	}
	return drillDue
}

// findingsOf is what a person should know of a rollback before deciding. It changes
// when a rehearsal does or its time is over, not from day to day, as whoever decides
// does so on these very words.
func findingsOf(service, env string, d *Drill, within time.Duration, now time.Time) []string {
	switch {
	case d == nil:
		return []string{fmt.Sprintf("no rollback of %s was ever rehearsed; `sluice rehearse %s --env %s` does it and measures it", service, service, env)}
	case !d.Succeeded:
		return []string{fmt.Sprintf("the last rehearsal of a rollback, in %s by run %s, failed: %s", d.Environment, d.Run, d.Reason)}
	case now.Sub(d.At) > within:
		return []string{fmt.Sprintf("the last rehearsal of a rollback, in %s by run %s on %s, is longer ago than %s; `sluice rehearse %s --env %s` does it again", d.Environment, d.Run, d.At.UTC().Format("2006-01-02"), pipeline.Short(within), service, d.Environment)}
	case d.BackMillis > d.OnMillis+slower.Milliseconds():
		return []string{fmt.Sprintf("in the last rehearsal, in %s by run %s, going back took %.1f s and going forward %.1f s: the way back is slower than the deployment", d.Environment, d.Run, float64(d.BackMillis)/1000, float64(d.OnMillis)/1000)}
	}
	return nil
}

func metricNames(env pipeline.Environment) []string {
	out := []string{}
	for _, m := range env.Analysis.Metrics {
		out = append(out, m.Name)
	}
	return out
}

// configChanges compares the environment's configuration with that of the
// release that runs there. Secrets show their reference and version only.
func (t *runTurn) configChanges(e *run.Environment) ([]Change, error) {
	var cfg [2]release.Config
	for i, id := range []release.ID{e.Previous, t.state.Release} {
		rel, ok, err := t.tx.Release(t.row.Project, id)
		if err != nil || !ok {
			return nil, fmt.Errorf("couldn't read release %s: %w", id.Short(), orNotFound(err))
		}
		m, err := release.ParseManifest(rel.Manifest, id)
		if err != nil {
			return nil, err
		}
		cfg[i] = m.Environments[e.Name]
	}
	return Diff(cfg[0], cfg[1])
}

// Diff lists what differs between the JSON forms of two values, by path.
func Diff(was, now any) ([]Change, error) {
	var v [2]any
	for i, x := range []any{was, now} {
		b, err := json.Marshal(x)
		if err != nil {
			return nil, fmt.Errorf("couldn't encode for comparison: %w", err)
		}
		if err := json.Unmarshal(b, &v[i]); err != nil {
			return nil, fmt.Errorf("couldn't decode for comparison: %w", err)
		}
	}
	out := []Change{}
	diff("", v[0], v[1], &out)
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

func diff(path string, was, now any, out *[]Change) {
	if reflect.DeepEqual(was, now) {
		return
	}
	w, ok1 := was.(map[string]any)
	n, ok2 := now.(map[string]any)
	if was == nil && ok2 || now == nil && ok1 {
		ok1, ok2 = true, true // each value that came or went is a change of its own
	}
	if !ok1 || !ok2 {
		*out = append(*out, Change{Path: strings.TrimPrefix(path, "."), Was: plain(was), Now: plain(now)})
		return
	}
	for k := range w {
		diff(path+"."+k, w[k], n[k], out)
	}
	for k := range n {
		if _, both := w[k]; !both {
			diff(path+"."+k, nil, n[k], out)
		}
	}
}

func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// Moved reports that a decision names a packet which is no longer what waits.
type Moved struct {
	Packet  release.Digest // the current one
	Changes []Change       // none where nothing is known of the one that was named
	Unknown release.Digest // what was named, where it never was a packet
}

func (m *Moved) Error() string {
	if m.Unknown != "" {
		return fmt.Sprintf("%s never was a packet here, so nothing was decided; the one that waits is %s: look at it, then name its digest", m.Unknown, m.Packet)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the packet changed since you saw it; it is now %s", m.Packet)
	for _, c := range m.Changes {
		fmt.Fprintf(&b, "\n  %s: %q is now %q", c.Path, c.Was, c.Now)
	}
	b.WriteString("\nlook at it again and decide on the new one")
	return b.String()
}

func approvalID(d store.Decision) string {
	return fmt.Sprintf("approval/%s/%s/%s/%s", d.Run, d.Environment, d.Packet.Short(), d.Actor)
}

// decision says what was decided on the packet that an environment waits with; ""
// while that is open. The run's next turn takes it.
func (t *runTurn) decision(e run.Environment) (string, error) {
	if e.State != run.Waiting || e.Packet == "" || e.Rollout != "" || e.Queued || t.state.Phase == run.Ended {
		return "", nil
	}
	decisions, err := t.tx.Decisions(t.row.Project, t.row.ID, e.Name, e.Packet)
	if err != nil {
		return "", fmt.Errorf("couldn't read the decisions: %w", err)
	}
	var approvers []string
	for _, d := range decisions {
		if d.Decision == "reject" {
			return fmt.Sprintf("rejected by %s", d.Actor), nil
		}
		if !slices.Contains(approvers, string(d.Actor)) {
			approvers = append(approvers, string(d.Actor))
		}
	}
	env, ok := t.def.Environment(e.Name)
	if !ok || env.Approval == nil || len(approvers) < env.Approval.Quorum {
		return "", nil
	}
	return "approved by " + strings.Join(approvers, " and "), nil
}

// Decide records a person's decision on a packet.
func (c *Controller) Decide(ctx context.Context, project, runID, env string, packet release.Digest, approve bool, comment string, by release.Actor) error {
	decision, said := "reject", evidence.Rejected
	if approve {
		decision, said = "approve", evidence.Approved
	}
	if len(comment) > 4096 {
		return refuse("the comment has %d bytes; at most 4096 are kept", len(comment))
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		t, err := c.readRun(tx, project, runID)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(t.state.Environments, func(e run.Environment) bool { return e.Name == env })
		if i < 0 {
			return invalid("run %s has no environment %q; it has %s", runID, env, t.places())
		}
		e := t.state.Environments[i]
		if e.State != run.Waiting || e.Packet == "" || t.state.Phase == run.Ended {
			return refuse("%s of run %s waits for no approval (it is %s); `sluice explain %s` says what it does", env, runID, orPending(e.State), runID)
		}
		if packet != e.Packet {
			return moved(tx, project, packet, e.Packet)
		}
		d := store.Decision{Project: project, Run: runID, Environment: env, Packet: packet, Actor: by, Decision: decision, Comment: comment, At: tx.Now()}
		if err := tx.AddDecision(&d); errors.Is(err, store.ErrExists) {
			return refuse("%s has decided on this packet already", by)
		} else if err != nil {
			return fmt.Errorf("couldn't keep the decision: %w", err)
		}
		at := about{project: project, run: runID, environment: env}
		ev, err := c.event(tx, at, by, comment)
		if err != nil {
			return err
		}
		if _, err := c.record(tx, approvalID(d), at, evidence.Approval{Event: ev, Decision: said, Packet: packet}, t.subject()); err != nil {
			return err
		}
		if err := t.tell(env, decision, map[string]string{"by": string(by), "packet": string(packet)}); err != nil {
			return err
		}
		return tx.Wake("runs", project, runID, tx.Now())
	})
}

func moved(tx *store.Tx, project string, was, now release.Digest) error {
	m := &Moved{Packet: now}
	var bodies [2]any
	for i, d := range []release.Digest{was, now} {
		p, ok, err := tx.PacketByDigest(project, d)
		if err != nil {
			return fmt.Errorf("couldn't read packet %s: %w", d.Short(), err)
		}
		if !ok {
			m.Unknown = was // and has nothing to differ from
			return m
		}
		if err := json.Unmarshal(p.Body, &bodies[i]); err != nil {
			return fmt.Errorf("couldn't read packet %s: %w", d.Short(), err)
		}
	}
	var err error
	if m.Changes, err = Diff(bodies[0], bodies[1]); err != nil {
		return err
	}
	return m
}

// clampElapsed is what passed between two turns, as far as it can be believed:
// at least nothing, and at most twice what was planned.
func clampElapsed(elapsed, planned time.Duration) time.Duration {
	return max(0, min(elapsed, 2*planned))
}
