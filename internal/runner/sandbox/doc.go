// Package sandbox runs one shell script where it can neither see nor touch the
// host: the isolation under every build step.
//
// A sandbox is a child of this very binary, started again under a hidden first
// argument, so no external tool is needed and nothing of a step runs in the
// caller's address space:
//
//	caller                     setup (1st exec)               init (2nd exec)          step
//	──────                     ────────────────               ───────────────          ────
//	clone: user, mount, pid,
//	ipc, uts, net namespaces ─► builds a root on a tmpfs,
//	                            pivots into it, drops every
//	                            capability, no_new_privs ────► pid 1: starts the ─────► /bin/sh -e -c SCRIPT
//	                                                           step, reaps orphans      own session, /dev/null
//	status pipe ◄──────────────────────────────────────────── exit code or signal
//	lifeline (closes when the caller dies) ──────────────────► ends, and with it the namespace
//
// # What a step sees
//
// The host's /usr (and /bin, /lib*, /sbin) read-only; an /etc of its own with
// nothing but name tables, certificates and alternatives; its own /proc, /dev,
// /tmp; and the binds of its [Config]. Everything else of the host, such as
// home folders, the data folder and other processes, does not exist. The root
// is read-only: writes end with EROFS except in writable binds and /dev/shm.
//
// # Invariants
//
//   - The step runs as uid 1000 with empty capability sets, an empty bounding
//     set and no_new_privs: a setuid program gains nothing. It cannot make user
//     namespaces of its own.
//   - When the caller is root, the step's uid outside is [Owner], which owns
//     nothing else; never root, because root without capabilities may still
//     write /proc/sys. When the caller is not root, it is the caller's own uid,
//     and the mount namespace is what protects the caller's files.
//   - Nothing outlives the script: pid 1 ends when the script ends, when the
//     context ends or when the caller dies, and the kernel then kills every
//     process of the namespace, daemonised or not.
//   - Without Network there is one interface, loopback, that leads nowhere.
//     With it the step shares the host's network namespace, loopback included:
//     services on the host's loopback must authenticate.
//   - Host paths are opened by the caller where it may (root), else by setup
//     with the caller's own rights; targets are resolved after pivot_root, so a
//     symbolic link left by an earlier step cannot lead a mount outside.
//
// # Failure behaviour
//
// Everything before the script starts is an error that wraps [ErrSetup]; the
// script never runs with less isolation than asked. [Probe] runs a whole
// sandbox and says which command allows it where the host forbids it. Needs
// Linux 5.12 or newer (mount_setattr). Landlock and seccomp are not used.
package sandbox
