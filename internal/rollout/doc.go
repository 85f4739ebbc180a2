// Package rollout is the traffic state machine: how a release is exposed step by
// step, and taken back.
//
// It is pure. A strategy is compiled once into a [Plan] of a few kinds of steps,
// which a rollout keeps to its end. [Step] takes a plan, a [State] and an
// [Event], and answers with the next state and the effects that are wanted. It
// has no clock: time arrives as [Tick], already accumulated and clamped, which
// is why Step takes no now. The caller commits the state, the [Facts] as
// evidence and the effects in one transaction, and only then carries them out.
//
//	pending ──start──▶ preparing ──▶ [ shifting ──▶ baking ]* ──▶ checking ──▶ finishing ──▶ succeeded
//	   │                  └───────────────┴───────────┴─────────────┴─────────────┘
//	   │ abort            fail · candidate failed · check not answered · timeout · abort
//	   ▼ supersede (also frozen, to roll forward)   ▼
//	cancelled, superseded                     rolling-back ──observed──▶ rolled-back
//	                                                │        └─ aborted before exposure ─▶ cancelled
//	                                                └─ stuck, and a person gives up ─▶ rollback-failed
//
// Paused, held and stuck are flags with a reason, not phases. Several steps that
// need no waiting are walked in one decision, so that a phase may be passed
// through (finishing often is) without a state that shows it.
//
// # What the caller owes
//
//   - Each [Apply] effect gets a generation, which comes back as [Applied] in the
//     same transaction. Until then, and until an observation of at least that
//     generation arrives, nothing is completed. Generations never fall.
//   - Whatever is observed is delivered, also when it is old: what is too old
//     completes nothing, but a candidate that Failed has failed.
//   - A [Judged] that ends with the bake is delivered before the Tick that ends
//     it; otherwise the step is judged by the answer before. Judged.Step names
//     the bake, so that a late answer of another one carries nothing.
//   - Effects may be repeated at will. [NextWake] tells when time alone would
//     change something; a Tick before it changes only counters.
//
// # Bakes and holds
//
// A bake that is judged is left at its end on a pass, never by time alone. At the
// end of the bake inconclusive and no-data (and no verdict at all, which counts
// as no-data) extend or hold it, as the plan says, at most MaxExtend times in
// all; no-data also raises an alarm. A fail is acted on at any time, also while
// paused, held, shifting, checking or finishing. A hold is derived anew from the
// state at each event, so that it lifts by itself when its cause is gone: a pass
// that arrives while the bake is held for want of one advances at once, as the
// time was served. Drift hides an unreachable host, which hides the judge. Checks that
// can't ask a host where it says that it answers (Misplaced) hold as an unreachable one.
// Pauses and holds stop the time of bakes and timeouts, and nothing else.
//
// An environment that judges nothing has bakes of time only; anybody may end one
// with a plain advance. Whoever overrides makes no verdict: the last one stays.
//
// # Instances
//
// A counted plan (Plan.Instances above 0: rolling, immutable, workers) moves
// instances too. Its Prepare, Shift and Replace steps say how many run the
// candidate (Run), how many of the previous release stay (Keep), and how many
// places have given their traffic to the candidate (Moved); [Plan.Shares] spreads
// them over the hosts in sorted order, one host after the other. A batch is two
// Replace steps: the first one starts the candidate (beside the old ones, or after
// they drained), the second moves the users, with which the old ones go. None are
// let go while others are missing, but by a person's override where only the previous
// release lacks some: a broken one must not hold up its own fix (State.Lame). The observation holds each host to its own share
// (Observation.Off names the first that differs), so that drift is found by host. Of any
// plan it names the first host that runs what it was not told to.
// A worker has no router: its weight is its share of the instances.
//
// # Safe actions
//
// A failure of any kind (verdict, crash, check, timeout) takes the plan's OnFail. To
// go back is one; freeze and roll-forward leave everything as it is, also the weight:
// State.Frozen has the reason, the rollout is held for it, and only an abort (which
// goes back), an override with a reason, or, to roll forward, [Supersede] by the next
// release leads on. A verdict names what failed ([Judged.Failed]), and Plan.Actions
// may say otherwise for a signal: go back, freeze, or pause until a person resumes; of
// several the strongest counts. Who overrides or resumes takes the standing failure for
// none: it is heard no more (State.Waived), and each later bake needs a person, while
// whatever else fails still acts. A candidate that can't run is looked at again. The
// release that takes the place of a failed one has a plan that is [Plan.Replacing]:
// aborted before it began, it gives back the users that the failed one still has.
//
// Drift is put back at once; with Plan.OnDrift hold it is left until a person
// resumes, which puts it back, or aborts.
//
// # Going back
//
// In the middle of a replacement the previous release has too little capacity: it
// is brought back first, and the candidate keeps what it has until that is read. A
// worker's candidate is stopped at once, as its work can wait. Otherwise:
//
// The first decision takes the candidate's weight to 0 if the previous release
// runs anywhere, even with an instance or a host missing: what is proved bad must
// not go on. Only where it runs nowhere is its capacity brought back first, to be
// ready before it gets traffic; past RollbackTimeout a part of it is enough. The
// candidate's processes are removed once every router was read at 0, and the end
// comes when every host has applied that removal: the candidate is then gone or
// draining, and is not waited for longer. A previous release that is not ready
// keeps the rollback open, except where nobody was exposed and so nothing was
// taken from it. A first release has nothing to go back to: its routers answer
// 503. Past RollbackTimeout it is flagged stuck with an alarm, and what is wanted
// is asked for again every 30 s, as it is all along. It can't be paused.
//
// # Driven targets
//
// Some targets move traffic by themselves (ECS, an instance refresh, Argo Rollouts).
// A plan for one, from [CompileDriven], has Drive steps in the place of shifts:
//
//	prepare ──▶ [ drive ──▶ bake ]* ──▶ drive to 100 % ──▶ bake ──▶ check ──▶ retire
//	start, continue ─┘ at any time: fail, crash, abort ──▶ stop ──▶ revert ──▶ rolled-back
//
// The rollout is shifting while the target moves to the step's weight, and baking
// while it waits there, at a pause point that the target knows of; where it can't
// wait, one drive goes to 100 % and is judged all the while. Each wish (Drive,
// Continue, Stop, Revert) is an effect with a generation, as Apply is, and every
// rule above holds with the weight that the target reports. Beside that:
//
//   - A start has the generation of the first Drive as its key ([Ask]), for ever; a
//     continue names the weight that it leads on from, so that neither a repetition
//     nor a late one moves anything twice.
//   - After a crash the caller observes first, and calls again only what
//     [Ask.Followed] doesn't find there. The generation of an observation is that of
//     the last wish whose call was answered or can't land any more; it was made
//     after that. A target that may hide what it has begun is unknown, not unaware.
//   - Unknown (Missing) holds, in every phase, and stops the timeouts: silence is
//     never a verdict, nor overridden. Only [Judged], Failed, a check, the timeout of
//     a target that answers, or a person takes it back.
//   - A target that is further than the step allows, that was stopped or reverted by
//     somebody else, or that forgot the deployment, is drift. Nobody but itself can put it
//     back, so it is held and told until a person resumes it and it is read right,
//     or aborts.
//   - Going back asks it to stop, then to revert, and ends when it was read reverted,
//     at 0 %, with the previous release ready. Past RollbackTimeout it is asked to
//     revert although the stop was not seen. Where it was never asked to start there
//     is nothing to take back, and the end comes at once.
//   - Freeze and roll-forward are refused: it can't be left standing half-way.
//
// No definition reaches this yet, as no adapter of a driven target is in this build
// (control.Driven says what one must do); package simtest plays it.
//
// # Invariants of design.md
//
//  1. The wanted weight never exceeds the step's, and rises only when every
//     wanted host was read at the weight before (or by a person's advance).
//  2. Promotion and verification come before [New]; a candidate that fails its
//     verification arrives as Observation.Failed and is never exposed.
//  3. State.Old stays true as long as the rollout lives (a first release has
//     none). Retiring is the caller's, RetireAfter after success.
//  4. From rolling-back lead only rolled-back, cancelled (nobody was exposed) and
//     rollback-failed (give-up of a stuck one, with a reason); each has a Reason,
//     and going back by itself raises an alarm.
//  5. A terminal state ignores reports and refuses commands.
//  6. Only a pass delivered for this very bake leaves it; entering a bake forgets
//     the verdict before.
//  7. [Replay] over the recorded events rebuilds the state; refused events are not
//     recorded, and ticks are merged only where [Quiet] allows it.
//  8. One live rollout per service and environment is the store's unique row.
//  9. [Facts] has one fact for each change of phase, step, weight, verdict, flag,
//     capacity, extension and result, and for each command and check.
//  10. Weights, releases or instances other than the recorded ones, read at the wanted
//     generation while nothing shifts, hold the rollout and are put back; no advance
//     goes on, not even by override, until they are read right. While it shifts they
//     keep it from the next step, and what is wanted is asked for again.
//
// 1, 3–7, 9 and 10 are properties in property_test.go, against a target that is
// late, lossy, repetitive, drifting, misplaced and short of hosts; so is that a rollout ends
// once its target behaves. testdata holds the stories, to be reviewed as diffs.
//
// # Failure
//
// An error leaves the state as it was: [ErrRefused] tells a person why not and
// what instead; [ErrTransition] is a caller's mistake; [ErrPlan] and [ErrState]
// are records that this build can't go on from.
package rollout
