// Package storetest holds what a [store.Store] promises, as one suite that both
// dialects pass, and gives tests a real PostgreSQL server.
package storetest
