package control

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/target/host"
	"github.com/sluicehq/sluice/internal/verdict"
)

// watch is what a rollout remembers of the signals that it watches. It is
// stored with the row after every turn, so that no evidence is lost when
// another control plane goes on.
type watch struct {
	V         int             `json:"v"`
	TickedAt  time.Time       `json:"tickedAt,omitzero"`
	Planned   time.Duration   `json:"planned,omitempty"` // until the next tick
	LastSeq   int64           `json:"lastSeq,omitempty"`
	LastEvent json.RawMessage `json:"lastEvent,omitempty"`

	BinElapsed time.Duration         `json:"binElapsed,omitempty"`
	Flush      bool                  `json:"flush,omitempty"` // the weight changed: close the bin early
	Base       map[string]cumulative `json:"base,omitempty"`  // router counters at the last close
	Series     map[string]float64    `json:"series,omitempty"`
	Traffic    preview.Traffic       `json:"traffic,omitzero"`  // of the stable, in the window before
	Pace       pace                  `json:"pace,omitzero"`     // of the newest bake
	Opening    *opening              `json:"opening,omitempty"` // to be kept with the first bin
	Closed     int64                 `json:"closed,omitempty"`  // bins that were kept
	Points     []Point               `json:"points,omitempty"`  // of rollouts from before bins had rows of their own
	Result     analysis.Result       `json:"result,omitzero"`
	judging

	Facts    int64     `json:"facts,omitempty"` // of package rollout, so far: the revision that people see
	Why      string    `json:"why,omitempty"`   // a person's words, of a rollback that was asked for
	Seen     Signals   `json:"seen,omitzero"`
	Checks   []Checked `json:"checks,omitempty"`  // the last outcomes of checks
	Cause    string    `json:"cause,omitempty"`   // what kind of event made it go back, see causeOf
	BackAt   time.Time `json:"backAt,omitzero"`   // going back was committed
	FailedAt time.Time `json:"failedAt,omitzero"` // verdict fail was committed
	ShownAt  time.Time `json:"shownAt,omitzero"`  // a weight above 0 was committed
	ZeroAt   time.Time `json:"zeroAt,omitzero"`   // the candidate's weight was read back as 0
}

// Signals are the counts since the candidate's first exposure.
type Signals struct {
	CanaryRequests   int64 `json:"canaryRequests"`
	CanaryBad        int64 `json:"canaryBad"`
	StableRequests   int64 `json:"stableRequests"`
	StableBad        int64 `json:"stableBad"`
	RequestsToDetect int64 `json:"requestsToDetect"` // canary requests until the verdict fail; 0: none
}

// cumulative is one revision's router counters on one host.
type cumulative struct {
	Requests int64            `json:"n"`
	Bad      int64            `json:"k"`
	Latency  map[int]uint64   `json:"l,omitempty"`
	Buckets  map[int][2]int64 `json:"b,omitempty"` // bad and all by hash bucket
	Slow     map[int][]int64  `json:"s,omitempty"` // slower than each frozen bound, by hash bucket
}

