// Package check asks a running version the questions of a definition's verify
// and hooks: by a request, by a command of its artifact, or in a browser.
//
//	http      one GET on a connection of its own, no redirect followed
//	command   sh in the unpacked artifact, in the sandbox of build steps (package
//	          runner), with network, without secrets
//	browser   a page in headless Chromium, in the same kind of sandbox; the
//	          DevTools protocol goes over two pipes in the browser's own folder
//
// # Contract
//
// A check passes by what it answers and by nothing else: a command that prints
// FAILED and ends with 0 has passed, one that prints ok and ends with 1, by a
// signal or by its timeout has not. Whatever a check started is gone when [Runner.Run]
// returns: the sandbox's namespace dies with it. Without isolation it is its
// process group that is killed.
//
// Output is read to its end, rid of the secrets that the caller names before
// anything of it is cut, and kept up to [maxOutput] from the beginning and a part
// of the end. A screenshot is kept as it is.
// A check can neither fill memory nor outlive its timeout.
//
// # Failure
//
// An [Outcome] is a finding about the version. An error of Run is none: the
// context ended, or the sandbox, the browser or the artifact could not be had.
// Checks are asked again after a crash, so they must be fit to be repeated.
package check
