// Package faults holds no product code: its tests break a real installation and
// say what must be true then. Each starts `sluice up` on a folder of its own, as
// processes (control plane, agent, instances, build steps), sends load through
// the agent's proxy, breaks something as it breaks in life (SIGKILL, a taken
// port, a full disk, altered bytes), and holds what users and operators see
// against the promises: no request dropped by the data plane, no generation
// applied twice, no fewer instances than the strategy says, a rollout that goes on
// and ends as it should, a reason that says what to do, and nothing left behind.
//
// The product has no switch for tests: phases are hit by watching the API and
// killing at the moment when they are seen. Moments that nobody can watch are hit in
// a program that was built to die at them (package crashpoint); one story is told of
// a program that was built with the race detector.
package faults
