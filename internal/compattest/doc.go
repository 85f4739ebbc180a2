// Package compattest checks promises to those who upgrade: their API clients and
// their data.
//
// testdata/openapi.v1.json is the document of the API as clients know it.
// [Compare] finds what would break one of them: something removed, something
// that a request may say and no longer can, something that an answer always had
// and no longer has. Whatever it has no rule for counts as broken, so that no
// kind of change slips through. What was only added passes, once the kept
// document has it too (go generate ./internal/compattest).
//
// testdata/compat/VERSION is a data folder as that version of Sluice left it when
// it was killed: a live rollout in every phase and with every flag, and a run in
// every phase. Today's server has to take each up and bring it to its proper end,
// with an agent at the wire that does what it is told. The folder was written by
// that version's own code (see folder_test.go) and is never written again.
package compattest

//go:generate go test -count=1 -run ^TestOpenAPI$ . -update
