package pipeline

import (
	"fmt"
	"math"
	"time"
)

// strategyRefusals are the strategies that Sluice knows and this build cannot do.
var strategyRefusals = []refusal{
	{"rolling", "replace instances in batches", "use canary, or all-at-once with a bake"},
	{"blue-green", "switch between two groups", "use all-at-once with a bake; the previous release stays warm for retireAfter"},
	{"linear", "raise the weight in equal steps", "write the steps of a canary"},
	{"immutable", "replace whole groups", "use all-at-once with a bake"},
	{"traffic-splitting", "split traffic for an evaluation", "use canary"},
	{"CodeDeployDefault.*", "read CodeDeploy's predefined configurations", "write all-at-once, or the steps of a canary: {canary: {steps: [{weight: 10, bake: 5m}]}}"},
}

func strategyKey(name string) member[Rollout] {
	for _, r := range strategyRefusals {
		if r.word == name {
			return notYet[Rollout](r.word, r.cannot, r.nearest)
		}
	}
	panic("pipeline: no strategy " + name)
}

var rolloutModel = either(
	as(oneOf("a strategy of this build, which cannot look up a platform's rollout standards yet", []string{AllAtOnce, Canary}, strategyRefusals...), func(s string) Rollout {
		r := defaultRollout
		r.Strategy = s
		return r
	}),
	described(besides(object("rollout", defaultRollout,
		key(AllAtOnce, "Strategy: all traffic in one step. {} takes the defaults.", allAtOnceModel, func(r *Rollout, v time.Duration) { r.Strategy, r.Bake = AllAtOnce, v }),
		key(Canary, "Strategy: a rising share of traffic, judged against the release before. After the last step follows 100 %. {} takes the defaults.", canaryModel,
			func(r *Rollout, v []CanaryStep) { r.Strategy, r.Steps = Canary, v }),
		strategyKey("rolling"), strategyKey("blue-green"), strategyKey("linear"), strategyKey("immutable"), strategyKey("traffic-splitting"),
		notYet[Rollout]("standard", "look up a platform's rollout standards", "write the strategy out"),
		key("onInconclusive", "What follows data that prove neither: bake again (at most analysis.maxExtend times, then hold), or hold for a person.",
			oneOf("an answer to inconclusive data", []string{"extend", "hold"}), func(r *Rollout, v string) { r.OnInconclusive = v }, byDefault("extend")),
		key("onNoData", "What follows when a metric answers nothing or too little.",
			oneOf("an answer to missing data", []string{"hold", "extend"}), func(r *Rollout, v string) { r.OnNoData = v }, byDefault("hold")),
		key("timeout", "How long preparing, shifting and checking may take. Bakes and holds do not count.", duration(time.Second), func(r *Rollout, v time.Duration) { r.Timeout = v }, byDefault("30m")),
		key("rollbackTimeout", "How long a rollback may take before it is flagged stuck. It keeps trying.", duration(time.Second), func(r *Rollout, v time.Duration) { r.RollbackTimeout = v }, byDefault("5m")),
		key("retireAfter", "How long the previous release stays warm at weight 0.", duration(0), func(r *Rollout, v time.Duration) { r.RetireAfter = v }, byDefault("1h")),
	), oneStrategy), func(s *shape) { s.oneOf = []string{AllAtOnce, Canary} }),
)

func oneStrategy(p *parser, at string, r Rollout) bool {
	if p.positions.Has(at+"."+AllAtOnce) && p.positions.Has(at+"."+Canary) {
		p.at(p.keyAt(at), at, Error, "one-of", label(at)+" has two strategies", "keep all-at-once or canary")
		return false
	}
	for _, refused := range strategyRefusals {
		if p.positions.Has(at + "." + refused.word) {
			return false // it was said already
		}
	}
	if r.Strategy == "" && !p.positions.Has(at+".standard") {
		p.at(p.keyAt(at), at, Error, "missing-key", label(at)+" has no strategy", "add canary: {} or all-at-once: {}")
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
	key("weight", "Share of traffic in percent, in hundredths at the finest.", also(number(above(0, 100)), func(p *parser, at string, v float64) bool {
		if math.Abs(v*100-math.Round(v*100)) > 1e-6 || v < 0.01 {
			p.at(p.valueAt(at), at, Error, "out-of-range", fmt.Sprintf("%s is finer than a hundredth of a percent", label(at)), "routers split in hundredths: write at least 0.01, and at most two decimals")
			return false
		}
		return true
	}), func(s *CanaryStep, v float64) { s.Weight = v }, required),
	key("bake", "How long the step is watched.", duration(0), func(s *CanaryStep, v time.Duration) { s.Bake = v }, byDefault("15m")),
)
