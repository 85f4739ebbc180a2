package pipeline

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Strategy names.
const (
	AllAtOnce        = "all-at-once"
	Rolling          = "rolling"
	BlueGreen        = "blue-green"
	Canary           = "canary"
	Linear           = "linear"
	Immutable        = "immutable"
	TrafficSplitting = "traffic-splitting"
)

// Strategies are all that a rollout can be, in the order that they are shown.
var Strategies = []string{AllAtOnce, Rolling, BlueGreen, Canary, Linear, Immutable, TrafficSplitting}

// The safe actions: what a failure of any kind makes of a rollout.
const (
	GoBack      = "rollback"
	Freeze      = "freeze"
	RollForward = "roll-forward"
	Pause       = "pause" // of one metric or alarm
)

// What follows a router that somebody else changed.
const (
	DriftRestore = "restore"
	DriftHold    = "hold"
)

// Rollout is how traffic moves.
type Rollout struct {
	Strategy        string        `json:"strategy"`
	Standard        string        `json:"standard,omitempty"` // NAME@VERSION of the platform's standard that it is
	Named           string        `json:"named,omitempty"`    // the predefined name that it was written as
	Steps           []CanaryStep  `json:"steps,omitempty"`    // canary, linear, traffic-splitting
	Bake            time.Duration `json:"bake,omitempty"`     // all-at-once, blue-green, immutable: after the switch; rolling: after each batch
	Batches         *Batches      `json:"batches,omitempty"`  // rolling
	PreTraffic      []Check       `json:"-"`                  // blue-green, immutable: became hooks.beforeTraffic
	OnFail          string        `json:"onFail,omitempty"`   // rollback (also when empty), freeze, roll-forward
	OnDrift         string        `json:"onDrift,omitempty"`  // restore (also when empty), hold
	OnInconclusive  string        `json:"onInconclusive"`     // extend, hold
	OnNoData        string        `json:"onNoData"`           // hold, extend
	Timeout         time.Duration `json:"timeout"`            // default 30 min
	RollbackTimeout time.Duration `json:"rollbackTimeout"`    // default 5 min: then flagged stuck
	RetireAfter     time.Duration `json:"retireAfter"`        // default 1 h
}

// CanaryStep is a weight in percent and how long it bakes.
type CanaryStep struct {
	Weight float64       `json:"weight"`
	Bake   time.Duration `json:"bake"`
}

// Batches is how a rolling replacement proceeds.
type Batches struct {
	Batch          Amount  `json:"batch"`
	Additional     bool    `json:"additional,omitempty"`     // a batch is started before the old one goes
	MaxUnavailable *Amount `json:"maxUnavailable,omitempty"` // nil: a batch, or none with Additional
}

// Amount is a number of instances, or a share of them in percent.
type Amount struct {
	Count   int     `json:"count,omitempty"`
	Percent float64 `json:"percent,omitempty"`
}

// Of returns how many of total instances it is, rounded down; a share of some is
// at least one of them.
func (a Amount) Of(total int) int {
	if a.Percent == 0 {
		return a.Count
	}
	return max(1, int(math.Floor(float64(total)*a.Percent/100+1e-9)))
}

// String is as it is written in a file.
func (a Amount) String() string {
	if a.Percent != 0 {
		return fmt.Sprintf("%g%%", a.Percent)
	}
	return fmt.Sprint(a.Count)
}

// Size is how many instances are replaced at once, of total.
func (b Batches) Size(total int) int { return b.Batch.Of(total) }

// Total is how many instances a target runs, over all its hosts.
func (t Target) Total() int { return max(1, len(t.Hosts)) * max(1, t.Instances) }

// Worker reports whether nobody reaches the target by traffic: it takes its work
// itself, from a queue or by the clock.
func (t Target) Worker() bool { return t.Type == "host" && t.Listen == "" }

// WorkerCounts returns how many of total instances run the candidate at each
// weight: what comes nearest, but one more at each step. It fails where the
// instances are too few.
func WorkerCounts(steps []CanaryStep, total int) ([]int, error) {
	var out []int
	before := 0
	for _, s := range steps {
		n := max(before+1, int(math.Round(s.Weight*float64(total)/100)))
		if s.Weight >= 100 {
			n = total
		}
		if n >= total && s.Weight < 100 {
			return nil, fmt.Errorf("%d instances are too few to express %g %% after %d of them", total, s.Weight, before)
		}
		out, before = append(out, n), n
	}
	return out, nil
}

// Weights returns the steps of a rollout up to 100 %: those of the file and the
// last one that they imply. Those of a rolling rollout depend on the instances.
func Weights(r Rollout) []CanaryStep {
	if !r.Stepped() {
		return []CanaryStep{{Weight: 100, Bake: r.Bake}}
	}
	out := slices.Clone(r.Steps)
	if len(out) == 0 || out[len(out)-1].Weight < 100 {
		out = append(out, CanaryStep{Weight: 100})
	}
	return out
}

