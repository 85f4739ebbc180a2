package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// checkStrategy reports strategies that could never work on a target, whatever
// this build can do.
func (p *parser) checkStrategy(at string, e Environment) {
	kind := e.Target.Type
	if kind == "host" && e.Target.Worker() && !p.isBad(at+".target") {
		kind = "worker"
	}
	can, known := targetKinds[kind]
	if strategy := e.Rollout.Strategy; known && slices.Contains(Strategies, strategy) && !slices.Contains(can, strategy) {
		where := strategyAt(p, at, strategy)
		pos := p.keyAt(where)
		if where == at+".rollout" || strings.HasSuffix(where, ".strategy") {
			pos = p.valueAt(where)
		}
		why := ""
		if kind == "worker" {
			why = ": a second group would take work as soon as it runs"
		}
		p.at(pos, where, Error, "strategy-target", fmt.Sprintf("a target of type %s cannot do %s%s", kind, strategy, why),
			fmt.Sprintf("the nearest that it can do is %s; it can do %s", nearestStrategy(strategy, can), listing(can, "and")))
	}
}

// strategyAt is where a file says its strategy.
func strategyAt(p *parser, at, strategy string) string {
	for _, k := range []string{strategy, "strategy"} {
		if where := at + ".rollout." + k; p.positions.Has(where) {
			return where
		}
	}
	return at + ".rollout"
}

// nearestStrategy is the first of what comes nearest to a strategy that is
// among those that can be done.
func nearestStrategy(s string, can []string) string {
	near := map[string][]string{
		Rolling:          {Canary, Linear, AllAtOnce},
		BlueGreen:        {Immutable, Canary, AllAtOnce},
		Canary:           {Linear, TrafficSplitting, BlueGreen, Rolling, AllAtOnce},
		Linear:           {Canary, TrafficSplitting, BlueGreen, Rolling, AllAtOnce},
		Immutable:        {BlueGreen, Canary, AllAtOnce},
		TrafficSplitting: {Canary, Linear, BlueGreen, Rolling, AllAtOnce},
		AllAtOnce:        {BlueGreen, Immutable, Rolling},
	}
	for _, n := range near[s] {
		if slices.Contains(can, n) {
			return n
		}
	}
	return can[0]
}

func (p *parser) checkWeights(at string, r Rollout) {
	before := 0.0
	for i, s := range r.Steps {
		where := fmt.Sprintf("%s.rollout.canary.steps[%d].weight", at, i)
		if p.isBad(where) || !p.positions.Has(where) {
			continue
		}
		if s.Weight <= before {
			p.at(p.valueAt(where), where, Error, "weight-not-rising", fmt.Sprintf("weight %v does not rise: a step before has %v", s.Weight, before), "order the steps by rising weight")
		}
		before = max(before, s.Weight)
	}
}

// checkInstances reports what the target's instances cannot express.
func (p *parser) checkInstances(at string, e Environment) {
	total := e.Target.Total()
	where := strategyAt(p, at, e.Rollout.Strategy)
	if e.Target.Type != "host" || p.isBad(at+".target") || p.isBad(where) {
		return
	}
	report := func(key, message, mend string) {
		at := where
		if p.positions.Has(where + "." + key) {
			at = where + "." + key
		}
		p.at(p.keyAt(at), at, Error, "strategy-instances", message, mend)
	}
	if r := e.Rollout; r.OnFail == RollForward && (r.Strategy == Rolling || r.Strategy == Immutable && total > 1 || e.Target.Worker()) {
		at := at + ".rollout.onFail"
		p.at(p.keyAt(at), at, Error, "strategy-instances", "the fix would take the place of a release that is half replaced: only strategies that move weights roll forward", "write onFail: freeze, or use canary, linear, traffic-splitting, blue-green or all-at-once")
	}
	if r := e.Rollout; e.Shadow != nil && !e.Target.Worker() && (r.Strategy == Rolling || r.Strategy == Immutable) {
		at := at + ".shadow"
		p.at(p.keyAt(at), at, Error, "strategy-instances", "requests are copied to a candidate that stands whole beside the running release, and "+r.Strategy+" replaces instances", "remove shadow, or use "+Canary)
	}
	if b := e.Rollout.Batches; b != nil && e.Rollout.Strategy == Rolling {
		size := b.Size(total)
		all := fmt.Sprintf("the target runs %s", Instances(total))
		if size > total {
			report("batch", fmt.Sprintf("a batch of %s is more than there are: %s", b.Batch, all), fmt.Sprintf("write batch: %d or less, or more instances", total))
			return
		}
		if b.MaxUnavailable == nil {
			return
		}
		most := 0
		if *b.MaxUnavailable != (Amount{}) {
			most = b.MaxUnavailable.Of(total)
		}
		switch {
		case b.Additional && most > 0:
			report("maxUnavailable", "with additionalBatch no instance is ever missing, so that maxUnavailable would be ignored", "remove maxUnavailable, or write additionalBatch: false")
		case !b.Additional && most == 0:
			report("maxUnavailable", fmt.Sprintf("nothing could ever be replaced: no instance may be missing, none may be added (%s)", all), "write additionalBatch: true, or maxUnavailable: 1")
		case !b.Additional && size > most:
			report("maxUnavailable", fmt.Sprintf("a batch takes %s away and only %d may be missing (%s)", Instances(size), most, all), fmt.Sprintf("write batch: %d, or additionalBatch: true without maxUnavailable", most))
		}
		return
	}
	if e.Target.Worker() && e.Rollout.Stepped() {
		if _, err := WorkerCounts(e.Rollout.Steps, total); err != nil {
			report("steps", "a worker's weight is its share of the instances, and "+err.Error(), "write fewer steps, or more instances, or rollout: rolling")
		}
	}
}

