package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Explanation tells a person in plain sentences where a rollout stands.
type Explanation struct {
	Now  string   `json:"now"`
	Why  string   `json:"why"`            // it waits, or ended so
	Next string   `json:"next"`           // what happens then
	When string   `json:"when,omitempty"` // in bake time, which stops while paused or held
	Can  []Choice `json:"can,omitempty"`  // what you can do
}

// Choice is one thing that a person can do.
type Choice struct {
	Verb string   `json:"verb,omitempty"` // a [CommandKind], [Rollback] or [Run]; empty: advice that no command does
	Args []string `json:"args,omitempty"` // what the verb needs to be meant so; what is to be filled in is in capitals
	Text string   `json:"text"`           // what it does
}

// Verbs of choices that are no commands to a rollout.
const (
	Rollback = "rollback" // of the service, in this environment
	Run      = "run"      // of another version
)

// String is the choice for people.
func (c Choice) String() string {
	if c.Verb == "" {
		return c.Text
	}
	return strings.Join(append([]string{c.Verb}, c.Args...), " ") + ": " + c.Text
}

func do(k CommandKind, text string) Choice { return Choice{Verb: string(k), Text: text} }

func override(text string) Choice {
	return Choice{Verb: string(Advance), Args: []string{"--override", "--reason", "TEXT"}, Text: text}
}

// NextWake returns how much time must pass until a [Tick] would change more than
// counters: the end of a bake, a timeout, a repetition. It is false where only
// something else than time can.
func NextWake(plan Plan, s State) (time.Duration, bool) {
	if s.check(plan) != nil {
		return 0, false
	}
	until := func(at, now time.Duration) time.Duration { return max(at-now, 0) }
	repeat := func(now time.Duration) time.Duration { return repeatEvery - now%repeatEvery }
	switch s.Phase {
	case RollingBack:
		d := repeat(s.Back)
		if !s.Stuck.On {
			d = min(d, until(plan.RollbackTimeout, s.Back))
		}
		return d, true
	case Preparing, Checking, Shifting, Baking, Finishing:
	default:
		return 0, false
	}
	m := &machine{plan: plan, s: s}
	switch {
	case s.Held.Cause == CauseDrift:
		return repeat(s.HeldFor), m.restores()
	case s.Held.On, s.Paused.On:
		return 0, false
	case s.Phase == Baking:
		d := until(m.step().Bake, s.InPhase)
		return d, d > 0 // served: it waits for the routers to be read
	case s.Phase == Shifting && m.lags():
		return min(repeat(s.InPhase), until(plan.Timeout, s.InAction)), true
	}
	return until(plan.Timeout, s.InAction), true
}

// Explain says why a rollout is where it is, what comes next and when, and what
// a person can do.
func Explain(plan Plan, s State) Explanation {
	if err := s.check(plan); err != nil {
		return Explanation{Now: "this build can't read the rollout", Why: err.Error(), Next: "nothing, until a Sluice that can read it runs"}
	}
	m := &machine{plan: plan, s: s}
	if s.Phase.Terminal() {
		return m.explainEnd()
	}
	switch s.Phase {
	case Pending:
		return Explanation{
			Now:  "it has not started",
			Why:  "it waits for its turn",
			Next: m.begins(),
			Can:  []Choice{do(Abort, m.cancels())},
		}
	case RollingBack:
		return m.explainBack()
	}
	x := Explanation{Now: m.now(), Why: m.why(), Next: m.after(), When: m.when()}
	switch {
	case s.Paused.On:
		x.Now = "paused while " + x.Now
		x.Why = "it was paused" + by(s.Paused) + "; a fail verdict or a crash still " + m.willFail()
		x.Can = append(x.Can, do(Resume, "goes on"))
		if s.Frozen != "" {
			x.Now, x.Why = "frozen and "+x.Now, "it failed: "+s.Frozen+"; and it was paused"+by(s.Paused)
		}
	case s.Held.On:
		x.Now = "held while " + x.Now
		if s.Held.Cause == CauseFrozen {
			x.Now = "frozen" + strings.TrimPrefix(x.Now, "held")
		}
		x.Why = s.Held.Reason
		if s.Held.Cause == CauseUnreachable && s.Seen.Missing > 0 && !m.plan.driven() && !m.misplaced() {
			x.Why = unreachable(s.Seen) // the flag keeps the first reason
		}
		x.Can = append(x.Can, m.heldCan()...)
	case m.lame() && (s.Phase != Baking || !m.mayReplace(s.Step+1)):
		x.Can = append(x.Can, override("goes on without what the previous release lacks, which is recorded"))
	case s.Phase == Baking && !m.mayReplace(s.Step+1): // nobody can
	case s.Phase == Baking && m.mayAdvance(false):
		full := Choice{Verb: string(Advance), Args: []string{"--full"}, Text: "goes to 100 % now"}
		if m.plan.counted() {
			full.Text = "takes all batches without their bakes"
		}
		x.Can = append(x.Can, do(Advance, "ends this bake now"), full)
	case s.Phase == Baking:
		x.Can = append(x.Can, override("goes on without a pass, which is recorded"))
	}
	if !s.Paused.On && s.Frozen == "" {
		x.Can = append(x.Can, do(Pause, "stops progress, not the reaction to failures"))
	}
	x.Can = append(x.Can, m.abortCan())
	return x
}

