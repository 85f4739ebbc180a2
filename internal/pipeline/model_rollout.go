package pipeline

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

var (
	defaultLinear  = linear{step: 10, every: 10 * time.Minute}
	defaultSplit   = CanaryStep{Weight: 10, Bake: defaultBake}
	defaultBatches = Batches{Batch: Amount{Percent: 25}, Additional: true}
)

// rolloutKeys are the keys of which a rollout has exactly one.
var rolloutKeys = append(slices.Clone(Strategies), "strategy")

var rolloutModel = either(
	as(bareRollout, byName),
	described(besides(object("rollout", defaultRollout,
		key(AllAtOnce, "Strategy: all traffic in one step. {} takes the defaults.", allAtOnceModel, func(r *Rollout, v time.Duration) { r.Strategy, r.Bake = AllAtOnce, v }),
		key(Rolling, "Strategy: instances are replaced in batches, host by host; users move with them. {} takes the defaults.", rollingModel,
			func(r *Rollout, v rolling) { r.Strategy, r.Batches, r.Bake = Rolling, &v.Batches, v.bake }),
		key(BlueGreen, "Strategy: a second group is started and checked without users, then all traffic switches; the old group stays ready to take it back. {} takes the defaults.", blueGreenModel,
			func(r *Rollout, v group) { v.set(r, BlueGreen) }),
		key(Canary, "Strategy: a rising share of traffic, judged against the release before. After the last step follows 100 %. {} takes the defaults.", canaryModel,
			func(r *Rollout, v []CanaryStep) { r.Strategy, r.Steps = Canary, v }),
		key(Linear, "Strategy: a canary whose weight rises in equal steps. {} takes the defaults.", linearModel,
			func(r *Rollout, v linear) { r.Strategy, r.Steps = Linear, linearSteps(v.step, v.every) }),
		key(Immutable, "Strategy: one new instance, then a whole new group, and only then the users. Nothing that runs is changed. {} takes the defaults.", immutableModel,
			func(r *Rollout, v group) { v.set(r, Immutable) }),
		key(TrafficSplitting, "Strategy: one share of traffic is evaluated for a time, then all follows. {} takes the defaults.", splitModel,
			func(r *Rollout, v CanaryStep) { r.Strategy, r.Steps = TrafficSplitting, []CanaryStep{v} }),
		key("strategy", "Strategy by its bare name, so that settings can stand beside it.", strategyName, func(r *Rollout, v string) {
			n := byName(v)
			r.Strategy, r.Named, r.Steps, r.Batches, r.Bake = n.Strategy, n.Named, n.Steps, n.Batches, n.Bake
		}),
		key("standard", "A rollout standard of the platform: NAME@VERSION, or NAME for its newest version. What stands beside it may only be stricter.", standardRef, func(r *Rollout, v string) { r.Standard = v }),
		key("onFail", "What a failure does, be it a verdict, a crash, a check or a timeout: rollback moves all users back; freeze moves nothing until a person aborts or overrides; roll-forward freezes until the next release takes its place. A person's abort always goes back.",
			oneOf("a safe action", []string{GoBack, Freeze, RollForward}), func(r *Rollout, v string) { r.OnFail = actionOf(v) }, byDefault(GoBack)),
		key("onDrift", "What follows when somebody else changed a router: restore puts it back at once and goes on when it is read right; hold leaves it and waits for a person to resume (put it back) or abort.",
			oneOf("an answer to drift", []string{DriftRestore, DriftHold}), func(r *Rollout, v string) { r.OnDrift = driftOf(v) }, byDefault(DriftRestore)),
		key("onInconclusive", "What follows data that prove neither: bake again (at most analysis.maxExtend times, then hold), or hold for a person.",
			oneOf("an answer to inconclusive data", []string{"extend", "hold"}), func(r *Rollout, v string) { r.OnInconclusive = v }, byDefault("extend")),
		key("onNoData", "What follows when a metric answers nothing or too little.",
			oneOf("an answer to missing data", []string{"hold", "extend"}), func(r *Rollout, v string) { r.OnNoData = v }, byDefault("hold")),
		key("timeout", "How long preparing, shifting and checking may take. Bakes and holds do not count.", duration(time.Second), func(r *Rollout, v time.Duration) { r.Timeout = v }, byDefault("30m")),
		key("rollbackTimeout", "How long a rollback may take before it is flagged stuck. It keeps trying.", duration(time.Second), func(r *Rollout, v time.Duration) { r.RollbackTimeout = v }, byDefault("5m")),
		key("retireAfter", "How long the previous release stays warm at weight 0.", duration(0), func(r *Rollout, v time.Duration) { r.RetireAfter = v }, byDefault("1h")),
	), oneStrategy), func(s *shape) { s.anyOf = append(slices.Clone(rolloutKeys), "standard") }),
)

