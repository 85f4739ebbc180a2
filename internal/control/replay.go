package control

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// ReplayRequest asks what other settings would have made of recorded rollouts.
type ReplayRequest struct {
	Project     string
	Service     string
	Environment string
	Limit       int                                                // newest rollouts; 0 is 20
	Change      func(pipeline.Analysis) (pipeline.Analysis, error) // nil: as recorded
}

// Replay is what they would have made of them.
type Replay struct {
	Service     string     `json:"service"`
	Environment string     `json:"environment"`
	Rollouts    []Rejudged `json:"rollouts"`
	Changed     int        `json:"changed"`
}

// What a change of settings would have changed about a rollout.
const (
	ReplaySame        = "same"
	ReplayEarlier     = "earlier"      // fails earlier than it did
	ReplayLater       = "later"        // fails later
	ReplayNever       = "never"        // is not rolled back in what was recorded
	ReplayRollsBack   = "rolls-back"   // fails, and did not
	ReplayWaits       = "waits"        // a bake ends without the pass that it had
	ReplayGoesOn      = "goes-on"      // a bake ends with a pass that it did not have
	ReplayNotRecorded = "not-recorded" // there is nothing to judge again
)

// Rejudged is one rollout, judged again.
type Rejudged struct {
	Rollout   string     `json:"rollout"`
	Run       string     `json:"run"`
	Release   release.ID `json:"release"`
	StartedAt time.Time  `json:"startedAt"`
	Phase     string     `json:"phase"` // that it is in, or ended in
	Bins      int        `json:"bins"`
	Recorded  Outcome    `json:"recorded"`
	Replayed  Outcome    `json:"replayed"`
	Change    string     `json:"change"`
	Sentence  string     `json:"sentence"`
}

// Outcome is what one way to judge came to.
type Outcome struct {
	Verdict       verdict.Verdict `json:"verdict,omitempty"`       // fail, or that of the last bake
	FailedSeconds *float64        `json:"failedSeconds,omitempty"` // from the first bin to the fail
	FailedAt      *time.Time      `json:"failedAt,omitempty"`
	CanaryToFail  int64           `json:"canaryToFail,omitempty"` // canary requests until then
	Sentence      string          `json:"sentence,omitempty"`
	Bakes         []BakeOutcome   `json:"bakes,omitempty"`
}

// BakeOutcome is the verdict at the end of a bake or of its extension.
type BakeOutcome struct {
	Step     int             `json:"step"`
	Extended int             `json:"extended,omitempty"`
	Weight   float64         `json:"weight"` // percent
	Verdict  verdict.Verdict `json:"verdict"`
}

// maxReplay bounds how many rollouts are judged again at once.
const maxReplay = 200

// Replay judges recorded rollouts of a service in an environment again.
func (c *Controller) Replay(ctx context.Context, q ReplayRequest) (Replay, error) {
	out := Replay{Service: q.Service, Environment: q.Environment, Rollouts: []Rejudged{}}
	if q.Service == "" || q.Environment == "" {
		return out, fmt.Errorf("%w: name the service and the environment", ErrInvalid)
	}
	if q.Limit <= 0 {
		q.Limit = 20
	}
	var rows []store.Rollout
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.Rollouts(store.RolloutFilter{Project: q.Project, Service: q.Service, Environment: q.Environment, Limit: min(q.Limit, maxReplay)})
		return err
	})
	if err != nil {
		return out, err
	}
	if len(rows) == 0 {
		return out, missing("there is no rollout of %s in %s; `sluice runs` lists what went where", q.Service, q.Environment)
	}
	for _, row := range rows {
		var bins []store.Bin
		err := c.store.View(ctx, func(tx *store.Tx) (err error) {
			bins, err = tx.Bins(row.Project, row.ID, 0)
			return err
		})
		if err != nil {
			return out, err
		}
		r, err := rejudge(row, bins, q.Change)
		if err != nil {
			return out, fmt.Errorf("couldn't judge rollout %s again: %w", row.ID, err)
		}
		if r.Change != ReplaySame && r.Change != ReplayNotRecorded {
			out.Changed++
		}
		out.Rollouts = append(out.Rollouts, r)
	}
	return out, nil
}

