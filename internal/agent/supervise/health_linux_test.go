package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/machinetest"
)

// An instance that was ready and fails its health check is out of rotation, and
// in it again when it answers; its process goes on. One that stays unwell is
// started anew.
func TestUnwellUnderTraffic(t *testing.T) {
	files := t.TempDir()
	healthy := filepath.Join(files, "healthz")
	become := func(well bool) {
		t.Helper()
		var err error
		if well {
			err = os.WriteFile(healthy, nil, 0o644)
		} else {
			err = os.Remove(healthy)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	become(true)
	sp := spec(t, fmt.Sprintf("%s --directory '%s'", strings.Replace(strings.TrimSuffix(serve(t), "; exit 7"), "echo serving; ", "exec ", 1), files))
	sp.Health.HTTP, sp.Health.Failing = "/healthz", 2
	g := open(t, t.TempDir()).Group(sp, 1)
	defer g.Stop()
	machinetest.Until(t, "ready", func() bool { return g.Status().Ready == 1 })
	first := g.Status().Instances[0]
	become(false)
	machinetest.Until(t, "out of rotation", func() bool { return g.Status().Ready == 0 })
	if i := g.Status().Instances[0]; i.PID != first.PID || i.Restarts != 0 {
		t.Errorf("it was %+v and is %+v", first, i)
	}
	become(true)
	machinetest.Until(t, "ready again", func() bool { return g.Status().Ready == 1 })
	if i := g.Status().Instances[0]; i.PID != first.PID || i.Restarts != 0 {
		t.Errorf("it was %+v and is %+v", first, i)
	}
	sp.Health.StartIn = 50 * time.Millisecond
	g.Update(sp)
	become(false)
	machinetest.Until(t, "another process", func() bool { i := g.Status().Instances[0]; return i.Restarts > 0 && i.LastExit != "" })
}
