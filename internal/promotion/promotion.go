// Package promotion decides which release may enter which environment. It is
// pure; control calls it inside the transaction that promotes, so that what was
// decided on is what is true when the promotion is written.
package promotion

import (
	"fmt"
	"slices"

	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/pipeline"
)

// Facts are what a promotion is decided on.
type Facts struct {
	gate.Facts
	Quarantine string                // why the release is quarantined; "" if it is not
	WayBack    gate.Decision         // whether what runs there could be brought back
	Drills     map[string]gate.Drill // the last rehearsal by environment, where a gate asks for one
}

// WayBack is the gate that lets nothing in where the way back is not proven.
const WayBack = pipeline.WayBack

// Decide asks every gate of env, in order, also after one failed: an operator
// wants to see all that is missing.
func Decide(env pipeline.Environment, f Facts) []gate.Decision {
	var out []gate.Decision
	for _, a := range env.After {
		d := gate.Decision{Gate: "after:" + a, Answer: gate.Fail, Reason: fmt.Sprintf("this release has not succeeded in %s", a)}
		if slices.Contains(f.Passed, a) {
			d.Answer, d.Reason = gate.Pass, fmt.Sprintf("this release succeeded in %s", a)
		}
		out = append(out, d)
	}
	q := gate.Decision{Gate: pipeline.NotQuarantined, Answer: gate.Pass, Reason: "the release was not rolled back before"}
	if f.Quarantine != "" {
		q.Answer = gate.Fail
		q.Reason = fmt.Sprintf("the release is quarantined: %s; lift it with `sluice quarantine lift %s --reason …` if it is safe, or ship a fix", f.Quarantine, f.Release.Short())
	}
	out = append(out, q)
	if f.WayBack.Gate != "" {
		out = append(out, f.WayBack)
	}
	for _, g := range env.Gates {
		switch {
		case g.CEL != "":
			out = append(out, gate.CEL(g.Name, g.CEL, f.Facts))
		case g.Within > 0:
			where := g.Env
			if where == "" {
				where = env.Name
			}
			out = append(out, gate.Rehearsed(g.Name, f.Service, where, g.Within, f.Drills[where]))
		case g.Name == "tests-passed":
			out = append(out, gate.TestsPassed(f.Facts))
		default:
			out = append(out, gate.Decision{Gate: g.Name, Answer: gate.Fail, Reason: "this build knows no gate " + g.Name})
		}
	}
	return out
}

// Blocked returns the first decision that is not a pass, or false.
func Blocked(ds []gate.Decision) (gate.Decision, bool) {
	for _, d := range ds {
		if d.Answer != gate.Pass {
			return d, true
		}
	}
	return gate.Decision{}, false
}
