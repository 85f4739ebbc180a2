package webui

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// historyRuns bounds the runs that the history of a place is made of.
const historyRuns = 100

// placeView is one service in one environment.
type placeView struct {
	page
	Service string
	Env     string
	Cell    control.Cell
	Way     control.Way
	NoWay   string // why it could not be told
	To      string
	History []entry
	Choices []choice // releases to go back to
	Banned  []store.Quarantine
	Lifted  []store.Quarantine
}

// entry is one rollout, or one that came to nothing.
type entry struct {
	Run control.Status
	Env control.EnvironmentStatus
}

// placeMark is what became of the release here, whatever came after.
func placeMark(h entry) mark { return outcomeMark(h.Env.State) }

type choice struct {
	Release release.ID
	Commit  string
	Run     string
}

func (v *placeView) live() bool { return v.Cell.Candidate != "" }

func (u *ui) place(w http.ResponseWriter, r *http.Request) error {
	return u.placePage(w, r, r.PathValue("service"), r.PathValue("environment"), nil)
}

func (u *ui) placePage(w http.ResponseWriter, r *http.Request, service, env string, failed error) error {
	ctx := r.Context()
	status := http.StatusOK
	v := &placeView{page: u.page(r, service+" in "+env), Service: service, Env: env, To: r.URL.Query().Get("to")}
	v.Here, v.Notice = "services", noticeOf(r)
	if failed != nil {
		f := explain(failed)
		if f.Status >= http.StatusInternalServerError {
			return failed
		}
		status, v.Notice = f.Status, wrong(f)
	}
	l, err := u.feed(r, "")
	if err != nil {
		return err
	}
	l.Get = placeURL(service, env)
	if v.To != "" {
		l.Get += "?" + url.Values{"to": {v.To}}.Encode()
	}
	l.Plain = 0 // a reload would take what is typed
	cells, err := u.c.Overview(ctx, project)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(cells, func(c control.Cell) bool { return c.Service == service && c.Environment == env })
	if i < 0 {
		return errNowhere
	}
	v.Cell = cells[i]
	if v.live() {
		l.Poll = pollMoving
	}
	v.Way, err = u.c.WayBack(ctx, project, service, env, v.To)
	switch {
	case err == nil:
	case errors.Is(err, control.ErrRefused), errors.Is(err, control.ErrMissing), errors.Is(err, control.ErrInvalid):
		v.NoWay = err.Error()
	default:
		return err
	}
	runs, err := u.c.Runs(ctx, store.RunFilter{Project: project, Service: service, Limit: historyRuns})
	if err != nil {
		return err
	}
	known := map[release.ID]bool{v.Cell.Release: true}
	for _, s := range runs {
		e, ok := environment(s, env)
		if !ok || e.State == "" || e.State == "pending" {
			continue
		}
		v.History = append(v.History, entry{s, e})
		if e.State == run.Succeeded && !known[e.Release] {
			known[e.Release] = true
			v.Choices = append(v.Choices, choice{e.Release, s.Commit, s.Run})
		}
	}
	banned, err := u.c.Quarantines(ctx, project, service)
	if err != nil {
		return err
	}
	for _, q := range banned {
		if q.LiftedAt == nil {
			v.Banned = append(v.Banned, q)
		} else {
			v.Lifted = append(v.Lifted, q)
		}
	}
	v.Live = l
	u.show(w, r, status, v.page, placeContent(v))
	return nil
}

func (u *ui) rollback(w http.ResponseWriter, r *http.Request) error {
	service, env := r.PathValue("service"), r.PathValue("environment")
	if err := r.ParseForm(); err != nil {
		return formError(err)
	}
	f := r.PostForm
	if len(f.Get("reason")) > 4096 {
		return u.placePage(w, r, service, env, invalid("the reason has more than 4096 bytes"))
	}
	// What would be taken back is compared with what the person saw: a rollback
	// while a rollout is live aborts that, which nobody wants by accident.
	cells, err := u.c.Overview(r.Context(), project)
	if err != nil {
		return err
	}
	for _, c := range cells {
		live := ""
		if c.Candidate != "" {
			live = c.Run
		}
		if c.Service == service && c.Environment == env && live != f.Get("live") {
			return u.placePage(w, r, service, env, errMoved)
		}
	}
	if from := f.Get("from"); from != "" {
		way, err := u.c.WayBack(r.Context(), project, service, env, f.Get("to"))
		if err != nil {
			return u.placePage(w, r, service, env, err)
		}
		if string(way.From) != from || f.Get("target") != "" && string(way.To) != f.Get("target") {
			return u.placePage(w, r, service, env, errMoved)
		}
	}
	id, err := u.c.Rollback(r.Context(), project, service, env, f.Get("to"), f.Get("reason"), httpapi.Actor(r.Context()))
	if err != nil {
		return u.placePage(w, r, service, env, err)
	}
	return done(w, r, runURL(id), "rollback")
}

func (u *ui) rehearse(w http.ResponseWriter, r *http.Request) error {
	service, env := r.PathValue("service"), r.PathValue("environment")
	if err := r.ParseForm(); err != nil {
		return formError(err)
	}
	reason := r.PostForm.Get("reason")
	if len(reason) > 4096 {
		return u.placePage(w, r, service, env, invalid("the reason has more than 4096 bytes"))
	}
	id, err := u.c.Rehearse(r.Context(), project, service, env, reason, httpapi.Actor(r.Context()))
	if err != nil {
		return u.placePage(w, r, service, env, err)
	}
	return done(w, r, runURL(id), "rehearse")
}

// drillWords tell the last rehearsal.
func drillWords(d *control.Drill) string {
	if !d.Succeeded {
		return "failed: " + d.Reason
	}
	return "went well (" + d.Way + "): back in " + span(time.Duration(d.BackMillis)*time.Millisecond) + ", forward again in " + span(time.Duration(d.OnMillis)*time.Millisecond)
}

func (u *ui) lift(w http.ResponseWriter, r *http.Request) error {
	service, env := r.PathValue("service"), r.PathValue("environment")
	if err := r.ParseForm(); err != nil {
		return formError(err)
	}
	f := r.PostForm
	if f.Get("reason") == "" || len(f.Get("reason")) > 4096 {
		return u.placePage(w, r, service, env, invalid("say why the release is safe now, in at most 4096 bytes: it is kept as evidence"))
	}
	if err := u.c.Lift(r.Context(), project, service, f.Get("release"), f.Get("reason"), httpapi.Actor(r.Context())); err != nil {
		return u.placePage(w, r, service, env, err)
	}
	return done(w, r, placeURL(service, env), "lifted")
}
