package faults

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// The database is lost, and that of a backup is put in its place. Hosts know more than
// it does: what they run stays and serves, people are told, and the next rollout is
// obeyed at once.
func TestARestoredBackup(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	p.kill()
	backup := map[string][]byte{}
	for _, name := range []string{"sluice.db", "sluice.db-wal"} {
		b, err := os.ReadFile(filepath.Join(p.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		backup[name] = b
	}
	p.up()
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	s.ship(behaviour{Version: "v1"})
	v1 := production(p.WaitState(p.Run(s.Dir), "succeeded")).Release

	p.kill()
	if err := os.Remove(filepath.Join(p.dir, "sluice.db-shm")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for name, b := range backup {
		if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.tampered = true
	p.up()
	told := p.Wait("1", "told", func(s control.Status) bool {
		return strings.Contains(production(s).WaitingFor, "it has applied generation")
	})
	if w := production(told).WaitingFor; !strings.Contains(w, "the record is of a backup") || !strings.Contains(w, v1.Short()) {
		t.Errorf("told %q", w)
	}
	serves := func(version string) {
		t.Helper()
		machinetest.Until(t, version+" serves", func() bool {
			_, body, err := get("http://" + s.addr)
			return err == nil && strings.Contains(body, version)
		})
	}
	serves("v1")
	s.ship(behaviour{Version: "v2"})
	p.WaitState(p.Run(s.Dir), "succeeded")
	serves("v2")
	if got := load.Stop(); got.Dropped+got.Bad > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}
	p.whole(t)
}
