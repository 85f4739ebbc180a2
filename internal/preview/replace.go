package preview

import (
	"fmt"

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
	return fmt.Sprintf("start %s of the new release beside the %d of the running one, without users", instances(s.Run), s.Keep)
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
		return fmt.Sprintf("start up to %s of the new release beside %d of the old", instances(s.Run), s.Keep)
	}
	return fmt.Sprintf("drain the old release to %s, then start the new one up to %d", instances(s.Keep), s.Run)
}

func instances(n int) string {
	if n == 1 {
		return "1 instance"
	}
	return fmt.Sprintf("%d instances", n)
}

func whose(p rollout.Plan) string {
	if p.Worker {
		return "the work"
	}
	return "users"
}
