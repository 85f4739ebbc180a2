// Package preview tells what a definition would do before anything moves: the
// steps of the build with the risk that each removes, and for every environment
// its gates, approval, checks, the plan that its rollout compiles to, what each
// bake can detect and how likely it is to need an extension, what a first
// release does instead, and how it is taken back.
//
// It composes pipeline, rollout and analysis and decides nothing by itself, so
// that the command line, the web pages and the approval packet say the same. It
// is pure: no clock, network or files, and randomness only from a fixed seed, so
// that the same definition and traffic always preview alike.
//
// [Advise] goes the other way: from what somebody says of a service (risk, traffic,
// cost, state) to the strategy that meets it, with what speaks against the others.
// It sizes bakes by the arithmetic of a preview.
//
// # What a preview assumes
//
// The traffic is the caller's: requests per second of both versions together,
// and the stable version's rate of bad ones. Without it, a bake states the least
// traffic that lets it pass. Metrics from queries count what only the service
// knows, so that nothing is foretold of them.
package preview