// manner says in a few words how the weight is reached, where weights don't.
func (r Rollout) manner(t Target) string {
	switch {
	case r.Strategy == Rolling && r.Batches != nil && r.Batches.Additional:
		return fmt.Sprintf("\nin batches of %s of %s, beside the old ones", r.Batches.Batch, Instances(t.Total()))
	case r.Strategy == Rolling && r.Batches != nil:
		return fmt.Sprintf("\nin batches of %s of %s, in place", r.Batches.Batch, Instances(t.Total()))
	case r.Strategy == BlueGreen:
		return "\nby a switch to a second group"
	case r.Strategy == Immutable:
		return "\nby a swap to a whole new group"
	case t.Worker():
		return " of the work"
	}
	return ""
}

// Stepped reports whether the strategy is a row of weights.
func (r Rollout) Stepped() bool {
	return r.Strategy == Canary || r.Strategy == Linear || r.Strategy == TrafficSplitting
}

// Name is what people call the strategy.
func (r Rollout) Name() string {
	if r.Named != "" {
		return r.Named
	}
	return r.Strategy
}

// linearSteps are the equal steps below 100 %.
func linearSteps(step float64, every time.Duration) []CanaryStep {
	var out []CanaryStep
	for i := 1; ; i++ {
		w := math.Round(step*float64(i)*100) / 100
		if w >= 100 || i > 100 {
			return out
		}
		out = append(out, CanaryStep{Weight: w, Bake: every})
	}
}

const codeDeploy = "CodeDeployDefault."

// codeDeployNames are CodeDeploy's predefined deployment configurations, by their
// documented names. Those of Lambda and ECS are shapes of traffic, which any
// target that splits it can take; those of EC2 replace instances in place.
var codeDeployNames = func() map[string]Rollout {
	out := map[string]Rollout{
		"AllAtOnce":       {Strategy: AllAtOnce},
		"HalfAtATime":     {Strategy: Rolling, Batches: &Batches{Batch: Amount{Percent: 50}}},
		"OneAtATime":      {Strategy: Rolling, Batches: &Batches{Batch: Amount{Count: 1}}},
		"LambdaAllAtOnce": {Strategy: AllAtOnce},
		"ECSAllAtOnce":    {Strategy: AllAtOnce},
	}
	canary := func(name string, minutes int) {
		out[fmt.Sprintf("%s%dMinutes", name, minutes)] = Rollout{Strategy: Canary, Steps: []CanaryStep{{Weight: 10, Bake: time.Duration(minutes) * time.Minute}}}
	}
	linear := func(name string, minutes int) {
		out[name] = Rollout{Strategy: Linear, Steps: linearSteps(10, time.Duration(minutes)*time.Minute)}
	}
	for _, m := range []int{5, 10, 15, 30} {
		canary("LambdaCanary10Percent", m)
	}
	canary("ECSCanary10Percent", 5)
	canary("ECSCanary10Percent", 15)
	linear("LambdaLinear10PercentEvery1Minute", 1)
	linear("LambdaLinear10PercentEvery2Minutes", 2)
	linear("LambdaLinear10PercentEvery3Minutes", 3)
	linear("LambdaLinear10PercentEvery10Minutes", 10)
	linear("ECSLinear10PercentEvery1Minutes", 1)
	linear("ECSLinear10PercentEvery3Minutes", 3)
	named := map[string]Rollout{}
	for name, r := range out {
		r.Named = codeDeploy + name
		named[r.Named] = r
	}
	return named
}()

// strategyWords are what `rollout:` can be as a bare name.
func strategyWords() []string {
	var names []string
	for n := range codeDeployNames {
		names = append(names, n)
	}
	slices.SortFunc(names, strings.Compare)
	return append(slices.Clone(Strategies), names...)
}

// byName returns what a bare name stands for.
func byName(s string) Rollout {
	r := defaultRollout
	switch named, ok := codeDeployNames[s]; {
	case ok:
		r.Strategy, r.Named, r.Steps, r.Batches = named.Strategy, named.Named, slices.Clone(named.Steps), named.Batches
	case s == Linear:
		r.Strategy, r.Steps = s, linearSteps(defaultLinear.step, defaultLinear.every)
	case s == TrafficSplitting:
		r.Strategy, r.Steps = s, []CanaryStep{defaultSplit}
	case s == Rolling:
		r.Strategy, r.Batches = s, new(defaultBatches)
	case s == BlueGreen, s == Immutable:
		r.Strategy, r.Bake = s, defaultBake
	case !slices.Contains(Strategies, s):
		r.Standard = s
	default:
		r.Strategy = s
	}
	return r
}
