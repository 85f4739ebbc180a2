package pipeline_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// everything is a file in which each kind of object stands once.
const everything = `
version: 1
service: shop
owner: team
layer: application
source: {protected: main}
build:
  steps:
    - {name: deps, kind: fetch, run: fetch}
    - name: unit
      kind: unit
      run: test
      reports: [{format: go-test, path: unit.json}]
      env: {A: {secret: 'file:/a'}}
  artifact: {type: files, path: out}
environments:
  - name: dev
    purpose: feedback
    target: {type: host, listen: ':1', run: ./shop}
    rollout: {all-at-once: {bake: 15m}}
    shadow: {share: 20, bake: 30m}
    rehearse: {every: 168h}
  - name: prod
    after: [dev]
    target:
      type: host
      listen: ':2'
      run: ./shop
      env: {A: {secret: 'file:/a'}}
      health: {http: /healthz}
      metrics: {path: /metrics}
      sticky: {cookie: user}
    gates: [tests-passed, {name: size, cel: 'true'}, {name: rehearsed, within: 168h, env: dev}]
    approval: {}
    rollout: {canary: {steps: [{weight: 50}]}}
    analysis:
      metrics:
        - {name: http-latency}
        - {name: orders, kind: rate, bad: 'bad{r="$revision"}', total: 'all{r="$revision"}'}
        - {name: dlq, kind: limit, query: up, min: 0, max: 1}
        - {name: good, kind: slo, target: 99.9, bad: bad, total: all}
        - {name: wait, kind: points, query: 'w{r="$revision"}'}
      alarms:
        - {name: full, query: depth, above: 9}
    hooks:
      beforeTraffic: [{name: shell, command: {run: ./smoke.sh}}]
      afterStep: [{name: shown, browser: {path: /shown}}]
      afterTraffic: [{name: last, command: ./last.sh}]
    synthetic: {rate: 5}
    verify: [{name: smoke, http: {path: /}}]
`