// The defaults are not written, so that definitions keep their digests.
func actionOf(v string) string { return strings.TrimPrefix(v, GoBack) }
func driftOf(v string) string  { return strings.TrimPrefix(v, DriftRestore) }

// bareRollout reads the bare name of a strategy or of a platform's standard.
var bareRollout = described(codec[string]{read: func(p *parser, n *yaml.Node, path string) (string, bool) {
	if t := p.follow(n); standardName.MatchString(t.Value) && !slices.Contains(strategyWords(), t.Value) && nearest(t.Value, strategyWords()) == "" {
		return standardRef.read(p, n, path) // whether there is one is for resolve to say
	} else if _, known := p.platform.Standard(t.Value); known {
		return standardRef.read(p, n, path)
	}
	return strategyName.read(p, n, path)
}}, func(s *shape) {
	s.form, s.pattern, s.examples = formText, `^[A-Za-z][A-Za-z0-9.@-]*$`, append(strategyWords(), "careful@2")
})

// standardRef reads NAME or NAME@VERSION.
var standardRef = described(text(notBlank, func(s string) *complaint {
	if !standardName.MatchString(s) {
		return &complaint{"bad-name", fmt.Sprintf("%q is not the name of a standard", clip(s)), "write NAME@VERSION, such as careful@2"}
	}
	return nil
}), func(s *shape) { s.examples = []string{"careful@2"} })

// strategyName reads the bare name of a strategy.
var strategyName = described(codec[string]{read: func(p *parser, n *yaml.Node, path string) (string, bool) {
	s, ok := text().read(p, n, path)
	words := strategyWords()
	if !ok || slices.Contains(words, s) {
		return s, ok
	}
	mend := "it can be " + listing(Strategies, "or") + ", or one of CodeDeploy's predefined names, which begin with " + codeDeploy
	if n := nearest(s, append(words, each(words, func(w string) string { return strings.TrimPrefix(w, codeDeploy) })...)); n != "" {
		if !slices.Contains(words, n) {
			n = codeDeploy + n
		}
		mend = "did you mean " + n + "?"
	}
	p.at(p.valueAt(path), path, Error, "unknown-value", fmt.Sprintf("%q is not a strategy", clip(s)), mend)
	return s, false
}}, func(s *shape) { s.form, s.enum = formText, strategyWords() })

func oneStrategy(p *parser, at string, r Rollout) bool {
	var has []string
	for _, k := range rolloutKeys {
		if p.positions.Has(at + "." + k) {
			has = append(has, k)
		}
	}
	switch {
	case len(has) > 1:
		p.at(p.keyAt(at), at, Error, "one-of", label(at)+" has two strategies", "keep one: "+listing(has, "or"))
		return false
	case len(has) == 0 && !p.positions.Has(at+".standard"):
		p.at(p.keyAt(at), at, Error, "missing-key", label(at)+" has no strategy", "add canary: {}, or another of "+listing(Strategies, "and"))
		return false
	}
	if inner := at + "." + BlueGreen + ".retireAfter"; p.positions.Has(inner) && p.positions.Has(at+".retireAfter") {
		p.at(p.keyAt(inner), inner, Error, "one-of", label(at)+" says retireAfter twice", "keep one of them")
		return false
	}
	return true
}

var allAtOnceModel = object("allAtOnce", time.Duration(0),
	key("bake", "How long the release is watched before it counts as done.", duration(0), func(d *time.Duration, v time.Duration) { *d = v }, byDefault("0s")),
)

var canaryModel = object("canary", []CanaryStep(nil),
	key("steps", "Rising weights, each with its bake.", list(canaryStepModel, 1), func(s *[]CanaryStep, v []CanaryStep) { *s = v }, byDefault("5, 25 and 50 %, 15m each")),
)

var canaryStepModel = object("canaryStep", CanaryStep{Bake: defaultBake},
	key("weight", "Share of traffic in percent, in hundredths at the finest.", hundredths(number(above(0, 100))), func(s *CanaryStep, v float64) { s.Weight = v }, required),
	key("bake", "How long the step is watched.", duration(0), func(s *CanaryStep, v time.Duration) { s.Bake = v }, byDefault("15m")),
)

// hundredths refuses shares that no router can set.
func hundredths(c codec[float64]) codec[float64] {
	return also(c, func(p *parser, at string, v float64) bool {
		if math.Abs(v*100-math.Round(v*100)) > 1e-6 || v < 0.01 {
			p.at(p.valueAt(at), at, Error, "out-of-range", fmt.Sprintf("%s is finer than a hundredth of a percent", label(at)), "routers split in hundredths: write at least 0.01, and at most two decimals")
			return false
		}
		return true
	})
}

type linear struct {
	step  float64
	every time.Duration
}

var linearModel = object("linear", defaultLinear,
	key("step", "By how much the weight rises, in percent.", hundredths(number(shape{min: 1, max: 100, below: true})), func(l *linear, v float64) { l.step = v }, byDefault("10")),
	key("every", "How long each weight is watched.", duration(0), func(l *linear, v time.Duration) { l.every = v }, byDefault("10m")),
)

