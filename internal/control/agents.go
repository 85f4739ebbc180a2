package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// DesiredFor returns what a host shall run, ordered by generation, of everything
// that may have changed since; of everything if that is zero. at is the time to
// ask with next: what is answered then may repeat what was, and misses nothing.
func (c *Controller) DesiredFor(ctx context.Context, hostName string, since time.Time) (docs []wire.Desired, at time.Time, err error) {
	err = c.store.View(ctx, func(tx *store.Tx) error {
		at = tx.Now()
		rows, err := tx.DesiredSince(since)
		if err != nil {
			return fmt.Errorf("couldn't read the desired states: %w", err)
		}
		var said []host.Report
		if len(rows) > 0 {
			if said, err = c.reports.of(tx, hostName); err != nil {
				return err
			}
		}
		runs := map[release.Key]bool{}
		for _, rep := range said {
			for _, s := range rep.Services {
				runs[s.Key] = true
			}
		}
		name, err := json.Marshal(hostName)
		if err != nil {
			return fmt.Errorf("couldn't encode the host's name: %w", err)
		}
		for _, r := range rows {
			if !runs[r.Key] && !bytes.Contains(r.Document, name) {
				continue // surely not about this host: thousands need not be decoded
			}
			var d wire.Desired
			if err := json.Unmarshal(r.Document, &d); err != nil {
				return fmt.Errorf("couldn't read the desired state of %s: %w", r.Key, err)
			}
			switch {
			case slices.Contains(d.Hosts, hostName):
				docs = append(docs, d)
			case host.Runs(said, d): // who is not named any more has to hear of that
				docs = append(docs, host.LetGo(d))
			}
		}
		return nil
	})
	slices.SortFunc(docs, func(a, b wire.Desired) int { return int(a.Generation - b.Generation) })
	return docs, at, err
}

// Heard are those of a host's scrapes that are of a service which it shall run: a
// host that somebody took over must not tell how services of other hosts are.
func (c *Controller) Heard(ctx context.Context, hostName string, scrapes []wire.Scrape) (out []wire.Scrape, err error) {
	runs := map[release.Key]bool{}
	err = c.store.View(ctx, func(tx *store.Tx) error {
		for _, s := range scrapes {
			if _, known := runs[s.Key]; known {
				continue
			}
			row, ok, err := tx.Desired(s.Key)
			if err != nil {
				return err
			}
			var d wire.Desired
			if ok {
				if err := json.Unmarshal(row.Document, &d); err != nil {
					return fmt.Errorf("couldn't read the desired state of %s: %w", s.Key, err)
				}
			}
			runs[s.Key] = ok && slices.Contains(d.Hosts, hostName)
		}
		return nil
	})
	for _, s := range scrapes {
		if runs[s.Key] {
			out = append(out, s)
		}
	}
	return out, err
}

// Report takes a host's word. Rollouts that it matters to wake up at once;
// counters alone wait for the bin to close.
func (c *Controller) Report(ctx context.Context, o wire.Observed) error {
	o.Scrapes = nil
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("couldn't encode the report: %w", err)
	}
	row := store.Observed{Host: o.Host, Boot: o.Boot, Sequence: o.Sequence, Report: b}
	applied := false
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		was, err := c.reports.of(tx, o.Host)
		if err != nil {
			return err
		}
		if applied, err = tx.PutObserved(&row); err != nil || !applied {
			return err // an older report than the one that is there says nothing
		}
		var before wire.Observed
		if len(was) > 0 {
			before = was[0].Observed
		}
		differ := changed(before, o)
		if err := c.reach(tx, o, differ); err != nil {
			return err
		}
		for _, key := range differ {
			live, err := tx.WakeLive(key)
			if err == nil && !live {
				err = c.wakeIdle(tx, key, before, o)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err != nil:
	case applied:
		c.reports.heard(row, o)
	case c.reports.ignored(o):
		c.log.Warn("a host's report is ignored: an agent that started later reports as this host; if two machines have this name, give one another with --host", "host", o.Host, "boot", o.Boot)
	}
	return err
}