// rows say for each key of the schema ($defs name, then key) how a file is
// changed there. Either the definition changes, or the change is refused.
var rows = map[string][2]string{
	"rollout.rolling":           {"{canary: {steps: [{weight: 50}]}}", "{rolling: {bake: 15m}}"},
	"rollout.blue-green":        {"{canary: {steps: [{weight: 50}]}}", "{blue-green: {}}"},
	"rollout.linear":            {"{canary: {steps: [{weight: 50}]}}", "{linear: {}}"},
	"rollout.immutable":         {"{canary: {steps: [{weight: 50}]}}", "{immutable: {}}"},
	"rollout.traffic-splitting": {"{canary: {steps: [{weight: 50}]}}", "{traffic-splitting: {}}"},
	"rollout.strategy":          {"{canary: {steps: [{weight: 50}]}}", "{strategy: CodeDeployDefault.LambdaCanary10Percent5Minutes}"},
	"rollout.onFail":            {"{canary: {steps: [{weight: 50}]}}", "{onFail: freeze, canary: {steps: [{weight: 50}]}}"},
	"rollout.onDrift":           {"{canary: {steps: [{weight: 50}]}}", "{onDrift: hold, canary: {steps: [{weight: 50}]}}"},
	"rolling.batch":             {"{canary: {steps: [{weight: 50}]}}", "{rolling: {bake: 15m, batch: 1}}"},
	"rolling.additionalBatch":   {"{canary: {steps: [{weight: 50}]}}", "{rolling: {bake: 15m, additionalBatch: false}}"},
	"rolling.maxUnavailable":    {"{canary: {steps: [{weight: 50}]}}", "{rolling: {bake: 15m, maxUnavailable: 1}}"},
	"rolling.bake":              {"{canary: {steps: [{weight: 50}]}}", "{rolling: {bake: 20m}}"},
	"blueGreen.preTraffic":      {"{canary: {steps: [{weight: 50}]}}", "{blue-green: {preTraffic: [{name: x, http: {path: /}}]}}"},
	"blueGreen.bake":            {"{canary: {steps: [{weight: 50}]}}", "{blue-green: {bake: 20m}}"},
	"blueGreen.retireAfter":     {"{canary: {steps: [{weight: 50}]}}", "{blue-green: {retireAfter: 2h}}"},
	"immutable.preTraffic":      {"{canary: {steps: [{weight: 50}]}}", "{immutable: {preTraffic: [{name: x, http: {path: /}}]}}"},
	"immutable.bake":            {"{canary: {steps: [{weight: 50}]}}", "{immutable: {bake: 20m}}"},
	"linear.step":               {"{canary: {steps: [{weight: 50}]}}", "{linear: {step: 20}}"},
	"linear.every":              {"{canary: {steps: [{weight: 50}]}}", "{linear: {every: 20m}}"},
	"trafficSplitting.weight":   {"{canary: {steps: [{weight: 50}]}}", "{traffic-splitting: {weight: 20}}"},
	"trafficSplitting.evaluate": {"{canary: {steps: [{weight: 50}]}}", "{traffic-splitting: {evaluate: 20m}}"},
	"target.preview":            {"      listen: ':2'\n", "      listen: ':2'\n      preview: ':5'\n"},
	"definition.version":        {"version: 1", "version: 2"},
	"definition.service":        {"service: shop", "service: market"},
	"definition.owner":          {"owner: team", "owner: others"},
	"definition.layer":          {"layer: application", "layer: platform"},
	"definition.source":         {"source: {protected: main}", ""},
	"definition.build":          {"path: out}", "path: elsewhere}"},
	"definition.environments":   {"  - name: prod", "  - name: live"},
	"source.protected":          {"protected: main", "protected: trunk"},
	"build.steps":               {"    - {name: deps, kind: fetch, run: fetch}\n", ""},
	"build.artifact":            {"artifact: {type: files, path: out}", "artifact: {type: files, path: b}"},
	"build.artifacts":           {"artifact: {type: files, path: out}", "artifacts: [{type: files, path: b}]"},
	"artifact.name":             {"{type: files", "{name: other, type: files"},
	"artifact.type":             {"type: files", "type: image"},
	"artifact.path":             {"path: out", "path: dist"},
	"step.name":                 {"name: deps", "name: get"},
	"step.kind":                 {"kind: fetch", "kind: custom"},
	"step.run":                  {"run: fetch", "run: get"},
	"step.needs":                {"kind: unit", "kind: unit\n      needs: [deps]"},
	"step.network":              {"kind: unit", "kind: unit\n      network: true"},
	"step.cache":                {"kind: unit", "kind: unit\n      cache: [gomod]"},
	"step.env":                  {"env: {A: {secret: 'file:/a'}}\n  artifact", "env: {B: b}\n  artifact"},
	"step.timeout":              {"kind: unit", "kind: unit\n      timeout: 1m"},
	"step.reports":              {"      reports: [{format: go-test, path: unit.json}]\n", ""},
	"report.format":             {"format: go-test", "format: junit"},
	"report.path":               {"path: unit.json", "path: u.json"},
	"secretValue.secret":        {"secret: 'file:/a'", "secret: 'file:/b'"},
	"environment.name":          {"name: prod", "name: live"},
	"environment.purpose":       {"purpose: feedback", "purpose: play"},
	"environment.after":         {"    after: [dev]\n", ""},
	"environment.target":        {"target: {type: host, listen: ':1'", "target: {type: host, listen: ':3'"},
	"environment.gates":         {"gates: [tests-passed, ", "gates: ["},
	"environment.approval":      {"    approval: {}\n", ""},
	"environment.rollout":       {"rollout: {canary: {steps: [{weight: 50}]}}", "rollout: canary"},
	"environment.analysis":      {"    purpose: feedback", "    analysis: {}"},
	"environment.verify":        {"    verify: [{name: smoke, http: {path: /}}]\n", ""},
	"target.type":               {"type: host", "type: kubernetes"},
	"target.hosts":              {"run: ./shop\n", "run: ./shop\n      hosts: [a, b]\n"},
	"target.listen":             {"listen: ':2'", "listen: ':4'"},
	"target.run":                {"run: ./shop\n", "run: ./market\n"},
	"target.instances":          {"run: ./shop\n", "run: ./shop\n      instances: 3\n"},
	"target.env":                {"env: {A: {secret: 'file:/a'}}\n      health", "env: {B: 1}\n      health"},
	"target.health":             {"health: {http: /healthz}", "health: {}"},
	"target.metrics":            {"metrics: {path: /metrics}", "metrics: {path: /m}"},
	"target.sticky":             {"      sticky: {cookie: user}\n", ""},
	"health.http":               {"/healthz", "/ready"},
	"health.timeout":            {"{http: /healthz}", "{timeout: 3s}"},
	"health.interval":           {"{http: /healthz}", "{interval: 3s}"},
	"health.healthy":            {"{http: /healthz}", "{healthy: 2}"},
	"health.failing":            {"{http: /healthz}", "{failing: 2}"},
	"health.startIn":            {"{http: /healthz}", "{startIn: 3s}"},
	"health.drainIn":            {"{http: /healthz}", "{drainIn: 3s}"},
	"metrics.path":              {"/metrics", "/m"},
	"sticky.header":             {"cookie: user", "header: X-User"},
	"sticky.cookie":             {"cookie: user", "cookie: u"},
	"gate.name":                 {"name: size", "name: small"},
	"gate.cel":                  {"cel: 'true'", "cel: 'false'"},
	"gate.within":               {"within: 168h", "within: 24h"},
	"gate.env":                  {"within: 168h, env: dev", "within: 168h, env: prod"},
	"approval.quorum":           {"approval: {}", "approval: {quorum: 2}"},
	"approval.expires":          {"approval: {}", "approval: {expires: 1h}"},
	"rollout.all-at-once":       {"{all-at-once: {bake: 15m}}", "{canary: {}}"},
	"rollout.canary":            {"{canary: {steps: [{weight: 50}]}}", "{all-at-once: {bake: 15m}}"},
	"rollout.standard":          {"{canary: {steps: [{weight: 50}]}}", "{standard: careful@1}"},
	"rollout.onInconclusive":    {"{canary: {", "{onInconclusive: hold, canary: {"},
	"rollout.onNoData":          {"{canary: {", "{onNoData: extend, canary: {"},
	"rollout.timeout":           {"{canary: {", "{timeout: 1h, canary: {"},
	"rollout.rollbackTimeout":   {"{canary: {", "{rollbackTimeout: 1h, canary: {"},
	"rollout.retireAfter":       {"{canary: {", "{retireAfter: 2h, canary: {"},
	"allAtOnce.bake":            {"bake: 15m", "bake: 20m"},
	"canary.steps":              {"{steps: [{weight: 50}]}", "{}"},
	"canaryStep.weight":         {"weight: 50", "weight: 40"},
	"canaryStep.bake":           {"{weight: 50}", "{weight: 50, bake: 1h}"},
	"analysis.warmUp":           {"    analysis:\n", "    analysis:\n      warmUp: 1m\n"},
	"analysis.bin":              {"    analysis:\n", "    analysis:\n      bin: 5s\n"},
	"analysis.maxExcess":        {"    analysis:\n", "    analysis:\n      maxExcess: 0.2\n"},
	"analysis.alpha":            {"    analysis:\n", "    analysis:\n      alpha: 0.05\n"},
	"analysis.beta":             {"    analysis:\n", "    analysis:\n      beta: 0.1\n"},
	"analysis.minEvents":        {"    analysis:\n", "    analysis:\n      minEvents: 100\n"},
	"analysis.maxExtend":        {"    analysis:\n", "    analysis:\n      maxExtend: 0\n"},
	"analysis.metrics":          {"        - {name: http-latency}", "        - http-errors"},
	"metric.name":               {"name: orders", "name: sales"},
	"metric.kind":               {"{name: http-latency}", "{name: slow, kind: http-latency}"},
	"metric.quantile":           {"{name: http-latency}", "{name: http-latency, quantile: 0.5}"},
	"metric.maxRatio":           {"{name: http-latency}", "{name: http-latency, maxRatio: 2}"},
	"metric.bad":                {"bad{r", "failed{r"},
	"metric.total":              {"all{r", "every{r"},
	"metric.query":              {"query: up", "query: down"},
	"metric.min":                {"min: 0", "min: -1"},
	"metric.samples":            {"min: 0", "min: 0, samples: 5"},
	"metric.quantiles":          {"{name: http-latency}", "{name: http-latency, quantiles: [0.5, 0.99]}"},
	"metric.target":             {"target: 99.9", "target: 99.5"},
	"metric.window":             {"target: 99.9", "target: 99.9, window: 168h"},
	"metric.direction":          {"kind: points,", "kind: points, direction: either,"},
	"metric.increase":           {"kind: points,", "kind: points, increase: 1.5,"},
	"metric.decrease":           {"kind: points,", "kind: points, decrease: 0.5,"},
	"metric.onFail":             {"{name: http-latency}", "{name: http-latency, onFail: pause}"},
	"analysis.alarms":           {"      alarms:\n        - {name: full, query: depth, above: 9}\n", ""},
	"alarm.onFail":              {"above: 9", "above: 9, onFail: pause"},
	"alarm.name":                {"name: full", "name: fuller"},
	"alarm.query":               {"query: depth", "query: height"},
	"alarm.above":               {"above: 9", "above: 8"},
	"alarm.below":               {"above: 9", "above: 9, below: 1"},
	"alarm.for":                 {"above: 9", "above: 9, for: 5m"},
	"metric.max":                {"max: 1", "max: 2"},
	"environment.hooks":         {"      afterTraffic: [{name: last, command: ./last.sh}]\n", ""},
	"environment.synthetic":     {"    synthetic: {rate: 5}\n", ""},
	"hooks.beforeTraffic":       {"      beforeTraffic: [{name: shell, command: {run: ./smoke.sh}}]\n", ""},
	"hooks.afterStep":           {"      afterStep: [{name: shown, browser: {path: /shown}}]\n", ""},
	"hooks.afterTraffic":        {"afterTraffic: [{name: last", "afterTraffic: [{name: end"},
	"environment.shadow":        {"    shadow: {share: 20, bake: 30m}\n", ""},
	"environment.rehearse":      {"    rehearse: {every: 168h}\n", ""},
	"rehearse.every":            {"every: 168h", "every: 24h"},
	"shadow.share":              {"share: 20", "share: 30"},
	"shadow.bake":               {"share: 20, bake: 30m", "share: 20, bake: 31m"},
	"synthetic.rate":            {"{rate: 5}", "{rate: 7}"},
	"synthetic.paths":           {"{rate: 5}", "{rate: 5, paths: [/a]}"},
	"synthetic.count":           {"{rate: 5}", "{rate: 5, count: true}"},
	"check.name":                {"name: smoke", "name: home"},
	"check.http":                {"http: {path: /}", "http: {path: /a}"},
	"check.command":             {"command: ./last.sh", "command: ./other.sh"},
	"check.browser":             {"browser: {path: /shown}", "http: {path: /shown}"},
	"commandCheck.run":          {"run: ./smoke.sh", "run: ./other.sh"},
	"commandCheck.timeout":      {"{run: ./smoke.sh}", "{run: ./smoke.sh, timeout: 2m}"},
	"commandCheck.retries":      {"{run: ./smoke.sh}", "{run: ./smoke.sh, retries: 2}"},
	"browserCheck.path":         {"path: /shown", "path: /seen"},
	"browserCheck.selector":     {"path: /shown", "path: /shown, selector: h1"},
	"browserCheck.text":         {"path: /shown", "path: /shown, text: Welcome"},
	"browserCheck.timeout":      {"path: /shown", "path: /shown, timeout: 10s"},
	"browserCheck.retries":      {"path: /shown", "path: /shown, retries: 0"},

	"browserCheck.failOnConsoleErrors":  {"path: /shown", "path: /shown, failOnConsoleErrors: true"},
	"browserCheck.failOnFailedRequests": {"path: /shown", "path: /shown, failOnFailedRequests: true"},

	"httpCheck.path":     {"http: {path: /}", "http: {path: /b}"},
	"httpCheck.status":   {"http: {path: /}", "http: {path: /, status: 204}"},
	"httpCheck.contains": {"http: {path: /}", "http: {path: /, contains: welcome}"},
	"httpCheck.timeout":  {"http: {path: /}", "http: {path: /, timeout: 1s}"},
	"httpCheck.retries":  {"http: {path: /}", "http: {path: /, retries: 0}"},
}

