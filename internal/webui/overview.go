package webui

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

const (
	recentRuns = 15
	liveRuns   = 100
	runsPage   = 50
)

// overviewView is the first page: what runs where, and who waits for whom.
type overviewView struct {
	page
	Services []serviceView
	Waiting  []control.Status // for a person
	Moving   []control.Status
	Runs     []control.Status
}

type serviceView struct {
	Name  string
	Cells []control.Cell
}

func (u *ui) overview(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	l, err := u.feed(r, "")
	if err != nil {
		return err
	}
	v := &overviewView{page: u.page(r, "Services")}
	v.Here, v.Live, v.Notice = "services", l, noticeOf(r)
	l.Get = "/"
	cells, err := u.c.Overview(ctx, project)
	if err != nil {
		return err
	}
	yes := true
	live, err := u.c.Runs(ctx, store.RunFilter{Project: project, Live: &yes, Limit: liveRuns})
	if err != nil {
		return err
	}
	if v.Runs, err = u.c.Runs(ctx, store.RunFilter{Project: project, Limit: recentRuns}); err != nil {
		return err
	}
	for _, s := range live {
		if needsPerson(s) {
			v.Waiting = append(v.Waiting, s)
		} else {
			v.Moving = append(v.Moving, s)
		}
		l.Poll = pollMoving
	}
	v.Services = services(cells, append(live, v.Runs...))
	if n := len(v.Waiting); n > 0 {
		v.Title = "(" + count(n) + ") Services"
	}
	u.show(w, r, http.StatusOK, v.page, overviewContent(v))
	return nil
}

// needsPerson reports whether a run goes on only when somebody does something,
// or should be looked at. One that waits for its turn does not.
func needsPerson(s control.Status) bool {
	return slices.ContainsFunc(s.Environments, func(e control.EnvironmentStatus) bool {
		decision := e.State == run.Waiting && e.Rollout == "" && e.Packet != "" &&
			!strings.HasPrefix(e.WaitingFor, "the rollout of ") && !strings.HasPrefix(e.WaitingFor, "the registry")
		return decision || e.Stuck || e.Paused || e.Held != ""
	})
}

// waits is what a run waits for, in its own words.
func waits(s control.Status) string {
	for _, e := range s.Environments {
		switch {
		case e.Stuck:
			return e.Name + ": the rollback is stuck: " + e.WaitingFor
		case e.WaitingFor != "":
			return e.Name + ": " + e.WaitingFor
		}
	}
	return s.Reason
}

// services groups cells, with environments in the order that runs go through
// them.
func services(cells []control.Cell, runs []control.Status) []serviceView {
	place := map[string]int{}
	for _, s := range runs {
		for i, e := range s.Environments {
			key := s.Service + "/" + e.Name
			place[key] = max(place[key], i)
		}
	}
	var out []serviceView
	for _, c := range cells {
		i := slices.IndexFunc(out, func(s serviceView) bool { return s.Name == c.Service })
		if i < 0 {
			out = append(out, serviceView{Name: c.Service})
			i = len(out) - 1
		}
		out[i].Cells = append(out[i].Cells, c)
	}
	slices.SortFunc(out, func(a, b serviceView) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range out {
		slices.SortStableFunc(s.Cells, func(a, b control.Cell) int {
			return cmp.Compare(place[s.Name+"/"+a.Environment], place[s.Name+"/"+b.Environment])
		})
	}
	return out
}

func (u *ui) runs(w http.ResponseWriter, r *http.Request) error {
	f := store.RunFilter{Project: project, Service: r.URL.Query().Get("service"), Before: r.URL.Query().Get("before"), Limit: runsPage}
	if !isNumber(f.Before) {
		return invalid("before= wants the number of a run")
	}
	l, err := u.feed(r, "")
	if err != nil {
		return err
	}
	list, err := u.c.Runs(r.Context(), f)
	if err != nil {
		return err
	}
	p := u.page(r, "Runs")
	p.Here, p.Live = "runs", l
	u.show(w, r, http.StatusOK, p, runsContent(p, list, f))
	return nil
}

// isNumber reports whether s is empty or a number of at most 12 digits, as runs
// have.
func isNumber(s string) bool {
	if len(s) > 12 {
		return false
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
