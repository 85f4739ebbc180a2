// Package demo tells the whole story of Sluice on one machine in about a
// minute: `sluice demo`.
//
// Nothing in it is staged. It runs the server of `sluice up` in this process, on
// free ports and a temporary data folder, with its agent as a process of its
// own; makes a Git repository of examples/shop with real commits; and then only
// does what a user can do: start runs and read their status over the API. What it
// knows of a release it knows from there, what it knows of traffic from its own
// load client.
//
//	v1 → dev → production       the first release
//	load through the proxy      from now on without a break
//	v2 → dev → canary → pass    a good change
//	v3 → dev → canary → fail    a bad change whose tests pass; it is taken back
//	load ends, counts compared  the client's with the proxy's, to the last one
//	evidence verified           offline, from the exported file
//
// The archive shop.txtar holds examples/shop, because that is a module of its
// own, which go:embed leaves out. go generate makes it and a test compares.
//
// # What is left behind
//
// Nothing: no process, listener or file. A janitor, which is this program in a
// session of its own, holds the reading end of a pipe whose writing end only the
// demo has. However the demo ends, also by kill -9, the kernel closes the pipe;
// the janitor then ends the agent and its instances as `sluice down` does, ends
// whatever else works in the folder, and removes the folder. In an orderly end
// the demo closes the pipe itself and waits for the janitor, so that there is one
// way to tidy up and it is always used. `go run` passes no signal on but an
// interrupt; so a demo whose parent was go ends when that has gone.
package demo
