// Package servertest is what control planes are tested with from the outside: a
// client of the API that fails its test by itself, Git repositories to release
// from, and load that counts what comes back. It knows no internals: the server
// may run in the test's process or in one of its own.
package servertest
