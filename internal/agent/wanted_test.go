package agent_test

import (
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

// A release that serves on only until the one that is wanted can is told apart from
// one that the applied state asks for.
func TestReportsTellWhatIsWanted(t *testing.T) {
	w := newWorld(t)
	v1 := w.release("v1")
	w.desire(with(v1, wire.FullWeight, false))
	w.waitRevision(v1.Release, "wanted and ready", func(r wire.RevisionObserved) bool { return r.Wanted && r.Phase == wire.Ready })
	never := w.WithRun(t, shop, w.release("v2"), "exec sleep 1000")
	w.ask(with(never, wire.FullWeight, false))
	w.waitRevision(never.Release, "wanted and starting", func(r wire.RevisionObserved) bool { return r.Wanted && r.Phase == wire.Starting })
	w.waitRevision(v1.Release, "not wanted, and serving", func(r wire.RevisionObserved) bool {
		return !r.Wanted && r.Weight == wire.FullWeight && r.Phase == wire.Ready
	})
	v3 := w.release("v3")
	w.desire(with(v3, wire.FullWeight, false))
	w.waitRevision(v1.Release, "gone", func(r wire.RevisionObserved) bool { return r.Release == "" })
}
