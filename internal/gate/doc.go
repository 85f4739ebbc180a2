// Package gate decides whether facts satisfy an environment's gates.
//
// A gate answers pass, fail or waiting. Missing evidence is never a pass: an
// expression that names a fact which is not there fails, and says so. The
// package is pure.
package gate
