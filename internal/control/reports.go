package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// reports keeps what hosts said last, decoded once however many rollouts look at
// it. What the store says is the last report is asked each time; only a report
// that is not the one known here is read.
type reports struct {
	mu     sync.Mutex
	byHost map[string]store.Observed // as decoded; without the text
	read   map[string]host.Report
	former map[string]string // boots that were told of, by host: see ignored
}

// of returns the last reports of these hosts, or of all if there are none. They
// are shared: nobody changes them.
func (r *reports) of(tx *store.Tx, hosts ...string) ([]host.Report, error) {
	rows, err := tx.ObservedVersions(hosts...)
	if err != nil {
		return nil, fmt.Errorf("couldn't read what hosts report: %w", err)
	}
	out := make([]host.Report, 0, len(rows))
	for _, row := range rows {
		rep, ok, err := r.one(tx, row)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, rep)
		}
	}
	return out, nil
}

func (r *reports) one(tx *store.Tx, row store.Observed) (host.Report, bool, error) {
	r.mu.Lock()
	was, known := r.byHost[row.Host]
	rep, readable := r.read[row.Host]
	r.mu.Unlock()
	if known && was.Boot == row.Boot && was.Sequence == row.Sequence {
		rep.Arrived = row.At
		return rep, readable, nil
	}
	full, ok, err := tx.Observed(row.Host)
	if err != nil || !ok {
		return host.Report{}, false, err
	}
	decoded := host.Decode([]store.Observed{full})
	r.mu.Lock()
	defer r.mu.Unlock()
	full.Report = nil
	if len(decoded) == 0 {
		r.put(full, nil)
		return host.Report{}, false, nil // it can't be read: the host counts as missing
	}
	r.put(full, &decoded[0])
	return decoded[0], true, nil
}

// heard keeps a report that was just stored, as it came: nobody here decodes it
// again.
func (r *reports) heard(row store.Observed, o wire.Observed) {
	row.Report = nil
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, ok := r.byHost[row.Host]; ok && was.Boot == row.Boot && was.Sequence >= row.Sequence {
		return // two that came together: the later one is known
	}
	r.put(row, &host.Report{Observed: o, Arrived: row.At})
}

// ignored reports whether a report that was not stored is of another boot than the
// host's, once for each.
func (r *reports) ignored(o wire.Observed) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, known := r.byHost[o.Host]
	if !known || was.Boot == o.Boot || r.former[o.Host] == o.Boot {
		return false
	}
	if r.former == nil {
		r.former = map[string]string{}
	}
	r.former[o.Host] = o.Boot
	return true
}

// put keeps what a row says, nil if it can't be read. r.mu is held.
func (r *reports) put(row store.Observed, rep *host.Report) {
	if r.byHost == nil {
		r.byHost, r.read = map[string]store.Observed{}, map[string]host.Report{}
	}
	r.byHost[row.Host] = row
	delete(r.read, row.Host)
	if rep != nil {
		r.read[row.Host] = *rep
	}
}

// reach remembers which hosts are silent, to tell when one falls silent or comes
// back. Nothing else would wake the rollouts that wait for it: silence is no
// event, and a host that comes back may say the same as before.
type reach struct{ silent map[string]bool }

const reachEvery = time.Second

func (c *Controller) watchHosts(ctx context.Context) error {
	var r reach
	tick := time.NewTicker(reachEvery)
	defer tick.Stop()
	for {
		if err := c.lookAtHosts(ctx, &r); err != nil && ctx.Err() == nil {
			c.makeSpace(err)
			c.log.Error("couldn't look which hosts are silent; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// lookAtHosts wakes the live rollouts of hosts that fell silent or came back since
// the last look: those of the services that a host last spoke of. (One that it
// never spoke of is being prepared, and looks by itself.) The first look has
// nothing to compare with, and wakes all: what happened while no control plane ran
// is not known.
//
// If we die between the look and the wake, the next life's first look wakes them.
func (c *Controller) lookAtHosts(ctx context.Context, r *reach) error {
	now := map[string]bool{}
	err := c.store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.ObservedVersions()
		for _, o := range rows {
			now[o.Host] = host.Silent(o.At, tx.Now())
		}
		return err
	})
	if err != nil {
		return err
	}
	first := r.silent == nil
	var turned []string
	for h, silent := range now {
		if first || r.silent[h] != silent {
			turned = append(turned, h)
		}
	}
	if len(turned) == 0 {
		return nil
	}
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if first {
			return tx.WakeAllLive()
		}
		reports, err := c.reports.of(tx, turned...)
		if err != nil {
			return err
		}
		for _, rep := range reports {
			for _, s := range rep.Services {
				if _, err := tx.WakeLive(s.Key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.silent = now
	return nil
}
