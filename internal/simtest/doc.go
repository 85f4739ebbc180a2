// Package simtest plays rollouts through thousands of seeded worlds in which
// things die, come late, come twice, lie and vanish, and holds each world to the
// ten invariants of design.md after every event.
//
//	          person, pipeline          mischief (faults.go, focus.go)
//	                │                        │ drift, partitions, clocks, deaths
//	                ▼                        ▼
//	planes ──lease, commit──▶ store ◀──reports── routers ◀── traffic
//	(planes.go, turn.go)   (store.go)             (target.go)
//	   └────────── effects, point by point ─────────▶┘
//
// A seed is everything: [Run] draws the strategy, the target, the releases and
// what goes wrong from it, takes what is due first, and never looks at a clock. A
// seed has at least [MinEvents] events and [MinFaults] faults. Then everything
// heals, and what is live must come to its end by itself.
//
// # What is real and what is modelled
//
// Real, and what the mutants bite into: package rollout (Compile, Step, Facts,
// Quiet, Merge, Replay, NextWake, DecodeState), how documents and reports read
// (target/host Document, Observe, Counters), and the judge (analysis Rate, Limit,
// Combine).
//
// Modelled, because a real turn over SQLite costs a hundred times as much and is
// tested for itself (internal/control's crash stories over both databases,
// storetest, the agent's and the proxy's tests): the control loop, as an explicit
// list of points that follows control's "order of every change", each with a crash
// before and after; the store, as rows, leases with epochs, promises, the unique
// live rollout, desired states and reports with the rules of package store; the
// agent, as its rules of generations, verification and effective weights; and load
// balancers, which have no generations. Users are an even stream: that a share of
// requests is the weight, and that raising one only moves users to the candidate,
// is the proxy's own test. Copies of requests are counted apart from them.
//
// # Points
//
// A process dies at points only: before and after a lease, a commit, an effect and
// the keeping of an outcome. Between two points anybody else may act: other planes,
// hosts, people, clocks. A worker that is stopped at a point for longer than its
// lease goes on as if nothing had been, and half of the time before it could notice.
//
// # Fenced and unfenced
//
// A host's agent keeps the highest generation and refuses lower ones. A load
// balancer takes what comes. Its adapter does what design.md asks for then: only
// who holds the lease calls; right before a call it reads again that the lease is
// its own and nothing newer is promised; the call is bounded by half of what is
// left of the lease, and no other begins before it has ended or can't land any more
// (the environment and its rollout are leased apart); the router is read back after.
// What remains is a clock that jumps while a call is under way, which lets two
// workers in: then, and only then, an older wish may come true after a newer one,
// and it must be found as drift. So must a release that somebody else starts on a host.
//
// # Driven
//
// About one seed in seven has a target that moves traffic by itself (drive.go): it is
// asked to start, to go on, to stop and to revert, takes steps of its own, waits at
// the plan's pauses and sometimes at one more, restarts, and is turned by others.
// It is called as a load balancer is, and observed before each call: what is
// visible is not asked again. Half of them know keys, so that a start that comes twice is
// one; in the others only that order keeps a rollout from two deployments.
//
// # Checks
//
// check.go has one check for each invariant, by what truly happened: what routers
// told (and not what the state says was seen), what a release truly is, how many
// users it truly had. While a host says a wrong address, where checks must not ask, the
// rollout is held and no time passes for it. Replaying is checked after each commit, from the last entry
// that can still be merged, and over the whole log at the end of a rollout.
//
// # Biting
//
// TestMutants changes one rule at a time, by an overlay of the source, and demands
// that the check of that very invariant finds it within 1 000 seeds. The coverage
// table counts faults by the phase that they struck in; an empty cell fails. Each
// seed is after one cell (focus.go), so that short phases are struck as well.
// docs/simulation.md has both tables.
//
// Each seed has at least MinEvents events and MinFaults faults. In 200 seeds each fault
// strikes and each phase is struck, in 10 000 each cell that can be is.
//
// A failing seed prints the end of its story; the whole of it is written to
// testdata/seeds, whose files are replayed before all others.
package simtest
