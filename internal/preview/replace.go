package preview

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
)

// starting says what preparing starts.
func starting(s rollout.PlanStep, p rollout.Plan) string {
	n := p.Hosts * p.Instances
	switch {
	case n == 0:
		return "start the new release beside the running one, without users"
	case s.Run == 0:
		return "bring the new release to every host and verify it; nothing of it runs yet"
	}
	return fmt.Sprintf("start %s of the new release beside the %d of the running one, without users", pipeline.Instances(s.Run), s.Keep)
}

// replacing says what one half of a batch does.
func replacing(s rollout.PlanStep, p rollout.Plan, weight string) string {
	n := p.Hosts * p.Instances
	switch {
	case s.Moved >= s.Run && p.Worker:
		return fmt.Sprintf("%d of %d instances run it, and take %s of the work", s.Run, n, weight)
	case s.Moved >= s.Run:
		return fmt.Sprintf("move %s of users to it; it has %d of %d instances, the old ones drain and go", weight, s.Run, n)
	case s.Run+s.Keep > n:
		return fmt.Sprintf("start up to %s of the new release beside %d of the old", pipeline.Instances(s.Run), s.Keep)
	}
	if !p.Worker && s.Weight > s.Moved*rollout.FullWeight/n { // a host without any of the old
		return fmt.Sprintf("drain the old release to %s, which leaves %s of users to the new one alone, then start that up to %d", pipeline.Instances(s.Keep), weight, s.Run)
	}
	return fmt.Sprintf("drain the old release to %s, then start the new one up to %d", pipeline.Instances(s.Keep), s.Run)
}

func whose(p rollout.Plan) string {
	if p.Worker {
		return "the work"
	}
	return "users"
}

// moves says who moves users, or work.
func moves(t pipeline.Target, p rollout.Plan) string {
	on := "host " + strings.Join(t.Hosts, "")
	if len(t.Hosts) != 1 {
		on = fmt.Sprintf("each of %d hosts", len(t.Hosts))
	}
	if p.Worker {
		return fmt.Sprintf("the agent on %s, by the number of instances that it runs", on)
	}
	return fmt.Sprintf("the agent's proxy on %s, at %s; weights are read back, and nothing is built on others than those that were set", on, t.Listen)
}

// leaves says when the release before is gone.
func leaves(p rollout.Plan) string {
	switch {
	case !p.Warm():
		return "the old release goes batch by batch, and is gone with its last instance; its files stay on the hosts"
	case p.RetireAfter == 0:
		return "the old release stops when the rollout has succeeded; its files stay on the hosts"
	}
	return fmt.Sprintf("the old release runs on at weight 0 for %s after the rollout, then it stops; its files stay on the hosts", pipeline.Short(p.RetireAfter))
}

// Failing says what a failure does, and which signals do something else.
func Failing(p rollout.Plan) string {
	out := failure(p)
	does := map[string]string{pipeline.Pause: "pauses it until a person resumes", pipeline.Freeze: "freezes it", pipeline.GoBack: "takes it back"}
	for _, name := range slices.Sorted(maps.Keys(p.Actions)) {
		out += fmt.Sprintf(" A fail of %s alone %s.", name, does[p.Actions[name]])
	}
	return out
}

func failure(p rollout.Plan) string {
	when := "At any time, also while paused or held, a failing verdict, health, check or timeout "
	switch {
	case p.OnFail == pipeline.Freeze:
		return when + "freezes it: nothing moves until a person aborts, which moves all users back, or overrides."
	case p.OnFail == pipeline.RollForward:
		return when + "freezes it until the fix takes its place, without going back first; a person may abort, which moves all users back."
	case p.First:
		return when + "takes it out of traffic; users then get 503, as there is nothing to go back to."
	case p.Worker:
		return when + "stops the new instances at once and starts the old ones again; work waits meanwhile."
	case !p.Warm():
		return when + "starts what is missing of the previous release and then moves all users back to it in one step."
	}
	return when + "moves all users back to the previous release in one step."
}