var splitModel = object("trafficSplitting", defaultSplit,
	key("weight", "Share of traffic that is evaluated, in percent.", hundredths(number(shape{min: 0, max: 100, above: true, below: true})), func(s *CanaryStep, v float64) { s.Weight = v }, byDefault("10")),
	key("evaluate", "How long it is evaluated.", duration(0), func(s *CanaryStep, v time.Duration) { s.Bake = v }, byDefault("15m")),
)

// group is blue/green or immutable.
type group struct {
	preTraffic  []Check
	bake        time.Duration
	retireAfter *time.Duration
}

func (g group) set(r *Rollout, strategy string) {
	r.Strategy, r.PreTraffic, r.Bake = strategy, g.preTraffic, g.bake
	if g.retireAfter != nil {
		r.RetireAfter = *g.retireAfter
	}
}

var blueGreenModel = object("blueGreen", group{bake: defaultBake},
	key("preTraffic", "Checks of the new group, before any user reaches it. They are asked at target.preview where it is given. They come before those of hooks.beforeTraffic.", list(checkModel, 1), func(g *group, v []Check) { g.preTraffic = v }),
	key("bake", "How long it is watched after the switch, against the time before.", duration(0), func(g *group, v time.Duration) { g.bake = v }, byDefault("15m")),
	key("retireAfter", "How long the old group stays ready to take all traffic back at once. The same as retireAfter beside the strategy.", duration(0), func(g *group, v time.Duration) { g.retireAfter = &v }, byDefault("1h")),
)

var immutableModel = object("immutable", group{bake: defaultBake},
	key("preTraffic", "Checks of the new group, before any user reaches it. They are asked at target.preview where it is given. They come before those of hooks.beforeTraffic.", list(checkModel, 1), func(g *group, v []Check) { g.preTraffic = v }),
	key("bake", "How long it is watched after the swap, against the time before.", duration(0), func(g *group, v time.Duration) { g.bake = v }, byDefault("15m")),
)

type rolling struct {
	Batches
	bake       time.Duration
	additional *bool
}

var rollingModel = as(object("rolling", rolling{Batches: Batches{Batch: defaultBatches.Batch}},
	key("batch", "How many instances are replaced at once, over all hosts: a number, or a share such as 25%, rounded down to at least one.", amount(1), func(r *rolling, v Amount) { r.Batch = v }, byDefault("25%")),
	key("additionalBatch", "Whether a batch is started before the old one goes, so that the service is never short of instances. Without it the old batch is drained first.", boolean(), func(r *rolling, v bool) { r.additional = &v }, byDefault("true, unless maxUnavailable is above 0")),
	key("maxUnavailable", "How many instances may be missing meanwhile: a number, or a share such as 25%.", amount(0), func(r *rolling, v Amount) { r.MaxUnavailable = &v }, byDefault("0 with additionalBatch, a batch without")),
	key("bake", "How long each batch is watched.", duration(0), func(r *rolling, v time.Duration) { r.bake = v }, byDefault("0s")),
), func(r rolling) rolling {
	r.Additional = r.MaxUnavailable == nil || *r.MaxUnavailable == Amount{}
	if r.additional != nil {
		r.Additional = *r.additional
	}
	return r
})

// amount reads a number of instances of at least lo, or a share of them.
func amount(lo int) codec[Amount] {
	count, share := integer(lo, 100_000), text()
	share.shape.pattern = `^[0-9]{1,3}(\.[0-9]{1,2})?%$`
	return codec[Amount]{shape: shape{form: formEither, either: []shape{count.shape, share.shape}}, read: func(p *parser, n *yaml.Node, path string) (Amount, bool) {
		if t := p.follow(n); t.Kind != yaml.ScalarNode || t.ShortTag() != "!!str" {
			v, ok := count.read(p, n, path)
			return Amount{Count: v}, ok
		}
		s, ok := share.read(p, n, path)
		if !ok {
			return Amount{}, false
		}
		digits, isShare := strings.CutSuffix(s, "%")
		v, err := strconv.ParseFloat(digits, 64)
		if !isShare || err != nil || strings.Trim(digits, "0123456789.") != "" {
			p.at(p.valueAt(path), path, Error, "bad-number", fmt.Sprintf("%s is %q, which is neither a number of instances nor a share of them", label(path), clip(s)), `write 2, or "25%"`)
			return Amount{}, false
		}
		if v > 100 || v == 0 && lo > 0 {
			p.at(p.valueAt(path), path, Error, "out-of-range", fmt.Sprintf("%s is %s; a share is above 0 and at most 100%%", label(path), clip(s)), "write a share in that range")
			return Amount{}, false
		}
		return Amount{Percent: v}, true
	}}
}
