package preview

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// Advice is a strategy for a service in an environment, and why.
type Advice struct {
	Answers      pipeline.Answers `json:"answers"`
	Strategy     string           `json:"strategy"`
	Why          []string         `json:"why"`
	Steps        []Step           `json:"steps"`
	OnFail       string           `json:"onFail"` // the safe action
	OnFailWhy    string           `json:"onFailWhy"`
	Seconds      float64          `json:"secondsToFull"` // of bakes, at least
	Capacity     string           `json:"capacity"`      // what runs beside meanwhile
	Alternatives []Option         `json:"alternatives"`  // that would do too
	Refused      []Option         `json:"refused"`
	Conflict     string           `json:"conflict,omitempty"` // no strategy meets all answers
	Watch        []string         `json:"watch,omitempty"`    // what else to do
	YAML         string           `json:"yaml"`               // of an environment, to paste
}

// Option is a strategy that was not chosen.
type Option struct {
	Strategy string `json:"strategy"`
	Why      string `json:"why"`
}

// Advise recommends a strategy. The bakes are sized by the same arithmetic as a
// preview's.
func Advise(q pipeline.Answers) (Advice, error) {
	a := Advice{Answers: q, Alternatives: []Option{}, Refused: []Option{}}
	best, fewest := "", math.MaxInt
	reasons := map[string][]string{}
	order := preference(q)
	for _, s := range order {
		reasons[s] = refusals(q, s)
		n := len(reasons[s])
		if impossible(q, s) {
			n += len(order) * 10 // never the one that comes nearest
		}
		if n < fewest {
			best, fewest = s, n
		}
	}
	a.Strategy = best
	a.OnFail, a.OnFailWhy = safeAction(q, best)
	if fewest > 0 {
		a.Conflict = "No strategy meets all of these answers. This one comes nearest, but " + strings.Join(reasons[best], "; ") + "."
	}
	for _, s := range order {
		switch {
		case s == best:
		case len(reasons[s]) == 0:
			a.Alternatives = append(a.Alternatives, Option{s, secondBest(s)})
		default:
			a.Refused = append(a.Refused, Option{s, strings.Join(reasons[s], "; ")})
		}
	}
	e, err := a.environment()
	if err != nil {
		return a, err
	}
	first := 100.0
	if len(e.Rollout.Steps) > 0 {
		first = e.Rollout.Steps[0].Weight
	}
	a.Why = append(why(q, best, first), a.OnFailWhy)
	plan, err := rollout.Compile(e, true)
	if err != nil {
		return a, fmt.Errorf("couldn't compile the advice: %w", err)
	}
	if a.Steps, err = steps(e, plan, &Traffic{RPS: q.RPS, BaselineRate: q.BaselineRate / 100}); err != nil {
		return a, err
	}
	for _, s := range a.Steps {
		if s.Bake != nil {
			s.Bake.Advice = nil // what it can't see is said beside it; bakes were sized by just that
		}
	}
	for _, s := range plan.Steps {
		a.Seconds += s.Bake.Seconds()
	}
	a.Capacity = capacity(q, best)
	a.YAML = a.yaml(e)
	return a, nil
}

// riskRank orders answers to risk.
func riskRank(q pipeline.Answers) int {
	return slices.Index([]string{"low", "medium", "high", "critical"}, q.Risk)
}

// preference is the order in which strategies are tried.
func preference(q pipeline.Answers) []string {
	switch {
	case q.Worker:
		return []string{pipeline.Canary, pipeline.Rolling, pipeline.Linear, pipeline.AllAtOnce, pipeline.BlueGreen, pipeline.Immutable, pipeline.TrafficSplitting}
	case q.Drift == "none" && q.Compliance != "none":
		return []string{pipeline.Immutable, pipeline.BlueGreen, pipeline.AllAtOnce, pipeline.Canary, pipeline.Linear, pipeline.TrafficSplitting, pipeline.Rolling}
	case q.Drift == "none" || q.State == "breaking":
		return []string{pipeline.BlueGreen, pipeline.Immutable, pipeline.AllAtOnce, pipeline.Canary, pipeline.Linear, pipeline.TrafficSplitting, pipeline.Rolling}
	case riskRank(q) == 0 && !q.UserFacing:
		return []string{pipeline.AllAtOnce, pipeline.Rolling, pipeline.BlueGreen, pipeline.Canary, pipeline.Linear, pipeline.Immutable, pipeline.TrafficSplitting}
	}
	return []string{pipeline.Canary, pipeline.Linear, pipeline.TrafficSplitting, pipeline.BlueGreen, pipeline.Immutable, pipeline.Rolling, pipeline.AllAtOnce}
}

