package freeport_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/sluicehq/sluice/internal/freeport"
)

const lowest, highest = 32500, 32510 // where nobody else picks: not the tests, demos or agents, nor Linux for what goes out

// Nobody is given a port that somebody has, that somebody listens on, or that the
// caller knows of; one that was let go may be given again.
func TestFind(t *testing.T) {
	var kept []*freeport.Port
	defer func() {
		for _, p := range kept {
			p.Close()
		}
	}()
	given := map[int]bool{}
	none := func(int) bool { return false }
	for {
		p, err := freeport.Find(lowest, highest, none)
		if err != nil {
			break
		}
		if given[p.Number] || p.Number < lowest || p.Number >= highest {
			t.Fatalf("port %d, given before: %t", p.Number, given[p.Number])
		}
		given[p.Number] = true
		kept = append(kept, p)
	}
	if len(kept) == 0 {
		t.Fatal("no port was found")
	}
	last := kept[len(kept)-1]
	kept = kept[:len(kept)-1]
	last.Close()
	if p, err := freeport.Find(lowest, highest, func(port int) bool { return port == last.Number }); err == nil {
		t.Errorf("port %d was given, of which the caller knows", p.Number)
	}
	again, err := freeport.Find(lowest, highest, none)
	if err != nil || again.Number != last.Number {
		t.Fatalf("%+v after %d was let go: %v", again, last.Number, err)
	}
	again.Close()
	l, err := net.Listen("tcp4", ":"+strconv.Itoa(last.Number))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if p, err := freeport.Find(lowest, highest, none); err == nil {
		t.Errorf("port %d was given, on which somebody listens", p.Number)
	}
}
