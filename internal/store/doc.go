// Package store keeps everything that Sluice must not forget: one set of tables
// on SQLite (the default, one control plane) or PostgreSQL (several).
//
// # Transactions
//
// [Store.Update] is one write transaction. Updates are serial on both dialects,
// so that whatever they number is numbered in the order in which it becomes
// visible: a reader who saw feed line 7 never meets a line 6 later, and a higher
// generation was always decided with the lower one known. SQLite gives this by
// having one writer; on PostgreSQL every Update first takes one advisory lock,
// which also makes read-then-write in one Update safe without further locks.
// Leases are taken, extended and given back outside that lock, but for those that
// a turn gives back with its own commit ([Tx.GiveBack]). A commit is on
// disk when Update returns (SQLite synchronous=FULL, PostgreSQL
// synchronous_commit=on).
//
// The function given to Update must do nothing but use its [Tx]: it may run
// again after a deadlock, a serialization failure or a transaction that the
// server ended for idling (a process that was stopped in the middle). What the Tx
// filled in (IDs, revisions) is undone before it runs again, and when it fails.
// A Tx is for one goroutine; an Update inside an Update waits for itself.
//
// # Rows that wake up
//
// runs, rollouts and environments carry wake_at, a lease and an epoch.
//
//	asleep ──Wake, Save──▶ due ──Acquire (epoch+1)──▶ leased ──Release, GiveBack──▶ due or asleep
//	                        ▲                            │
//	                        └───── lease ran out ────────┘
//
// A worker that lost its lease finds out at its next [Tx.Check], [Store.Extend]
// or [Store.Release]: the epoch moved. On SQLite a lease cannot outlive its
// process, so Open clears those that a dead one left.
//
// A wake-up is never lost. Each [Tx.Wake] raises the row's counter of wake-ups.
// A save sets wake_at to what the row says only if the counter is the one that
// was read with the row; if somebody woke the row since, the earlier of the two
// times stays. At worst a row wakes once too often, which a level-triggered loop
// does not mind.
//
// wake_at is wall-clock time. When the clock goes back by more than a few
// seconds, everything that would sleep too long is woken, and a lease that
// reaches further into the future than any can counts as expired.
//
// # Failure
//
// A row that somebody else changed is [ErrStale]; a lost lease is [ErrFenced]. A
// full disk is [ErrFull] and a database that refuses writes [ErrReadOnly]; in
// both cases nothing of the transaction was kept. If the connection breaks while
// PostgreSQL commits, the outcome is unknown ([ErrUnknown]): read before doing it
// again.
//
// # Schema
//
// One folder of migrations per dialect, run under a lock. Changes expand first and
// contract one release later: most migrations only add. One that takes away what the
// release before relied on raises the number in table meta ([Contract]). A binary
// runs on its own contract and on the one after it, and refuses anything newer with
// [ErrNewer].
package store
