package pipeline

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"
)

type node = yaml.Node

// Defaults of objects that may be absent as a whole.
var (
	defaultHealth   = Health{Timeout: time.Second, Interval: time.Second, Healthy: 1, Failing: 3, StartIn: time.Minute, DrainIn: 30 * time.Second}
	defaultRollout  = Rollout{OnInconclusive: "extend", OnNoData: "hold", Timeout: 30 * time.Minute, RollbackTimeout: 5 * time.Minute, RetireAfter: time.Hour}
	defaultAnalysis = Analysis{MaxExcess: 1, Alpha: 0.01, Beta: 0.05, MinEvents: 50, MaxExtend: 3}
	defaultSteps    = []CanaryStep{{Weight: 5, Bake: defaultBake}, {Weight: 25, Bake: defaultBake}, {Weight: 50, Bake: defaultBake}}
)

const (
	defaultBake     = 15 * time.Minute
	defaultQuantile = 0.99
	defaultMaxRatio = 1.5
)

var environmentModel = object("environment", Environment{Analysis: defaultAnalysis},
	key("name", "Name of the environment.", name(), func(e *Environment, v string) { e.Name = v }, required),
	key("purpose", "What it is for, in a few words.", text(notBlank, atMost(200)), func(e *Environment, v string) { e.Purpose = v }),
	key("after", "The promotion path: environments in which the very same release must have succeeded before.", list(name(), 0), func(e *Environment, v []string) { e.After = v }),
	key("target", "Where the service runs.", targetModel, func(e *Environment, v Target) { e.Target = v }, required),
	key("gates", "What must hold before a release enters: names of built-in gates, or CEL expressions over the evidence.", list(gateModel, 0), func(e *Environment, v []Gate) { e.Gates = v }),
	key("approval", "A person's decision on the evidence packet. {} takes the defaults.", approvalModel, func(e *Environment, v Approval) { e.Approval = &v }, byDefault("none needed")),
	key("rollout", "How traffic moves: a strategy's bare name, or a mapping of one strategy and the settings beside it.", rolloutModel, func(e *Environment, v Rollout) { e.Rollout = v }, byDefault("all-at-once")),
	key("analysis", "What is judged, and how strictly.", analysisModel, func(e *Environment, v Analysis) { e.Analysis = v }, byDefault("http-errors for a canary")),
	key("verify", "Checks that must pass at 100 %, before the stage is done.", list(checkModel, 0), func(e *Environment, v []Check) { e.Verify = v }),
	key("hooks", "Checks around the moves of traffic. One that fails ends the rollout by its safe action.", hooksModel, func(e *Environment, v Hooks) { e.Hooks = v }),
	key("synthetic", "Requests that Sluice makes itself while the new release is judged, where real traffic is thin. They are marked, and apart from users' metrics.", syntheticModel, func(e *Environment, v Synthetic) { e.Synthetic = &v }, byDefault("none are made")),
	key("shadow", "Begin with copies of users' requests: the new release answers them, nobody sees its answers, and it is judged by them before any user reaches it.", shadowModel, func(e *Environment, v Shadow) { e.Shadow = &v }, byDefault("no request is copied")),
	key("rehearse", "Rehearse a rollback here by itself, again and again: all users go back to the previous release and forward again, which is timed. For environments below production.", rehearseModel, func(e *Environment, v Rehearse) { e.Rehearse = &v }, byDefault("only when somebody asks: sluice rehearse")),

	notYet[Environment]("alarms", "watch alarms", "use an analysis metric of kind limit"),
	notYet[Environment]("config", "load versioned configuration", "write the variables into target.env; they are part of the release"),
	notYet[Environment]("windows", "keep release windows", "ask for an approval and decide then"),
	notYet[Environment]("freezes", "keep freezes", "ask for an approval and decide then"),
	notYet[Environment]("flags", "move feature flags", "let the service read its flags itself"),
	notYet[Environment]("waves", "release in waves", "write one environment per wave, each after the one before"),
	notYet[Environment]("protected", "take protection from a service's file", "name the environment production, and give it gates and an approval"),
)

var shadowModel = object("shadow", Shadow{Share: 10, Bake: defaultBake},
	key("share", "Percent of the requests that are copied, in hundredths at the finest. Only those are that may be made twice: GET, HEAD and OPTIONS without a body.", hundredths(number(above(0, 100))), func(s *Shadow, v float64) { s.Share = v }, byDefault("10")),
	key("bake", "How long it answers copies alone.", duration(time.Second), func(s *Shadow, v time.Duration) { s.Bake = v }, byDefault("15m")),
)