// cancels says what an abort does of what has not started.
func (m *machine) cancels() string {
	if m.plan.Replaces {
		return "cancels it, and moves all users back to the previous release"
	}
	return "cancels it"
}

func (m *machine) heldCan() []Choice {
	switch m.s.Held.Cause {
	case CauseDrift:
		if m.plan.driven() {
			return []Choice{do(Resume, "goes on once "+m.plan.Mover.Name+" is read as it was recorded; Sluice can't put it back")}
		}
		if m.plan.OnDrift == pipeline.DriftHold && !m.s.Resumed {
			return []Choice{do(Resume, "puts it back to what was recorded, and goes on once it is read so")}
		}
		return []Choice{do(Resume, "puts it back again now; it goes on once it is read right")}
	case CauseFrozen:
		out := []Choice{override("takes your word that it is no failure and goes on, which is recorded")}
		if m.mayBeSuperseded() {
			out = append(out, Choice{Verb: Run, Text: "release the fix, which takes its place without going back first"})
		}
		return out
	case CausePlan:
		return []Choice{do(Advance, "takes the next step")}
	case CauseUnreachable:
		if m.plan.driven() || m.misplaced() {
			return nil
		}
	}
	return []Choice{override("goes on without a pass, which is recorded")}
}

func (m *machine) abortCan() Choice {
	switch {
	case m.plan.driven():
		return do(Abort, m.abortDriven())
	case !m.s.Exposed:
		return do(Abort, "removes the candidate; no user was on it")
	case m.plan.First:
		return do(Abort, "takes it out of traffic; users then get 503, as there is nothing to go back to")
	}
	return do(Abort, "moves all users back to the previous release")
}

func (m *machine) now() string {
	s, p := &m.s, m.step()
	switch p.Kind {
	case StepPrepare:
		if m.plan.driven() {
			return "making sure that " + m.plan.Mover.Name + " can be told"
		}
		return "starting the candidate, without users"
	case StepDrive:
		return m.driving()
	case StepShift:
		return "moving the candidate to " + percent(p.Weight) + " of " + m.users()
	case StepReplace:
		return m.replacing()
	case StepCheck:
		return "running " + checks(len(p.Checks)) + " at " + percent(s.Weight)
	case StepBake:
		out := fmt.Sprintf("baking at %s for %s of %s", p.where(), round(s.InPhase), p.Bake)
		if s.Extended > 0 {
			out += ", extended " + times(s.Extended)
		}
		return out
	case StepHold:
		return "waiting at " + percent(s.Weight)
	}
	return "finishing at " + percent(s.Weight)
}

// where says what a bake's candidate sees.
func (s PlanStep) where() string {
	if s.Shadow > 0 {
		return percent(s.Shadow) + " of requests copied, without users"
	}
	return percent(s.Weight)
}

