package faults

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// The main story once more, by a program that was built with the race detector:
// control plane, agent and proxy under load, each replaced by another process in
// the middle of a rollout. What the detector finds in any of them is in a file.
func TestUnderTheRaceDetector(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raced := filepath.Join(dir, "sluice")
	if out, err := exec.Command("go", "build", "-race", "-o", raced, "../../cmd/sluice").CombinedOutput(); err != nil {
		if os.Getenv("SLUICE_REQUIRE") != "" {
			t.Fatalf("SLUICE_REQUIRE is set, so the race detector is required: %v\n%s", err, out)
		}
		t.Skipf("SKIPPED: NOT TRIED WITH THE RACE DETECTOR, which needs a C compiler (apt-get install gcc libc6-dev): %v\n%s", err, out)
	}
	p := planeAt(t, filepath.Join(dir, "data"))
	found := filepath.Join(dir, "race")
	p.program, p.env = raced, []string{"GORACE=log_path=" + found}
	p.up()
	s := newShop(t)
	s.replace("    rollout:", "    approval: {quorum: 1}\n    verify: [{name: smoke, http: {path: /check, status: 200}}]\n    rollout:")
	s.rollout = oneStep
	ship := func(b behaviour) (run string) {
		t.Helper()
		s.ship(b)
		run = p.Run(s.Dir)
		waits := p.Wait(run, "waiting", func(s control.Status) bool { return production(s).Packet != "" && s.State == "waiting" })
		p.Call("POST", "runs/"+run+"/environments/production/decisions", map[string]any{"packet": production(waits).Packet, "decision": "approve", "comment": "fine"}, nil)
		return run
	}
	p.WaitState(ship(behaviour{Version: "v0"}), "succeeded")
	load := servertest.StartLoad(s.addr, 4)
	defer load.Stop()

	run := ship(behaviour{Version: "v1"})
	p.Wait(run, "baking", bakingAt(10))
	pid := p.agentPID()
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	machinetest.Until(t, "another agent works, and the one before is gone", func() bool {
		now := p.agentPID()
		return now != pid && running(now) && !running(pid)
	})
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.done
	p.up()
	p.WaitState(run, "succeeded")

	run = ship(behaviour{Version: "v2", Bad: 80})
	p.Wait(run, "exposed", func(s control.Status) bool {
		return production(s).Weight > 0 || production(s).Phase == rollout.RollingBack || servertest.Ended(s)
	})
	for _, page := range []string{"/api/v1/projects/default/overview", "/metrics", "/"} {
		req, err := http.NewRequest("GET", p.URL+page, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	p.WaitState(run, "rolled-back")
	if got := load.Stop(); got.Dropped > 0 {
		t.Errorf("of %d requests %d were dropped: %v", got.All, got.Dropped, got.Errors)
	}
	p.whole(t)
	if out, code := p.sluice("down"); code != 0 {
		t.Errorf("down ended with %d: %s", code, out)
	}
	files, _ := filepath.Glob(found + ".*")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		t.Errorf("the race detector found, among others:\n%s", b[:min(len(b), 6000)])
	}
	t.Logf("%d requests", load.Counts().All)
}
