// Package machinetest is for tests on any machine: one that is slow because it does
// much else ([Until]), and one that lacks a right, a program or a disk that is soon
// full ([Lacks]). What a machine lacks is said, and the test skipped; where
// SLUICE_REQUIRE names it, as in continuous integration, the test fails.
package machinetest
