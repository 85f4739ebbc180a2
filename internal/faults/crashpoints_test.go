package faults

import (
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
				s.ship(behaviour{Version: "v1", Bad: bad})
				seen := p.Wait(p.Run(s.Dir), "exposed", func(s control.Status) bool { return production(s).Weight > 0 })
				if err := os.WriteFile(where+".new", []byte(place), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(where+".new", where); err != nil {
					t.Fatal(err)
				}
				select {
				case <-p.done:
				case <-time.After(servertest.Patience):
					t.Fatal("it never came to that place")
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
