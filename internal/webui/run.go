package webui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

const (
	pollMoving  = 2 * time.Second  // counters move without an event
	pollQuiet   = 30 * time.Second // a safety net
	plainReload = 10 * time.Second // without JavaScript
)

// runView is all that the page of a run shows.
type runView struct {
	page
	S       control.Status
	X       control.Explanation
	Stages  []stage
	Envs    []envView
	Choices choices
}

// now is what happens, with the run's state as people write it.
func (v *runView) now() string {
	return strings.Replace(v.X.Now, "ended: "+string(v.S.State), "ended: "+outcomeMark(v.S.State).Word, 1)
}

// building reports whether the build is what the page is about: it runs, or is
// why the run has ended.
func (v *runView) building() bool {
	return v.S.Release == "" && len(v.S.Steps) > 0
}

// stage is one part of the way to production.
type stage struct {
	Name   string
	To     string // anchor on the page
	Mark   mark
	Risk   string
	Detail string
}

// envView is one environment of a run.
type envView struct {
	control.EnvironmentStatus
	Mark    mark
	Risk    string
	Plan    []planView
	Track   []trackView
	Open    bool // shown in full at first
	Chart   *chart
	Packet  *packetView
	Moving  bool // a rollout is under way
	Exposed bool
}

// trackView is a part of the plan at a glance: a weight and its bake are one.
type trackView struct {
	Title  string
	Detail string
	State  string
}

// planWords name how far a part of a plan is.
var planWords = map[string]string{"done": "done", "now": "now", "todo": "to come", "stopped": "ended here", "never": "not reached"}

type planView struct {
	rollout.PlanStep
	Text  string
	State string // a key of planWords
}

// packetView is the evidence that an approver decides on.
type packetView struct {
	control.Packet
	Digest  release.Digest
	Made    time.Time
	Expires time.Time
	Decide  bool
}

func (u *ui) run(w http.ResponseWriter, r *http.Request) error {
	return u.runPage(w, r, r.PathValue("run"), nil)
}

// runPage shows a run as it stands, and above it what came of a form.
func (u *ui) runPage(w http.ResponseWriter, r *http.Request, id string, failed error) error {
	ctx := r.Context()
	status, p := http.StatusOK, u.page(r, "Run "+id)
	p.Here, p.Notice = "runs", noticeOf(r)
	if failed != nil {
		f := explain(failed)
		if f.Status == http.StatusNotFound || f.Status >= http.StatusInternalServerError {
			return failed
		}
		status, p.Notice = f.Status, wrong(f)
	}
	// The feed's end is read first: what happens after it is an event.
	l, err := u.feed(r, id)
	if err != nil {
		return err
	}
	s, err := u.c.Status(ctx, project, id, true)
	if err != nil {
		return err
	}
	x, err := u.c.Explain(ctx, project, id)
	if err != nil {
		return err
	}
	l.Get = runURL(id)
	v := &runView{page: p, S: s, X: x, Choices: choose(x, s)}
	for _, e := range s.Environments {
		ev := u.envView(e)
		if e.Packet != "" && e.Phase == "" {
			if ev.Packet, err = u.packet(r, id, e, v.Choices.Decide && x.Environment == e.Name); err != nil {
				return err
			}
		}
		if ev.Moving {
			l.Poll = pollMoving
		}
		if ev.Packet != nil && ev.Packet.Decide {
			l.Plain = 0 // a reload would take what is typed
		}
		ev.Open = ev.Moving || x.Environment == e.Name || e.State != run.Succeeded && e.State != "" && e.State != "pending"
		v.Envs = append(v.Envs, ev)
	}
	if over(s.State) {
		l.Plain = 0
		if n := len(v.Envs); n > 0 && s.State == run.Succeeded {
			v.Envs[n-1].Open = true
		}
	}
	v.Stages = stages(s, v.Envs)
	v.Live, v.Title = l, title(s)
	u.show(w, r, status, v.page, runContent(v))
	return nil
}

// over reports whether nothing happens any more.
func over(o run.Outcome) bool {
	return o != run.Running && o != run.Waiting && o != run.RollingBack
}

// title is what a browser's tab shows: what moves first.
func title(s control.Status) string {
	t := fmt.Sprintf("%s · %s · run %s", outcomeMark(s.State).Word, s.Service, s.Run)
	for _, e := range s.Environments {
		if e.Rollout != "" && !e.Phase.Terminal() && e.Weight > 0 {
			return percent(e.Weight) + " " + e.Name + " · " + t
		}
	}
	return t
}

