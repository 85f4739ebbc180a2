// Package runner executes the steps of one build, each in a sandbox of its own.
//
//	              needs done, slot free            exit 0, reports good
//	(waiting) ────────────────────────► (running) ──────────────────────► succeeded
//	    │                                  ├── else ────────────────────► failed
//	    │ another step failed              ├── over its time ───────────► timed-out
//	    └──────────► skipped               └── another step failed ─────► cancelled
//
// Steps run in parallel by their needs, in one checkout and one HOME that live
// for the build, with a /tmp for each step. The first failure cancels what runs
// and skips the rest, so that its reason is at the end of the log.
//
// # Invariants
//
//   - A step without an outcome is never succeeded: the zero [State] is none,
//     and exit code 0 is not enough when a declared report is missing, stale,
//     unreadable, without a passed test, or shows a failure.
//   - The end of the caller's context is not a verdict: [Run] returns
//     [ErrInterrupted], and the build may be run again.
//   - What a sandbox could not give is an error of [Run], not of the step.
//   - Nothing that a step prints is shown or kept before the secrets of the
//     build are taken out, in the encodings that logs meet, however the output
//     is cut into writes.
//   - A step cannot stop the runner: output beyond 10 MiB is dropped but read,
//     lines and reports are bounded, and nothing of a step outlives it. A log
//     that can't be kept (disk full) fails the step: a build without its log
//     has no evidence.
//
// # Caches
//
// A cache is a folder that survives the build, keyed by isolation, project,
// service and name. A step sees those it declares, writable; several steps may
// share one at the same time, as their tools allow. One exception: a module
// cache (gomod) that any step of the build declares is visible to the others
// read-only, so that a step without network compiles what another fetched.
//
// A cache can be poisoned: code that a step runs, a dependency's test for
// instance, may change what later builds of the same service find there. It
// cannot reach other services or projects, and what came from the network is
// checked against go.sum only when it is downloaded. Steps that need no cache
// declare none; who must exclude this builds with an empty cache folder.
//
// # Isolation
//
// See package sandbox. [None] runs steps as the caller, for trusted code only;
// the [Result] says so and the provenance must.
package runner
