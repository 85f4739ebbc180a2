package pipeline

import (
	"fmt"
	"math"
	"slices"
	"strings"
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
	key("verify", "Requests that must be answered as stated before the stage is done.", list(checkModel, 0), func(e *Environment, v []Check) { e.Verify = v }),

	notYet[Environment]("hooks", "run hooks", "test with verify checks"),
	notYet[Environment]("alarms", "watch alarms", "use an analysis metric of kind limit"),
	notYet[Environment]("config", "load versioned configuration", "write the variables into target.env; they are part of the release"),
	notYet[Environment]("windows", "keep release windows", "ask for an approval and decide then"),
	notYet[Environment]("freezes", "keep freezes", "ask for an approval and decide then"),
	notYet[Environment]("flags", "move feature flags", "let the service read its flags itself"),
	notYet[Environment]("shadow", "mirror requests", "begin the canary with a small weight"),
	notYet[Environment]("waves", "release in waves", "write one environment per wave, each after the one before"),
	notYet[Environment]("protected", "take protection from a service's file", "name the environment production, and give it gates and an approval"),
)

var targetModel = object("target", Target{Instances: 1, Health: defaultHealth},
	key("type", "Kind of target. host is processes on hosts, under an agent.", oneOf("a type of target", []string{"host"}, targetRefusals()...), func(t *Target, v string) { t.Type = v }, required),
	key("hosts", "Agents by name.", list(name(), 1), func(t *Target, v []string) { t.Hosts = v }, byDefault("[local]")),
	key("listen", "Address that users reach, host:port or :port. The agent's proxy listens there.",
		described(text(notBlank, address), func(s *shape) { s.examples = []string{"127.0.0.1:9001", ":9001"} }), func(t *Target, v string) { t.Listen = v }, required),
	key("run", "Command line for sh that starts one instance inside the unpacked artifact. $PORT is the port that it must serve.", text(notBlank, atMost(64<<10)), func(t *Target, v string) { t.Run = v }, required),
	key("instances", "Instances on each host.", integer(1, 1000), func(t *Target, v int) { t.Instances = v }, byDefault("1")),
	key("env", "Variables of the instances; part of the release.", mapOf(variable("SLUICE_", "PORT"), valueModel), func(t *Target, v map[string]Value) { t.Env = v }),
	key("health", "How an instance is asked whether it is well.", healthModel, func(t *Target, v Health) { t.Health = v }, byDefault("a TCP connection suffices")),
	key("metrics", "Where an instance answers in Prometheus exposition format. Labels service, environment, revision and instance are added.", metricsModel, func(t *Target, v Metrics) { t.Metrics = &v }, byDefault("nothing is scraped")),
	key("sticky", "What a user is recognised by, so that nobody flips between versions. One of header and cookie.", stickyModel, func(t *Target, v Sticky) { t.Sticky = &v }, byDefault("each request is on its own")),

	notYet[Target]("router", "steer a router of yours", "let users reach the agent's own proxy at target.listen"),
	notYet[Target]("appspec", "run a CodeDeploy appspec.yml", "start the service with target.run"),
	notYet[Target]("maxUnreachable", "go on without an unreachable host", "name only hosts that must be reached"),
)

// targetKinds says what each kind of target can do with traffic, also those
// that this build cannot release to: a strategy that would never work there is
// an error of its own.
var targetKinds = map[string][]string{
	"host":              {AllAtOnce, "rolling", "blue-green", Canary, "linear"},
	"kubernetes":        {AllAtOnce, "rolling", "blue-green", Canary, "linear"},
	"ecs":               {AllAtOnce, "rolling", "blue-green", Canary, "linear"},
	"lambda":            {AllAtOnce, Canary, "linear"},
	"auto-scaling":      {"rolling", "blue-green", "immutable"},
	"api-gateway":       {AllAtOnce, Canary},
	"route53":           {AllAtOnce, "blue-green", Canary, "linear"},
	"alb":               {AllAtOnce, "blue-green", Canary, "linear"},
	"elastic-beanstalk": {AllAtOnce, "rolling", "blue-green", "immutable", Canary},
	"terraform":         {AllAtOnce},
	"cloudformation":    {AllAtOnce},
	"cdk":               {AllAtOnce},
}

