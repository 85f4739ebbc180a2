//go:build !race

package control

// raceDetector is false: every crash is tried.
const raceDetector = false