// checkWorker reports what needs an address where there is none.
func (p *parser) checkWorker(at string, e Environment) {
	if !e.Target.Worker() || p.isBad(at+".target") || e.Target.Type != "host" {
		return
	}
	needs := func(where, what, mend string) {
		if p.positions.Has(where) && !p.isBad(where) {
			p.at(p.keyAt(where), where, Error, "worker", "this target has no listen, so it is a worker: "+what, mend)
		}
	}
	needs(at+".target.sticky", "it has no users to recognise", "remove sticky, or add listen: 127.0.0.1:9001")
	needs(at+".target.preview", "it has no address to preview", "remove preview, or add listen: 127.0.0.1:9001")
	needs(at+".shadow", "it has no requests to copy", "remove shadow, or add listen: 127.0.0.1:9001")
	needs(at+".synthetic", "it has no address to ask", "remove synthetic, or add listen: 127.0.0.1:9001")
	for i, m := range e.Analysis.Metrics {
		if m.Kind == HTTPErrors || m.Kind == HTTPLatency {
			needs(fmt.Sprintf("%s.analysis.metrics[%d]", at, i), "no router counts its requests, so "+m.Kind+" would have no data", "judge it on its own metrics: {name: jobs, kind: rate, bad: 'jobs_failed_total{revision=\"$revision\"}', total: 'jobs_total{revision=\"$revision\"}'}, or kind: limit")
		}
	}
	if len(e.Analysis.Metrics) == 0 && !p.isBad(at+".analysis") {
		needs(at+".analysis", "nothing is judged where no metric is named", "name a metric of kind rate or limit that the worker exports")
	}
	for _, list := range []struct {
		at     string
		checks []Check
	}{
		{at + ".verify", e.Verify}, {at + ".hooks.beforeTraffic", e.Hooks.BeforeTraffic},
		{at + ".hooks.afterStep", e.Hooks.AfterStep}, {at + ".hooks.afterTraffic", e.Hooks.AfterTraffic},
	} {
		for i, c := range list.checks {
			if c.HTTP != nil || c.Browser != nil {
				needs(fmt.Sprintf("%s[%d]", list.at, i), "check "+clip(c.Name)+" has no address to ask", "check it by a command: {name: "+clip(c.Name)+", command: ./check.sh}")
			}
		}
	}
}

// checkBakes reports bakes in which the judge cannot come to a verdict.
func (p *parser) checkBakes(at string, e Environment) {
	a, r := e.Analysis, e.Rollout
	if p.isBad(at+".analysis.warmUp") || p.isBad(at+".analysis.bin") {
		return
	}
	least := a.WarmUp + 4*a.Bin
	// with is the rollout with another bake there: it moves what is counted by default.
	short := func(where string, bake time.Duration, with func(r Rollout, d time.Duration) Rollout) {
		if p.isBad(where) || p.isBad(at+".rollout.timeout") && !p.positions.Has(where) {
			return
		}
		switch {
		case bake == 0:
			p.at(p.valueAt(where), where, Error, "zero-bake", "a bake of zero leaves the analysis nothing to judge", "bake for "+Short(p.suggestBake(at, e, with))+" or longer")
		case bake <= least:
			p.at(p.valueAt(where), where, Error, "bake-too-short", fmt.Sprintf("bake %s is too short for its judge: it must be longer than the warm-up of %s and 4 bins of %s, together %s", Short(bake), Short(a.WarmUp), Short(a.Bin), Short(least)),
				"bake for "+Short(p.suggestBake(at, e, with))+" or longer, or set analysis.warmUp and analysis.bin")
		}
	}
	if where := at + ".shadow.bake"; e.Shadow != nil && len(a.Metrics) > 0 && p.positions.Has(where) {
		short(where, e.Shadow.Bake, func(r Rollout, _ time.Duration) Rollout { return r })
	}
	inner := strategyAt(p, at, r.Strategy)
	switch {
	case r.Strategy == Canary && r.Named == "":
		for i, s := range r.Steps {
			where := fmt.Sprintf("%s.rollout.canary.steps[%d].bake", at, i)
			if p.isBad(fmt.Sprintf("%s.rollout.canary.steps[%d]", at, i)) && !p.positions.Has(where) {
				continue
			}
			if len(a.Metrics) > 0 {
				short(where, s.Bake, func(r Rollout, d time.Duration) Rollout {
					r.Steps = slices.Clone(r.Steps)
					r.Steps[i].Bake = d
					return r
				})
			}
		}
	case r.Stepped():
		where := inner + map[string]string{Linear: ".every", TrafficSplitting: ".evaluate"}[r.Strategy]
		if _, shortest := Bakes(r); len(r.Steps) > 0 && len(a.Metrics) > 0 {
			short(where, shortest, func(r Rollout, d time.Duration) Rollout {
				r.Steps = slices.Clone(r.Steps)
				for i := range r.Steps {
					r.Steps[i].Bake = d
				}
				return r
			})
		}
	case p.isBad(inner):
	case r.Bake > 0 && len(a.Metrics) > 0:
		short(inner+".bake", r.Bake, func(r Rollout, d time.Duration) Rollout {
			r.Bake = d
			return r
		})
	case r.Bake == 0 && p.positions.Has(at+".analysis"):
		where := at + ".analysis"
		if p.positions.Has(inner + ".bake") {
			where = inner + ".bake"
		}
		strategy := r.Strategy
		if strategy == "" {
			strategy = AllAtOnce
		}
		p.at(p.keyAt(where), where, Error, "zero-bake", "the rollout has no bake, so the analysis would judge nothing", "write rollout: {"+strategy+": {bake: 15m}}, or use a canary, or remove the analysis")
	}
}