// pace is the traffic that a bake measures, from its beginning or its last extension
// on: what is foretold of it is at this traffic.
type pace struct {
	Step     int           `json:"step,omitempty"`
	Extended int           `json:"extended,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	Canary   int64         `json:"nc,omitempty"`
	Stable   int64         `json:"nb,omitempty"`
}

func (p *pace) add(c closed) {
	if !c.Baking {
		return
	}
	if p.Step != c.Step || p.Extended != c.Extended {
		*p = pace{Step: c.Step, Extended: c.Extended}
	}
	p.Took, p.Canary, p.Stable = p.Took+c.Took, p.Canary+c.NC, p.Stable+c.NB
}

// Point is one closed bin for the chart. Rates are fractions, times seconds.
type Point struct {
	At  time.Time `json:"at"`
	KC  int64     `json:"kc"`
	NC  int64     `json:"nc"`
	KB  int64     `json:"kb"`
	NB  int64     `json:"nb"`
	C99 float64   `json:"c99"` // the canary's 99th percentile of time to response headers
	B99 float64   `json:"b99"`
	W   int       `json:"w"` // weight, basis points
}

// maxPoints bounds the chart: five hours of bins of 30 s, ten minutes of 1 s.
const maxPoints = 600

const watchVersion = 1

func decodeWatch(b json.RawMessage) (watch, error) {
	var w watch
	if err := json.Unmarshal(b, &w); err != nil {
		return w, err
	}
	if w.V > watchVersion {
		return w, fmt.Errorf("it has version %d and this build knows up to %d: a newer sluice wrote it; run that one", w.V, watchVersion)
	}
	if w.Base == nil {
		w.Base = map[string]cumulative{}
	}
	if w.Series == nil {
		w.Series = map[string]float64{}
	}
	return w, nil
}

func (w *watch) lastEvent() (rollout.Event, bool) {
	var e rollout.Event
	if len(w.LastEvent) == 0 || json.Unmarshal(w.LastEvent, &e) != nil {
		return e, false
	}
	return e, true
}

func (w *watch) setLastEvent(seq int64, encoded []byte) {
	w.LastSeq, w.LastEvent = seq, encoded
}

// elapsed is the time since the last tick, as far as it can be believed: a
// clock that jumped counts at most twice what was planned, and never backwards.
func (w *watch) elapsed(now time.Time) time.Duration {
	if w.TickedAt.IsZero() {
		return 0
	}
	return clampElapsed(now.Sub(w.TickedAt), w.Planned)
}

// clockGap is how much time may pass uncounted without being told.
const clockGap = 5 * time.Second

// gap is how much of the time since the last tick is not believed.
func (w *watch) gap(now time.Time) time.Duration {
	if w.TickedAt.IsZero() {
		return 0
	}
	return now.Sub(w.TickedAt) - w.elapsed(now)
}

// follow notes the moments that people ask for later.
func (w *watch) follow(before, after rollout.State, now time.Time) {
	if before.Weight != after.Weight {
		w.Flush = true
		if w.ShownAt.IsZero() && after.Weight > 0 {
			w.ShownAt = now
		}
	}
	if before.Phase != rollout.RollingBack && after.Phase == rollout.RollingBack {
		w.BackAt = now
	}
	if before.Verdict != verdict.Fail && after.Verdict == verdict.Fail {
		w.FailedAt = now
		w.Seen.RequestsToDetect = w.Seen.CanaryRequests
	}
	// What is observed answers to the wish that it found: the turn that reads the 0 may
	// already want more, such as that the candidate's processes go.
	if w.ZeroAt.IsZero() && before.Phase == rollout.RollingBack && before.Weight == 0 && !before.Applying &&
		after.Seen.Generation >= before.Wanted && after.Seen.MaxWeight == 0 && after.Seen.Missing == 0 {
		w.ZeroAt = now
	}
}

// rollbackMillis is from the commit of going back to the weight read back as 0.
func (w *watch) rollbackMillis() *int64 {
	if w.BackAt.IsZero() || w.ZeroAt.IsZero() {
		return nil
	}
	ms := w.ZeroAt.Sub(w.BackAt).Milliseconds()
	return &ms
}

func (w *watch) nextBin(s rollout.State, a pipeline.Analysis) (time.Duration, bool) {
	if len(w.Tests) == 0 || !s.Judged() || s.Phase == rollout.RollingBack {
		return 0, false
	}
	if w.Flush {
		return 0, true
	}
	return max(0, a.Bin-w.BinElapsed), true
}

// newWatch freezes what is known of the stable version before anything moves.
func (c *Controller) newWatch(tx *store.Tx, key release.Key, env pipeline.Environment, plan rollout.Plan, restore *wire.Revision) (watch, error) {
	w := watch{V: watchVersion, Base: map[string]cumulative{}, Series: map[string]float64{}, Opening: &opening{V: 1, First: plan.First}}
	var err error
	if restore != nil {
		var window time.Duration
		if w.Opening.Before, w.Opening.Spread, window, err = c.before(tx, key, env, restore.Release); err != nil {
			return w, err
		}
		w.Traffic = trafficOf(w.Opening.Before, window)
	}
	w.Spread = w.Opening.Spread
	w.Tests, err = startTests(env.Analysis, preview.Settings(env.Analysis), *w.Opening)
	return w, err
}

// judge closes the bin that is due, if one is, and returns the verdict if it is
// another than the state's. Elapsed is what the coming tick will add.
func (t *turn) judge(reports []host.Report, ask answers, elapsed time.Duration) (*rollout.Judged, error) {
	w, a := &t.watch, t.plan.Environment.Analysis
	counts := t.counts(reports)
	if !t.state.Judged() || t.state.Phase == rollout.RollingBack {
		if !t.state.Judged() {
			w.rebase(counts, t.row.Release, t.restoreID())
			return nil, w.freezeRates(ask, preview.Settings(a))
		}
		return nil, nil
	}
	if w.BinElapsed < a.Bin && !w.Flush {
		return nil, nil
	}
	if !ask.asked && len(t.queries()) > 0 {
		return nil, nil // it became due after the providers could be asked; they are in the next turn
	}
	canary, stable := w.increase(counts, t.row.Release), w.increase(counts, t.restoreID())
	w.Seen.CanaryRequests += canary.Requests
	w.Seen.CanaryBad += canary.Bad
	w.Seen.StableRequests += stable.Requests
	w.Seen.StableBad += stable.Bad
	c := closed{
		Point: Point{At: t.tx.Now(), KC: canary.Bad, NC: canary.Requests, KB: stable.Bad, NB: stable.Requests, C99: quantile(canary.Latency, 0.99), B99: quantile(stable.Latency, 0.99), W: t.state.Weight},
		Took:  w.BinElapsed, Step: t.state.Step, Extended: t.state.Extended,
		Baking: t.state.Phase == rollout.Baking, Alone: t.plan.First || t.state.Weight == rollout.FullWeight,
	}
	c.Last = c.Baking && t.state.InPhase+elapsed+a.Bin > t.plan.Steps[t.state.Step].Bake
	if slices.ContainsFunc(w.Tests, func(x test) bool { return x.Latency != nil }) {
		c.Canary, c.Stable = canary.Latency, stable.Latency
	}
	c.Spread, c.Slow = splits(stable, len(w.bounds()))
	c.Read = t.readings(ask, c.Alone)
	w.BinElapsed, w.Flush = 0, false
	w.Pace.add(c)
	res, err := w.bin(c, a, t.history)
	if err != nil {
		return nil, err
	}
	c.Verdict = res.Verdict
	t.bins = append(t.bins, c)
	if len(w.Tests) == 0 {
		return nil, nil
	}
	if res.Verdict != verdict.Fail && !c.Baking {
		return nil, nil // only a fail counts between bakes; what the last bake came to stays told
	}
	res.Sentence = t.counted(res.Sentence)
	w.Result = res
	judged := rollout.Judged{Step: t.state.Step, Verdict: res.Verdict, Sentence: res.Sentence, Failed: failed(res)}
	if t.state.Heard(judged) || res.Unjudged {
		return nil, nil
	}
	return &judged, nil
}

// rebase takes counters as the start, before the candidate is exposed.
func (w *watch) rebase(counts []host.Counts, candidate, stable release.ID) {
	w.increase(counts, candidate)
	w.increase(counts, stable)
	w.BinElapsed = 0
}

// increase is what a revision counted over all hosts since the last call. A
// host's new boot starts from nothing.
func (w *watch) increase(counts []host.Counts, id release.ID) cumulative {
	out := cumulative{Latency: map[int]uint64{}, Buckets: map[int][2]int64{}, Slow: map[int][]int64{}}
	bounds := w.bounds()
	if id == "" {
		return out
	}
	for _, c := range counts {
		if c.Release != id {
			continue
		}
		key := c.Host + "/" + c.Boot + "/" + id.Short()
		cur := sum(c, bounds)
		prev := w.Base[key]
		w.Base[key] = cur
		out.Requests += analysis.Delta(prev.Requests, cur.Requests)
		out.Bad += analysis.Delta(prev.Bad, cur.Bad)
		for i, n := range analysis.DeltaHistogram(prev.Latency, cur.Latency) {
			out.Latency[i] += n
		}
		for i, b := range cur.Buckets {
			p, o := prev.Buckets[i], out.Buckets[i]
			out.Buckets[i] = [2]int64{o[0] + analysis.Delta(p[0], b[0]), o[1] + analysis.Delta(p[1], b[1])}
		}
		for i, slow := range cur.Slow {
			before := prev.Slow[i]
			if len(before) != len(slow) {
				before = slow // the bounds are new: nothing is known of this bin
			}
			if out.Slow[i] == nil {
				out.Slow[i] = make([]int64, len(slow))
			}
			for j := range slow {
				out.Slow[i][j] += analysis.Delta(before[j], slow[j])
			}
		}
	}
	return out
}

// sum joins the hash buckets of one host; bounds are the last fast buckets of the
// latencies that are judged.
func sum(c host.Counts, bounds []int) cumulative {
	out := cumulative{Latency: map[int]uint64{}, Buckets: map[int][2]int64{}}
	if len(bounds) > 0 {
		out.Slow = map[int][]int64{}
	}
	for i, b := range c.Buckets {
		if b.Requests == 0 {
			continue
		}
		out.Requests += b.Requests
		out.Bad += b.Bad
		out.Buckets[i] = [2]int64{b.Bad, b.Requests}
		for e, n := range b.Latency {
			out.Latency[e] += n
		}
		if len(bounds) == 0 {
			continue
		}
		slow := make([]int64, len(bounds))
		for e, n := range b.Latency {
			for j, last := range bounds {
				if e > last {
					slow[j] += int64(min(n, math.MaxInt64/wire.Buckets))
				}
			}
		}
		out.Slow[i] = slow
	}
	return out
}

// quantile is the upper edge, in seconds, of the bucket that holds q; 0 of none.
func quantile(h map[int]uint64, q float64) float64 {
	var total uint64
	lo, hi := math.MaxInt, math.MinInt
	for i, n := range h {
		total += n
		lo, hi = min(lo, i), max(hi, i)
	}
	if total == 0 {
		return 0
	}
	want := uint64(math.Ceil(q * float64(total)))
	var seen uint64
	for i := lo; i <= hi; i++ {
		if seen += h[i]; seen >= want {
			return wire.LatencyEdge(i)
		}
	}
	return wire.LatencyEdge(hi)
}
