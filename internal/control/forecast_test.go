package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// What a bake will be able to see is said while a person decides and while it
// runs, at the traffic that was measured; so is what an approver should know.
func TestForecast(t *testing.T) {
	stories(t, func(w *world) {
		if got, err := w.front.Traffic(w.Context(), "default", "shop", "production"); err != nil || got.RPS != 0 {
			w.Errorf("before anything ran: %+v, %v", got, err)
		}
		w.first(production)
		w.hosts[0].rps = 100
		w.pause(30 * time.Minute)
		got, err := w.front.Traffic(w.Context(), "default", "shop", "production")
		if err != nil || got.RPS < 95 || got.RPS > 105 || got.BaselineRate != 0 {
			w.Errorf("of 100 requests per second were measured %+v, %v", got, err)
		}
		r, _ := w.ship(w.definition(approved), "v2")
		d, p := w.packet(r)
		if len(p.Findings) != 1 || !strings.Contains(p.Findings[0], "no rollback of shop was ever rehearsed") {
			w.Errorf("the packet's findings: %q", p.Findings)
		}
		before := w.env(r).Forecast
		if before == nil || before.Detectable <= 0 || before.Detectable > 0.5 || before.CanaryRequests < 900 || before.CanaryRequests > 1100 {
			w.Fatalf("while a person decides: %+v", before)
		}
		w.must(w.decide(r, d, true, bob))
		w.untilPhase(r, rollout.Baking, 50)
		if now := w.env(r).Forecast; now == nil || now.Detectable != before.Detectable {
			w.Errorf("while it bakes: %+v, and before: %+v", now, before)
		}
		w.until(r, "judged", func(s Status) bool {
			ms := s.Environments[0].Metrics
			return len(ms) == 1 && ms[0].Detectable > 0 && ms[0].Detectable < 1
		})
		w.untilState(r, run.Succeeded)
		if f := w.env(r).Forecast; f != nil {
			w.Errorf("after the end: %+v", f)
		}
	})
}
