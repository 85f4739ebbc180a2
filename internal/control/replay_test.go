package control

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

func set(t interface{ Fatal(...any) }, yaml string) func(pipeline.Analysis) (pipeline.Analysis, error) {
	return func(a pipeline.Analysis) (pipeline.Analysis, error) {
		out, problems := pipeline.Overlay(a, "--set", []byte(yaml))
		return out, problems.Err()
	}
}

func (w *world) replay(change func(pipeline.Analysis) (pipeline.Analysis, error)) map[string]Rejudged {
	w.Helper()
	out, err := w.front.Replay(w.Context(), ReplayRequest{Project: "default", Service: "shop", Environment: "production", Change: change})
	w.must(err)
	by := map[string]Rejudged{}
	for _, r := range out.Rollouts {
		by[r.Run] = r
	}
	return by
}

// What was judged can be judged again from its bins: with the settings as
// recorded every bin has the verdict that it had, and with others one sees what
// would have become of it.
func TestReplay(t *testing.T) {
	stories(t, func(w *world) {
		w.first(production)
		w.pause(20 * time.Minute)
		good, v2 := w.ship(w.definition(production), "v2")
		w.untilState(good, run.Succeeded)
		bad, v3 := w.ship(w.definition(production), "v3")
		w.hosts[0].bad[v2], w.hosts[0].bad[v3], w.hosts[0].rps = 0.01, 0.03, 200
		w.untilState(bad, run.RolledBack)

		same := w.replay(nil)
		w.view(func(tx *store.Tx) error {
			for _, r := range []string{good, bad} {
				x := same[r]
				if x.Change != ReplaySame || x.Bins < 3 {
					w.Errorf("run %s as recorded: %+v", r, x)
				}
				row, err := tx.Rollout("default", x.Rollout)
				if err != nil {
					return err
				}
				bins, err := tx.Bins("default", x.Rollout, 0)
				if err != nil {
					return err
				}
				eachVerdict(w, row, bins)
			}
			return nil
		})
		if x := same[bad]; x.Recorded.Verdict != verdict.Fail || x.Recorded.FailedSeconds == nil || *x.Replayed.FailedSeconds != *x.Recorded.FailedSeconds || x.Replayed.CanaryToFail == 0 {
			w.Errorf("%+v", x)
		}
		if x := same[good]; len(x.Recorded.Bakes) != 2 || x.Recorded.Bakes[1].Verdict != verdict.Pass {
			w.Errorf("%+v", x.Recorded)
		}

		strict := w.replay(set(t, "{maxExcess: 0.01, minEvents: 100000}"))
		if x := strict[good]; x.Change != ReplayWaits || !strings.Contains(x.Sentence, "no-data instead of pass") || !strings.Contains(x.Sentence, "held") {
			w.Errorf("minEvents of 100 000: %+v", x)
		}
		if x := strict[bad]; x.Change != ReplaySame { // minEvents guards a pass, never a fail
			w.Errorf("%+v", x)
		}
		if x := w.replay(set(t, "{alpha: 1e-12}"))[bad]; x.Change != ReplayNever && x.Change != ReplayLater {
			w.Errorf("alpha of 1e-12: %+v", x)
		}
		if x := w.replay(set(t, "{alpha: 0.4}"))[bad]; x.Change != ReplayEarlier || !strings.Contains(x.Sentence, "earlier") {
			w.Errorf("alpha of 0.4: %+v", x)
		}
		if x := w.replay(set(t, "{bin: 15s}"))[bad]; x.Replayed.Verdict != verdict.Fail || x.Bins == 0 {
			w.Errorf("bins of 15 s: %+v", x)
		}
		for yaml, says := range map[string]string{"{bin: 1s}": "only longer ones", "{alpha: 9}": "alpha"} {
			if _, err := w.front.Replay(w.Context(), ReplayRequest{Project: "default", Service: "shop", Environment: "production", Change: set(t, yaml)}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
				w.Errorf("%s: %v", yaml, err)
			}
		}
		if _, err := w.front.Replay(w.Context(), ReplayRequest{Project: "default", Service: "shop", Environment: "moon"}); !errors.Is(err, ErrMissing) || err.Error() != "there is no rollout of shop in moon; `sluice runs` lists what went where" {
			w.Errorf("an environment without rollouts: %v", err)
		}
	})
}

// eachVerdict plays the bins of a rollout and compares after each.
func eachVerdict(w *world, row store.Rollout, rows []store.Bin) {
	w.Helper()
	var plan planned
	w.must(json.Unmarshal(row.Plan, &plan))
	var o opening
	w.must(json.Unmarshal(rows[0].Data, &o))
	bins, err := decodeBins(rows)
	w.must(err)
	for i := range bins {
		again, err := judgeAgain(o, bins[:i+1], plan.Environment.Analysis)
		w.must(err)
		if bins[i].Baking && again.Verdict != bins[i].Verdict {
			w.Errorf("%s, bin %d: recorded %s, again %s", row.ID, i+1, bins[i].Verdict, again.Verdict)
		}
	}
}

// A turn writes the bins that are new, and the row does not grow with them.
func TestBinsAreAppended(t *testing.T) {
	stories(t, func(w *world) {
		env := strings.ReplaceAll(production, "1m", "20m")
		w.first(env)
		r, _ := w.ship(w.definition(env), "v2")
		e := w.untilPhase(r, rollout.Baking, 10)
		size := func() (row, bins int) {
			w.view(func(tx *store.Tx) error {
				o, err := tx.Rollout("default", e.Rollout)
				if err != nil {
					return err
				}
				b, err := tx.Bins("default", e.Rollout, 0)
				row, bins = len(o.Judge), len(b)
				return err
			})
			return row, bins
		}
		w.pause(2 * time.Minute)
		row, bins := size()
		w.pause(10 * time.Minute)
		later, more := size()
		if more < bins+100 || later > row+row/5 {
			w.Errorf("the row grew from %d to %d bytes while the bins went from %d to %d", row, later, bins, more)
		}
		s, err := w.front.Status(w.Context(), "default", r, true)
		w.must(err)
		if n := len(s.Environments[0].Points); n != more-1 {
			w.Errorf("%d points of %d bins", n, more-1)
		}
	})
}

// Errors that come in clusters are known by the stable's hash buckets before the
// release is exposed, and the verdict says by how much it is corrected.
func TestClustersAreKnownBefore(t *testing.T) {
	stories(t, func(w *world) {
		v1 := w.first(production)
		w.hosts[0].bad[v1], w.hosts[0].rps = 0.02, 200
		w.hosts[0].cluster = 5
		w.pause(50 * time.Minute)
		r, v2 := w.ship(w.definition(production), "v2")
		w.hosts[0].bad[v2] = 0.02
		w.untilPhase(r, rollout.Baking, 10)
		w.pause(20 * time.Second)
		m := w.env(r).Metrics
		if len(m) != 1 || m[0].Phi < 2.5 || m[0].Phi > 10 || !strings.Contains(m[0].Sentence, "by an A/A split") {
			w.Errorf("%+v", m)
		}
	})
}
