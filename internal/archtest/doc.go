// Package archtest holds the architecture of this repository as tests: which
// package may import which and why, what may be imported nowhere or only in one
// place, and a few habits that a compiler does not see.
//
// Data flows one way: definition → run → artifact → evidence → gate → promotion →
// rollout; analysis's verdict comes back to rollout as data, through control. The
// stage packages decide: they read no clock, talk to no database or network, and
// start no goroutine, so that every decision can be replayed and tested as data.
//
// The table in table_test.go is to be argued with: a change that needs another
// import changes the row, with its reason, in the same commit. A row lists what is
// imported and nothing more, so that it never allows what nobody has thought about.
//
// Files are parsed, not compiled: the rules hold for every platform's files alike.
package archtest
