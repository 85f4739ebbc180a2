package webui

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
)

func formError(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return err
	}
	return invalid("the form could not be read: " + err.Error())
}

// said are the commands and what the page says once they were taken.
var said = map[string]string{
	"advance":  "Advanced. The page follows what it does now.",
	"pause":    "Paused. A fail verdict or a crash still rolls it back.",
	"resume":   "Resumed.",
	"abort":    "Aborted. The page follows how it is taken back.",
	"give-up":  "Given up. The target was left as it is: look at it.",
	"approved": "Approved, and recorded with the packet's hash.",
	"rejected": "Rejected, and recorded with the packet's hash.",
	"lifted":   "Lifted. The release can be promoted again.",
	"rollback": "The rollback was started. The page follows it.",
	"rehearse": "The rehearsal was started. The page follows it: back, and forward again.",
}

// done leads back to a page that says what was done.
func done(w http.ResponseWriter, r *http.Request, to, what string) error {
	http.Redirect(w, r, to+"?done="+what, http.StatusSeeOther)
	return nil
}

func noticeOf(r *http.Request) *notice {
	if text := said[r.URL.Query().Get("done")]; text != "" {
		return &notice{Good: true, Title: "Done", Text: text}
	}
	return nil
}

func wrong(f failure) *notice {
	return &notice{Title: f.Title, Text: sentence(f.What), Do: f.Do, Changes: f.Changes}
}

func (u *ui) command(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("run")
	if err := r.ParseForm(); err != nil {
		return formError(err)
	}
	f := r.PostForm
	cmd := control.Command{Environment: f.Get("environment"), Command: rollout.Command{
		Kind: rollout.CommandKind(f.Get("command")), By: httpapi.Actor(r.Context()), Reason: f.Get("reason"),
		Full: f.Get("full") == "true", Override: f.Get("override") == "true",
	}}
	switch cmd.Kind {
	case rollout.Advance, rollout.Pause, rollout.Resume, rollout.Abort, rollout.GiveUp:
	default:
		return invalid("the form names no command that this page knows")
	}
	if len(cmd.Reason) > 4096 {
		return u.runPage(w, r, id, invalid("the reason has more than 4096 bytes"))
	}
	if text := f.Get("revision"); text != "" {
		var err error
		if cmd.Revision, err = strconv.ParseInt(text, 10, 64); err != nil {
			return invalid("the form's revision is not a number")
		}
	}
	err := u.c.Rollout(r.Context(), project, id, cmd)
	if err != nil {
		return u.runPage(w, r, id, err)
	}
	return done(w, r, runURL(id), string(cmd.Kind))
}

func environment(s control.Status, name string) (control.EnvironmentStatus, bool) {
	for _, e := range s.Environments {
		if e.Name == name {
			return e, true
		}
	}
	return control.EnvironmentStatus{}, false
}

func (u *ui) decide(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("run")
	if err := r.ParseForm(); err != nil {
		return formError(err)
	}
	f := r.PostForm
	packet, err := release.ParseDigest(f.Get("packet"))
	if err != nil {
		return invalid("the form names no packet")
	}
	what := f.Get("decision")
	if what != "approved" && what != "rejected" {
		return invalid("the form names no decision")
	}
	if what == "rejected" && f.Get("comment") == "" {
		return u.runPage(w, r, id, invalid("a rejection needs a comment, so that the author knows what to mend"))
	}
	err = u.c.Decide(r.Context(), project, id, f.Get("environment"), packet, what == "approved", f.Get("comment"), httpapi.Actor(r.Context()))
	if err != nil {
		return u.runPage(w, r, id, err)
	}
	return done(w, r, runURL(id), what)
}
