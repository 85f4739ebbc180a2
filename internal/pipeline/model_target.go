package pipeline

import (
	"slices"
	"time"
)

var targetModel = object("target", Target{Instances: 1, Health: defaultHealth},
	key("type", "Kind of target. host is processes on hosts, under an agent.", oneOf("a type of target", []string{"host"}, targetRefusals()...), func(t *Target, v string) { t.Type = v }, required),
	key("hosts", "Agents by name.", list(name(), 1), func(t *Target, v []string) { t.Hosts = v }, byDefault("[local]")),
	key("listen", "Address that users reach, host:port or :port. The agent's proxy listens there. Without it the service is a worker: nothing is routed to it, and a weight is its share of the instances.",
		described(text(notBlank, address), func(s *shape) { s.examples = []string{"127.0.0.1:9001", ":9001"} }), func(t *Target, v string) { t.Listen = v }, byDefault("a worker")),
	key("preview", "Second address, at which the new release alone answers, also before any user reaches it. Checks before traffic are asked there.",
		described(text(notBlank, address), func(s *shape) { s.examples = []string{"127.0.0.1:9101", ":9101"} }), func(t *Target, v string) { t.Preview = v }),
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
	"host":              Strategies,
	"worker":            {AllAtOnce, Rolling, Canary, Linear, TrafficSplitting}, // a host without listen
	"kubernetes":        {AllAtOnce, Rolling, BlueGreen, Canary, Linear, TrafficSplitting},
	"ecs":               {AllAtOnce, Rolling, BlueGreen, Canary, Linear},
	"lambda":            {AllAtOnce, Canary, Linear},
	"auto-scaling":      {Rolling, BlueGreen, Immutable},
	"api-gateway":       {AllAtOnce, Canary},
	"route53":           {AllAtOnce, BlueGreen, Canary, Linear},
	"alb":               {AllAtOnce, BlueGreen, Canary, Linear, TrafficSplitting},
	"elastic-beanstalk": {AllAtOnce, Rolling, BlueGreen, Immutable, TrafficSplitting},
	"terraform":         {AllAtOnce},
	"cloudformation":    {AllAtOnce},
	"cdk":               {AllAtOnce},
}

func targetRefusals() []refusal {
	words := []string{"k8s", "eks", "fargate", "ec2", "asg", "docker", "argo-rollouts", "flagger", "codedeploy"}
	for k := range targetKinds {
		if k != "host" && k != "worker" {
			words = append(words, k)
		}
	}
	slices.Sort(words)
	return append(refuseAll("release to a target of type %s", "run it as processes on hosts: type: host", words...),
		refusal{"worker", "release to a target of type worker", "write type: host and leave listen out: a host without an address runs a worker"})
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
