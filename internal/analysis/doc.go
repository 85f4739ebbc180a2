// Package analysis is the judge: counts of a canary and of the stable version
// in, a verdict with its reasons out. It has no clock, no network and no
// randomness that is not seeded by the caller.
//
// # What is decided
//
//	            bins of counts                      samples
//	   ┌─────────────┼──────────────┐                  │
//	 warm-up      concurrent      alone              Limit
//	   │             │              │                  │
//	catastrophe   FAIL, PASS    FAIL, PASS         k in a row
//	   └─────────────┴──────┬───────┴──────────────────┘
//	                      Metric ──► Combine ──► Result
//
// A [Rate] is one sequential test over a whole rollout. Its evidence is an
// e-process: by Ville's inequality the chance of ever failing a canary that is
// no worse than allowed stays below alpha however often, and whenever, somebody
// looks. A [Latency] is the same test on "slower than a frozen bound"; a
// [Limit] counts samples outside absolute limits, also of an alarm and of a
// [Gauge], whose value is a mean over instances. [Burn] judges how fast an error
// budget is spent. [Series] compares points, once at the end of a bake.
//
// # How alpha is spent
//
// Alpha is per rollout and split evenly over its metrics. Of a metric's part,
// a tenth goes to the catastrophe test (if there is a warm-up), a tenth to the
// evidence of single steps after the first (so that a long healthy past does
// not hide what breaks only at more traffic), a twentieth to the confidence
// bound on the stable's rate when nothing is concurrent, and the rest to the
// test over the whole rollout. [JudgeFile] knows one step and no bin alone, and
// keeps nothing for these.
//
// # Bases
//
//   - concurrent: both versions had requests in the same bin; only the realised
//     share of each bin matters, so weights may change during the test.
//   - before-after: the new version carries everything; it is compared with the
//     stable version's own counts from before. Weaker, and the sentence says so.
//   - absolute: against limits that a person set.
//   - none: a first release. Nothing to compare with, so nothing is judged.
//
// # Invariants
//
//   - No verdict passes without positive evidence; the zero value of every type
//     here is not a pass.
//   - fail is sticky: once decided, later data does not take it back.
//   - pass is not sticky: it holds as long as the evidence does, and each step
//     must see minEvents canary requests of its own.
//   - The state is a few sums. It survives JSON, and a test resumed from its JSON
//     decides as if it had never stopped.
//   - Counts saturate instead of overflowing; impossible bins are skipped.
//
// # What is not guaranteed
//
// With errors that come in clusters the bound on false failures holds only
// after dividing by the over-dispersion that an A/A split shows (see [Spread]).
// PASS by excess trusts the stable's frozen rate, taken one standard error low.
package analysis
