// Package run holds what one execution of a pipeline remembers, and what it
// does next. It is pure: control performs the actions.
//
//	queued → building → promoting → ended
//
// While promoting, each environment on the path goes through
//
//	pending → gating → [waiting for approval] → rolling-out → succeeded
//	                 ↘ failed                               ↘ rolled-back, cancelled, …
//
// The next environment starts when those it comes after have succeeded. A run
// of kind promote, rollback or rehearse has a release already and starts at
// promoting. A rehearsal's one environment rolls out twice, back and forward
// again: see [Leg].
package run