type object struct {
	Properties map[string]json.RawMessage `json:"properties"`
}

func schemaObjects(t *testing.T) map[string]object {
	t.Helper()
	var schema struct {
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(pipeline.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	return schema.Defs
}

// Nothing is accepted and ignored: each key of the schema changes the
// definition, or is refused by a problem that names it.
func TestEveryKeyIsHonouredOrRefused(t *testing.T) {
	before, problems := parse([]byte(everything))
	if problems.Failed() {
		t.Fatalf("the file is broken:\n%s", problems.Render([]byte(everything), false))
	}
	digest, err := before.Digest()
	if err != nil {
		t.Fatal(err)
	}
	left := maps.Clone(rows)
	refused := 0
	for name, o := range schemaObjects(t) {
		for key, schema := range o.Properties {
			id := name + "." + key
			if strings.Contains(string(schema), `"not"`) {
				refused++
				checkRefusedKey(t, name, key)
				continue
			}
			row, ok := left[id]
			if !ok {
				t.Errorf("%s is in the schema, and no row proves that it does anything", id)
				continue
			}
			delete(left, id)
			// The last place, where it stands in the fullest object.
			i := strings.LastIndex(everything, row[0])
			if i < 0 {
				t.Errorf("%s: %q is not in the file", id, row[0])
				continue
			}
			changed := []byte(everything[:i] + row[1] + everything[i+len(row[0]):])
			after, problems := parse(changed)
			if problems.Failed() {
				last := key[strings.LastIndex(key, ".")+1:]
				if !slices.ContainsFunc(problems, func(p pipeline.Problem) bool {
					return p.Severity == pipeline.Error && (p.Rule == "not-yet" || p.Rule == "version") && strings.HasSuffix(p.Path, last)
				}) {
					t.Errorf("%s: refused otherwise than by name:\n%s", id, problems.Render(changed, false))
				}
				continue
			}
			if got, err := after.Digest(); err != nil || got == digest {
				t.Errorf("%s is accepted and ignored (%v)", id, err)
			}
		}
	}
	for id := range left {
		t.Errorf("%s has a row and is not in the schema", id)
	}
	if refused < 30 {
		t.Errorf("only %d refused keys", refused)
	}
}

// anchors are places of the file where a key of an object can be added.
var anchors = map[string]string{
	"definition": "version: 1\n", "build": "build:\n  ", "step": "    - {", "artifact": "artifact: {", "report": "reports: [{",
	"environment": "    purpose: feedback\n    ", "target": "target: {", "health": "health: {", "gate": "{name: size, ", "approval": "approval: {",
	"rollout": "rollout: {", "analysis": "    analysis:\n      ", "check": "verify: [{", "metric": "        - {",
}

func checkRefusedKey(t *testing.T, object, key string) {
	t.Helper()
	anchor, ok := anchors[object]
	if !ok {
		t.Errorf("%s.%s: no anchor for the object", object, key)
		return
	}
	insert := key + ": x"
	if strings.HasSuffix(anchor, "\n") || strings.HasSuffix(anchor, "  ") {
		insert += "\n" + anchor[strings.LastIndex(anchor, "\n")+1:]
	} else {
		insert += ", "
	}
	src := []byte(strings.Replace(everything, anchor, anchor+insert, 1))
	_, problems := parse(src)
	for _, p := range problems {
		if p.Rule == "not-yet" && p.Severity == pipeline.Error && strings.HasSuffix(p.Path, key) && strings.Contains(p.Message, key) && strings.Contains(p.Message, "this build cannot") && p.Mend != "" {
			return
		}
	}
	t.Errorf("%s.%s is not refused by name:\n%s", object, key, problems.Render(src, false))
}

// Words that Sluice knows and this build cannot do are refused as that, not as
// typing errors.
func TestKnownWordsAreRefusedByName(t *testing.T) {
	for where, words := range map[string][]string{
		"type: host, listen: ':1'|type: %s, listen: ':1'":        {"kubernetes", "ecs", "lambda", "auto-scaling", "api-gateway", "route53", "alb", "elastic-beanstalk", "terraform", "cloudformation", "cdk"},
		"type: files|type: %s":                                   {"image", "lambda-zip", "helm", "manifests", "terraform", "cloudformation", "cdk", "ami"},
		"format: go-test|format: %s":                             {"sarif", "cyclonedx", "spdx", "trivy", "grype", "osv", "openvex", "cobertura", "lcov"},
		"gates: [tests-passed, |gates: [%s, ":                    {"no-vulnerabilities", "change-ticket", "runbook"},
		"{secret: 'file:/a'}}\n  art|{secret: '%s:x#y'}}\n  art": {"vault", "aws", "ssm", "env", "gcp"},
		"name: dlq, kind: limit|name: dlq, kind: %s":             {"alarm", "latency", "logs"},
	} {
		old, pattern, _ := strings.Cut(where, "|")
		for _, w := range words {
			src := []byte(strings.Replace(everything, old, fmt.Sprintf(pattern, w), 1))
			_, problems := parse(src)
			if !slices.ContainsFunc(problems, func(p pipeline.Problem) bool {
				return p.Rule == "not-yet" && p.Severity == pipeline.Error && p.Mend != ""
			}) {
				t.Errorf("%s is not refused by name:\n%s", w, problems.Render(src, false))
			}
		}
	}
}
