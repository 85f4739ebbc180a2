package analysis

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// workload is a rollout to simulate, second by second of its hour.
type workload struct {
	settings Settings
	rps      float64 // canary requests per second at 5 % share
	baseline func(at float64) float64
	canary   func(at float64) float64
	share    func(at float64) float64 // default 5 %
	cluster  int64                    // errors come in groups of this size; 0 is 1
	window   bool                     // the stable's counts of the hour before are known
	until    time.Duration            // default 1 h
}

// outcome is what became of a simulated rollout. Requests are the canary's,
// after warm-up; the infinities stand for never.
type outcome struct {
	failed, passed float64 // requests until then
}

func constant(p float64) func(float64) float64 { return func(float64) float64 { return p } }

func (w workload) draw(rng *rand.Rand, n int64, p float64) int64 {
	if w.cluster <= 1 {
		return binomial(rng, n, p)
	}
	return w.cluster * binomial(rng, n/w.cluster, p)
}

// run judges one simulated rollout. With toTheEnd it goes on after a pass.
func (w workload) run(rng *rand.Rand, toTheEnd bool) outcome {
	s := w.settings
	total := w.rps / 0.05
	hour := w.until
	if hour == 0 {
		hour = time.Hour
	}
	var frozen Frozen
	if w.window {
		frozen.Total = int64(total * 3600)
		frozen.Bad = w.draw(rng, frozen.Total, w.baseline(0))
	}
	r := NewRate("http-errors", s, 1, frozen)
	out := outcome{failed: math.Inf(1), passed: math.Inf(1)}
	bin := s.Bin.Seconds()
	after, was := 0.0, 0.05
	for at := 0.0; at < hour.Seconds(); at += bin {
		share := 0.05
		if w.share != nil {
			share = w.share(at)
		}
		if share != was {
			r.StartStep()
			was = share
		}
		var b Bin
		b.NC = int64(math.Round(total * share * bin))
		b.NB = int64(math.Round(total*bin)) - b.NC
		b.KC, b.KB = w.draw(rng, b.NC, w.canary(at)), w.draw(rng, b.NB, w.baseline(at))
		kind := Judged
		if at < s.WarmUp.Seconds() {
			kind = WarmUp
		} else {
			after += float64(b.NC)
		}
		r.Add(b, kind)
		if r.Failed != nil {
			out.failed = after
			break
		}
		if r.PassedAt > 0 && math.IsInf(out.passed, 1) {
			out.passed = after
			if !toTheEnd {
				break
			}
		}
	}
	return out
}

// others judges the same kind of rollout as peers do: roll back when more than
// 1 % of the last minute's requests failed, looked at every bin; and Kayenta's
// comparison of one-minute error rates, looked at every minute from the fifth.
func (w workload) others(rng *rand.Rand) (threshold, kayenta float64) {
	threshold, kayenta = math.Inf(1), math.Inf(1)
	total := w.rps / 0.05
	nc := int64(math.Round(w.rps * 10))
	nb := int64(math.Round(total*10)) - nc
	var minute [6]Bin
	var p Points
	after := 0.0
	for i := range 360 {
		at := float64(i * 10)
		b := Bin{NC: nc, NB: nb, KC: w.draw(rng, nc, w.canary(at)), KB: w.draw(rng, nb, w.baseline(at))}
		if at < w.settings.WarmUp.Seconds() {
			continue
		}
		after += float64(nc)
		minute[i%6] = b
		var sum Bin
		for _, m := range minute {
			sum = sum.plus(m)
		}
		if sum.NC == 6*nc && share(sum.KC, sum.NC) > 0.01 {
			threshold = min(threshold, after)
		}
		if i%6 == 5 && math.IsInf(kayenta, 1) {
			p.Canary, p.Control = append(p.Canary, share(sum.KC, sum.NC)), append(p.Control, share(sum.KB, sum.NB))
			p.Direction = "increase"
			if len(p.Canary) >= pointsLeast && p.Compare().Class == ClassHigh {
				kayenta = after
			}
		}
	}
	return threshold, kayenta
}

// many runs a workload and gives the sorted requests to fail and to pass.
func (w workload) many(runs int, seed uint64, toTheEnd bool) (fails, passes []float64) {
	rng := newRandom(seed)
	for range runs {
		o := w.run(rng, toTheEnd)
		fails, passes = append(fails, o.failed), append(passes, o.passed)
	}
	slices.Sort(fails)
	slices.Sort(passes)
	return fails, passes
}

// happened is the part of the runs in which it did.
func happened(sorted []float64) float64 {
	n := 0
	for _, x := range sorted {
		if !math.IsInf(x, 1) {
			n++
		}
	}
	return float64(n) / float64(max(1, len(sorted)))
}

const tableBase = 0.005

