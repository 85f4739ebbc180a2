// Package registry is the OCI registry inside Sluice: distribution v3 with a
// filesystem below /v2/, behind a wrapper that adds what it lacks.
//
//	request ─ name check ─ Authorizer ─┬─ blobs, uploads ──→ distribution ─→ files
//	                                   ├─ manifests ───────→ distribution ─→ files
//	                                   │        └ tags, subjects ─→ Index
//	                                   └─ tags/list, referrers ───→ Index
//
// A repository is named PROJECT/SERVICE, nothing else.
//
// # Invariants
//
//   - A tag never moves. The [Index] has one row for each repository and tag;
//     pushing the same digest again is 201, another digest 409. Names that
//     promise to move, as "latest", are refused. Distribution's own tags are
//     never used.
//   - Nothing is deleted over HTTP (405): what runs, and what a rollback needs,
//     can't be lost to a client. Only an unfinished upload can be cancelled.
//   - A manifest that leaves the registry has the digest that it was asked for:
//     it is hashed before it is sent. Blobs stream and are verified by whoever
//     reads them.
//   - Whatever names a subject is listed among its referrers, also when the
//     subject is pushed later or never.
//
// # If we die between two writes
//
// A manifest's content is one file that appears whole (written beside, synced,
// renamed); the index has rows. They are written so that no order of crashes
// needs a repair:
//
//   - The tag's row comes last and is what makes the tag. Before it the manifest
//     is stored without a name, which harms nobody; pushing again adds the row.
//   - The referrer's row comes *before* the manifest, because clients skip a push
//     of what is already stored and so would never add a missing row. A row
//     without its manifest is not listed; pushing again adds the manifest.
//
// When the index is restored from an older backup than the files, [Registry.Reindex]
// adds the referrers that it lacks. Tags are only in the index and come back when
// they are pushed again.
//
// # Failure behaviour
//
// Errors have the OCI form: {"errors": [{"code", "message", "detail"}]}. An index or
// authorizer that fails is 503, so that clients retry. A manifest whose file was
// altered is 500 with code MANIFEST_UNVERIFIED and both digests; package remote
// makes it an ErrAltered. Distribution logs through the global logrus; New sends
// that to slog at debug level, and what answers 5xx is logged here.
package registry