var rehearseModel = object("rehearse", Rehearse{},
	key("every", "How long after the last rehearsal the next one begins. The first begins as soon as there is a release to go back to.", duration(time.Hour), func(r *Rehearse, v time.Duration) { r.Every = v }, required),
)

// TestsPassed is the built-in gate that holds when every test report of the
// release passed, and there is at least one.
const TestsPassed = "tests-passed"

// Rehearsed is the built-in gate that demands a recent rehearsal of a rollback.
const Rehearsed = "rehearsed"

// Gates that are asked everywhere, without being named.
const (
	WayBack        = "way-back"        // what runs there could be brought back
	NotQuarantined = "not-quarantined" // the release was not taken back before
)

var gateModel = either(
	described(also(as(text(notBlank), func(s string) Gate { return Gate{Name: s} }), func(p *parser, at string, g Gate) bool {
		if g.Name == TestsPassed {
			return true
		}
		mend := "it knows " + TestsPassed + ", and {name: rehearsed, within: 168h}; anything else over the evidence is a CEL gate: {name: …, cel: '…'}"
		if nearest(g.Name, []string{Rehearsed}) != "" {
			mend = "say how long ago it may be: {name: rehearsed, within: 168h, env: staging}"
		}
		if nearest(g.Name, []string{TestsPassed}) != "" {
			mend = "did you mean " + TestsPassed + "?"
		}
		p.refuse(p.valueAt(at), at, refusal{cannot: fmt.Sprintf("check a built-in gate named %q", clip(g.Name)), nearest: mend})
		return false
	}), func(s *shape) { s.enum = []string{TestsPassed} }),
	also(object("gate", Gate{},
		key("name", "Name of the gate, shown in every decision.", name(), func(g *Gate, v string) { g.Name = v }, required),
		key("cel", "CEL expression over the evidence that must be true. The gate rehearsed has none.", celExpression(), func(g *Gate, v string) { g.CEL = v }),
		key("within", "Of the gate rehearsed: a rollback must have been rehearsed successfully within this time.", duration(time.Minute), func(g *Gate, v time.Duration) { g.Within = v }),
		key("env", "Of the gate rehearsed: where.", name(), func(g *Gate, v string) { g.Env = v }, byDefault("the environment that asks")),
		notYet[Gate]("rego", "evaluate Rego", "write the rule as a CEL expression: cel: '…'"),
	), func(p *parser, at string, g Gate) bool {
		if g.Name == Rehearsed {
			if g.Within == 0 || g.CEL != "" {
				p.at(p.keyAt(at), at, Error, "bad-gate", "gate rehearsed says how long ago a rehearsal may be, and nothing else", "write {name: rehearsed, within: 168h, env: staging}")
			}
			return g.Within > 0 && g.CEL == ""
		}
		if g.CEL == "" || g.Within > 0 || g.Env != "" {
			p.at(p.keyAt(at), at, Error, "bad-gate", fmt.Sprintf("gate %q needs a CEL expression, and nothing else", g.Name), "write {name: "+g.Name+", cel: '…'}; within and env belong to the gate rehearsed")
			return false
		}
		if slices.Contains([]string{TestsPassed, WayBack, NotQuarantined, "after", "approval", "verify"}, g.Name) {
			p.at(p.valueAt(at+".name"), at+".name", Error, "reserved-name", fmt.Sprintf("gate name %q is built in", g.Name), "give the CEL gate another name")
			return false
		}
		return true
	}),
)

func celExpression() codec[string] {
	return also(text(notBlank, atMost(8<<10)), func(p *parser, at string, s string) bool {
		if p.checkGate == nil {
			return true
		}
		if err := p.checkGate(s); err != nil {
			p.at(p.valueAt(at), at, Error, "bad-cel", "the expression is not a gate: "+oneLine(err), "mend the CEL expression; it must give true or false")
			return false
		}
		return true
	})
}

var approvalModel = object("approval", Approval{Quorum: 1, Expires: 24 * time.Hour},
	key("quorum", "How many people must approve. This build knows one approver: the user who holds the access token.", described(also(integer(1, 100), func(p *parser, at string, v int) bool {
		if v > 1 {
			p.refuse(p.valueAt(at), at, refusal{cannot: fmt.Sprintf("tell %d approvers apart", v), nearest: "write quorum: 1"})
		}
		return v == 1
	}), func(s *shape) { s.max = 1 }), func(a *Approval, v int) { a.Quorum = v }, byDefault("1")),
	key("expires", "How long the decision holds.", duration(time.Minute), func(a *Approval, v time.Duration) { a.Expires = v }, byDefault("24h")),
	notYet[Approval]("groups", "check that an approver belongs to a group", "leave groups out; the approver is the user who holds the access token"),
)
