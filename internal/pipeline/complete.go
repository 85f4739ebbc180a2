package pipeline

import (
	"fmt"
	"slices"
	"time"
)

// Local is the agent that `sluice up` starts.
const Local = "local"

// scrapeInterval is how often the agent scrapes target.metrics.
const scrapeInterval = time.Second

// complete fills in the defaults that depend on more than their own object.
func (p *parser) complete(d *Definition) {
	for i := range d.Environments {
		at := fmt.Sprintf("environments[%d]", i)
		e := &d.Environments[i]
		p.resolve(at, e)
		if len(e.Target.Hosts) == 0 {
			e.Target.Hosts = []string{Local}
		}
		if e.Rollout.Strategy == "" && !p.positions.Has(at+".rollout") {
			e.Rollout = defaultRollout
			e.Rollout.Strategy = AllAtOnce
		}
		if e.Rollout.Strategy == Canary && len(e.Rollout.Steps) == 0 && !p.isBad(at+".rollout") {
			e.Rollout.Steps = slices.Clone(defaultSteps)
		}
		p.completeAnalysis(at, e)
	}
}

// completeAnalysis fills in how an environment's rollout is judged.
func (p *parser) completeAnalysis(at string, e *Environment) {
	a := &e.Analysis
	if len(a.Metrics) == 0 && !p.says(at+".analysis.metrics") && !e.Target.Worker() &&
		(judgedByDefault(e.Rollout) || p.positions.Has(at+".analysis")) {
		a.Metrics = []Metric{{Name: HTTPErrors, Kind: HTTPErrors}}
	}
	a.WarmUp, a.Bin = p.judgeTimes(at, *e)
}

// judgeTimes are the warm-up and the bin of an environment's analysis: as the file
// says, or as its bakes make them.
func (p *parser) judgeTimes(at string, e Environment) (warmUp, bin time.Duration) {
	warmUp, bin = e.Analysis.WarmUp, e.Analysis.Bin
	first, shortest := Bakes(e.Rollout)
	if !p.says(at + ".analysis.warmUp") {
		warmUp = min(2*time.Minute, first/2)
	}
	if p.says(at + ".analysis.bin") {
		return warmUp, bin
	}
	bin = max(min(10*time.Second, shortest/4), LeastBin(e.Analysis))
	if e.Rollout.Named != "" { // its bakes can't be made longer
		bin = max(min(bin, ((shortest-warmUp)/5).Truncate(time.Second)), LeastBin(e.Analysis))
	}
	if shortest == 0 {
		bin = 10 * time.Second
	}
	return warmUp, bin
}

// judgedByDefault reports whether a strategy is judged where the file doesn't say.
func judgedByDefault(r Rollout) bool {
	return r.Stepped() || (r.Strategy == BlueGreen || r.Strategy == Immutable) && r.Bake > 0
}

// Bakes returns the first bake of a rollout and its shortest.
func Bakes(r Rollout) (first, shortest time.Duration) {
	if !r.Stepped() {
		return r.Bake, r.Bake
	}
	for i, s := range r.Steps {
		if i == 0 {
			first, shortest = s.Bake, s.Bake
		}
		shortest = min(shortest, s.Bake)
	}
	return first, shortest
}

// LeastBin returns the shortest bin that the metrics of an analysis can fill:
// 1 s for the router's own counts, two scrapes for scraped ones.
func LeastBin(a Analysis) time.Duration {
	if a.Scraped() {
		return 2 * scrapeInterval
	}
	return time.Second
}
