package faults

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/server/servertest"
)

// A version that cannot run takes nothing from the one that runs, and the reason
// says what the person who has to mend it needs: which instance, what it did, and
// its last words.
func TestServiceThatCannotRun(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.replace("startIn: 10s", "startIn: 3s")
	s.first(p)
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	cases := []struct {
		name    string
		rollout string
		b       behaviour
		code    int
		says    []string
	}{
		{"never healthy", atOnce, behaviour{NeverHealthy: true}, 1, []string{"no user was exposed", "was not ready within 3s", "503"}},
		{"exits at once", atOnce, behaviour{Exit: true}, 1, []string{"no user was exposed", "crash loop", "exit status 3", "the database's address is missing"}},
		{"fails under traffic", oneStep, behaviour{Bad: 70}, 3, []string{"the judge failed it", "http-errors", "stable 0 of"}},
		{"dies under traffic", oneStep, behaviour{ExitAfter: 3}, 3, []string{"production  rolled-back: "}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s.rollout, c.b.Version = c.rollout, c.name
			s.ship(c.b)
			out, code := p.sluice("run", "--repo", s.Dir)
			if code != c.code {
				t.Errorf("run ended with %d, not %d: %s", code, c.code, out)
			}
			says(t, out, c.says...)
			before := load.Counts()
			until(t, 5*time.Second, "load goes on", func() bool { return load.Counts().All > before.All+50 })
			after := load.Counts()
			if after.By[c.name] > before.By[c.name] || after.Bad > before.Bad || after.Dropped > before.Dropped {
				t.Errorf("after the end it still answered: %v, then %v", before.By, after.By)
			}
		})
	}
	if got := load.Stop(); got.Dropped > 0 {
		t.Errorf("%d of %d requests were dropped: %v", got.Dropped, got.All, got.Errors)
	}
	p.whole(t)
}
