// Package crashpoint marks the places between which a death of the process matters:
// around each lease, each commit, each effect on a target, and the record of what
// came of it. The simulation kills a played control plane there; a build with the
// tag crashpoints kills the real one, as a power cut would (SIGKILL to itself), at
// the place that the file of SLUICE_CRASH_FILE names, which is then removed. In any
// other build Here does nothing and costs nothing.
package crashpoint

// The places, in the order of a turn.
const (
	BeforeLease   = "before a lease"
	AfterLease    = "after a lease"
	BeforeCommit  = "before a commit"
	AfterCommit   = "after a commit"
	BeforeEffect  = "before an effect"
	AfterEffect   = "after an effect"
	BeforeOutcome = "before an outcome"
	AfterOutcome  = "after an outcome"
)

// All lists them.
var All = []string{BeforeLease, AfterLease, BeforeCommit, AfterCommit, BeforeEffect, AfterEffect, BeforeOutcome, AfterOutcome}
