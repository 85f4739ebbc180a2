package control

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

// A release is judged by copies of users' requests before any user reaches it: a
// good one goes on and gets no more copies, a bad one was never seen by anybody.
func TestShadow(t *testing.T) {
	stories(t, func(w *world) {
		env := strings.Replace(production, "    analysis:", "    shadow: {share: 20, bake: 10m}\n    analysis:", 1)
		v1 := w.first(env)
		shop := w.hosts[0].shop("production")
		r, v2 := w.ship(w.definition(env), "v2")
		s := w.untilState(r, run.Succeeded)
		if e := s.Environments[0]; e.Verdict != verdict.Pass || e.Weight != 100 {
			w.Errorf("status: %+v", e)
		}
		copies := ""
		for _, x := range shop.journal {
			for _, rev := range x.doc.Revisions {
				if rev.Release != v2 {
					continue
				}
				switch {
				case rev.Shadow == 2000 && rev.Weight == 0 && len(x.doc.Requires) == 1:
					copies += "c"
				case rev.Shadow == 0:
					copies += "."
				default:
					w.Errorf("generation %d wants %+v", x.generation, rev)
				}
			}
		}
		if !strings.HasPrefix(copies, ".c.") || strings.Count(copies, "c") != 1 {
			w.Errorf("generations with copies: %s", copies)
		}

		r, v3 := w.ship(w.definition(env), "v3")
		w.hosts[0].bad[v3] = 0.3
		s = w.untilState(r, run.Failed) // nothing to take back
		if e := s.Environments[0]; e.Verdict != verdict.Fail || !strings.Contains(e.Reason, "the judge failed it") {
			w.Errorf("status: %+v", e)
		}
		for _, x := range shop.journal {
			for _, rev := range x.doc.Revisions {
				if rev.Release == v3 && rev.Weight > 0 {
					w.Errorf("users reached it in generation %d", x.generation)
				}
			}
		}
		if w.runs("production") != v2 || shop.revisions[v1] != nil && shop.revisions[v3] != nil {
			w.Errorf("%s runs", w.runs("production").Short())
		}
	})
}
