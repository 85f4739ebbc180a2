// Package rights takes a process's rights away before it runs what others wrote:
// build steps (package runner/sandbox) and services (package agent/confine). What
// each of them may see is theirs; how rights are given up is the same, and here.
//
//	caller, perhaps root            stage, in namespaces of its own     what others wrote
//	User: who it shall be   ────►   Protect each mount, Drop    ────►   no capability, none to gain
//
// Drop is final: what comes after it in the same process, and after any exec, has
// no capabilities and gains none from a setuid program. Anything that can't be taken
// away is an error, and then nothing must be started. Linux only.
package rights
