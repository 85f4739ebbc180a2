package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/promotion"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// registryRetry is how long a promotion waits for a registry that is away.
const registryRetry = 2 * time.Second

// findings are what was read outside of any transaction before a promotion: the
// release's artifacts, and whether what runs there could be brought back.
type findings struct {
	looked  bool
	stored  bool   // every byte of the release's artifacts was read and is right
	altered string // or they are not what they were, or gone
	away    string // or the registry can't be asked
	proof   proof
}

// look reads what a promotion depends on. It is not done while others are before
// it, and the release's artifacts are not read while a person has yet to decide:
// then nothing can enter. What enters was read in the same turn.
func (c *Controller) look(ctx context.Context, lease store.Lease, i int) (findings, error) {
	var row store.Run
	var s run.State
	undecided, turn := false, true
	var known *proof
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		t, err := c.readRun(tx, lease.Project, lease.ID)
		if err != nil {
			return err
		}
		row, s = t.row, t.state
		e := s.Environments[i]
		key := release.Key{Project: row.Project, Service: row.Service, Environment: e.Name}
		if busy, err := t.held(key); err != nil || busy {
			turn = false
			return err
		}
		ahead, err := t.ahead(key)
		if err != nil {
			return err
		}
		turn = len(ahead) == 0
		if e.State != run.Waiting || e.Packet == "" {
			return nil
		}
		decisions, err := tx.Decisions(row.Project, row.ID, e.Name, e.Packet)
		if err != nil || len(decisions) > 0 {
			return err
		}
		undecided = true
		known, err = t.proofShown(e, key)
		return err
	})
	f := findings{}
	if known != nil && err == nil {
		return findings{looked: true, proof: *known}, nil
	}
	if err != nil || !turn || s.Cancel != "" || row.Kind == run.KindRollback || row.Kind == run.KindRehearse {
		return f, err // a way back was proven when it was asked for
	}
	if f.proof, err = c.prove(ctx, release.Key{Project: row.Project, Service: row.Service, Environment: s.Environments[i].Name}); err != nil {
		return f, err
	}
	f.looked = true
	if undecided {
		return f, nil
	}
	switch bad := c.artifacts.Verify(ctx, row.Project, row.Service, s.Artifacts); {
	case bad == nil:
		f.stored = true
	case ctx.Err() != nil:
		return f, ctx.Err()
	case isAltered(bad):
		f.altered = bad.Error()
	default:
		f.away = bad.Error()
	}
	return f, nil
}

// proofShown is the proof that an approver looks at, as long as the same release
// runs there: it is not read anew while nobody decides.
func (t *runTurn) proofShown(e run.Environment, key release.Key) (*proof, error) {
	row, ok, err := t.tx.Environment(key)
	if err != nil || !ok {
		return nil, err
	}
	current, err := decodeRevision(row.Current)
	if err != nil || current == nil || current.Release != e.Previous {
		return nil, err
	}
	for _, g := range e.Gates {
		if g.Gate == promotion.WayBack && g.Answer == gate.Pass {
			return &proof{Of: e.Previous, Answer: g.Answer, Reason: g.Reason}, nil
		}
	}
	return nil, nil
}

// proof says whether what runs in an environment could be brought back after a
// rollout, or why it doesn't matter.
type proof struct {
	Of     release.ID // what runs there; "" if nothing does
	Answer gate.Answer
	Reason string
}

func (p proof) decision() gate.Decision {
	return gate.Decision{Gate: promotion.WayBack, Answer: p.Answer, Reason: p.Reason}
}