// impossible says of a strategy that could not even be compiled.
func impossible(q pipeline.Answers, s string) bool {
	switch s {
	case pipeline.Rolling:
		return q.Instances < 2
	case pipeline.BlueGreen, pipeline.Immutable, pipeline.TrafficSplitting:
		return q.Worker
	case pipeline.Canary, pipeline.Linear:
		return q.Worker && q.Instances < 2
	}
	return false
}

// refusals are why a strategy does not do for these answers.
func refusals(q pipeline.Answers, s string) []string {
	var out []string
	no := func(bad bool, why string) {
		if bad {
			out = append(out, why)
		}
	}
	shared := s == pipeline.Canary || s == pipeline.Linear || s == pipeline.TrafficSplitting
	if q.Worker {
		no(s == pipeline.BlueGreen || s == pipeline.Immutable || s == pipeline.TrafficSplitting, "a worker has no requests that could be switched or split")
		no(shared && q.Instances < 2, "one instance cannot be shared out")
	} else {
		no(s != pipeline.Rolling && q.Capacity != "double", "it runs a second full set beside ("+pipeline.Instances(q.Instances)+" more), which the answer on capacity rules out")
	}
	no((shared || s == pipeline.Rolling) && q.Drift == "none", "it serves two versions side by side for a time")
	no((shared || s == pipeline.Rolling) && q.State == "breaking", "old and new serve from the same data, which the old one cannot read any more")
	no(s == pipeline.Rolling && !q.Worker && q.Rollback == "seconds", "going back starts old instances again, which takes longer than seconds")
	no(s == pipeline.Rolling && q.Instances < 2, "one instance has no batches")
	no(s == pipeline.Rolling && q.Capacity == "none" && q.Instances < 2 && q.Downtime == "none", "replacing the only instance in place is a downtime")
	no(s == pipeline.AllAtOnce && q.UserFacing && !q.Worker && riskRank(q) >= 2, "every user meets a bad release at once")
	no(s == pipeline.AllAtOnce && q.Worker && riskRank(q) >= 2, "all work meets a bad release at once")
	no(shared && !q.Worker && q.RPS > 0 && q.RPS*0.5*(4*time.Hour).Seconds() < 50, "so few requests come that even half of them in hours prove nothing")
	return out
}

// why says what speaks for a strategy.
func why(q pipeline.Answers, s string, first float64) []string {
	var out []string
	switch s {
	case pipeline.Canary:
		if q.Worker {
			return []string{"A part of the instances works with the new release first, and is judged on its own metrics, so that most work is safe from a bad one."}
		}
		out = append(out, fmt.Sprintf("At %s risk a bad release shall reach few: the first step exposes %s %% of users, and is judged against the running release at the same time.", q.Risk, number(first)))
		if q.Rollback == "seconds" {
			out = append(out, "The running release stays at full capacity beside, so all users are back within about a second.")
		}
	case pipeline.BlueGreen:
		out = append(out, "Users change versions in one step, so no two versions serve at once, and the old group stays ready to take all of them back.",
			"Nobody is exposed before the checks of the new group have passed, but then everybody is: those checks matter most.")
	case pipeline.Immutable:
		out = append(out, "A whole new group replaces the old one, so that nothing that runs was changed in place, and all instances are alike.")
	case pipeline.Rolling:
		out = append(out, fmt.Sprintf("Instances are replaced in batches, so that it costs %s.", capacity(q, s)))
	case pipeline.AllAtOnce:
		out = append(out, "Little is at stake, so that the fastest and simplest will do; the bake afterwards still takes a bad one back.")
	case pipeline.Linear:
		out = append(out, "The weight rises in equal steps, each judged.")
	}
	return out
}

