package porttest_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/internal/porttest"
)

func TestFree(t *testing.T) {
	seen := map[string]bool{}
	for range 50 {
		addr := porttest.Free(t)
		if seen[addr] {
			t.Errorf("%s was given twice", addr)
		}
		seen[addr] = true
	}
}

func TestRefused(t *testing.T) {
	addr := porttest.Refused(t)
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling said %v, want it refused", err)
	}
	if l, err := net.Listen("tcp", addr); err == nil {
		_ = l.Close()
		t.Error("somebody else could listen there")
	}
}
