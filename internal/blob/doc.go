// Package blob keeps content that is too large or too personal for the database
// — logs, reports, packed sources — under the digest of its bytes.
//
// # Invariants
//
// What [Store.Put] returned a digest for is on disk, whole. A blob is never
// changed, only deleted. What [Store.Open] gives is what the digest names: the
// reader hashes as it goes and fails with [ErrCorrupt] in place of the end of the
// file, so that a caller that reads to the end never takes altered bytes for
// good. A caller that acts on a part of a blob has no such promise.
//
// # Failure
//
// [Dir] writes to a temporary file in the same file system, syncs it, renames it
// and syncs the folders. A crash leaves at most a temporary file, which
// [Open] removes when the folder is opened next. Two writers of the same content
// end with one file. A full disk fails the Put and leaves nothing.
package blob
