// Package report reads what tests leave behind, `go test -json` streams and
// JUnit XML, into one [Summary].
//
// Reports are written by the code under test: nothing in them is trusted. Every
// input is bounded (see the constants), XML with a document type or entities is
// refused, nesting is bounded, and text is cut and made valid UTF-8.
//
// A report proves something only if it is positive evidence. So an input that
// is empty, cut off or of another format is an error ([ErrEmpty], [ErrBroken]);
// a package that didn't build, or that ended without saying how, counts as
// failed; and [Summary.Passes] is false for a report without a passed test.
//
// The package reads from an [io.Reader] and uses no clock, file or network.
package report
