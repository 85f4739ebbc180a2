package rollout

import (
	"slices"
	"strings"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/verdict"
)

// Actions are what a fail of a single signal does: [pipeline.GoBack],
// [pipeline.Freeze] or [pipeline.Pause], by the name that the judge has for it.
type Actions map[string]string

// actions are all of them, the weakest first.
var actions = []string{pipeline.Pause, pipeline.Freeze, pipeline.GoBack}

// on is what a fail of these signals does: the strongest that one of them asks for.
// What names none is left to OnFail; empty is to go back.
func (p Plan) on(failed []string) string {
	rank := func(action string) int {
		switch action {
		case "":
			return len(actions)
		case pipeline.RollForward:
			return slices.Index(actions, pipeline.Freeze)
		}
		return slices.Index(actions, action)
	}
	if len(failed) == 0 {
		return p.OnFail
	}
	out := pipeline.Pause
	for _, name := range failed {
		own, named := p.Actions[name]
		switch {
		case !named:
			own = p.OnFail
		case own == pipeline.GoBack:
			own = ""
		}
		if rank(own) > rank(out) {
			out = own
		}
	}
	return out
}

// signals is a list of names as a state keeps it.
func signals(names []string) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(names))), ", ")
}

// open are the signals of a fail that no person took for no failure.
func (s State) open(j Judged) []string {
	waived := strings.Split(s.Waived, ", ")
	return slices.DeleteFunc(slices.Clone(j.Failed), func(name string) bool { return slices.Contains(waived, name) })
}

// Heard reports whether s was told of j already, so that to deliver it would change
// nothing that matters.
func (s State) Heard(j Judged) bool {
	if j.Verdict == verdict.Fail && len(j.Failed) > 0 && len(s.open(j)) == 0 {
		return true
	}
	return j.Verdict == s.Verdict && signals(j.Failed) == s.Failing && (!s.Held.On || j.Sentence == s.Sentence)
}

// failed takes a fail of the judge, unless a person took all of it for none.
func (m *machine) failed(j Judged) {
	s := &m.s
	open := s.open(j)
	if len(j.Failed) > 0 && len(open) == 0 {
		return
	}
	s.Verdict, s.Sentence, s.Failing = j.Verdict, j.Sentence, signals(j.Failed)
	m.act(m.plan.on(open), "the judge failed it: "+j.Sentence)
}

// act takes a safe action.
func (m *machine) act(action, reason string) {
	s := &m.s
	switch {
	case action == "":
		m.goBack(reason, true)
	case action == pipeline.Pause:
		// A person's own pause becomes ours: who resumes then answers for the failure.
		if s.Frozen == "" && (!s.Paused.On || s.Paused.By != release.System) {
			s.Paused = Flag{On: true, Reason: reason, By: release.System}
			m.alarm("paused until a person resumes or aborts it: " + reason)
		}
	case s.Frozen == "": // the first failure is the reason
		s.Frozen = reason
		m.alarm("frozen, nothing moves until a person decides: " + reason)
	}
}

// waive takes a person's word that what the judge failed is no failure.
func (m *machine) waive() {
	s := &m.s
	if s.Failing == "" || s.Verdict != verdict.Fail {
		return
	}
	s.Waived = signals(slices.DeleteFunc(append(strings.Split(s.Waived, ", "), strings.Split(s.Failing, ", ")...), func(name string) bool { return name == "" }))
}