func (m *machine) why() string {
	s, p := &m.s, m.step()
	switch {
	case s.Phase == Baking && s.InPhase >= p.Bake && !m.mayReplace(s.Step+1):
		return m.missingForStep() + ": no more instances are replaced until that is mended"
	case p.Kind == StepBake && !p.Analysis:
		return "the step has its time to serve; nothing is judged in this environment"
	case p.Kind == StepBake && s.Verdict == verdict.Pass:
		return "the judge passes it so far (" + m.said() + "), and a step ends with its bake only"
	case p.Kind == StepBake:
		return "the judge has not passed it so far: " + m.said()
	}
	return m.missingForStep()
}

func (m *machine) after() string {
	s, p := &m.s, m.step()
	follows := "it has succeeded"
	if s.Step+1 < len(m.plan.Steps) {
		switch n := m.plan.Steps[s.Step+1]; n.Kind {
		case StepPrepare:
		case StepDrive:
			follows = m.plan.Mover.Name + " moves " + m.users() + " to the candidate by itself, to " + percent(n.Weight) + " at most"
		case StepShift:
			follows = "the candidate gets " + percent(n.Weight) + " of " + m.users()
		case StepReplace:
			follows = fmt.Sprintf("%d of %d instances run the candidate, with %s of %s", n.Run, m.plan.total(), percent(n.Weight), m.users())
		case StepBake:
			follows = fmt.Sprintf("it bakes for %s at %s", n.Bake, n.where())
		case StepCheck:
			follows = checks(len(n.Checks)) + " must be answered"
		case StepHold:
			follows = "a person must advance it"
		case StepRetire:
			follows = "it is finished; the previous release " + m.plan.stays()
			if m.plan.First || m.plan.driven() || !m.plan.Warm() {
				follows = "it is finished"
			}
		}
	}
	switch {
	case m.s.Frozen != "":
		return "nothing, until a person decides"
	case p.Kind == StepBake && p.Analysis:
		return "on a pass " + follows + "; a fail " + m.willFail() + " at any time"
	case p.Kind == StepHold:
		return "once advanced " + follows
	}
	return "then " + follows
}

func (m *machine) when() string {
	s, p := &m.s, m.step()
	d, ok := NextWake(m.plan, *s)
	switch {
	case s.Paused.On:
		return "when it is resumed"
	case s.Held.On:
		switch s.Held.Cause {
		case CauseDrift:
			if m.plan.driven() && s.Resumed {
				return "when " + m.plan.Mover.Name + " is read as it was recorded, or somebody aborts it"
			}
			if m.plan.OnDrift == pipeline.DriftHold && !s.Resumed {
				return "when somebody resumes or aborts it"
			}
			return "when the router is read back right"
		case CauseFrozen:
			if m.mayBeSuperseded() {
				return "when the fix is released, or somebody overrides or aborts it"
			}
			return "when somebody overrides or aborts it"
		case CauseUnreachable:
			if m.plan.driven() {
				return "when " + m.plan.Mover.Name + " answers"
			}
			if m.misplaced() {
				return "when each host says an address of its own"
			}
			return "when the host is back"
		case CausePlan:
			return "when somebody advances it"
		}
		return "when the judge passes it, or somebody advances it"
	case p.Kind == StepBake && ok:
		return "in " + round(d)
	case p.Kind == StepBake:
		return "as soon as every host reports"
	}
	return fmt.Sprintf("as soon as that is observed; after %s more it "+m.fails(), round(max(m.plan.Timeout-s.InAction, 0)))
}

