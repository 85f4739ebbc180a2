package faults

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// layers are the big files of the registry's storage.
func (p *plane) layers(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(p.dir, "registry"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if info, err := e.Info(); err == nil && info.Size() > 1<<20 {
				out[path] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Ways back that do not exist are refused before anything moves, and say why: a
// release that never ran there, one that is quarantined, one that was deleted.
func TestRollbacksThatAreRefused(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.rollout = "{retireAfter: 0s, all-at-once: {}}"
	var shipped []release.ID
	ship := func(version string) {
		s.ship(behaviour{Version: version})
		st := p.WaitState(p.Run(s.Dir), "succeeded")
		shipped = append(shipped, st.Release)
	}
	ship("v0")
	oldest := p.layers(t)
	ship("v1")
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	if out, code := p.sluice("rollback", "shop", "--env", "production", "--yes", "--reason", "orders are lost"); code != 0 {
		t.Fatalf("rollback ended with %d: %s", code, out)
	}
	ship("v2")
	ship("v3")
	machinetest.Until(t, "only v3 runs", func() bool { return len(alive(t, p.dir+"/agent")) == 1 })
	// Hosts keep what they ran, and would need no registry: it is deleted there too.
	if err := os.RemoveAll(filepath.Join(p.dir, "agent", "releases", shipped[0].Hex())); err != nil {
		t.Fatal(err)
	}
	for path := range oldest {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	p.kill() // nothing of it is in memory either
	p.up()
	was := s.yaml
	s.replace("    rollout:", "    approval: {quorum: 1}\n    rollout:")
	s.ship(behaviour{Version: "waits"})
	run := p.Run(s.Dir)
	waits := p.Wait(run, "waiting", func(s control.Status) bool { return production(s).Packet != "" && s.State == "waiting" })
	s.yaml = was
	if out, code := p.sluice("abort", run); code != 0 {
		t.Fatalf("abort ended with %d: %s", code, out)
	}

	before := p.instances()
	for _, c := range []struct {
		to   release.ID
		code int
		says []string
	}{
		{waits.Release, 1, []string{"never ran in production", "sluice promote"}},
		{shipped[1], 1, []string{"quarantined", "orders are lost", "sluice quarantine lift"}},
		{shipped[0], 1, []string{"impossible", shipped[0].Short()}},
		{shipped[3], 1, []string{"runs in production already"}},
		{release.DigestOf([]byte("nobody's")), 2, []string{"no release"}},
	} {
		out, code := p.sluice("rollback", "shop", "--env", "production", "--to", string(c.to), "--yes", "--reason", "try")
		if code != c.code {
			t.Errorf("rollback to %s ended with %d: %s", c.to.Short(), code, out)
		}
		says(t, out, c.says...)
		if err := p.Try("POST", "services/shop/environments/production/rollbacks", map[string]any{"to": c.to, "reason": "try"}, nil); err == nil {
			t.Errorf("the API began a rollback to %s", c.to.Short())
		}
	}
	if now := p.instances(); !sameProcesses(before, now) {
		t.Errorf("the instances were %v and are %v", before, now)
	}
	if got := load.Stop(); got.Dropped+got.Bad > 0 || got.By["waits"] > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}
	p.whole(t)
}