func targetRefusals() []refusal {
	words := []string{"k8s", "eks", "fargate", "ec2", "asg", "docker", "argo-rollouts", "flagger", "codedeploy", "worker"}
	for k := range targetKinds {
		if k != "host" {
			words = append(words, k)
		}
	}
	slices.Sort(words)
	return refuseAll("release to a target of type %s", "run it as processes on hosts: type: host", words...)
}

var healthModel = object("health", defaultHealth,
	key("http", "Path that answers 2xx when the instance is well. Without it a TCP connection suffices.", text(notBlank, urlPath), func(h *Health, v string) { h.HTTP = v }),
	key("timeout", "How long one question may take.", duration(time.Millisecond), func(h *Health, v time.Duration) { h.Timeout = v }, byDefault("1s")),
	key("interval", "Time between questions; 250 ms while the instance starts.", duration(10*time.Millisecond), func(h *Health, v time.Duration) { h.Interval = v }, byDefault("1s")),
	key("healthy", "Good answers in a row to be ready.", integer(1, 100), func(h *Health, v int) { h.Healthy = v }, byDefault("1")),
	key("failing", "Bad answers in a row to be unready.", integer(1, 100), func(h *Health, v int) { h.Failing = v }, byDefault("3")),
	key("startIn", "Ready within this, or the start has failed.", duration(100*time.Millisecond), func(h *Health, v time.Duration) { h.StartIn = v }, byDefault("60s")),
	key("drainIn", "How long open requests have before a stop.", duration(0), func(h *Health, v time.Duration) { h.DrainIn = v }, byDefault("30s")),
	notYet[Health]("command", "ask an instance by a command", "answer on a path, and name it in http"),
	notYet[Health]("grpc", "ask an instance by gRPC", "answer on a path, and name it in http"),
)

var metricsModel = object("metrics", Metrics{},
	key("path", "Path of the metrics.", text(notBlank, urlPath), func(m *Metrics, v string) { m.Path = v }, required),
)

var stickyModel = described(besides(object("sticky", Sticky{},
	key("header", "Header that names the user.", text(notBlank, headerName), func(s *Sticky, v string) { s.Header = v }),
	key("cookie", "Cookie that names the user; set by the proxy where the client has none.", text(notBlank, headerName), func(s *Sticky, v string) { s.Cookie = v }),
), func(p *parser, at string, _ Sticky) bool {
	if p.positions.Has(at+".header") == p.positions.Has(at+".cookie") {
		p.at(p.keyAt(at), at, Error, "one-of", label(at)+" needs header or cookie, one of them", "write {cookie: user} or {header: X-User}")
		return false
	}
	return true
}), func(s *shape) { s.oneOf = []string{"header", "cookie"} })

// TestsPassed is the built-in gate that holds when every test report of the
// release passed, and there is at least one.
const TestsPassed = "tests-passed"