// reach lets the next generation be above those that a host has applied: a database from a
// backup has forgotten the last ones, and hosts refuse what is below them.
func (c *Controller) reach(tx *store.Tx, o wire.Observed, differ []release.Key) error {
	top := wire.Service{}
	for _, s := range o.Services {
		if s.Generation > top.Generation && s.Generation <= wire.MaxReached && slices.Contains(differ, s.Key) {
			top = s
		}
	}
	if top.Generation == 0 {
		return nil
	}
	raised, err := tx.ReachGeneration(top.Generation)
	if raised {
		c.log.Warn("a host has applied a later generation than there is on record: the database is of a backup, or another control plane tells it what to run too", "host", o.Host, "service", top.Key.String(), "generation", top.Generation)
	}
	return err
}

// changed lists what differs between two reports in anything but counters.
func changed(a, b wire.Observed) []release.Key {
	was := make(map[release.Key]wire.Service, len(a.Services))
	for _, s := range a.Services {
		was[s.Key] = s
	}
	var out []release.Key
	for _, s := range b.Services {
		if old, there := was[s.Key]; !there || a.Boot != b.Boot || !alike(old, s) {
			out = append(out, s.Key)
		}
		delete(was, s.Key)
	}
	return slices.AppendSeq(out, maps.Keys(was))
}

// alike says whether a rollout would see the same in both, but for counters.
func alike(a, b wire.Service) bool {
	return a.Generation == b.Generation && a.Listening == b.Listening && a.Reason == b.Reason && a.Address == b.Address && a.Preview == b.Preview && a.Refused == b.Refused &&
		slices.EqualFunc(a.Revisions, b.Revisions, func(x, y wire.RevisionObserved) bool {
			return x.Release == y.Release && x.Phase == y.Phase && x.Reason == y.Reason && x.Weight == y.Weight && x.Wanted == y.Wanted && x.Ready == y.Ready
		})
}

// Host is what one host last said of itself.
type Host struct {
	Host    string    `json:"host"`
	Agent   string    `json:"agent"` // version of its build
	Boot    string    `json:"boot"`  // counts begin anew with each
	At      time.Time `json:"at"`    // when the report arrived
	Missing bool      `json:"missing"`
	// Isolation of services from the host's keys: "namespaces", or "none: " and why;
	// empty if the agent does not say.
	Isolation string        `json:"isolation,omitempty"`
	Services  []HostService `json:"services"`
}

// HostService is what a host runs of one service. Requests and Bad are attempts
// since the agent's boot, over all releases.
type HostService struct {
	release.Key
	Address    string         `json:"address,omitempty"`
	Generation int64          `json:"generation"`
	Reason     string         `json:"reason,omitempty"`
	Requests   uint64         `json:"requests"`
	Bad        uint64         `json:"bad"`
	Revisions  []HostRevision `json:"revisions"`
}

// HostRevision is one release as a host runs it.
type HostRevision struct {
	Release release.ID `json:"release"`
	Phase   wire.Phase `json:"phase"`
	Reason  string     `json:"reason,omitempty"`
	Weight  float64    `json:"weight"` // percent
	Ready   int        `json:"ready"`  // instances
}

// Hosts lists the agents that ever reported.
func (c *Controller) Hosts(ctx context.Context, project string) ([]Host, error) {
	out := []Host{}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		reports, err := c.reports.of(tx)
		if err != nil {
			return err
		}
		for _, r := range reports {
			h := Host{Host: r.Host, Agent: r.Agent, Boot: r.Boot, At: r.Arrived, Missing: host.Silent(r.Arrived, tx.Now()), Isolation: r.Isolation, Services: []HostService{}}
			for _, s := range r.Services {
				if s.Project != project {
					continue
				}
				x := HostService{Key: s.Key, Address: s.Address, Generation: s.Generation, Reason: cmp.Or(s.Reason, s.Refused), Requests: s.Total.Requests, Bad: s.Total.Bad, Revisions: []HostRevision{}}
				for _, v := range s.Revisions {
					x.Revisions = append(x.Revisions, HostRevision{Release: v.Release, Phase: v.Phase, Reason: v.Reason, Weight: float64(v.Weight) / 100, Ready: v.Ready})
				}
				h.Services = append(h.Services, x)
			}
			out = append(out, h)
		}
		return nil
	})
	return out, err
}
