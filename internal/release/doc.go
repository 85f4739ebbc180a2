// Package release is the vocabulary that every other package shares: what a
// release is, what names it, and who acts on it.
//
// A release is what is promoted, approved, deployed and rolled back to. It is a
// canonical JSON manifest (RFC 8785); the SHA-256 of those bytes is its [ID].
// The same artifact with other configuration is another release.
//
// The package is a leaf: it imports nothing of Sluice, and uses no clock,
// network or database.
package release
