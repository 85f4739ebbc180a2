package rollout

import (
	"github.com/sluicehq/sluice/internal/pipeline"
)

// counts holds a decision to what instances must be.
func (w *world) counts(b, a State, e Event, everywhere, fresh bool, fail func(string)) {
	if !w.plan.counted() {
		return
	}
	// What is wanted is exposed as the weight says, and no more.
	if a.Weight > 0 && a.Weight != w.plan.weigh(a.Run, a.Keep, a.Moved) {
		fail("1: instances expose another weight than the state's")
	}
	if a.Weight == 0 && a.Phase == RollingBack && (a.Moved > 0 || a.Keep != w.plan.kept() || w.plan.Worker && a.Run > 0) {
		fail("4: back at 0 % without all of the previous release")
	}
	if w.plan.First || w.plan.Worker {
		return
	}
	switch {
	case a.Phase == RollingBack && b.Phase == RollingBack && b.Weight > 0 && a.Weight == 0 && !(fresh && a.Seen.OldReady) && !a.Stuck.On:
		fail("3: all users were moved to less than the previous release had")
	case a.Phase == RollingBack && b.Phase != RollingBack && b.Keep < w.plan.total() && a.Weight > 0 && (a.Keep != w.plan.total() || a.Run != b.Run || a.Weight != b.Weight):
		fail("3: the rollback did not begin with the previous release's capacity")
	case a.Keep < b.Keep && (a.Phase != Shifting || b.Step != 0 && !(everywhere && (a.Seen.OldReady || a.Lame) && a.Seen.CandidateReady)):
		fail("3: instances were let go before the step before was read")
	}
	if a.Lame && !b.Lame && (e.Command == nil || e.Command.Kind != Advance || !e.Command.Override || e.Command.Reason == "") {
		fail("3: nobody said that it goes on without instances of the previous release")
	}
	if w.plan.Strategy == pipeline.Rolling && w.whole() && a.Phase != RollingBack && !a.Phase.Terminal() && a.Phase != Pending && a.Keep+min(a.Run, a.Moved) < w.plan.total() {
		fail("3: fewer instances than the target has, with additional batches")
	}
}

// whole says whether the plan never has less than all instances.
func (w *world) whole() bool {
	for _, s := range w.plan.Steps {
		if s.places() && s.Keep+s.Moved < w.plan.total() {
			return false
		}
	}
	return true
}

// frozen holds the safe actions.
func (w *world) frozen(b, a State, e Event, override bool, fail func(string)) {
	switch {
	case w.plan.OnFail == "" && a.Frozen != "" && b.Frozen == "" && (e.Judged == nil || w.plan.on(b.open(*e.Judged)) == ""):
		fail("frozen where it goes back")
	case b.Frozen != "" && a.Frozen != "" && (a.Weight != b.Weight || a.Step != b.Step || a.Run != b.Run || a.Keep != b.Keep):
		fail("4: something moved while it is frozen")
	case b.Frozen == "" && a.Frozen != "" && (a.Weight > b.Weight || a.Step != b.Step):
		fail("4: exposed on while it failed")
	case a.Frozen != "" && !a.Phase.Terminal() && a.Held.Cause != CauseFrozen && a.Held.Cause != CauseDrift:
		fail("4: frozen and not held")
	case b.Frozen != "" && a.Frozen == "" && !override && a.Phase != RollingBack:
		fail("4: it thawed by itself")
	case w.plan.OnFail != "" && b.Phase != RollingBack && a.Phase == RollingBack && (e.Judged == nil || w.plan.on(b.open(*e.Judged)) != "") && (e.Command == nil || e.Command.Kind != Abort):
		fail("4: it went back by itself, which its safe action forbids")
	case a.Phase == Superseded && b.Phase != Superseded && b.Phase != Pending && (w.plan.OnFail != pipeline.RollForward || b.Frozen == ""):
		fail("8: another took its place while it lived")
	}
}

// asked holds what a rollout does while checks can't ask a host where it says that it
// answers: it is held, no time passes, and its release is blamed for nothing.
func (w *world) asked(b, a State, e Event, fail func(string)) {
	if a.Phase != Checking || a.CheckOK || a.Seen.Misplaced == "" {
		return
	}
	switch {
	case !a.Held.On:
		fail("checks can't be made, and it is not held")
	case e.Tick != nil && b.Phase == Checking && b.Held.On && a.InAction != b.InAction:
		fail("time passed while checks could not be made")
	}
}