func (u *ui) packet(r *http.Request, id string, e control.EnvironmentStatus, decide bool) (*packetView, error) {
	row, err := u.c.PacketOf(r.Context(), project, id, e.Name)
	if err != nil {
		return nil, err
	}
	v := &packetView{Digest: row.Digest, Made: row.CreatedAt, Expires: row.ExpiresAt, Decide: decide}
	if err := json.Unmarshal(row.Body, &v.Packet); err != nil {
		return nil, fmt.Errorf("couldn't read packet %s: %w", row.Digest.Short(), err)
	}
	return v, nil
}

func (u *ui) envView(e control.EnvironmentStatus) envView {
	v := envView{EnvironmentStatus: e, Mark: outcomeMark(e.State), Chart: newChart(e.Points), Exposed: e.Signals != nil || e.Weight > 0}
	v.Moving = e.Rollout != "" && e.Phase != "" && !e.Phase.Terminal()
	if v.Moving {
		switch {
		case e.Stuck:
			v.Mark = mark{"alarm", "rollback stuck", "bad"}
		case e.Phase == rollout.RollingBack:
		case e.Paused:
			v.Mark = mark{"pause", "paused", "warn"}
		case e.Frozen:
			v.Mark = mark{"alarm", "frozen", "bad"}
		case e.Held != "":
			v.Mark = mark{"wait", "held", "warn"}
		}
	}
	v.Risk = pipeline.RolloutRisk(pipeline.Rollout{Strategy: e.Strategy})
	back := e.Phase == rollout.RollingBack || e.Phase.Terminal() && e.Phase != rollout.Succeeded
	for i, p := range e.Plan {
		s := planView{PlanStep: p, Text: stepWords(p), State: "todo"}
		switch {
		case e.Phase == rollout.Succeeded || i < e.Step:
			s.State = "done"
		case back && i == e.Step:
			s.State = "stopped"
		case back:
			s.State = "never"
		case i == e.Step && v.Moving:
			s.State = "now"
		}
		v.Plan = append(v.Plan, s)
	}
	v.Track = newTrack(v.Plan)
	return v
}

// newTrack joins each weight with its bake.
func newTrack(plan []planView) []trackView {
	var out []trackView
	for i, p := range plan {
		t := trackView{State: p.State}
		switch p.Kind {
		case rollout.StepPrepare:
			t.Title, t.Detail = "Start", "no users yet"
		case rollout.StepShift:
			t.Title, t.Detail = weight(p.Weight), "of users"
		case rollout.StepBake:
			t.Title, t.Detail = weight(p.Weight), "bake "+span(p.Bake)
			if !p.Analysis {
				t.Detail += ", not judged"
			}
			if i > 0 && plan[i-1].Kind == rollout.StepShift {
				out[len(out)-1].Detail = t.Detail
				if p.State != "todo" && p.State != "never" {
					out[len(out)-1].State = p.State
				} else if plan[i-1].State == "done" {
					out[len(out)-1].State = p.State
				}
				continue
			}
		case rollout.StepCheck:
			t.Title, t.Detail = "Check", strings.Join(p.Checks, ", ")
		case rollout.StepReplace:
			t.Title, t.Detail = "Replace", groups(p.PlanStep)
		case rollout.StepHold:
			t.Title, t.Detail = "Hold", "a person advances it"
		case rollout.StepRetire:
			t.Title, t.Detail = "Finish", "the old release leaves"
		default:
			t.Title = string(p.Kind)
		}
		out = append(out, t)
	}
	return out
}

// stages are the parts of the way, with what each of them is for.
func stages(s control.Status, envs []envView) []stage {
	var out []stage
	if len(s.Steps) > 0 {
		b := stage{Name: "Build", To: "build", Risk: "an artifact that nobody could make again, or whose tests failed"}
		done, state := 0, "succeeded"
		for _, x := range s.Steps {
			switch x.State {
			case "succeeded", "reused":
				done++
			case "skipped":
			default:
				if rank(x.State) > rank(state) {
					state = x.State
				}
			}
		}
		b.Mark, b.Detail = stepMark(state), fmt.Sprintf("%d of %s", done, plural(len(s.Steps), "step", "steps"))
		for _, x := range s.Steps {
			if x.State == "running" {
				b.Detail += ", now " + x.Name
			}
		}
		if s.ReusedFrom != "" {
			b.Mark, b.Detail = stepMark("reused"), "built once, in run "+s.ReusedFrom
		}
		out = append(out, b)
	}
	for _, e := range envs {
		st := stage{Name: e.Name, To: anchor("env", e.Name), Mark: e.Mark, Risk: e.Risk}
		switch {
		case e.Moving && e.Exposed:
			st.Detail = percent(e.Weight) + " of users"
		case e.Strategy != "":
			st.Detail = e.Strategy
		}
		out = append(out, st)
	}
	return out
}

// rank orders states by how much a person should know of them.
func rank(state string) int {
	return strings.Index("succeeded pending cancelled running timed-out failed", state)
}
