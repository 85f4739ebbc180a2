package embedded

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// ErrNothing is what a query without any series answers; its text says why.
var ErrNothing = errors.New("the query answered nothing")

// instance is how the scrapes of one instance went.
type instance struct {
	good    int64 // time of the newest one that was taken; 0: none
	seen    int64
	problem string // of the newest one
}

const (
	maxInstances = 1000             // of one service and environment
	forgetAfter  = 10 * time.Minute // an instance that is gone
)

// note remembers how a scrape went.
func (d *DB) note(s wire.Scrape, now int64, problem string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := s.Key.String()
	all := d.instances[key]
	if all == nil {
		all = map[string]*instance{}
		d.instances[key] = all
	}
	i := all[s.Instance]
	if i == nil {
		for name, old := range all {
			if time.Duration(now-old.seen)*time.Millisecond > forgetAfter {
				delete(all, name)
			}
		}
		if len(all) >= maxInstances {
			return
		}
		i = &instance{}
		all[s.Instance] = i
	}
	i.seen, i.problem = now, problem
	if problem == "" {
		i.good = now
	}
}

// why says in words why a query about key found no series.
func (d *DB) why(key release.Key) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.instances[key.String()]
	if len(all) == 0 {
		return fmt.Sprintf("no instance of %s in %s has been scraped since the start", key.Service, key.Environment)
	}
	names := make([]string, 0, len(all))
	newest, newestSeen := int64(0), int64(0)
	for name, i := range all {
		names = append(names, name)
		newest, newestSeen = max(newest, i.good), max(newestSeen, i.seen)
	}
	slices.Sort(names)
	age := func(at int64) string {
		return (time.Duration(d.now()-at) * time.Millisecond).Round(100 * time.Millisecond).String()
	}
	silent := time.Duration(d.now()-newestSeen)*time.Millisecond > lookback
	for _, name := range names {
		// The last word of an instance that still reports.
		if i := all[name]; !silent && i.problem != "" && newestSeen-i.seen <= lookback.Milliseconds() {
			return fmt.Sprintf("instance %s: %s", name, strings.TrimSpace(i.problem))
		}
	}
	if newest == 0 {
		return fmt.Sprintf("no metrics of %s in %s could be read since the start", key.Service, key.Environment)
	}
	if time.Duration(d.now()-newest)*time.Millisecond > lookback {
		return fmt.Sprintf("the newest sample of %s in %s is %s old, and one is due every %s", key.Service, key.Environment, age(newest), ScrapeInterval)
	}
	return fmt.Sprintf("its instances are scraped, and no series of %s in %s matches it", key.Service, key.Environment)
}
