// Package confine starts a service where the folders of those that run it do not
// exist: no token, no key, no store, and no file of another service.
//
//	agent                        stage (1st exec)                  service (2nd exec)
//	─────                        ────────────────                  ──────────────────
//	clone: user and mount
//	namespaces, a user of  ────► covers each hidden folder,  ────► /bin/sh -c RUN
//	the service's own            shows its release (read only)     the same process: pid, session
//	where the agent is root      and its own temporary folder,     and start time are those that
//	                             drops all capabilities            the agent has seen at the clone
//
// The stage is this very binary under another name, recognised before main runs,
// so any binary that links this package can confine. Everything else of the host
// stays as it is: network, processes, files. A service is not a build step: it may
// need a database's socket, a device or a folder of its own.
//
// Invariants:
//   - A hidden folder is an empty one, read only. It can't be uncovered: the service
//     has no capabilities, gains none (no_new_privs), and in namespaces that it
//     makes itself the cover is locked.
//   - /proc leads around no cover: each service has a user namespace of its own, so
//     the kernel lets it look into no process outside (ptrace access), neither the
//     agent nor another service.
//   - Where the agent is root, a service runs as a user of its own ([Users]) that
//     owns nothing on the host, the same after each start and no other service's of
//     this agent, ever, as far as the container maps enough users. Private folders on
//     the way to its release are covered with the rest.
//   - A service is started with all of this or, when Command's process says 126 and
//     why on standard error, not at all.
//
// What it does not do: where the agent is not root the service has the agent's
// user. Then it may signal the agent, and read and write what else that user owns.
// In a container that maps too few users all services have one. Two agents on one
// host know nothing of each other's users, which begin with the same hash.
// Linux 5.12 or newer (mount_setattr). [Probe] tells whether the host allows it.
package confine