// prove looks whether the restore point of a rollout could be gone back to: its
// manifest, its promotion, its secrets and its artifacts. A stable that isn't
// well itself never holds up what may mend it: then what is missing is told, and
// the promotion goes on.
func (c *Controller) prove(ctx context.Context, key release.Key) (proof, error) {
	var point *wire.Revision
	var reports []host.Report
	var hosts []string
	var banned string
	var now time.Time
	err := c.store.View(ctx, func(tx *store.Tx) error {
		now = tx.Now()
		row, ok, err := tx.Environment(key)
		if err != nil || !ok {
			return err
		}
		if point, err = decodeRevision(row.Current); err != nil || point == nil {
			return err
		}
		p, err := decodePlace(row)
		if err != nil {
			return err
		}
		hosts = p.Environment.Target.Hosts
		if q, bad, err := tx.Quarantined(key.Project, key.Service, point.Release); err != nil {
			return err
		} else if bad {
			banned = q.Reason
		}
		rows, err := tx.ObservedHosts()
		reports = host.Decode(rows)
		return err
	})
	if err != nil {
		return proof{}, fmt.Errorf("couldn't read what runs in %s: %w", key, err)
	}
	if point == nil {
		return proof{Answer: gate.Pass, Reason: "nothing runs there yet, so there is nothing to go back to"}, nil
	}
	p := proof{Of: point.Release, Answer: gate.Pass, Reason: fmt.Sprintf("release %s can be brought back: its artifacts, its promotion and its secrets are there", point.Release.Short())}
	seen := host.Observe(reports, key, hosts, "", point.Release, now)
	lacks, err := c.lacks(ctx, key, *point, seen.Missing == 0 && seen.OldReady || kept(reports, hosts, point.Release, now))
	if err != nil || lacks == nil {
		return p, err
	}
	var ill string
	switch {
	case banned != "":
		ill = "it is quarantined"
	case seen.Missing == 0 && !seen.OldReady:
		ill = "it is not ready on every host"
	}
	if ill != "" {
		p.Reason = fmt.Sprintf("release %s can't be brought back (%s), but it isn't well either (%s): a broken release never holds up what may mend it", point.Release.Short(), lacks, ill)
		return p, nil
	}
	p.Answer, p.Reason = gate.Fail, fmt.Sprintf("release %s, which runs there, could not be brought back: %s", point.Release.Short(), lacks)
	if errors.Is(lacks, errAway) {
		p.Answer = gate.Waiting
	}
	return p, nil
}

// errAway says that it can't be told now, and may be later.
var errAway = errors.New("the registry can't be asked")

// silent names the wanted hosts that report nothing now.
func silent(reports []host.Report, hosts []string, now time.Time) []string {
	return slices.DeleteFunc(slices.Clone(hosts), func(h string) bool {
		return slices.ContainsFunc(reports, func(r host.Report) bool { return r.Host == h && !host.Silent(r.Arrived, now) })
	})
}

// kept reports whether every wanted host has a release's verified files.
func kept(reports []host.Report, hosts []string, id release.ID, now time.Time) bool {
	for _, h := range hosts {
		if !slices.ContainsFunc(reports, func(r host.Report) bool {
			return r.Host == h && !host.Silent(r.Arrived, now) && slices.Contains(r.Kept, id)
		}) {
			return false
		}
	}
	return len(hosts) > 0
}

// lacks says what is missing to bring a release back, or nil. Its artifacts are
// there if the registry has every byte of them, or every host runs or keeps them.
func (c *Controller) lacks(ctx context.Context, key release.Key, point wire.Revision, everywhere bool) (lacks, err error) {
	m, err := release.ParseManifest(point.Manifest, point.Release)
	if err != nil {
		return fmt.Errorf("its manifest is damaged: %w", err), nil
	}
	if _, err := c.trusted.VerifyPromotion(point.Promotion, key, point.Release); err != nil {
		return fmt.Errorf("hosts would not start it: its promotion does not verify: %w", err), nil
	}
	var gone []string
	for name, s := range point.Secrets {
		if s.Version != "" && secretVersion(s.Ref) == "" { // it could be read here when the release was made
			gone = append(gone, fmt.Sprintf("%s (%s)", name, s.Ref))
		}
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		return fmt.Errorf("its secrets can't be read any more: %s", strings.Join(gone, ", ")), nil
	}
	bad := c.artifacts.Verify(ctx, key.Project, key.Service, m.Artifacts)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case bad == nil, everywhere:
		return nil, nil
	case isAltered(bad):
		return fmt.Errorf("not every host runs or keeps it, and the registry has it no more as it was: %w", bad), nil
	}
	return fmt.Errorf("%w, and not every host runs or keeps it: %w", errAway, bad), nil
}
