// Package supervise keeps the processes of releases running on this host.
//
//	            ┌──────────── exit, or not well for StartIn ───────────┐
//	            ▼                                                      │
//	waiting ─ back-off ─→ starting ─ Healthy good answers ─→ ready ─ Failing bad ones ─→ unready
//	                          └──────── stop ────────→ draining → SIGTERM → SIGKILL → gone
//
// A [Supervisor] owns one folder. A [Group] is one release of one service in one
// environment; each of its slots is one goroutine that owns one process.
//
// Processes do not belong to the agent's life: each is a session of its own, with
// a process of its own that writes its log, so it goes on when the agent is killed.
// Its pid, start time and port are recorded, and the next supervisor takes it up
// again without a restart.
// A process is only ever named by pid and start time together, and by the boot
// that they are of.
//
// Invariants:
//   - A process that was started is in the record, or carries the folder's mark in
//     its environment: [Supervisor.Sweep] kills what nobody asked for.
//   - When a process ends, so does the rest of its session.
//   - No two agents of a host give out one port: its name is held from then on until
//     the process has ended.
//   - Secrets are resolved at each start, and are in no file, log or report; where
//     a service prints them, [Instance.LogTail] has them struck out.
//   - A secret lies in a folder that the operator named ([Options.Secrets]) and is
//     no file of Sluice's own ([Options.Own]), whatever a release names.
//
// Failure behaviour: an exit is followed by a restart after 100 ms, doubling to
// 10 s, until the process was ready for 10 s. Five exits within StartIn, or no
// readiness within StartIn, make the group failed, with a reason that holds the
// last answer or exit; it goes on trying, and a group that becomes ready is failed
// no more. Logs are cut at 10 MiB, with one older file; a full disk costs log
// lines, never the service.
package supervise
