// Package server puts a control plane together: `sluice up`.
//
// A data folder holds everything:
//
//	.gitignore        nothing of it is ever committed
//	token             access token, mode 0600
//	registry.key      that all replicas of the registry share, mode 0600
//	keys/             signing keys, one per purpose, mode 0600
//	promotion.pub     the public one that agents trust
//	server.json       where the running server listens, and its process
//	sluice.db         state and evidence, unless --database names PostgreSQL
//	registry/ blobs/  artifacts and logs, by digest
//	metrics/          scraped series
//	secrets/          what build steps, and services of this machine, may name as
//	                  {secret: 'file:…'}; yours to fill
//	work/ caches/     checkouts of running builds, caches of build steps
//	spool/            artifacts on their way to the registry
//	reserve           space that is given up when the disk is full
//	agent/            the local agent, which outlives the server
//	agent.json, .log  its process and the build that it is of; what it says
//
// The local agent is a process of its own: the server can be killed or upgraded
// without a dropped request, and starts the agent again if that dies.
package server
