//go:build !crashpoints

package crashpoint

// Here is one of the places.
func Here(string) {}
