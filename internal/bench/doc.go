// Command bench measures the budgets of design.md on this machine and writes
// docs/performance.md: `make bench`.
//
// It measures from outside wherever a user would be outside: the real binary is
// built and started, its agent runs services in processes of their own, requests
// go over TCP. Only what has no outside (the store, the judge) is called directly.
//
//	main ── builds ──▶ sluice up ── starts ──▶ agent ──▶ this program as the service
//	  │                   ▲                      ▲
//	  └─ commands over HTTP, kill -9             └─ requests through the proxy
//
// A part that misses its budget says so in the table and does not fail the
// command: a shared machine is no reason to stop a release. A part that cannot
// run (no nginx) is listed as not measured, with the reason. Comparisons are made
// in one run, alternating, so that a busy neighbour hurts both sides.
package main
