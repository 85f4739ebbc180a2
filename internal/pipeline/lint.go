package pipeline

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Lint returns what is allowed and probably a mistake, as warnings, and what is
// a choice worth knowing of, as notes. The definition must be valid; positions
// may be nil, then every problem stands at 1:1. Parse calls it.
func Lint(d Definition, positions Positions) Problems {
	l := &linter{def: d, positions: positions, gated: map[string]bool{}, commands: map[string][]hit{}}
	for _, e := range d.Environments {
		l.gated[e.Name] = slices.ContainsFunc(e.Gates, func(g Gate) bool { return g.Name == TestsPassed })
	}
	for i, s := range d.Build.Steps {
		l.step(fmt.Sprintf("build.steps[%d]", i), s)
	}
	for i, e := range d.Environments {
		at := fmt.Sprintf("environments[%d]", i)
		l.environment(at, e)
		if Production(d, e.Name) {
			l.production(at, e)
		}
	}
	l.problems.sort()
	return l.problems
}

type linter struct {
	def       Definition
	positions Positions
	problems  Problems

	gated    map[string]bool  // environments with gate tests-passed
	commands map[string][]hit // by command line: aliases may repeat a long one
}

// hit is where a command line breaks a rule.
type hit struct {
	rule     *commandRule
	from, to int
}

func (l *linter) add(pos Position, path string, s Severity, rule, message, mend string) {
	l.problems = append(l.problems, Problem{Line: pos.Line, Column: pos.Column, Path: path, Severity: s, Rule: rule, Message: message, Mend: mend})
}

func (l *linter) warn(path, rule, message, mend string) {
	l.add(l.positions.Value(path), path, Warning, rule, message, mend)
}

// step holds the rules of one build step.
func (l *linter) step(at string, s Step) {
	l.cheapFirst(at, s)
	l.command(at+".run", s.Run, true)
	l.variables(at+".env", s.Env)
	if slices.Contains([]Kind{"unit", "component", "integration", "contract", "e2e"}, s.Kind) && len(s.Reports) == 0 {
		l.warn(at+".name", "no-report", fmt.Sprintf("step %s runs tests and reports nothing: its result is no evidence", s.Name),
			"write a report and name it: reports: [{format: go-test, path: "+s.Name+".json}]")
	}
}

// cheapFirst warns of a cheap step that waits for an expensive one. Custom
// steps have no place in the order.
func (l *linter) cheapFirst(at string, s Step) {
	rank := func(k Kind) int { return slices.Index(Kinds, k) }
	for i, n := range s.Needs {
		j := slices.IndexFunc(l.def.Build.Steps, func(o Step) bool { return o.Name == n })
		if j < 0 {
			continue
		}
		need := l.def.Build.Steps[j]
		if s.Kind == "custom" || need.Kind == "custom" || rank(s.Kind) < 0 || rank(need.Kind) <= rank(s.Kind) {
			continue
		}
		l.warn(fmt.Sprintf("%s.needs[%d]", at, i), "cheap-first", fmt.Sprintf("step %s (%s) waits for %s (%s), which is the more expensive kind", s.Name, s.Kind, need.Name, need.Kind),
			"run cheap checks first, so that they fail fast: remove the need, or turn it round")
	}
}

// secretName matches variables whose value is a secret more often than not.
var secretName = regexp.MustCompile(`(?i)(^|_)(password|passwd|secret|token|api_?key|private_?key|credentials?)$`)

func (l *linter) variables(at string, env map[string]Value) {
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if v := env[k]; v.Plain != "" && secretName.MatchString(k) {
			l.warn(at+"."+k, "plain-secret", fmt.Sprintf("variable %s looks like a secret and stands here in plain text", clip(k)), "put it into a file of mode 0600 and write {secret: 'file:PATH'}; then change the secret, since it was in the repository")
		}
	}
}

// commandRule is something in a command line that is probably a mistake.
type commandRule struct {
	rule, message, mend string
	buildOnly           bool
	pattern             *regexp.Regexp
}

var commandRules = []commandRule{
	{"floating-tag", "%s can be another version tomorrow", "name a version: @v1.2.3, and let a lock file or go.sum hold its digest", false,
		regexp.MustCompile(`\b(?:go (?:install|run|get)|npx|npm (?:install|i|exec)|pnpm (?:add|dlx)|yarn (?:add|dlx))\b[^\n;&|]*?(\S+@(?:latest|next|master|main|HEAD))(?:\s|$)`)},
	{"floating-tag", "%s can be another image tomorrow", "name the image by digest: @sha256:…", false,
		regexp.MustCompile(`\b(?:docker|podman|nerdctl|crane|skopeo)\b[^\n;&|]*?([^\s=]+:latest)(?:\s|$)`)},
	{"pipe-to-shell", "%s runs whatever that server answers today", "download a version, check its digest, then run it; or vendor the script", false,
		regexp.MustCompile(`\b((?:curl|wget)\b[^\n;&|]*\|\s*(?:sudo\s+)?(?:env\s+\S+\s+)*(?:/\S*/)?(?:ba|da|z|k)?sh)\b`)},
	{"deploy-in-build", "%s deploys from a build step: nothing gates it, watches it or takes it back", "let an environment's target deploy; a build step only makes the artifact", true,
		regexp.MustCompile(`\b(kubectl (?:\S+ )*?(?:apply|create|replace|patch|set image|rollout)|helm (?:\S+ )*?(?:upgrade|install)|terraform (?:\S+ )*?(?:apply|destroy)|tofu (?:\S+ )*?apply|pulumi up|cdk deploy|sam deploy|serverless deploy|ansible-playbook|gcloud (?:run|app|functions) deploy|fly(?:ctl)? deploy|cap \S+ deploy|docker (?:compose|stack) (?:up|deploy)|systemctl (?:restart|start|reload)|aws (?:\S+ )*?(?:deploy|create-deployment|update-service|update-function-code|update-alias|publish-version|update-stack|create-stack|execute-change-set|start-instance-refresh))(?:\s|$)`)},
}

