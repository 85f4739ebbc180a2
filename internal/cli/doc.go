// Package cli is the command line.
//
// Rules of output: what was asked for goes to standard output, one JSON document
// with --json (streams: one per line) and text for people else; progress,
// warnings and errors go to standard error. Colour appears only on a terminal
// and never with NO_COLOR. An error says what happened, why, and what to do; the
// exit code says which kind it was (see [Code]).
package cli
