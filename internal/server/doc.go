// Package server puts a control plane together: `sluice up`.
//
// A data folder holds everything:
//
//	.gitignore        nothing of it is ever committed
//	token             access token, mode 0600
//	keys/             signing keys, one per purpose, mode 0600
//	server.json       where the running server listens, and its process
//	sluice.db         state and evidence, unless --database names PostgreSQL
//	registry/ blobs/  artifacts and logs, by digest
//	metrics/          scraped series
//	secrets/          what build steps may name as {secret: 'file:…'}; yours to fill
//	work/ caches/     checkouts of running builds, caches of build steps
//	reserve           space that is given up when the disk is full
//	agent/            the local agent, which outlives the server
//
// The local agent is a process of its own: the server can be killed or upgraded
// without a dropped request, and starts the agent again if that dies.
package server
