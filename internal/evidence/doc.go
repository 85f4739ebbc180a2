// Package evidence makes what is known about a release provable: signed
// statements about digests, in a log that can't be changed unseen, in bundles
// that anybody verifies without us.
//
//	Predicate ─NewStatement→ Statement ─KeyRing.Sign→ envelope (DSSE)
//	   envelope bytes ─Integrate→ TreeState, nodes ─SignCheckpoint→ checkpoint
//	   envelopes + proofs + checkpoint + public keys + payloads ─WriteBundle→ file ─Verify→ Report
//
// The leaf of the log (RFC 6962) is the envelope's canonical bytes. The package
// stores nothing: whoever changes state inserts the signed leaf in the same
// transaction; one sequencer per log then gives leaves their index, calls
// [Integrate] and stores the nodes and the signed checkpoint in one transaction.
// A crash before that commit changed nothing; after it, everything. Nodes of
// complete subtrees never change, and [StateAt] reads the state back from them.
//
// Invariants:
//
//   - There is one sequence of bytes for each envelope, and for each bundle of
//     the same content: a change of any byte is seen.
//   - A signature counts only by a key of the purpose that the statement's type
//     asks for, and only in the project that its subjects name.
//   - What a person typed, and who they are, is never in the log: the log holds
//     a commitment to a payload whose salt is in the payload. Erased payloads
//     are *redacted*, told apart from *altered*.
//   - A verification never ends well by default: unreadable, missing and
//     unproven are findings.
//
// Verification is bounded in memory: what it keeps grows with the number of
// commitments and findings, not with the size of payloads.
//
// No clock, database, network or file is used; files of keys are in keyfile. The
// only goroutines are the workers of [Verify], which waits for them.
// The predicates are described in docs/evidence.md.
package evidence