// healthy are the workloads that must not fail, by name.
func healthy(rps float64) []struct {
	name string
	most float64
	workload
} {
	base := func() workload {
		return workload{settings: Defaults(), rps: rps, baseline: constant(tableBase), canary: constant(tableBase), window: true}
	}
	type row = struct {
		name string
		most float64
		workload
	}
	incident, drift, cold, cluster, split := base(), base(), base(), base(), base()
	incident.baseline = func(at float64) float64 {
		if at >= 1200 && at < 1500 {
			return 0.05
		}
		return tableBase
	}
	incident.canary = incident.baseline
	drift.baseline = func(at float64) float64 { return tableBase * (1 + 0.6*math.Sin(2*math.Pi*at/3600)) }
	drift.canary = drift.baseline
	drift.share = func(at float64) float64 { return []float64{0.05, 0.25, 0.5}[min(2, int(at/1200))] }
	cold.canary = func(at float64) float64 {
		if at < 120 {
			return 0.03
		}
		return tableBase
	}
	cluster.cluster, split.cluster = 3, 3
	split.settings.Phi = 3
	return []row{
		{"independent errors", 0.01, base()},
		{"shared 5-min incident at 5 %", 0.01, incident},
		{"weights 5→25→50 %, drifting ±60 %", 0.01, drift},
		{"2-min cold start at 3 %", 0.01, cold},
		{"clusters of three, φ unknown", 0.05, cluster},
		{"clusters of three, φ = 3", 0.05, split},
	}
}

// Table prints what judge.md says that the judge must reach, measured over runs
// simulated rollouts per cell.
func Table(w io.Writer, runs int, seed uint64) error {
	rates := []float64{2, 20, 200}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "baseline 0.5 %%, 5 %% share, 60 min, 10 s bins, %d runs per cell, seed %d\n\n", runs, seed)
	fmt.Fprintln(t, "false fail of a healthy canary\t2 rps\t20 rps\t200 rps\tat most")
	for i, row := range healthy(2) {
		fmt.Fprint(t, row.name)
		for _, rps := range rates {
			fails, _ := healthy(rps)[i].many(runs, seed, true)
			fmt.Fprintf(t, "\t%.2f %%", 100*happened(fails))
		}
		fmt.Fprintf(t, "\t%.0f %%\n", 100*row.most)
	}
	fmt.Fprintln(t, "\nrequests after warm-up until fail, 2 rps\tmedian\tp95\tseen\tat most")
	for _, row := range []struct {
		rate float64
		most string
	}{{0.02, "1 000 / 2 000"}, {0.05, "– / 350"}, {0.2, "– / 75"}} {
		fails, _ := degraded(row.rate).many(runs, seed, true)
		fmt.Fprintf(t, "canary at %.0f %%\t%.0f\t%.0f\t%.1f %%\t%s\n", 100*row.rate, quantile(fails, 0.5), quantile(fails, 0.95), 100*happened(fails), row.most)
	}
	fmt.Fprintln(t, "\npass within 60 min\t2 rps\t20 rps\t200 rps\tmust be")
	for _, row := range passing() {
		fmt.Fprint(t, row.name)
		for _, rps := range rates {
			_, passes := row.at(rps).many(runs, seed, false)
			fmt.Fprintf(t, "\t%.1f %%", 100*happened(passes))
		}
		fmt.Fprintf(t, "\t%s\n", row.must)
	}
	fmt.Fprintln(t, "\nfor comparison: healthy canary rolled back\t2 rps\t20 rps\t200 rps\t")
	var limits, points []string
	var needs []string
	for _, rps := range rates {
		rng := newRandom(seed)
		var limit, point, bad []float64
		for range runs {
			w := healthy(rps)[0].workload
			a, b := w.others(rng)
			limit, point = append(limit, a), append(point, b)
			w.canary = constant(0.02)
			_, b = w.others(rng)
			bad = append(bad, b)
		}
		slices.Sort(bad)
		limits, points = append(limits, fmt.Sprintf("%.1f %%", 100*happened(limit))), append(points, fmt.Sprintf("%.1f %%", 100*happened(point)))
		needs = append(needs, fmt.Sprintf("%.0f", quantile(bad, 0.5)))
	}
	fmt.Fprintf(t, "more than 1 %% in a minute\t%s\t\n", strings.Join(limits, "\t"))
	fmt.Fprintf(t, "Kayenta on minutes, each minute\t%s\t\n", strings.Join(points, "\t"))
	fmt.Fprintf(t, "Kayenta: median requests to see 2 %%\t%s\t\n", strings.Join(needs, "\t"))
	if err := t.Flush(); err != nil {
		return fmt.Errorf("couldn't print the table: %w", err)
	}
	return nil
}

// degraded is a canary whose warm-up is clean, so that the requests after it
// are what the verdict needs.
func degraded(rate float64) workload {
	canary := func(at float64) float64 {
		if at < Defaults().WarmUp.Seconds() {
			return tableBase
		}
		return rate
	}
	return workload{settings: Defaults(), rps: 2, baseline: constant(tableBase), canary: canary, window: true}
}

type passRow struct {
	name, must       string
	baseline, canary float64
	excess           float64
	window           bool
}

func passing() []passRow {
	return []passRow{
		{"healthy", "≥ 95 %", tableBase, tableBase, 0.01, true},
		{"healthy, nothing known before", "≥ 95 %", tableBase, tableBase, 0.01, false},
		{"no error on either side", "≥ 95 %", 0, 0, 0.01, true},
		{"no error, nothing known before", "≥ 95 %", 0, 0, 0.01, false},
		{"at the bound of +1 pp (1.5 %)", "≤ 5 %", tableBase, 0.015, 0.01, true},
		{"at that bound, nothing known before", "≤ 5 %", tableBase, 0.015, 0.01, false},
		{"at the bound of 2× (1 %), maxExcess 0.2 pp", "≤ 5 %", tableBase, 0.01, 0.002, true},
	}
}

func (p passRow) at(rps float64) workload {
	s := Defaults()
	s.MaxExcess = p.excess
	return workload{settings: s, rps: rps, baseline: constant(p.baseline), canary: constant(p.canary), window: p.window}
}
