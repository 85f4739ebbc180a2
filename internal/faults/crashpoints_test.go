package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/crashpoint"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// mortal builds the program that dies where it is told to.
var mortal = sync.OnceValues(func() (string, error) {
	out := filepath.Join(filepath.Dir(program), "mortal")
	b, err := exec.Command("go", "build", "-tags=crashpoints", "-ldflags=-s -w", "-o", out, "../../cmd/sluice").CombinedOutput()
	if err != nil {
		return string(b), err
	}
	return out, nil
})

// The places at which the simulation kills a played control plane, with the real
// one and a real agent, while users ask: before and after each lease, commit,
// effect and outcome. It goes on where it was.
func TestKillControlPlaneAtEachPlace(t *testing.T) {
	t.Parallel()
	dies, err := mortal()
	if err != nil {
		t.Fatalf("couldn't build the program that dies: %v\n%s", err, dies)
	}
	for _, place := range crashpoint.All {
		for _, bad := range []float64{0, 80} {
			name, ends := place+", good", "succeeded"
			if bad > 0 {
				name, ends = place+", bad", "rolled-back"
			}
			if bad > 0 && slices.Contains([]string{crashpoint.BeforeLease, crashpoint.AfterLease}, place) {
				continue // nothing but the lease is decided there
			}
			t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
				t.Parallel()
				where := filepath.Join(t.TempDir(), "place")
				p := planeAt(t, filepath.Join(t.TempDir(), "data"))
				p.program, p.env = dies, []string{"SLUICE_CRASH_FILE=" + where}
				p.up()
				s := newShop(t)
				s.first(p)
				load := servertest.StartLoad(s.addr, 2)
				defer load.Stop()
				s.rollout = oneStep
				var seen control.Status
				died := false
				for try := 1; !died; try++ { // it may be over before it is told where to die
					if try > 20 {
						t.Fatalf("it never came to that place: %s", servertest.Show(seen))
					}
					s.ship(behaviour{Version: fmt.Sprint("v", try), Bad: bad})
					seen = p.Wait(p.Run(s.Dir), "exposed", func(s control.Status) bool { return production(s).Weight > 0 || servertest.Ended(s) })
					die(t, where, place)
					died = p.diesBefore(seen.Run, where)
					if died && servertest.Ended(seen) {
						p.up()
						died = false
					}
				}
				p.goesOn(t, seen, time.Now(), ends)
				if got := load.Stop(); got.Dropped > 0 || bad == 0 && got.Bad > 0 {
					t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
				}
				p.whole(t)
			})
		}
	}
}

// die names the place at which the program shall die.
func die(t *testing.T, file, place string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(place), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// diesBefore waits until the server has died, or the run has ended: then it shall not
// die any more.
func (p *plane) diesBefore(run, file string) bool {
	p.t.Helper()
	for deadline := time.Now().Add(machinetest.Patience); ; {
		select {
		case <-p.done:
			return true
		case <-time.After(20 * time.Millisecond):
		}
		var s control.Status
		if err := p.Try("GET", "runs/"+run, nil, &s); err == nil && servertest.Ended(s) {
			_ = os.Remove(file)
			select {
			case <-p.done: // it was about to
				return true
			case <-time.After(time.Second):
				return false
			}
		}
		if time.Now().After(deadline) {
			p.t.Fatal("the run neither ends nor dies")
		}
	}
}