// command holds the rules of one command line.
func (l *linter) command(at, run string, build bool) {
	hits, known := l.commands[run]
	if !known {
		for i := range commandRules {
			r := &commandRules[i]
			for _, m := range r.pattern.FindAllStringSubmatchIndex(run, 8) {
				hits = append(hits, hit{r, m[2], m[3]})
			}
		}
		l.commands[run] = hits
	}
	for _, h := range hits {
		if build || !h.rule.buildOnly {
			l.add(l.inText(at, run, h.from), at, Warning, h.rule.rule, fmt.Sprintf(h.rule.message, clip(run[h.from:h.to])), h.rule.mend)
		}
	}
}

// inText returns where an offset of a text stands. In a block each line of the
// text is a line of the file; elsewhere the value's beginning has to do.
func (l *linter) inText(at, s string, offset int) Position {
	pos := l.positions.Value(at)
	if place, ok := l.positions[at]; ok && place.literal {
		before := s[:offset]
		line := strings.Count(before, "\n")
		start := strings.LastIndex(before, "\n") + 1
		return Position{pos.Line + 1 + line, place.indent + len([]rune(before[start:])) + 1}
	}
	return pos
}

// environment holds the rules of every environment.
func (l *linter) environment(at string, e Environment) {
	l.command(at+".target.run", e.Target.Run, false)
	l.variables(at+".target.env", e.Target.Env)
	l.replacement(at, e)
	if e.Target.Health.HTTP == "" && !e.Target.Worker() {
		where := at + ".target.health"
		if !l.positions.Has(where) {
			where = at + ".target.type"
		}
		l.warn(where, "no-health", fmt.Sprintf("environment %s counts an instance as well as soon as it accepts a connection", e.Name), "answer on a path, and name it: health: {http: /healthz}")
	}
	if l.gated[e.Name] &&
		!slices.ContainsFunc(l.def.Build.Steps, func(s Step) bool { return len(s.Reports) > 0 }) {
		l.warn(at+".gates", "gate-without-reports", "gate tests-passed can never hold: no step of the build reports its tests", "name the reports of the steps that run tests")
	}
	l.signals(at, e)
	for i, m := range e.Analysis.Metrics {
		where := fmt.Sprintf("%s.analysis.metrics[%d]", at, i)
		if (m.Kind == Limit || m.Kind == SLO) && e.Target.Metrics == nil {
			l.warn(where, "no-metrics", fmt.Sprintf("metric %s has no source in this file: the instances are not scraped", m.Name), "say where they answer: target: {metrics: {path: /metrics}}, unless another service's metrics are meant")
		}
	}
	if least := LeastBin(e.Analysis); e.Analysis.Bin < least {
		l.warn(at+".analysis.bin", "bin-below-scrape", fmt.Sprintf("bins of %s are shorter than two scrapes of a second: metrics from queries will have holes", Short(e.Analysis.Bin)), "write bin: "+Short(least)+" or longer")
	}
}

// production holds the rules for production; doc.go says what that is.
func (l *linter) production(at string, e Environment) {
	name := at + ".name"
	if e.Rollout.Strategy == AllAtOnce {
		where := at + ".rollout"
		if !l.positions.Has(where) {
			where = name
		}
		l.warn(where, "all-at-once", fmt.Sprintf("%s exposes every user to a new release at once", e.Name), "write rollout: canary, which begins with 5 % and judges it; `sluice advise` weighs what suits the service")
	}
	if len(e.Analysis.Metrics) == 0 {
		mend := "use a canary, or write analysis: {metrics: [http-errors]} and a bake"
		if e.Target.Worker() {
			mend = "bake, and judge it on its own metrics: analysis: {metrics: [" + failedWork + "]}"
		}
		l.warn(name, "no-analysis", fmt.Sprintf("nothing is judged in %s: a bad release stays until a person sees it", e.Name), mend)
	}
	l.alarmSet(at, e)
	if len(e.Verify) == 0 {
		mend := "ask a path that users need: verify: [{name: smoke, http: {path: /}}]"
		if e.Target.Worker() { // it has no address to ask
			mend = "see that work gets done: verify: [{name: smoke, command: ./check.sh}]"
		}
		l.warn(name, "no-verify", fmt.Sprintf("nothing verifies %s after the rollout", e.Name), mend)
	}
	if path, err := Path(l.def, e.Name); err == nil {
		if !slices.ContainsFunc(path, func(n string) bool { return l.gated[n] }) {
			l.warn(name, "no-tests-gate", fmt.Sprintf("a release reaches %s without a gate on its tests", e.Name), "write gates: ["+TestsPassed+"]")
		}
		if len(path) == 1 && len(l.def.Environments) > 1 {
			l.warn(name, "no-path", fmt.Sprintf("a release enters %s without having run anywhere before", e.Name), "write after: [the environment before]")
		}
	}
	if e.Rehearse != nil {
		l.warn(at+".rehearse", "rehearsal-in-production", fmt.Sprintf("every %s all users of %s get the previous release for a while, with nobody watching", Short(e.Rehearse.Every), e.Name), "rehearse in an environment before it, and ask for that here: gates: [{name: rehearsed, within: 168h, env: staging}]")
	}
	if e.Approval == nil {
		l.add(l.positions.Value(name), name, Note, "no-approval", fmt.Sprintf("no person is asked before a release enters %s", e.Name), "write approval: {} where somebody should decide on the evidence")
	}
}
