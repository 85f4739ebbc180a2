// Package host steers services on hosts: it tells agents what to run and reads
// from their reports what runs.
//
// The desired state is a document in the store; agents fetch it (package agent)
// and refuse a generation lower than they have seen, as the store does. So a
// worker that wakes up late can do no harm at either place (fenced: true).
//
// A report is a host's own word and no more. Where it says that services answer is
// held to its credential when it arrives ([Place], [PlacePorts]), and no two hosts may
// say one place ([Misplaced]): checks are asked there. A rollout whose checks can't ask
// is held meanwhile, and its release is blamed for nothing.
//
// A host that has applied a document and runs something else than it says was changed by
// somebody ([Differs]). What passes by itself is no difference: what drains, crashed or
// starts, and what serves until others can, which agents tell apart. One that has applied
// a later document than there is on record is held to the last on record all the same,
// and what differs says so: a rollout tells it anew, and between rollouts a person decides.
//
// Beside users' traffic a document may ask for an address of the candidate alone
// (Preview), which reports name once it is open, and for traffic that agents make
// themselves (Synthesize), whose counts are apart from users'.
package host
