package agent

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

var ids = []release.ID{"a", "b", "c"}

func drawShares(t *rapid.T, name string) []share {
	n := rapid.IntRange(0, len(ids)).Draw(t, name+" revisions")
	left := wire.FullWeight
	if n == 0 || rapid.Float64().Draw(t, name+" stopped") < 0.1 {
		left = 0
	}
	out := make([]share, 0, n)
	for i := range n {
		s := share{release: ids[i], candidate: rapid.Bool().Draw(t, name+" candidate")}
		if i == n-1 {
			s.weight = left
		} else {
			s.weight = rapid.IntRange(0, left).Draw(t, name+" weight")
		}
		left -= s.weight
		out = append(out, s)
	}
	return rapid.Permutation(out).Draw(t, name)
}

func weightOf(ss []share, id release.ID) (w int) {
	for _, s := range ss {
		if s.release == id {
			w += s.weight
		}
	}
	return w
}

func total(ss []share) (n int) {
	for _, s := range ss {
		n += s.weight
	}
	return n
}

// The agent through any sequence of desired states, crashes, starts and losses of
// contact.
func TestWeightsInEffect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var have []share
		granted := make(map[release.ID]int)
		can := make(map[release.ID]bool)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			want := drawShares(t, "want")
			contact := rapid.Bool().Draw(t, "contact")
			for _, id := range ids {
				if rapid.Bool().Draw(t, "becomes able") {
					can[id] = true
				}
			}
			canServe := func(id release.ID) bool { return can[id] }
			got := inEffect(want, have, granted, canServe, contact)
			next := grant(want, got, granted, contact)

			deferred := equal(got, have)
			if !deferred && total(got) != total(want) {
				t.Fatalf("%v became %v: the sum changed", want, got)
			}
			all := true
			for _, w := range want {
				all = all && (w.weight == 0 || can[w.release])
			}
			if all && contact && !equal(got, want) {
				t.Fatalf("all can serve and there is contact: want %v, got %v", want, got)
			}
			for _, w := range want {
				g := weightOf(got, w.release)
				if deferred || !w.candidate {
					continue
				}
				if g > w.weight {
					t.Fatalf("candidate %s is wanted at %d and got %d", w.release, w.weight, g)
				}
				if !contact && g > granted[w.release] {
					t.Fatalf("candidate %s was granted %d and got %d without contact", w.release, granted[w.release], g)
				}
			}
			for id, g := range next {
				if g > weightOf(want, id) {
					t.Fatalf("%s is granted %d of %d", id, g, weightOf(want, id))
				}
				if !contact && g > granted[id] {
					t.Fatalf("%s was granted more without contact", id)
				}
			}
			have, granted = got, next
		}
	})
}

func equal(x, y []share) bool {
	for _, id := range ids {
		if weightOf(x, id) != weightOf(y, id) {
			return false
		}
	}
	return true
}

func TestWeightsByExample(t *testing.T) {
	sh := func(id release.ID, w int, candidate bool) share { return share{id, w, candidate} }
	only := func(ids ...release.ID) func(release.ID) bool {
		return func(id release.ID) bool {
			for _, i := range ids {
				if i == id {
					return true
				}
			}
			return false
		}
	}
	for name, c := range map[string]struct {
		want, have []share
		can        func(release.ID) bool
		contact    bool
		a, b       int
	}{
		"a first release that is not ready":   {[]share{sh("a", 10000, false)}, nil, only(), true, 10000, 0},
		"a switch waits for the new one":      {[]share{sh("b", 10000, false)}, []share{sh("a", 10000, false)}, only("a"), true, 10000, 0},
		"and happens then":                    {[]share{sh("b", 10000, false)}, []share{sh("a", 10000, false)}, only("a", "b"), true, 0, 10000},
		"a candidate that is not ready":       {[]share{sh("a", 9500, false), sh("b", 500, true)}, []share{sh("a", 10000, false)}, only("a"), true, 10000, 0},
		"a rollback to a cold release waits":  {[]share{sh("a", 10000, false), sh("b", 0, true)}, []share{sh("b", 10000, true)}, only("b"), true, 0, 10000},
		"a rollback to a warm one does not":   {[]share{sh("a", 10000, false), sh("b", 0, true)}, []share{sh("a", 5000, false), sh("b", 5000, true)}, only("a", "b"), false, 10000, 0},
		"no contact, no rise":                 {[]share{sh("a", 9000, false), sh("b", 1000, true)}, []share{sh("a", 10000, false)}, only("a", "b"), false, 10000, 0},
		"a new host where the candidate lags": {[]share{sh("a", 5000, false), sh("b", 5000, true)}, nil, only("a"), true, 10000, 0},
		"stop":                                {[]share{sh("a", 0, false)}, []share{sh("a", 10000, false)}, only("a"), false, 0, 0},
	} {
		got := inEffect(c.want, c.have, nil, c.can, c.contact)
		if weightOf(got, "a") != c.a || weightOf(got, "b") != c.b {
			t.Errorf("%s: %v", name, got)
		}
	}
}
