//go:build race

package control

// raceDetector says that everything takes several times as long: the same
// stories are told, with a sample of their crashes.
const raceDetector = true
