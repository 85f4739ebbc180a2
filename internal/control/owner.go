package control

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
)

// newOwner names this process among the workers of a store.
func newOwner() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", name, os.Getpid(), hex.EncodeToString(b))
}