// rejudge is pure: one rollout's rows, judged as they were and with the change.
func rejudge(row store.Rollout, rows []store.Bin, change func(pipeline.Analysis) (pipeline.Analysis, error)) (Rejudged, error) {
	out := Rejudged{Rollout: row.ID, Run: row.Run, Release: row.Release, StartedAt: row.CreatedAt, Phase: row.Phase, Change: ReplayNotRecorded}
	out.Sentence = "no bin was recorded: it was not exposed, or is of a version that kept none"
	var o opening
	if len(rows) < 2 || rows[0].Seq != 0 || json.Unmarshal(rows[0].Data, &o) != nil || o.V == 0 {
		return out, nil
	}
	var plan planned
	if err := json.Unmarshal(row.Plan, &plan); err != nil {
		return out, fmt.Errorf("couldn't read its plan: %w", err)
	}
	bins, err := decodeBins(rows)
	if err != nil {
		return out, err
	}
	out.Bins = len(bins)
	was := plan.Environment.Analysis
	now := was
	if change != nil {
		if now, err = change(was); err != nil {
			return out, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	out.Recorded = recorded(bins)
	merged, err := rebin(bins, was, now)
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if out.Replayed, err = judgeAgain(o, merged, now); err != nil {
		return out, err
	}
	if was.Bin == now.Bin && change == nil {
		// The sentence of the recorded verdict is not kept with each bin.
		out.Recorded.Sentence = out.Replayed.Sentence
	}
	out.Change, out.Sentence = compare(out.Recorded, out.Replayed, plan.Plan, rollout.Phase(row.Phase))
	return out, nil
}

// recorded is what was decided, from the bins alone.
func recorded(bins []closed) Outcome {
	var out Outcome
	canary := int64(0)
	for i, c := range bins {
		canary += c.NC
		out.step(bins, i, c.Verdict, canary, "")
	}
	return out
}

// step takes the verdict after bin i.
func (o *Outcome) step(bins []closed, i int, v verdict.Verdict, canary int64, sentence string) {
	c := bins[i]
	if o.FailedAt != nil {
		return
	}
	if v == verdict.Fail {
		d := c.At.Sub(bins[0].At).Seconds() + bins[0].Took.Seconds()
		o.Verdict, o.FailedAt, o.FailedSeconds, o.CanaryToFail, o.Sentence = v, &c.At, &d, canary, sentence
		return
	}
	if !c.Baking {
		return
	}
	o.Verdict, o.Sentence = v, sentence
	if ends(bins, i) {
		o.Bakes = append(o.Bakes, BakeOutcome{Step: c.Step, Extended: c.Extended, Weight: float64(c.W) / 100, Verdict: v})
	}
}

// ends says whether bin i is the last that was closed in its bake or extension.
func ends(bins []closed, i int) bool {
	return i+1 == len(bins) || bins[i+1].Step != bins[i].Step || bins[i+1].Extended != bins[i].Extended || !bins[i+1].Baking
}

// judgeAgain plays the bins.
func judgeAgain(o opening, bins []closed, a pipeline.Analysis) (Outcome, error) {
	var out Outcome
	j := judging{Spread: o.Spread}
	var err error
	if j.Tests, err = startTests(a, preview.Settings(a), o); err != nil {
		return out, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	canary := int64(0)
	for i, c := range bins {
		canary += c.NC
		res, err := j.bin(c, a, func() ([]closed, error) { return bins[:i], nil })
		if err != nil {
			return out, err
		}
		out.step(bins, i, res.Verdict, canary, res.Sentence)
		if out.FailedAt != nil {
			break
		}
	}
	return out, nil
}

// rebin joins recorded bins to longer ones. Shorter ones cannot be made of them.
func rebin(bins []closed, was, now pipeline.Analysis) ([]closed, error) {
	if now.Bin == was.Bin {
		return bins, nil
	}
	if now.Bin < was.Bin {
		return nil, fmt.Errorf("bins of %s were recorded: bin: %s cannot be made of them, only longer ones", pipeline.Short(was.Bin), pipeline.Short(now.Bin))
	}
	var out []closed
	for i, c := range bins {
		n := len(out) - 1
		if n < 0 || out[n].Took+c.Took > now.Bin+was.Bin/2 || out[n].Step != c.Step || out[n].Extended != c.Extended || out[n].Baking != c.Baking || ends(bins, i-1) {
			c.Canary, c.Stable = add(nil, c.Canary), add(nil, c.Stable)
			out = append(out, c)
			continue
		}
		out[n].join(c)
	}
	return out, nil
}

func (c *closed) join(o closed) {
	c.At, c.Took = o.At, c.Took+o.Took
	c.KC, c.NC, c.KB, c.NB = c.KC+o.KC, c.NC+o.NC, c.KB+o.KB, c.NB+o.NB
	c.Alone, c.Last, c.Verdict, c.W = c.Alone && o.Alone, c.Last || o.Last, o.Verdict, o.W
	c.Canary, c.Stable = add(c.Canary, o.Canary), add(c.Stable, o.Stable)
	c.Spread.Join(o.Spread)
	if len(c.Slow) == len(o.Slow) {
		slow := append([]analysis.Spread(nil), c.Slow...)
		for i := range slow {
			slow[i].Join(o.Slow[i])
		}
		c.Slow = slow
	}
	read := map[string]reading{}
	for k, v := range c.Read {
		read[k] = v
	}
	for k, v := range o.Read {
		if p := read[k]; p.Counts != nil && v.Counts != nil {
			sum := analysis.Bin{KC: p.Counts.KC + v.Counts.KC, NC: p.Counts.NC + v.Counts.NC, KB: p.Counts.KB + v.Counts.KB, NB: p.Counts.NB + v.Counts.NB}
			v.Counts = &sum
		}
		read[k] = v // of levels the newest counts
	}
	c.Read = read
}

func add(a, b map[int]uint64) map[int]uint64 {
	out := make(map[int]uint64, len(a)+len(b))
	for _, h := range []map[int]uint64{a, b} {
		for i, n := range h {
			out[i] += n
		}
	}
	return out
}

// compare says what would have changed, when, and with what consequence.
func compare(was, now Outcome, plan rollout.Plan, phase rollout.Phase) (change, sentence string) {
	at := func(o Outcome) string {
		return fmt.Sprintf("%s after the first traffic, at %d canary requests", time.Duration(math.Round(*o.FailedSeconds))*time.Second, o.CanaryToFail)
	}
	switch {
	case was.FailedAt != nil && now.FailedAt == nil:
		s := "it would not have failed in what was recorded, which ends where it was rolled back; by then the verdict is " + string(orNone(now.Verdict))
		return ReplayNever, s
	case was.FailedAt == nil && now.FailedAt != nil:
		s := "it would have failed " + at(now)
		if phase == rollout.Succeeded {
			s += ": a release that went on to succeed would have been rolled back"
		}
		return ReplayRollsBack, s
	case was.FailedAt != nil:
		d := *was.FailedSeconds - *now.FailedSeconds
		switch {
		case d > 0:
			return ReplayEarlier, fmt.Sprintf("it would have failed %s, %s earlier", at(now), seconds(d))
		case d < 0:
			return ReplayLater, fmt.Sprintf("it would have failed %s, %s later", at(now), seconds(-d))
		}
		return ReplaySame, "it fails " + at(now) + ", as it did"
	}
	type bake struct{ step, extended int }
	before := map[bake]verdict.Verdict{}
	for _, b := range was.Bakes {
		before[bake{b.Step, b.Extended}] = b.Verdict
	}
	for _, b := range now.Bakes {
		v, known := before[bake{b.Step, b.Extended}]
		if !known || v == b.Verdict {
			continue
		}
		where := fmt.Sprintf("the bake at %g %% would have ended %s instead of %s", b.Weight, b.Verdict, orNone(v))
		switch {
		case v == verdict.Pass:
			do := plan.OnInconclusive
			if b.Verdict == verdict.NoData {
				do = plan.OnNoData
			}
			if do == "extend" {
				return ReplayWaits, where + ": it would have been extended"
			}
			return ReplayWaits, where + ": it would have been held for a person"
		case b.Verdict == verdict.Pass:
			return ReplayGoesOn, where + ": it would have gone on without the extension or the hold"
		default:
			return ReplayWaits, where
		}
	}
	return ReplaySame, "as recorded: " + string(orNone(now.Verdict))
}

func orNone(v verdict.Verdict) verdict.Verdict {
	if v == "" {
		return "none"
	}
	return v
}

func seconds(s float64) string {
	return time.Duration(math.Round(s) * float64(time.Second)).String()
}
