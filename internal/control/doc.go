// Package control is the control plane's loops: it loads a row, lets the pure
// packages decide, commits, acts, and records what was observed. It is the only
// package that composes the stages, and it declares the interfaces ([Steered],
// [Driven], [Metrics], [Blobs], [Artifacts]) that adapters fill in.
//
// Nothing sits in memory. A run, a rollout and an environment are rows with a
// wake_at; any number of controllers share them. A commit travels so:
//
//	run       queued ─▶ building ─▶ promoting ────────────────────────────────▶ ended
//	                       │            │ for each environment on the way
//	          build.go     │            ▼
//	          facts, gates, approval, promotion          promote.go, approval.go
//	                                    │ one transaction writes promotion and rollout
//	                                    ▼
//	rollout   pending ─▶ preparing ─▶ [shifting ─▶ baking]* ─▶ finishing ─▶ succeeded
//	          rollouts.go, watch.go      any ─▶ rolling-back ─▶ rolled-back
//	                                    │ the turn that ends it writes what runs
//	                                    ▼
//	environment   what runs, what is warm, when that is retired      places.go
//
// One rollout at a time is live in an environment; who comes then waits in a queue
// that nobody keeps: see queue.go. Before anything enters, what runs there is proven
// to be a way back (proof.go); a stable that is broken itself never holds up its
// fix. A way back is told before it is taken (wayback.go). A rehearsal is a run of
// two rollouts, back and forward again (rehearse.go). A rollout that failed and is
// to be mended by going forward makes room for the fix (displace.go).
//
// A live rollout is the only writer of what its environment runs; between rollouts
// the environment's row is. It holds hosts to what they were last told, says who
// differs, and tells them again (idle.go); a rollout begins by telling them all. A
// run reads how its rollout ended and goes on. Whoever waits for an environment is
// woken when its rollout ends.
//
// # The order of every change
//
// A turn is one leased row and one decision. Its order is always the same:
//
//  1. Lease the row (the epoch rises).
//     Die here: the lease runs out and another worker leases the row. Nothing
//     was decided.
//  2. Run the effects that earlier turns promised and nobody finished, the newest
//     first: an older wish for more exposure must not come true before the newer
//     one for less.
//     Die here: they are promised still, and are run again. An effect is safe to
//     repeat: the target refuses what is not the highest generation.
//  3. Ask metric providers, outside any transaction and bounded by half a lease.
//     Die here: the bin was not closed, and is longer next time.
//  4. Commit, under the lease's epoch: the state, the events that led to it, a
//     signed leaf for each fact, the feed, and the effects that it wants with
//     their generations. A turn that promises nothing gives its lease back with it.
//     Die before: nothing happened, also no generation was used up.
//     Die after: all of it happened. Whoever leases the row next finds the
//     effects at 2.
//  5. Run the promised effects.
//     Die before one: it is promised still, see 2. The state waits, because it
//     completes nothing until its generation was observed.
//     Die after one, before its outcome is kept: it is run again, is the same
//     generation, and changes nothing.
//  6. Keep how they came out; give the lease back.
//     Die here: the row is leased until the lease runs out.
//
// What the target came to is not taken from the effect's outcome, but from what
// hosts report: [Controller.Report] keeps it and wakes the rollouts it matters to.
// A person's command takes the same turn, with a revision in the place of a lease,
// and acts at once. The revision that people name is another one: it counts facts.
// Checks (package check) run beside the loop, so that an abort is not kept waiting;
// they are promised effects like the others (checks.go).
//
// A build is one long step 5: its steps run in sandboxes that leave nothing
// behind, and one transaction takes artifacts, release, statements and state. Die
// before: the build begins anew, at most [maxBuildTries] times.
//
// TestCrashes lets the process die before and after each commit and each effect,
// and compares state, evidence and what hosts applied with an undisturbed story.
//
// # Fencing
//
// Inside: each write of a row is conditional on the lease's epoch or the row's
// revision. Outside: each effect has a generation, which rises with every commit
// over the whole store; the target's document and each host's journal keep the
// highest, and refuse lower ones. So a worker that was stopped across its lease
// can neither write state nor move traffic when it goes on (TestPausedWorker). Its
// effect comes out as refused; that is no error. A database from a backup has forgotten
// the highest: what hosts report raises the counter (agents.go). Who told them something
// before they did finds out that they are ahead of it, and tells them again.
//
// # Time
//
// Bakes, timeouts and waits for approval are accumulated: each turn adds what
// passed since the last one, at least nothing and at most twice what was planned
// until then. A clock that jumps, or an hour without any control plane, therefore
// ends no bake, expires no approval and retires nothing that was promised to stay
// warm; a gap of more than five seconds is told in the feed. Leases and waits
// inside the process are monotonic. The time of a transaction is the database's,
// and the only one that is written.
//
// A host's word is good for [host.Unreachable]; one that comes from the future is
// as good as an old one.
//
// # Evidence
//
// Each fact of package rollout becomes a leaf in the transaction that makes it
// true, with an id from the event's number: recorded twice it is there once. So are
// gate decisions, approvals, promotions, quarantines and rollbacks that a person
// asked for. What a person typed is a payload beside the log. A sequencer gives
// leaves their place in the Merkle tree within a second ([Controller.Integrate]);
// several may run, as the transaction that reads the waiting leaves places them.
//
// Replaying a rollout's events gives its state; only events that moved nothing
// but counters are merged in the log.
//
// # Bins
//
// The row keeps sums only. Each closed bin is a row of its own, appended in the
// turn that judged it, with all that the verdict came from (ask.go what queries
// answered, watch.go what routers counted); number 0 is what was known of the stable
// version before. The chart and [Controller.Replay] read them: the same code
// (judging.go) on the same bins gives the same verdicts.
//
// # Failure
//
// A turn that fails leaves the row as it was; it is tried again a second later,
// and other rows are not held up. A lost lease ends a turn's context. A shutdown,
// a lost lease and the timeout of a call are never verdicts. A metric that can't
// be asked is no data for its bin. A registry that is away makes a promotion wait;
// one that altered an artifact fails it. Rows that a newer version wrote are left
// alone.
//
// Errors for people wrap [ErrRefused], [ErrMissing], [ErrInvalid] or
// store.ErrStale, and their text says what to do; [Moved] and [Problems] carry
// more. Everything else is the machine's fault.
package control
