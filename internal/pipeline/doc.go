// Package pipeline turns the bytes of a sluice.yaml into a validated
// [Definition], or into everything that is wrong with it.
//
//	bytes → screen (size, UTF-8, hidden characters) → YAML tree → read (the
//	model: types, unknown keys, enums) → complete (defaults) → check (rules
//	over several elements) → lint (warnings)
//
// One table, the model, drives the strict parser, the JSON Schema and the
// reference page, so that they cannot drift: a key that is in one is in all.
//
// # Invariants
//
// All problems of a file are reported at once, sorted by position, and every
// position lies in the file. Nothing is accepted and ignored: a key that this
// build cannot enforce is an error of rule "not-yet" that names it and the
// nearest thing that can be done. A Definition that comes without an error has
// every default filled in and satisfies every rule of docs/reference.
//
// # Platform
//
// A platform.yaml is read by the same machinery ([ParsePlatform]). A service that
// names one of its standards gets the standard's text in the place of its own, and
// may only tighten it; without the platform's file the name is an error.
//
// # Bounds
//
// A file has at most 1 MiB and 64 levels; after aliases are followed it has at
// most 50 000 values, so that an alias bomb costs nothing; a list has at most 500
// items; at most 500 problems are reported.
//
// # Production
//
// Some rules are stricter for production. An environment is production when a
// part of its name between hyphens is production, prod, prd or live; where no
// environment of the file is named so, it is each one at the end of a promotion
// path. See [Production].
//
// The package is pure: no clock, network, files or goroutines.
package pipeline

//go:generate go run ./schemagen ../../docs/reference
