package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// A definition that names one host less and another address: both stay as they
// are until the new release was judged good, and are left then; the host that
// leaves is told to stop.
func TestAHostAndAnAddressAreLeftLate(t *testing.T) {
	stories(t, func(w *world) {
		w.hosts = nil
		one, two := w.addHost("one"), w.addHost("two")
		v1 := w.first(twoHosts)
		moved := strings.Replace(strings.Replace(twoHosts, "[one, two]", "[one]", 1), "127.0.0.1:9001", "127.0.0.1:9100", 1)
		r, v2 := w.ship(w.definition(moved), "v2")
		w.untilPhase(r, rollout.Baking, 20)
		d := one.shop("production").doc
		if d.Listen != "127.0.0.1:9001" || !slices.Equal(d.Also, []string{"127.0.0.1:9100"}) {
			w.Errorf("during the rollout it listens on %s, and also on %v", d.Listen, d.Also)
		}
		share := func(h *fakeHost) map[string]wire.Share {
			out := map[string]wire.Share{}
			for _, x := range h.shop("production").doc.Revisions {
				out[x.Release.Short()] = wire.Share{Instances: x.Instances, Weight: x.Weight}
			}
			return out
		}
		if got := share(two); got[v1.Short()] != (wire.Share{Instances: 1, Weight: wire.FullWeight}) || got[v2.Short()] != (wire.Share{}) {
			w.Errorf("the host that leaves runs %v during the rollout", got)
		}
		if got := share(one); got[v2.Short()].Weight != 2000 || got[v1.Short()].Weight != 8000 {
			w.Errorf("the host that stays runs %v", got)
		}
		w.untilState(r, run.Succeeded)
		w.pause(2 * time.Second)
		if d := one.shop("production").doc; d.Listen != "127.0.0.1:9100" || len(d.Also) != 0 || len(d.Revisions) != 2 {
			w.Errorf("after the rollout: %+v", d)
		}
		if d := two.shop("production").doc; !d.Removed || len(d.Revisions) != 0 || slices.Contains(d.Hosts, "two") {
			w.Errorf("the host that left was told %+v", d)
		}

		// The way back leads to both.
		back, err := w.back("")
		w.must(err)
		w.untilState(back, run.Succeeded)
		w.pause(2 * time.Second)
		if d := two.shop("production").doc; d.Listen != "127.0.0.1:9001" || share(two)[v1.Short()].Weight != wire.FullWeight {
			w.Errorf("after the way back: %+v", d)
		}
	})
}

// A release that is bad leaves the host and the address of the one before as they
// were.
func TestABadReleaseMovesNothing(t *testing.T) {
	stories(t, func(w *world) {
		w.hosts = nil
		one, two := w.addHost("one"), w.addHost("two")
		v1 := w.first(twoHosts)
		moved := strings.Replace(strings.Replace(twoHosts, "[one, two]", "[one]", 1), "127.0.0.1:9001", "127.0.0.1:9100", 1)
		r, _ := w.ship(w.definition(moved), "v2")
		w.untilPhase(r, rollout.Baking, 20)
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, Reason: "no"}))
		w.untilState(r, run.RolledBack)
		w.pause(5 * time.Second)
		for _, h := range []*fakeHost{one, two} {
			d := h.shop("production").doc
			if d.Listen != "127.0.0.1:9001" || d.Removed || len(d.Revisions) == 0 || d.Revisions[0].Release != v1 || d.Revisions[0].Weight != wire.FullWeight {
				w.Errorf("host %s was told %+v", h.name, d)
			}
		}
	})
}
