package analysis

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
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
	split    bool                     // φ is measured, by the stable's hash buckets
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
	var spread Spread
	if w.split && w.window {
		// As the control plane does: the A/A split of the hour before, by 5 min.
		for range 12 {
			spread.Add(w.buckets(rng, frozen.Bad/12, frozen.Total/12))
		}
	}
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
		if w.split {
			spread.Add(w.buckets(rng, b.KB, b.NB))
			r.Settings.Phi = spread.Phi()
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

// buckets deals bad requests of the stable version to its hash buckets: those of
// one cluster are of one user, and so in one bucket.
func (w workload) buckets(rng *rand.Rand, bad, all int64) [][2]int64 {
	out := make([][2]int64, 16)
	for i := range out {
		out[i][1] = all / int64(len(out))
	}
	size := max(1, w.cluster)
	left := bad / size
	for i := range out {
		n := binomial(rng, left, 1/float64(len(out)-i))
		left -= n
		out[i][0] = min(n*size, out[i][1])
	}
	return out
}

// others judges the same kind of rollout as peers do: roll back when more than
// 1 % of the last minute's requests failed, looked at every bin; and Kayenta's
// comparison of one-minute error rates, looked at every minute from the fifth:
// against a baseline of the canary's size, as Kayenta's makers advise, and against
// all of the stable version, whose rates scatter less than the canary's do.
func (w workload) others(rng *rand.Rand) (threshold, kayenta, whole float64) {
	threshold, kayenta, whole = math.Inf(1), math.Inf(1), math.Inf(1)
	total := w.rps / 0.05
	nc := int64(math.Round(w.rps * 10))
	nb := int64(math.Round(total*10)) - nc
	var minute [6]Bin
	like, all := Points{Direction: "increase"}, Points{Direction: "increase"}
	look := func(p *Points, canary, control Bin, found *float64, after float64) {
		if !math.IsInf(*found, 1) {
			return
		}
		p.Canary, p.Control = append(p.Canary, share(canary.KC, canary.NC)), append(p.Control, share(control.KB, control.NB))
		if len(p.Canary) >= pointsLeast && p.Compare().Class == ClassHigh {
			*found = after
		}
	}
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
		if i%6 == 5 {
			look(&all, sum, sum, &whole, after)
			look(&like, sum, Bin{KB: w.draw(rng, sum.NC, w.baseline(at)), NB: sum.NC}, &kayenta, after)
		}
	}
	return threshold, kayenta, whole
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
	incident, drift, cold, cluster, split, plain := base(), base(), base(), base(), base(), base()
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
	split.split, plain.split = true, true
	return []row{
		{"independent errors", 0.01, base()},
		{"shared 5-min incident at 5 %", 0.01, incident},
		{"weights 5→25→50 %, drifting ±60 %", 0.01, drift},
		{"2-min cold start at 3 %", 0.01, cold},
		{"clusters of three, φ unknown", 0.05, cluster},
		{"clusters of three, φ by the A/A split", 0.05, split},
		{"independent errors, φ by the A/A split", 0.01, plain},
	}
}

// Table writes, as Markdown, what judge.md says that the judge must reach,
// measured over runs simulated rollouts per cell. A cell that misses its bound is
// bold.
func Table(w io.Writer, runs int, seed uint64) error {
	rates := []float64{2, 20, 200}
	var t strings.Builder
	head := func(cells ...string) {
		t.WriteString("\n| " + strings.Join(cells, " | ") + " |\n|" + strings.Repeat("---|", len(cells)) + "\n")
	}
	row := func(cells ...string) { t.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	mark := func(ok bool, s string) string {
		if ok {
			return s
		}
		return "**" + s + "**"
	}
	fmt.Fprintf(&t, "Baseline 0.5 %%, 5 %% share, 60 min, 10 s bins, %s runs per cell, seed %d. Rates are canary requests per second.\n", Count(int64(runs)), seed)

	head("false fail of a healthy canary", "2 rps", "20 rps", "200 rps", "at most")
	for i, r := range healthy(2) {
		cells := []string{r.name}
		for _, rps := range rates {
			fails, _ := healthy(rps)[i].many(runs, seed, true)
			cells = append(cells, mark(happened(fails) <= r.most, fmt.Sprintf("%.2f %%", 100*happened(fails))))
		}
		row(append(cells, fmt.Sprintf("%.0f %%", 100*r.most))...)
	}

	head("requests after warm-up until fail, 2 rps", "median", "p95", "seen", "at most")
	for _, r := range []struct {
		rate, median, p95 float64
		most              string
	}{{0.02, 1000, 2000, "1 000 / 2 000"}, {0.05, math.Inf(1), 350, "– / 350"}, {0.2, math.Inf(1), 75, "– / 75"}} {
		fails, _ := degraded(r.rate).many(runs, seed, true)
		m, p := quantile(fails, 0.5), quantile(fails, 0.95)
		row(fmt.Sprintf("canary at %.0f %%", 100*r.rate), mark(m <= r.median, fmt.Sprintf("%.0f", m)), mark(p <= r.p95, fmt.Sprintf("%.0f", p)), fmt.Sprintf("%.1f %%", 100*happened(fails)), r.most)
	}

	head("pass within 60 min", "2 rps", "20 rps", "200 rps", "must be")
	for _, r := range passing() {
		cells := []string{r.name}
		for _, rps := range rates {
			_, passes := r.at(rps).many(runs, seed, false)
			p := happened(passes)
			cells = append(cells, mark(strings.HasPrefix(r.must, "≥") && p >= 0.95 || strings.HasPrefix(r.must, "≤") && p <= 0.05, fmt.Sprintf("%.1f %%", 100*p)))
		}
		row(append(cells, r.must)...)
	}

	head("for comparison: healthy canary rolled back", "2 rps", "20 rps", "200 rps")
	limits := []string{"more than 1 % over a minute, looked at every 10 s"}
	likes, alls := []string{"Kayenta on minutes, looked at every minute, baseline of the canary's size"}, []string{"the same against all of the stable version"}
	needs, needsAll := []string{"Kayenta: median requests to see a canary at 2 %"}, []string{"the same against all of the stable version"}
	for _, rps := range rates {
		rng := newRandom(seed)
		var limit, like, all, bad, badAll []float64
		for range runs {
			w := healthy(rps)[0].workload
			a, b, c := w.others(rng)
			limit, like, all = append(limit, a), append(like, b), append(all, c)
			w.canary = constant(0.02)
			_, b, c = w.others(rng)
			bad, badAll = append(bad, b), append(badAll, c)
		}
		slices.Sort(bad)
		slices.Sort(badAll)
		part := func(xs []float64) string { return fmt.Sprintf("%.1f %%", 100*happened(xs)) }
		limits, likes, alls = append(limits, part(limit)), append(likes, part(like)), append(alls, part(all))
		needs, needsAll = append(needs, fmt.Sprintf("%.0f", quantile(bad, 0.5))), append(needsAll, fmt.Sprintf("%.0f", quantile(badAll, 0.5)))
	}
	for _, cells := range [][]string{limits, likes, alls, needs, needsAll} {
		row(cells...)
	}
	if _, err := io.WriteString(w, t.String()); err != nil {
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
