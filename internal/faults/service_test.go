package faults

import (
	"testing"

	"github.com/sluicehq/sluice/internal/server/servertest"
)

// A version that cannot run takes nothing from the one that runs, and the reason
// says what the person who has to mend it needs: which instance, what it did, and
// its last words.
func TestServiceThatCannotRun(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.first(p)
	patient := s.yaml
	load := servertest.StartLoad(s.addr, 2)
	defer load.Stop()
	cases := []struct {
		name    string
		rollout string
		b       behaviour
		code    int
		says    []string
	}{
		{"never healthy", atOnce, behaviour{NeverHealthy: true}, 1, []string{"no user was exposed", "was not ready within 10 s", "503"}},
		{"exits at once", atOnce, behaviour{Exit: true}, 1, []string{"no user was exposed", "crash loop", "exit status 3", "the database's address is missing"}},
		{"fails under traffic", oneStep, behaviour{Bad: 70}, 3, []string{"the judge failed it", "http-errors", "stable 0 of"}},
		{"dies under traffic", oneStep, behaviour{ExitAfter: 3}, 3, []string{"production  rolled-back: "}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s.rollout, s.yaml, c.b.Version = c.rollout, patient, c.name
			if c.b.NeverHealthy {
				s.replace("startIn: 1m", "startIn: 10s") // in which it is asked at least once
			}
			s.ship(c.b)
			out, code := p.sluice("run", "--repo", s.Dir)
			if code != c.code {
				t.Errorf("run ended with %d, not %d: %s", code, c.code, out)
			}
			says(t, out, c.says...)
			before := load.Settled()
			moreOf(t, load, 50)
			after := load.Settled()
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
