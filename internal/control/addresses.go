package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
)

// said is where a host says that a service answers.
type said struct {
	generation                int64
	listening                 bool
	address, preview, refused string
}

func saying(s wire.Service) said {
	return said{s.Generation, s.Listening, s.Address, s.Preview, s.Refused}
}

// addresses remember by host what was made of what it said last: only what is new is
// looked up in the store. Reports come each second.
type addresses struct {
	mu     sync.Mutex
	byHost map[string]map[release.Key][2]said // as it was said, and as it was taken
}

func (a *addresses) of(hostName string) map[release.Key][2]said {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byHost[hostName]
}

func (a *addresses) keep(hostName string, now map[release.Key][2]said) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byHost == nil {
		a.byHost = map[string]map[release.Key][2]said{}
	}
	a.byHost[hostName] = now
}

// Placed settles where a host says that its services answer, before its word is
// taken: see host.Place, and host.PlacePorts for the ports, which the desired
// states name.
func (c *Controller) Placed(ctx context.Context, o *wire.Observed, from netip.Addr, mine func(host string) bool) error {
	host.Place(o, from, mine)
	before := c.addresses.of(o.Host)
	now := make(map[release.Key][2]said, len(o.Services))
	for i := range o.Services {
		s := &o.Services[i]
		asked := saying(*s)
		last, known := before[s.Key]
		if known && last[0] == asked {
			s.Address, s.Preview, s.Refused = last[1].address, last[1].preview, last[1].refused
		} else if settled, err := c.placePorts(ctx, o.Host, s); err != nil {
			return err
		} else if !settled {
			asked.generation = unsettled
		}
		now[s.Key] = [2]said{asked, saying(*s)}
		if s.Refused != "" && s.Refused != last[1].refused {
			c.log.Warn("an address that a host reports is not taken", "host", o.Host, "service", s.Key.String(), "why", s.Refused)
		}
	}
	c.addresses.keep(o.Host, now)
	return nil
}

// unsettled is no generation: what a host said while it had another generation than
// the one that is wanted is looked at again.
const unsettled = -1

// placePorts holds a host to the ports that are wanted of it, and says whether that
// is settled until it says something else.
func (c *Controller) placePorts(ctx context.Context, hostName string, s *wire.Service) (settled bool, err error) {
	if s.Address == "" && s.Preview == "" {
		return true, nil
	}
	var d wire.Desired
	err = c.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Desired(s.Key)
		if err != nil || !ok {
			return err
		}
		return json.Unmarshal(row.Document, &d)
	})
	if err != nil {
		return false, fmt.Errorf("couldn't read the desired state of %s: %w", s.Key, err)
	}
	if slices.Contains(d.Hosts, hostName) {
		host.PlacePorts(s, d)
	}
	return s.Generation == d.Generation, nil
}