// checkActions reports signals whose action is weaker than what a standard decides
// for all of them.
func (p *parser) checkActions(at string, e Environment) {
	if e.Rollout.Standard == "" {
		return
	}
	strength := []string{Pause, Freeze, RollForward, actionOf(GoBack)}
	all := slices.Index(strength, e.Rollout.OnFail)
	weaker := func(where, action string) {
		if action != "" && slices.Index(strength, actionOf(action)) < all && !p.isBad(where) {
			p.at(p.valueAt(where), where, Error, "loosens-standard", fmt.Sprintf("onFail %s is weaker than what standard %s does on a failure", action, e.Rollout.Standard), "remove onFail, or write rollback")
		}
	}
	for i, m := range e.Analysis.Metrics {
		weaker(fmt.Sprintf("%s.analysis.metrics[%d].onFail", at, i), m.OnFail)
	}
	for i, a := range e.Analysis.Alarms {
		weaker(fmt.Sprintf("%s.analysis.alarms[%d].onFail", at, i), a.OnFail)
	}
}

// suggestBake returns the shortest round bake that the judge can work with, counting
// the defaults that would move with it.
func (p *parser) suggestBake(at string, e Environment, with func(Rollout, time.Duration) Rollout) time.Duration {
	for _, d := range []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second, 45 * time.Second, time.Minute, 90 * time.Second,
		2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 24 * time.Hour} {
		mended := e
		mended.Rollout = with(e.Rollout, d)
		if warmUp, bin := p.judgeTimes(at, mended); d > warmUp+4*bin {
			return d
		}
	}
	return e.Analysis.WarmUp + 5*e.Analysis.Bin
}

// Instances writes a number of them.
func Instances(n int) string {
	if n == 1 {
		return "1 instance"
	}
	return fmt.Sprintf("%d instances", n)
}

// replacement warns of a replacement that leaves users without an answer, and of
// shares that instances express badly.
func (l *linter) replacement(at string, e Environment) {
	where := at + ".rollout"
	total := e.Target.Total()
	if b := e.Rollout.Batches; b != nil && !b.Additional && e.Rollout.Strategy == Rolling && !e.Target.Worker() {
		switch {
		case b.Size(total) >= total:
			l.warn(where, "downtime", fmt.Sprintf("%s of %s, all that there are, go at once, in place: nobody is answered meanwhile", Instances(total), e.Name), "write additionalBatch: true, or a smaller batch")
		case b.Size(total) >= e.Target.Instances:
			l.warn(where, "downtime", fmt.Sprintf("a batch takes all %s of a host in %s: who reaches that host is not answered meanwhile", Instances(e.Target.Instances), e.Name), "write additionalBatch: true, or a batch below the instances of a host")
		}
	}
	if e.Target.Worker() && e.Rollout.Stepped() {
		counts, err := WorkerCounts(e.Rollout.Steps, total)
		for i, n := range counts {
			if share := 100 * float64(n) / float64(total); err == nil && share > 2*e.Rollout.Steps[i].Weight {
				l.warn(where, "weight-rounded", fmt.Sprintf("%g %% of %s is not even one: the step takes %d of them, which is %.3g %%", e.Rollout.Steps[i].Weight, Instances(total), n, share), "run more instances, or write the weight that is meant")
				return
			}
		}
	}
}