// secondBest says of a strategy that would do what speaks against it.
func secondBest(s string) string {
	return map[string]string{
		pipeline.Canary:           "safer, and slower: it asks for traffic to judge by",
		pipeline.Linear:           "more steps than a canary for the same evidence: it takes longer to 100 %",
		pipeline.TrafficSplitting: "one step of evaluation, so that a larger share is exposed at first",
		pipeline.BlueGreen:        "exposes everybody in one step",
		pipeline.Immutable:        "as blue-green, and slower: the new group is started in two steps",
		pipeline.Rolling:          "going back is slower: old instances have to start again",
		pipeline.AllAtOnce:        "exposes everybody at once, without checks before",
	}[s]
}

// safeAction is what a failure shall do.
func safeAction(q pipeline.Answers, strategy string) (action, why string) {
	switch {
	case q.State == "breaking" && (q.Worker || strategy == pipeline.Rolling || strategy == pipeline.Immutable):
		return pipeline.Freeze, "The old release cannot read the new data, so going back would make it worse: a failure freezes until a person decides. Better: expand first, and contract a release later."
	case q.State == "breaking":
		return pipeline.RollForward, "The old release cannot read the new data, so going back would make it worse: a failure freezes until the fix takes its place. Better: expand first, and contract a release later."
	case q.State == "migration":
		return pipeline.GoBack, "The migration is expanded first, so that the old release still works: a failure goes back."
	}
	return pipeline.GoBack, "The old release can take all users back at any time: a failure goes back."
}

func capacity(q pipeline.Answers, s string) string {
	if s != pipeline.Rolling {
		if q.Worker {
			return "no instance more than now"
		}
		return pipeline.Instances(q.Instances) + " more while it lasts, and until the old ones retire"
	}
	if q.Capacity == "none" {
		return fmt.Sprintf("no instance more than now; up to %s less while it lasts", pipeline.Instances(batch(q)))
	}
	return pipeline.Instances(batch(q)) + " more while it lasts"
}

// batch is how many instances are replaced at once: fewer where more is at stake.
func batch(q pipeline.Answers) int {
	part := []int{2, 4, 8, 10}[max(0, riskRank(q))]
	return max(1, q.Instances/part)
}

// shares are a canary's weights: smaller where more is at stake.
func shares(q pipeline.Answers) []float64 {
	if q.Worker {
		// Of a few instances half is the first step that there is.
		for _, weights := range [][]float64{{math.Ceil(100 / float64(max(2, q.Instances))), 50}, {50}} {
			var steps []pipeline.CanaryStep
			for _, w := range weights {
				steps = append(steps, pipeline.CanaryStep{Weight: w})
			}
			if n, err := pipeline.WorkerCounts(steps, q.Instances); err == nil && weights[0] <= 50 && n[len(n)-1] < q.Instances && (len(weights) == 1 || weights[0] < 50) {
				return weights
			}
		}
		return []float64{50}
	}
	return [][]float64{{25}, {10, 50}, {5, 25, 50}, {1, 5, 25, 50}}[max(0, riskRank(q))]
}

// excess is how much worse may pass, in percentage points: judge.md's default, and
// tighter where more is at stake.
func excess(q pipeline.Answers) float64 { return []float64{1, 1, 0.5, 0.2}[max(0, riskRank(q))] }

// bakeLadder are the bakes to choose from.
var bakeLadder = []time.Duration{
	5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute, 45 * time.Minute,
	time.Hour, 90 * time.Minute, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour,
}

const (
	usualBake     = 15 * time.Minute // of unknown traffic
	longFirst     = 2 * time.Hour
	extendsSeldom = 0.1 // chance of an extension that is no nuisance
)

