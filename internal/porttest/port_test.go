package porttest_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
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

// TestMain: this program is also the other one of TestFreeInTwoProcesses.
func TestMain(m *testing.M) {
	if os.Getenv("PORTTEST_OTHER") != "" {
		for range 300 {
			fmt.Println(porttest.Free(talker{}))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type talker struct{}

func (talker) Fatalf(format string, args ...any) {
	fmt.Printf(format, args...)
	os.Exit(1)
}

// What one process was given no other is, though nobody listens there.
func TestFreeInTwoProcesses(t *testing.T) {
	mine := map[string]bool{}
	for range 300 {
		mine[porttest.Free(t)] = true
	}
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "PORTTEST_OTHER=1")
	out, err := other.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n := 0
	for addr := range strings.Lines(string(out)) {
		n++
		if mine[strings.TrimSpace(addr)] {
			t.Errorf("%s was given to both", strings.TrimSpace(addr))
		}
	}
	if n != 300 {
		t.Errorf("the other one was given %d addresses", n)
	}
}

// A process that is begun at the same time does not keep what Free has looked at.
func TestFreeWhileProcessesBegin(t *testing.T) {
	var begin sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		begin.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	defer begin.Wait()
	defer close(stop)
	for range 200 {
		l, err := net.Listen("tcp", porttest.Free(t))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // later: it may be taken along too
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
