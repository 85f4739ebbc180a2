// Package artifact turns a built tree of files into an artifact that is named
// by its digest, and turns the digest back into exactly that tree.
//
// # Packing
//
// An artifact of type files is one uncompressed tar (see [Pack]). The same tree
// has one archive, byte for byte, on every machine and with every build of
// Sluice: entries in the order of a sorted walk, no times, no owners, modes only
// 0644 and 0755, hard links as copies. Sluice writes the tar headers itself and
// does not compress, so that no release of a library can change a digest.
//
// The reverse holds too: [Unpack] accepts only an archive that Pack would have
// written for the tree that it unpacked. It writes that tree again into a hash
// while it unpacks and compares the two. So there is one tree for one digest,
// and nothing can hide in padding, extra headers, duplicate entries or data
// behind the end.
//
// # OCI form
//
//	artifact:  image manifest, artifactType application/vnd.sluice.files.v1
//	             config  {} (the empty descriptor)
//	             layer   the tar, application/vnd.oci.image.layer.v1.tar
//	release:   image manifest, artifactType application/vnd.sluice.release.v1+json
//	             config  {} (the empty descriptor)
//	             layer   the canonical release manifest
//	             subject the release's first artifact
//	             annotations dev.sluice.artifact.NAME: digest, one per artifact
//
// The digest of an artifact is the digest of its OCI manifest. The id of a
// release is the digest of its *layer*, that is of the canonical manifest, so
// that the id does not depend on the OCI wrapping: the registry serves it at
// /v2/PROJECT/SERVICE/blobs/ID.
//
// A release is a referrer of its artifact and names all its artifacts in
// annotations, so that who holds either finds the other.
//
// # Failure behaviour
//
// Every byte is compared with its digest while it is read, before anything is
// visible: [ErrAltered] says what was expected and what came. [ErrUnavailable]
// means that nothing was learned about the content and that trying again may
// help; nothing else does. Unpack builds the tree beside its destination,
// makes it durable and then renames it: the destination has all or nothing, and
// if the process dies a ".unpack-" folder stays that [Sweep] removes.
//
// The package reads and writes files; it knows no network. internal/registry/remote
// has a [Store] for any OCI registry.
package artifact