func (m *machine) explainBack() Explanation {
	s := &m.s
	x := Explanation{
		Now:  fmt.Sprintf("rolling back for %s: %s", round(s.Back), s.Reason),
		Why:  m.missingForBack(),
		Next: "it ends rolled back once every router is read at 0 % and the previous release is ready",
		When: fmt.Sprintf("as soon as that is observed; after %s more it is flagged stuck", round(max(m.plan.RollbackTimeout-s.Back, 0))),
	}
	switch {
	case m.plan.driven():
		x.Next = "it ends rolled back once " + m.plan.Mover.Name + " is observed to have reverted it"
	case s.Aborted && !s.Exposed:
		x.Next = "it ends cancelled once the candidate is removed"
	case !s.Exposed:
		x.Next = "it ends rolled back once the candidate is removed; no user was on it"
	case m.plan.First:
		x.Next = "it ends rolled back once every router is read at 0 %; users then get 503, as there is nothing to go back to"
	}
	if s.Stuck.On {
		x.Now = "stuck " + x.Now
		x.When = fmt.Sprintf("unknown; what is wanted is sent again every %s", repeatEvery)
		x.Can = []Choice{
			{Text: "mend what is missing: the rollback then goes on by itself"},
			{Verb: string(GiveUp), Args: []string{"--reason", "TEXT"}, Text: "leaves the target as it is"},
		}
	}
	return x
}

func (m *machine) explainEnd() Explanation {
	s := &m.s
	x := Explanation{Now: "it has ended: " + string(s.Phase), Why: s.Reason, Next: "nothing follows"}
	switch s.Phase {
	case Succeeded:
		x.Why = "every step was done and observed"
		switch {
		case m.plan.driven():
			x.Next = m.plan.Mover.Name + " keeps of the previous release what it keeps"
			x.Can = []Choice{{Verb: Rollback, Text: "has " + m.plan.Mover.Name + " deploy the previous release"}}
		case m.plan.First:
		case !m.plan.Warm() || m.plan.RetireAfter == 0:
			x.Next = "the previous release has stopped; its files stay on the hosts"
			x.Can = []Choice{{Verb: Rollback, Text: "starts it again, then takes everything back in one step"}}
		default:
			x.Next = "the previous release " + m.plan.stays() + ", then it stops"
			x.Can = []Choice{{Verb: Rollback, Text: "takes all users back in one step"}}
		}
	case Superseded:
		if s.Exposed {
			x.Next = "its share of users goes to the release that took its place"
		}
	case RolledBack:
		if !s.Exposed {
			x.Now += ", before any user was on it"
		}
		x.Can = []Choice{{Verb: Run, Text: "release the mended version"}}
	case RollbackFailed:
		x.Can = []Choice{{Text: "look at the target: it was left as it was"}, {Verb: Run, Text: "release another version"}}
	}
	return x
}

// willFail says what a failure does.
func (m *machine) willFail() string {
	switch m.plan.OnFail {
	case pipeline.Freeze:
		return "freezes it"
	case pipeline.RollForward:
		return "freezes it for the fix to take its place"
	}
	return "rolls it back"
}

func (m *machine) fails() string {
	if m.plan.OnFail == "" {
		return "rolls back"
	}
	return "freezes"
}

// users are what a weight is a share of.
func (m *machine) users() string {
	if m.plan.Worker {
		return "the work"
	}
	return "users"
}

// replacing says which half of a batch is under way.
func (m *machine) replacing() string {
	p, n := m.step(), m.plan.total()
	if p.begins() && p.Keep+p.Run <= n {
		return fmt.Sprintf("draining the previous release to %d of %d instances and starting the candidate on %d", p.Keep, n, p.Run)
	}
	if p.begins() {
		return fmt.Sprintf("starting the candidate on %d of %d instances, beside %d of the previous release", p.Run, n, p.Keep)
	}
	return fmt.Sprintf("moving %s of %s to the candidate's %d of %d instances", percent(p.Weight), m.users(), p.Run, n)
}

// Warm reports whether the previous release still runs when the plan has ended.
func (p Plan) Warm() bool {
	if !p.counted() {
		return true
	}
	for i := len(p.Steps) - 1; i > 0; i-- {
		if p.Steps[i].places() {
			return p.Steps[i].Keep == p.total()
		}
	}
	return true
}

// stays says what becomes of a previous release that runs beside the candidate to
// the end.
func (p Plan) stays() string {
	if p.RetireAfter == 0 {
		return "stops"
	}
	return "stays warm for " + p.RetireAfter.String()
}

func round(d time.Duration) string {
	if d > time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(time.Millisecond).String()
}

func checks(n int) string {
	if n == 1 {
		return "1 check"
	}
	return fmt.Sprintf("%d checks", n)
}
