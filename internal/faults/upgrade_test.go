package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// before is the program of the commit before this one, built once.
var before = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(program), "before")
	script := `mkdir -p "$0" && cd ../.. && git archive --format=tar HEAD~1 | tar -x -C "$0" && cd "$0" && go build -ldflags='-s -w -X main.version=before' -o "$0/sluice" ./cmd/sluice`
	out, err := exec.Command("bash", "-o", "pipefail", "-c", script, dir).CombinedOutput()
	if err != nil {
		return string(out), err
	}
	return filepath.Join(dir, "sluice"), nil
})

// A control plane is upgraded in the middle of a rollout, and its agent with it:
// the one before is ended as service managers do, this one starts on the same
// folder. The rollout that the other began goes on and ends as it should, and
// users notice nothing.
func TestUpgradeInTheMiddleOfARollout(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("git", "rev-parse", "--verify", "-q", "HEAD~1^{commit}").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: there is no commit before this one here, so no upgrade from it was tried (%v %s): fetch the history, as by git fetch --unshallow", err, out)
	}
	old, err := before()
	if err != nil {
		t.Fatalf("couldn't build the commit before this one: %v\n%s", err, old)
	}
	for name, bad := range map[string]float64{"good": 0, "bad": 80} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := planeAt(t, filepath.Join(t.TempDir(), "data"))
			p.program = old
			p.up()
			s := newShop(t)
			s.first(p)
			load := servertest.StartLoad(s.addr, 2)
			defer load.Stop()
			instances := p.instances()
			s.rollout = oneStep
			s.ship(behaviour{Version: "v1", Bad: bad})
			run := p.Run(s.Dir)
			seen := p.Wait(run, "exposed", func(s control.Status) bool { return production(s).Weight > 0 })
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-p.done
			stopped := time.Now()
			p.program = program
			p.up()
			inTime(t, p.recovered(seen, stopped))
			want := "succeeded"
			if bad > 0 {
				want = "rolled-back"
			}
			p.WaitState(run, want)
			if bad > 0 {
				for id, pids := range instances {
					if now := p.instances()[id]; !sameSet(pids, now) {
						t.Errorf("the processes of the release before were %v and are %v", pids, now)
					}
				}
			}
			if got := load.Stop(); got.Dropped > 0 || bad == 0 && got.Bad > 0 {
				t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
			}
			// The agent of the build before has handed over to one of this build, and all
			// that it served with it.
			machinetest.Until(t, "the agent is of this build", func() bool {
				now, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.agentPID()))
				return err == nil && now == program
			})
			p.whole(t)
		})
	}
}