// sized returns the shortest bake at which a healthy release seldom has to be
// extended; false when none is long enough.
func sized(q pipeline.Answers, e pipeline.Environment, earlier []analysis.PlanStep, share float64) (time.Duration, bool, error) {
	set := Settings(e.Analysis)
	good := func(d time.Duration) (bool, error) {
		set := set
		set.WarmUp = min(2*time.Minute, d/2)
		if len(earlier) > 0 {
			set.WarmUp = min(2*time.Minute, earlier[0].Bake/2)
		}
		set.Bin = min(10*time.Second, d/4)
		out, err := analysis.Plan(analysis.PlanInput{Settings: set, Metrics: 1, BaselineRate: q.BaselineRate / 100, RPS: q.RPS, Earlier: earlier, Share: share, Bake: d, Seed: seed})
		return err == nil && out.ExpectedSecondsToPass != analysis.NeverPasses && out.ChanceOfExtension <= extendsSeldom, err
	}
	lo, hi := 0, len(bakeLadder)
	for lo < hi {
		mid := (lo + hi) / 2
		ok, err := good(bakeLadder[mid])
		if err != nil {
			return 0, false, err
		}
		if ok {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == len(bakeLadder) {
		return bakeLadder[lo-1], false, nil
	}
	return bakeLadder[lo], true, nil
}

// environment is the advice as an environment, with its bakes sized.
func (a *Advice) environment() (pipeline.Environment, error) {
	q := a.Answers
	e := pipeline.Environment{Name: "production", Target: pipeline.Target{Type: "host", Hosts: []string{pipeline.Local}, Listen: "127.0.0.1:9001", Instances: q.Instances}}
	if q.Worker {
		e.Target.Listen = ""
	}
	e.Analysis = pipeline.Analysis{MaxExcess: excess(q), Alpha: 0.01, Beta: 0.05, MinEvents: 50, MaxExtend: 3}
	if !q.Worker {
		e.Analysis.Metrics = []pipeline.Metric{{Name: pipeline.HTTPErrors, Kind: pipeline.HTTPErrors}}
	}
	r := &e.Rollout
	*r = pipeline.Rollout{Strategy: a.Strategy, OnInconclusive: "extend", OnNoData: "hold", Timeout: 30 * time.Minute, RollbackTimeout: 5 * time.Minute, RetireAfter: retire(q)}
	if a.OnFail != pipeline.GoBack {
		r.OnFail = a.OnFail
	}
	if q.Risk == "critical" {
		r.OnInconclusive = "hold"
	}
	thin := false
	size := func(earlier []analysis.PlanStep, share float64) (time.Duration, error) {
		if q.RPS == 0 || q.Worker {
			return usualBake, nil
		}
		d, ok, err := sized(q, e, earlier, share)
		thin = thin || !ok
		return d, err
	}
	var err error
	switch a.Strategy {
	case pipeline.Canary, pipeline.Linear, pipeline.TrafficSplitting:
		weights := shares(q)
		switch a.Strategy {
		case pipeline.Linear:
			weights = []float64{20, 40, 60, 80}
		case pipeline.TrafficSplitting:
			weights = weights[:1]
		}
		// A first step that hardly anybody sees is worth hours only to few.
		for len(weights) > 1 && a.Strategy == pipeline.Canary {
			d, err := size(nil, weights[0]/100)
			if err != nil {
				return e, err
			}
			if d <= longFirst {
				break
			}
			a.Watch = append(a.Watch, fmt.Sprintf("At %s requests per second a first step of %s %% would have to bake for %s or longer, so it begins with %s %%.", number(q.RPS), number(weights[0]), pipeline.Short(d), number(weights[1])))
			weights = weights[1:]
		}
		thin = false
		var earlier []analysis.PlanStep
		for _, w := range weights {
			d, err := size(earlier, w/100)
			if err != nil {
				return e, err
			}
			r.Steps = append(r.Steps, pipeline.CanaryStep{Weight: w, Bake: d})
			earlier = append(earlier, analysis.PlanStep{Share: w / 100, Bake: d})
		}
		if a.Strategy == pipeline.Linear { // one length for all
			for i := range r.Steps {
				r.Steps[i].Bake = r.Steps[0].Bake
			}
		}
	case pipeline.Rolling:
		r.Batches = &pipeline.Batches{Batch: pipeline.Amount{Count: batch(q)}, Additional: q.Capacity != "none"}
		if q.Capacity == "none" {
			r.Batches.MaxUnavailable = &pipeline.Amount{Count: batch(q)}
		}
		r.Bake, err = size(nil, float64(batch(q))/float64(q.Instances))
	default:
		r.Bake, err = size(nil, 1)
	}
	if err != nil {
		return e, err
	}
	first, shortest := pipeline.Bakes(*r)
	e.Analysis.WarmUp, e.Analysis.Bin = min(2*time.Minute, first/2), max(time.Second, min(10*time.Second, shortest/4))
	switch {
	case q.Worker:
		a.Watch = append(a.Watch, "Name the metrics that tell a bad worker: analysis: {metrics: [{name: jobs, kind: rate, bad: …, total: …}]}; without them nothing is judged.")
	case thin:
		e.Synthetic = &pipeline.Synthetic{Rate: fill(q, e), Paths: []string{"/"}, Count: true}
		a.Watch = append(a.Watch, fmt.Sprintf("At %s requests per second even a bake of %s often proves nothing: the advice adds %s synthetic ones on each host and has the judge count them. They only show what they ask: name the paths that matter.",
			number(q.RPS), pipeline.Short(first), number(e.Synthetic.Rate)))
	case q.RPS == 0:
		a.Watch = append(a.Watch, "The bakes are the usual ones: with rps they are sized to what your traffic can prove.")
	}
	if a.Strategy == pipeline.BlueGreen || a.Strategy == pipeline.Immutable || a.Strategy == pipeline.AllAtOnce {
		a.Watch = append(a.Watch, "Check the new release before anybody reaches it: hooks: {beforeTraffic: […]}.")
	}
	return e, nil
}

// fill is how many requests per second a thin service lacks for its first step to
// pass in an hour.
func fill(q pipeline.Answers, e pipeline.Environment) float64 {
	share := 1.0
	if len(e.Rollout.Steps) > 0 {
		share = e.Rollout.Steps[0].Weight / 100
	}
	lacks := need(Settings(e.Analysis), []analysis.PlanStep{{Share: share, Bake: time.Hour}}) - q.RPS
	return math.Min(1000, math.Max(1, math.Ceil(2*lacks)))
}

func retire(q pipeline.Answers) time.Duration {
	switch {
	case q.Rollback == "seconds" && riskRank(q) >= 2:
		return 2 * time.Hour
	case q.Rollback == "hours":
		return 10 * time.Minute
	}
	return time.Hour
}

// yaml writes the environment's part of a sluice.yaml.
func (a *Advice) yaml(e pipeline.Environment) string {
	var b strings.Builder
	q, r := a.Answers, e.Rollout
	if q.Compliance != "none" {
		b.WriteString("gates: [" + pipeline.TestsPassed + "]\n")
	}
	if q.Compliance == "approval" {
		b.WriteString("approval: {}\n")
	}
	b.WriteString("rollout:\n")
	bake := func(s pipeline.CanaryStep) string {
		return fmt.Sprintf("{weight: %s, bake: %s}", strconv.FormatFloat(s.Weight, 'f', -1, 64), pipeline.Short(s.Bake))
	}
	switch a.Strategy {
	case pipeline.Canary:
		b.WriteString("  canary:\n    steps:\n")
		for _, s := range r.Steps {
			b.WriteString("      - " + bake(s) + "\n")
		}
	case pipeline.Linear:
		fmt.Fprintf(&b, "  linear: {step: 20, every: %s}\n", pipeline.Short(r.Steps[0].Bake))
	case pipeline.TrafficSplitting:
		fmt.Fprintf(&b, "  traffic-splitting: %s\n", bake(r.Steps[0]))
	case pipeline.Rolling:
		fmt.Fprintf(&b, "  rolling: {batch: %d, ", r.Batches.Batch.Count)
		if !r.Batches.Additional {
			fmt.Fprintf(&b, "additionalBatch: false, maxUnavailable: %d, ", r.Batches.MaxUnavailable.Count)
		}
		fmt.Fprintf(&b, "bake: %s}\n", pipeline.Short(r.Bake))
	default:
		fmt.Fprintf(&b, "  %s: {bake: %s}\n", a.Strategy, pipeline.Short(r.Bake))
	}
	if r.OnFail != "" {
		fmt.Fprintf(&b, "  onFail: %s\n", r.OnFail)
	}
	if r.OnInconclusive != "extend" {
		fmt.Fprintf(&b, "  onInconclusive: %s\n", r.OnInconclusive)
	}
	if a.Strategy != pipeline.Rolling {
		fmt.Fprintf(&b, "  retireAfter: %s\n", pipeline.Short(r.RetireAfter))
	}
	if len(e.Analysis.Metrics) > 0 {
		fmt.Fprintf(&b, "analysis: {maxExcess: %s, metrics: [%s]}\n", number(e.Analysis.MaxExcess), pipeline.HTTPErrors)
	}
	if s := e.Synthetic; s != nil {
		fmt.Fprintf(&b, "synthetic: {rate: %s, paths: [/], count: true}\n", number(s.Rate))
	}
	return b.String()
}
