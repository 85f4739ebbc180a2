package control

import (
	"context"
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Explanation answers, for whatever waits: why, what is next, when, and what
// can be done.
type Explanation struct {
	Run         string   `json:"run"`
	State       string   `json:"state"`
	Environment string   `json:"environment,omitempty"`
	Now         string   `json:"now"`
	Why         string   `json:"why"`
	Next        string   `json:"next"`
	When        string   `json:"when"`
	Choices     []Choice `json:"choices"` // what you can do
	Can         []string `json:"can"`     // the same in lines, for readers of the first API

	Forecast *preview.Bake `json:"forecast,omitempty"` // of the bake that runs
}

// Choice is one thing that a person can do.
type Choice struct {
	Command string   `json:"command,omitempty"` // verb of the command line; "": advice that no command does
	Argv    []string `json:"argv,omitempty"`    // the whole command; what is to be filled in is in capitals
	Text    string   `json:"text"`              // what it does
}

// Line is the choice as it can be typed.
func (c Choice) Line() string { return strings.Join(c.Argv, " ") }

// lines fills in the choices as lines.
func (x *Explanation) lines() {
	x.Can = []string{}
	for _, c := range x.Choices {
		switch {
		case c.Command == "":
			x.Can = append(x.Can, c.Text)
		case c.Text == "":
			x.Can = append(x.Can, c.Line())
		default:
			x.Can = append(x.Can, c.Line()+"   "+c.Text)
		}
	}
}

func choice(text string, argv ...string) Choice {
	return Choice{Command: argv[0], Argv: append([]string{"sluice"}, argv...), Text: text}
}

// Explain answers for a run.
func (c *Controller) Explain(ctx context.Context, project, id string) (Explanation, error) {
	var x Explanation
	err := c.store.View(ctx, func(tx *store.Tx) error {
		t, err := c.readRun(tx, project, id)
		if err != nil {
			return err
		}
		x, err = t.explain()
		return err
	})
	x.lines()
	return x, err
}

func (t *runTurn) explain() (Explanation, error) {
	x := Explanation{Run: t.row.ID, State: string(t.state.Outcome), Choices: []Choice{}}
	id := t.row.ID
	action, i := run.Next(t.state)
	switch action {
	case run.ActBuild:
		x.Now, x.Why = "the build runs", "its steps have not all ended"
		x.Next, x.When = "the artifact is packed once, and gates are asked", "when all steps succeeded"
		if t.state.Phase == run.Queued {
			x.Now, x.Why = "the build waits for its turn", "others build now"
		}
		x.Choices = []Choice{choice("shows what the steps write", "logs", id), choice("stops the build; nothing that users see has changed", "abort", id)}
		for _, s := range t.state.Steps {
			if s.State == "running" {
				x.Why = "step " + s.Name + " is running"
			}
		}
	case run.ActPromote:
		e := t.state.Environments[i]
		x.Environment, x.Now = e.Name, "the release is on its way into "+e.Name
		x.Why = e.WaitingFor
		x.Next, x.When = "the rollout starts", "when it is no longer waited for"
		stop := choice("ends this run; nothing that users see has changed", "abort", id)
		x.Choices = []Choice{stop}
		switch {
		case t.state.Cancel != "":
			x.Now, x.Why, x.Next, x.When, x.Choices = "the run is being ended", t.state.Cancel, "it ends cancelled", "now", []Choice{}
		case e.Queued:
			err := t.explainQueue(&x, e)
			return x, err
		case e.Packet != "":
			said, err := t.decision(e)
			if err != nil {
				return x, err
			}
			if said != "" {
				x.Now, x.Why, x.Next, x.When = "the packet of "+e.Name+" was decided on", said, "the run takes the decision", "now"
				return x, nil
			}
			x.Now = "the release waits for approval before it enters " + e.Name
			x.Next = "the rollout starts as soon as the packet is approved"
			x.When = "at once after the decision"
			x.Choices = []Choice{
				choice("lets it in, having seen its packet", "approve", id, "--env", e.Name),
				choice("keeps it out", "reject", id, "--env", e.Name, "--comment", "TEXT"),
				stop,
			}
		}
	case run.ActAwait:
		e := t.state.Environments[i]
		ro, err := t.c.openTurn(t.tx, t.row.Project, e.Rollout)
		if err != nil {
			return x, err
		}
		x.Environment = e.Name
		ro.explain(&x)
		if f, err := ro.forecast(); err != nil {
			return x, err
		} else if f != nil && f.Running != nil {
			x.Forecast = f
		}
		if ro.plan.Drill {
			x.Now = "rehearsing a rollback: " + x.Now
			if len(e.Legs) == 0 {
				x.Next += "; then it goes forward again"
			}
		}
	default:
		t.explainEnd(&x)
		if err := t.explainStrayed(&x); err != nil {
			return x, err
		}
	}
	return x, nil
}

// explain tells where a rollout stands.
func (t *turn) explain(x *Explanation) {
	state := t.state
	if now := t.watch.Result; now.Sentence != "" && now.Verdict == state.Verdict {
		state.Sentence = now.Sentence // the rollout noted the numbers of the last change
	}
	r := rollout.Explain(t.plan.Plan, state)
	x.Now, x.Why, x.Next, x.When = r.Now, r.Why, r.Next+withoutPass(t.plan.Plan, state), r.When
	for _, can := range r.Can {
		x.Choices = append(x.Choices, choiceOf(can, t.row))
	}
}

// choiceOf makes what a rollout can be told a command of the command line.
func choiceOf(can rollout.Choice, row store.Rollout) Choice {
	argv := []string{can.Verb}
	switch can.Verb {
	case "":
		return Choice{Text: can.Text}
	case rollout.Run:
	case rollout.Rollback:
		argv = append(argv, row.Service, "--env", row.Environment)
	case string(rollout.GiveUp):
		argv = append(argv, row.Run)
	default:
		argv = append(argv, row.Run, "--env", row.Environment)
	}
	return choice(can.Text, append(argv, can.Args...)...)
}

// withoutPass says what the end of a bake brings if the judge answers as it does now.
func withoutPass(p rollout.Plan, s rollout.State) string {
	if s.Phase != rollout.Baking || s.Paused.On || s.Held.On || s.Frozen != "" || !p.Steps[s.Step].Analysis {
		return ""
	}
	on, answer := p.OnNoData, "without data"
	switch s.Verdict {
	case verdict.Pass, verdict.Fail:
		return ""
	case verdict.Inconclusive:
		on, answer = p.OnInconclusive, "undecided"
	}
	left := p.MaxExtend - s.Extended
	if on != rollout.Extend || left <= 0 {
		return "; " + answer + " it is held at the bake's end"
	}
	times := "once more"
	if left > 1 {
		times = fmt.Sprintf("up to %d times more", left)
	}
	return "; " + answer + " it bakes " + times + ", and is then held"
}

// explainQueue tells whom a run waits for, and how far that one is.
func (t *runTurn) explainQueue(x *Explanation, e run.Environment) error {
	q, err := t.queueStatus(e)
	if err != nil || q == nil {
		return err
	}
	x.Now = fmt.Sprintf("the release waits for its turn in %s: place %d in the queue", e.Name, q.Position)
	x.Next = "its gates are asked again, and its rollout starts"
	x.When = "when it is its turn"
	if len(q.Before) > 0 {
		x.When = "after run " + strings.Join(q.Before, " and run ")
	}
	if q.Behind == "" {
		return nil
	}
	live, busy, err := t.tx.LiveRollout(release.Key{Project: t.row.Project, Service: t.row.Service, Environment: e.Name})
	if err != nil || !busy {
		return err
	}
	ro, err := t.c.turnOf(t.tx, live)
	if err != nil {
		return err
	}
	var other Explanation
	ro.explain(&other)
	x.Why = fmt.Sprintf("%s. Run %s is %s", x.Why, live.Run, other.Now)
	x.When = fmt.Sprintf("when run %s has ended", live.Run)
	if len(q.Before) > 0 {
		x.When += ", and after run " + strings.Join(q.Before, " and run ")
	}
	if other.When != "" {
		x.When += fmt.Sprintf("; run %s takes its next step %s", live.Run, other.When)
	}
	x.Choices = append(x.Choices, choice("says what the one before it waits for", "explain", live.Run))
	return nil
}

func (t *runTurn) explainEnd(x *Explanation) {
	x.Now = fmt.Sprintf("the run has ended: %s", t.state.Outcome)
	x.Why = t.state.Reason
	x.Next = "nothing happens by itself any more"
	fix := choice("ships a fix", "run")
	switch t.state.Outcome {
	case run.RolledBack:
		x.Choices = []Choice{fix}
		if t.state.Release != "" && (t.row.Kind == run.KindRun || t.row.Kind == run.KindPromote) {
			x.Choices = append(x.Choices, choice("lifts the quarantine, if the release is safe after all", "quarantine", "lift", t.state.Release.Short(), "--reason", "TEXT"))
		}
	case run.RollbackFailed:
		x.Next = "nothing happens by itself any more: the target was left as it was when the rollback was given up"
		x.Choices = []Choice{{Text: "look at the target: users may still be on the bad release"}, fix}
	case run.Succeeded:
		if n := len(t.state.Environments); n > 0 && t.row.Kind != run.KindRehearse {
			e := t.state.Environments[n-1]
			if e.Previous != "" && t.row.Kind != run.KindRollback {
				x.Choices = []Choice{choice("takes all users back to the release before, in one step", "rollback", t.row.Service, "--env", e.Name)}
			}
		}
	case run.Cancelled, run.Superseded, run.Failed:
		x.Choices = []Choice{fix}
		if t.state.Release != "" && t.row.Kind != run.KindRehearse && t.row.Kind != run.KindRollback {
			for _, e := range t.state.Environments {
				if e.State == t.state.Outcome {
					x.Choices = append(x.Choices, choice("takes this release there once more, without a new build", "promote", t.state.Release.Short(), "--env", e.Name))
				}
			}
		}
	}
}
