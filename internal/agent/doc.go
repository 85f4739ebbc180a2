// Package agent is the data plane on one host: it runs releases that it has
// verified, splits their traffic and says what it sees.
//
//	control plane ── desired ─→ accept ─→ state on disk, journal ─→ settle ─→ supervise, proxy
//	              ←─ observed ── loop ←───────── statuses, counters ────────────┘
//
// One goroutine, [agent.loop], owns all state. What waits (pulling, draining, the
// network) is in goroutines that hand it results. Everything that it does is
// computed anew from the desired state and what is there, so an event may come
// twice or late.
//
//	wire       what is said between control plane and agent
//	proxy      the HTTP router of one service
//	supervise  processes, which outlive the agent
//	confine    where they start: without the files of agent and server
//	journal    which generations were applied
//	agenttest  a control plane at the wire, for tests
//
// Invariants:
//   - A generation is durable, and in the journal, before it has an effect. A lower
//     one is refused, an equal one does nothing.
//   - Nothing runs whose promotion into this environment is not signed by a trusted
//     key, or whose manifest, command, configuration or files are not what its
//     digest names.
//   - A weight that is lowered is in effect at once. A revision that can't serve yet
//     gets no traffic: what it was to get stays where it was; see settle.
//   - Without contact to the control plane a candidate's weight never rises.
//   - What an instance was asked is ended before the instance is, also what an agent
//     before this one still has open.
//   - A newer agent takes over without a dropped request, a request counted twice or
//     a generation applied twice; see handover. Boot and counters go on.
//   - A weight that fell is reported at once.
//   - That an instance is ready, or has ended, is reported when the routers know it.
//
// A revision's instances and weight may differ by host, and change in place: what
// stays is not restarted, and surplus instances drain first, after those that
// replace them carry their share. A preview address leads to the candidate alone
// and counts for nobody. A worker has no address; its weight is a share of work.
//
// Failure behaviour: without a control plane the agent goes on with its last
// desired state, also across its own restarts; releases that were verified once
// need no registry. When the agent is killed, processes go on and the next agent
// takes them up; only the router's connections are lost. A full disk can't keep a
// generation from being applied: a reserve is given up for it; see keep.
package agent
