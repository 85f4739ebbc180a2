package faults

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
)

// twoPlaces puts dev before production.
func (s *shop) twoPlaces() {
	s.replace("environments:\n", `environments:
  - name: dev
    target: {type: host, listen: 'DEV', run: ./service, health: {http: /healthz, interval: 200ms, startIn: 1m}}
    rollout: all-at-once
`)
	s.replace("  - name: production\n", "  - name: production\n    after: [dev]\n    approval: {quorum: 1}\n")
}

// layerOf finds the file of an artifact's content in the registry's storage.
func layerOf(t *testing.T, p *plane, size int64) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(filepath.Join(p.dir, "registry"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if info, err := e.Info(); err == nil && info.Size() > 1<<20 && info.Size() <= size {
			found = path
		}
		return nil
	})
	if err != nil || found == "" {
		t.Fatalf("couldn't find the layer: %v", err)
	}
	return found
}

// What somebody altered in the registry does not enter production, not even when
// it was approved, and although the host has good files of it from dev.
func TestArtifactAlteredBeforeProduction(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.twoPlaces()
	s.ship(behaviour{Version: "v1"})
	run := p.Run(s.Dir)
	waits := p.Wait(run, "waiting for approval", func(s control.Status) bool { return production(s).Packet != "" && s.State == "waiting" })
	layer := layerOf(t, p, waits.Artifacts[0].Size*2)
	b, err := os.ReadFile(layer)
	if err != nil {
		t.Fatal(err)
	}
	was := release.DigestOf(b)
	b[len(b)/2] ^= 1
	if err := os.WriteFile(layer, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := p.sluice("approve", run, "--env", "production", "--packet", string(production(waits).Packet), "--comment", "fine"); code != 0 {
		t.Fatalf("approve ended with %d: %s", code, out)
	}
	end := p.WaitState(run, "failed")
	says(t, end.Reason, "production", string(was), string(release.DigestOf(b)))
	if _, _, err := get("http://" + s.addr + "/"); err == nil {
		t.Error("something answers in production")
	}
	if status, _, err := get("http://" + s.dev + "/"); err != nil || status != 200 {
		t.Errorf("dev answers %d %v", status, err)
	}
	// The next run finds it too, instead of taking the earlier build up.
	again := p.WaitState(p.Run(s.Dir), "failed")
	says(t, again.Reason, string(was), string(release.DigestOf(b)))
}

// The registry is gone, with all that was ever built: the way back is open, for a
// release that runs still, and for one that was stopped.
func TestRollbackWithoutRegistry(t *testing.T) {
	t.Parallel()
	for name, retire := range map[string]string{"warm": "1h", "cold": "1s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, s := newPlane(t), newShop(t)
			s.rollout = "{retireAfter: " + retire + ", all-at-once: {}}"
			s.ship(behaviour{Version: "v1"})
			first := p.WaitState(p.Run(s.Dir), "succeeded")
			s.ship(behaviour{Version: "v2"})
			p.WaitState(p.Run(s.Dir), "succeeded")
			if name == "cold" {
				machinetest.Until(t, "the old release has stopped", func() bool { return len(p.instances()[first.Release]) == 0 })
			}
			if err := os.RemoveAll(filepath.Join(p.dir, "registry")); err != nil {
				t.Fatal(err)
			}
			p.kill() // nothing of it is in memory either
			p.up()
			p.heard()
			out, code := p.sluice("rollback", "shop", "--env", "production", "--yes", "--reason", "orders are lost")
			if code != 0 {
				t.Errorf("rollback ended with %d: %s", code, out)
			}
			says(t, out, first.Release.Short())
			if name == "warm" {
				says(t, out, "still runs")
			} else {
				says(t, out, "must be started")
			}
			if _, body, err := get("http://" + s.addr + "/"); err != nil || strings.TrimSpace(body) != "hello v1" {
				t.Errorf("production answers %q, %v", body, err)
			}
			p.whole(t)
		})
	}
}
