package gate

import (
	"fmt"
	"math"
	"sync"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/sluicehq/sluice/internal/release"
)

// Answer is what a gate says. The zero value is not a pass.
type Answer string

// The answers.
const (
	Pass    Answer = "pass"
	Fail    Answer = "fail"
	Waiting Answer = "waiting"
)

// Decision is one gate's answer, kept as evidence.
type Decision struct {
	Gate   string `json:"gate"`
	Answer Answer `json:"answer"`
	Reason string `json:"reason"`
}

// Tests sums up the test reports of a release's build.
type Tests struct {
	Reports int `json:"reports"`
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
}

// Facts are what gates may ask about. Only what is proven by a signed statement
// belongs here.
type Facts struct {
	Project     string
	Service     string
	Environment string
	Commit      string
	Release     release.ID
	Previous    release.ID // running in the environment; "" before the first
	Artifacts   []release.Artifact
	Tests       Tests
	Passed      []string // environments that this very release succeeded in
	Isolation   string   // of the build: namespaces, none
}

// costLimit bounds one evaluation, in CEL cost units.
const costLimit = 1_000_000

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("artifact", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("artifacts", cel.ListType(cel.MapType(cel.StringType, cel.DynType))),
		cel.Variable("tests", cel.MapType(cel.StringType, cel.IntType)),
		cel.Variable("release", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("environment", cel.StringType),
		cel.Variable("service", cel.StringType),
		cel.Variable("passed", cel.ListType(cel.StringType)),
		cel.Variable("build", cel.MapType(cel.StringType, cel.StringType)),
	)
})

// Check reports whether expr is a CEL expression over the facts that yields true
// or false.
func Check(expr string) error {
	_, err := program(expr)
	return err
}

func program(expr string) (cel.Program, error) {
	if len(expr) > 4096 {
		return nil, fmt.Errorf("expression has %d characters, at most 4096 are allowed", len(expr))
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("couldn't prepare CEL: %w", err)
	}
	ast, iss := env.Compile(expr)
	if err := iss.Err(); err != nil {
		return nil, err
	}
	if t := ast.OutputType(); t != cel.BoolType && t != cel.DynType {
		return nil, fmt.Errorf("expression yields %s, a gate needs true or false", t)
	}
	p, err := env.Program(ast, cel.CostLimit(costLimit), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("couldn't prepare the expression: %w", err)
	}
	return p, nil
}

// CEL decides one expression.
func CEL(name, expr string, f Facts) Decision {
	d := Decision{Gate: name, Answer: Fail}
	p, err := program(expr)
	if err != nil {
		d.Reason = fmt.Sprintf("%s is not usable: %v", expr, err)
		return d
	}
	arts := make([]any, 0, len(f.Artifacts))
	for _, a := range f.Artifacts {
		arts = append(arts, map[string]any{"name": a.Name, "type": a.Type, "digest": string(a.Digest), "size": a.Size})
	}
	first := map[string]any{}
	if len(arts) > 0 {
		first = arts[0].(map[string]any)
	}
	passed := f.Passed
	if passed == nil {
		passed = []string{}
	}
	out, _, err := p.Eval(map[string]any{
		"artifact": first, "artifacts": arts,
		"tests":       map[string]int64{"reports": int64(f.Tests.Reports), "passed": int64(f.Tests.Passed), "failed": int64(f.Tests.Failed), "skipped": int64(f.Tests.Skipped)},
		"release":     map[string]string{"id": string(f.Release), "commit": f.Commit, "previous": string(f.Previous)},
		"environment": f.Environment, "service": f.Service, "passed": passed,
		"build": map[string]string{"isolation": f.Isolation},
	})
	if err != nil {
		d.Reason = fmt.Sprintf("%s could not be decided: %v; a fact that is missing is never a pass", expr, err)
		return d
	}
	if ok, isBool := out.Value().(bool); isBool && ok {
		return Decision{Gate: name, Answer: Pass, Reason: expr + " holds"}
	} else if !isBool {
		d.Reason = fmt.Sprintf("%s yielded %v, a gate needs true or false", expr, out.Value())
		return d
	}
	d.Reason = fmt.Sprintf("%s does not hold (artifact.size = %s, tests = %d passed, %d failed)", expr, size(f.Artifacts), f.Tests.Passed, f.Tests.Failed)
	return d
}

func size(as []release.Artifact) string {
	var n int64
	for _, a := range as {
		if a.Size > math.MaxInt64-n {
			return "very large"
		}
		n += a.Size
	}
	return fmt.Sprint(n)
}

func tests(n int) string {
	if n == 1 {
		return "1 test"
	}
	return fmt.Sprintf("%d tests", n)
}

// Drill is the last rehearsal of a rollback in an environment.
type Drill struct {
	Run       string // that did it; "" if none was ever done
	Succeeded bool
	At        string        // for people
	Age       time.Duration // since it ended
	Back, On  time.Duration // going back, and forward again
}

// Rehearsed decides the built-in gate that demands a rollback to have been
// rehearsed lately. Its reason changes only with the rehearsal and the answer, so
// that what was shown to an approver stays the same meanwhile.
func Rehearsed(name, service, env string, within time.Duration, d Drill) Decision {
	out := Decision{Gate: name, Answer: Fail}
	do := fmt.Sprintf("; do it with `sluice rehearse %s --env %s`", service, env)
	switch {
	case d.Run == "":
		out.Reason = fmt.Sprintf("no rollback was ever rehearsed in %s, and one within %s is asked for", env, within) + do
	case !d.Succeeded:
		out.Reason = fmt.Sprintf("the last rehearsal of a rollback in %s failed (run %s, %s)", env, d.Run, d.At) + do
	case d.Age > within:
		out.Reason = fmt.Sprintf("the last rehearsal of a rollback in %s (run %s, %s) is longer ago than %s", env, d.Run, d.At, within) + do
	default:
		out.Answer, out.Reason = Pass, fmt.Sprintf("a rollback in %s was rehearsed %s (run %s): back in %s", env, d.At, d.Run, d.Back.Round(100*time.Millisecond))
	}
	return out
}

// TestsPassed decides the built-in gate of that name: at least one report, at
// least one test that passed, and none that failed.
func TestsPassed(f Facts) Decision {
	d := Decision{Gate: "tests-passed", Answer: Fail}
	switch {
	case f.Tests.Reports == 0:
		d.Reason = "no test report is among the evidence: add reports to a step of kind unit"
	case f.Tests.Failed > 0:
		d.Reason = fmt.Sprintf("%d of %d tests failed", f.Tests.Failed, f.Tests.Failed+f.Tests.Passed)
	case f.Tests.Passed == 0:
		d.Reason = fmt.Sprintf("%d reports hold no test that passed", f.Tests.Reports)
	default:
		d.Answer, d.Reason = Pass, fmt.Sprintf("%s passed, %d skipped", tests(f.Tests.Passed), f.Tests.Skipped)
	}
	return d
}