var gateModel = either(
	described(also(as(text(notBlank), func(s string) Gate { return Gate{Name: s} }), func(p *parser, at string, g Gate) bool {
		if g.Name == TestsPassed {
			return true
		}
		mend := "it knows " + TestsPassed + "; anything else over the evidence is a CEL gate: {name: …, cel: '…'}"
		if nearest(g.Name, []string{TestsPassed}) != "" {
			mend = "did you mean " + TestsPassed + "?"
		}
		p.refuse(p.valueAt(at), at, refusal{cannot: fmt.Sprintf("check a built-in gate named %q", clip(g.Name)), nearest: mend})
		return false
	}), func(s *shape) { s.enum = []string{TestsPassed} }),
	also(object("gate", Gate{},
		key("name", "Name of the gate, shown in every decision.", name(), func(g *Gate, v string) { g.Name = v }, required),
		key("cel", "CEL expression over the evidence that must be true.", celExpression(), func(g *Gate, v string) { g.CEL = v }, required),
		notYet[Gate]("rego", "evaluate Rego", "write the rule as a CEL expression: cel: '…'"),
	), func(p *parser, at string, g Gate) bool {
		if slices.Contains([]string{TestsPassed, "after", "approval", "verify"}, g.Name) {
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

var analysisModel = object("analysis", defaultAnalysis,
	key("warmUp", "Time after the first user request that is not judged, except for catastrophes.", duration(0), func(a *Analysis, v time.Duration) { a.WarmUp = v }, byDefault("120s, at most half of the first bake")),
	key("bin", "Length of the bins in which counts are compared.", duration(time.Second), func(a *Analysis, v time.Duration) { a.Bin = v }, byDefault("10s, at most a quarter of the shortest bake, at least 1s (2s with scraped metrics)")),
	key("maxExcess", "How much worse than the stable release's rate may be, in percentage points. Tighten it to 0.2 for critical services.", number(between(0, 100)), func(a *Analysis, v float64) { a.MaxExcess = v }, byDefault("1")),
	key("alpha", "Chance of ever failing a release that is no worse, over the whole rollout.", number(between(0, 0.5)), func(a *Analysis, v float64) { a.Alpha = v }, byDefault("0.01")),
	key("beta", "Chance of passing a release that is worse than the bound.", number(between(0, 0.5)), func(a *Analysis, v float64) { a.Beta = v }, byDefault("0.05")),
	key("minEvents", "Requests that a step must see; fewer are no data.", integer(1, 1_000_000_000), func(a *Analysis, v int) { a.MinEvents = v }, byDefault("50")),
	key("maxExtend", "How often an inconclusive bake is repeated before a person is asked.", integer(0, 100), func(a *Analysis, v int) { a.MaxExtend = v }, byDefault("3")),
	key("metrics", "What is judged: http-errors and http-latency by bare name, or mappings.", list(metricModel, 1), func(a *Analysis, v []Metric) { a.Metrics = v }, byDefault("[http-errors]")),
	notYet[Analysis]("alarms", "watch alarms", "use a metric of kind limit"),
	notYet[Analysis]("judge", "use another judge inside a rollout", "compare samples with `sluice judge --file`"),
	notYet[Analysis]("provider", "query another provider of metrics", "let the agent scrape the service: target.metrics"),
)

// metricRefusals are the kinds that Sluice knows and this build cannot judge.
var metricRefusals = refuseAll("judge a metric of kind %s", "use rate (bad of total) or limit (a query with min or max)",
	"alarm", "slo", "gauge", "points", "latency", "logs")

var metricModel = either(
	as(oneOf("a metric that needs no query", []string{HTTPErrors, HTTPLatency}), func(s string) Metric { return withKind(Metric{Name: s}) }),
	as(besides(object("metric", Metric{},
		key("name", "Name of the metric. http-errors and http-latency need no kind.", name(), func(m *Metric, v string) { m.Name = v }, required),
		key("kind", "How it is judged.", oneOf("a kind of metric", []string{HTTPErrors, HTTPLatency, Rate, Limit}, metricRefusals...), func(m *Metric, v string) { m.Kind = v }, byDefault("the name, for http-errors and http-latency")),
		key("quantile", "Kind http-latency: which share of requests is meant.", number(between(0, 1)), func(m *Metric, v float64) { m.Quantile = v }, byDefault("0.99")),
		key("maxRatio", "Kind http-latency: how many times the stable release's quantile is still good.", number(above(1, 1000)), func(m *Metric, v float64) { m.MaxRatio = v }, byDefault("1.5")),
		key("bad", "Kind rate: PromQL selector of the counter of bad events, with $revision.", query(), func(m *Metric, v string) { m.Bad = v }),
		key("total", "Kind rate: PromQL selector of the counter of all events, with $revision.", query(), func(m *Metric, v string) { m.Total = v }),
		key("query", "Kind limit: PromQL query that gives one number.", query(), func(m *Metric, v string) { m.Query = v }),
		key("min", "Kind limit: the number must not be lower.", number(finite()), func(m *Metric, v float64) { m.Min = &v }),
		key("max", "Kind limit: the number must not be higher.", number(finite()), func(m *Metric, v float64) { m.Max = &v }),
	), checkMetric), withKind),
)

// withKind fills in what follows from a metric's name and kind.
func withKind(m Metric) Metric {
	if m.Kind == "" && (m.Name == HTTPErrors || m.Name == HTTPLatency) {
		m.Kind = m.Name
	}
	if m.Kind == HTTPLatency {
		if m.Quantile == 0 {
			m.Quantile = defaultQuantile
		}
		if m.MaxRatio == 0 {
			m.MaxRatio = defaultMaxRatio
		}
	}
	return m
}

// metricKeys says which keys each kind has beside name and kind; those with a
// mark are needed.
var metricKeys = map[string][]string{
	HTTPErrors:  nil,
	HTTPLatency: {"quantile", "maxRatio"},
	Rate:        {"bad!", "total!"},
	Limit:       {"query!", "min", "max"},
}

func checkMetric(p *parser, at string, m Metric) bool {
	ok := true
	fail := func(pos Position, where, rule, message, mend string) {
		p.at(pos, where, Error, rule, message, mend)
		ok = false
	}
	named := m.Name == HTTPErrors || m.Name == HTTPLatency
	if named && m.Kind != "" && m.Kind != m.Name {
		fail(p.valueAt(at+".kind"), at+".kind", "metric-kind", fmt.Sprintf("metric %s cannot be of kind %s", m.Name, m.Kind), "give the metric another name, or leave kind out")
		return false
	}
	kind := withKind(m).Kind
	if kind == "" {
		fail(p.keyAt(at), at, "missing-key", label(at)+" has no kind", "add kind: rate with bad and total, or kind: limit with query and max")
		return false
	}
	allowed, known := metricKeys[kind]
	if !known {
		return false // it was said already
	}
	for _, k := range []string{"quantile", "maxRatio", "bad", "total", "query", "min", "max"} {
		has := p.positions.Has(at + "." + k)
		switch {
		case has && !slices.Contains(allowed, k) && !slices.Contains(allowed, k+"!"):
			mend := "remove it; this kind has no settings"
			if len(allowed) > 0 {
				mend = fmt.Sprintf("kind %s takes %s", kind, strings.ReplaceAll(listing(allowed, "and"), "!", ""))
			}
			fail(p.keyAt(at+"."+k), at+"."+k, "metric-key", fmt.Sprintf("%s does not belong to a metric of kind %s", k, kind), mend)
		case !has && slices.Contains(allowed, k+"!"):
			fail(p.keyAt(at), at, "missing-key", fmt.Sprintf("%s, of kind %s, has no %s", label(at), kind, k), "add "+k+": with a PromQL query")
		}
	}
	if kind == Limit && ok {
		switch {
		case m.Min == nil && m.Max == nil:
			fail(p.keyAt(at), at, "missing-key", label(at)+", of kind limit, has neither min nor max", "add max: or min:; without them nothing is judged")
		case m.Min != nil && m.Max != nil && *m.Min > *m.Max:
			fail(p.keyAt(at+".min"), at+".min", "out-of-range", "min is above max", "swap them")
		}
	}
	for _, q := range []struct{ key, query string }{{"bad", m.Bad}, {"total", m.Total}} {
		if kind == Rate && q.query != "" && !strings.Contains(q.query, "$revision") {
			fail(p.valueAt(at+"."+q.key), at+"."+q.key, "query-revision", fmt.Sprintf("the query of %s does not mention $revision, so canary and baseline would be the same number", q.key), `add {revision="$revision"} to the selector`)
		}
	}
	return ok
}

func query() codec[string] {
	return also(text(notBlank, atMost(8<<10)), func(p *parser, at string, s string) bool {
		if p.checkQuery == nil {
			return true
		}
		if err := p.checkQuery(s); err != nil {
			p.at(p.valueAt(at), at, Error, "bad-query", "the query is not PromQL: "+oneLine(err), "mend the query")
			return false
		}
		return true
	})
}

var checkModel = object("check", Check{},
	key("name", "Name of the check.", name(), func(c *Check, v string) { c.Name = v }, required),
	key("http", "A request through the target's router.", httpCheckModel, func(c *Check, v HTTPCheck) { c.HTTP = v }, required),
	notYet[Check]("command", "verify by a command", "verify by a request: http"),
	notYet[Check]("browser", "verify in a browser", "verify by a request: http"),
	notYet[Check]("lambda", "verify by a Lambda function", "verify by a request: http"),
	notYet[Check]("ssm", "verify by an SSM automation", "verify by a request: http"),
)

var httpCheckModel = object("httpCheck", HTTPCheck{Status: 200, Timeout: 5 * time.Second, Retries: 3},
	key("path", "Path and query of the request.", text(notBlank, urlPath), func(c *HTTPCheck, v string) { c.Path = v }, required),
	key("status", "Status that must be answered.", integer(100, 599), func(c *HTTPCheck, v int) { c.Status = v }, byDefault("200")),
	key("contains", "Text that the first MiB of the body must hold.", text(notBlank, atMost(4096)), func(c *HTTPCheck, v string) { c.Contains = v }),
	key("timeout", "How long one try may take.", duration(time.Millisecond), func(c *HTTPCheck, v time.Duration) { c.Timeout = v }, byDefault("5s")),
	key("retries", "Further tries after a wrong answer.", integer(0, 100), func(c *HTTPCheck, v int) { c.Retries = v }, byDefault("3")),
)
