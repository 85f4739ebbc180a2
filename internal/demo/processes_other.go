//go:build !linux

package demo

func endAllIn(string) error { return nil }

func parentGone(stop <-chan struct{}) bool {
	<-stop
	return false
}
