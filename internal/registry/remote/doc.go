// Package remote is the client's side of an OCI registry: Sluice's own or any
// other. A [Repository] is an artifact.Store.
//
// Errors are those of package artifact. ErrUnavailable covers everything that
// may pass: no connection, a connection that broke while reading, and the
// answers 408, 429 and 5xx. Nothing is retried here; whoever calls knows how
// long to wait. A cancelled context stays what it is.
//
// What is read is verified by package artifact, except by [Repository.GetBlob],
// which verifies by itself. The token is only ever sent to the registry's host.
package remote
