package webui

import (
	"errors"
	"net/http"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/store"
)

// failure is what a page says of an error.
type failure struct {
	Status  int
	Title   string
	What    string
	Do      string           // what can be done about it
	Changes []control.Change // 409 of a decision: how the packet differs
}

// errNowhere is of an address that leads to no page.
var errNowhere = errors.New("there is no page at this address")

// errMoved is of a form that was about something else than what is there now.
var errMoved = errors.New("something else runs than what you saw, or the way back is another one")

// invalid is a request that no form of these pages sends.
type invalid string

func (e invalid) Error() string { return string(e) }

// explain turns an error into what a person can use. It is the only place where
// errors become statuses.
func explain(err error) failure {
	f := failure{Status: http.StatusInternalServerError, Title: "Something went wrong", What: err.Error(),
		Do: "Nothing was changed. Try again; if it stays so, the server's log says more."}
	var moved *control.Moved
	var bad invalid
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &moved):
		f.Status, f.Title, f.Changes = http.StatusConflict, "The packet changed since you saw it", moved.Changes
		f.What = "Your decision named another packet than the one that waits now, which is " + string(moved.Packet) + ". Nothing was decided."
		f.Do = "Below is the packet as it is now. Read it again, and decide on this one."
		if moved.Unknown != "" {
			f.Title = "There never was such a packet"
		}
	case errors.Is(err, errNowhere):
		f.Status, f.Title, f.Do = http.StatusNotFound, "No such page", "Start from the services."
	case errors.Is(err, control.ErrMissing), errors.Is(err, store.ErrNotFound):
		f.Status, f.Title, f.Do = http.StatusNotFound, "Not found", "It may have had another name. Start from the services."
	case errors.Is(err, store.ErrStale), errors.Is(err, errMoved):
		f.Status, f.Title, f.Do = http.StatusConflict, "It moved while you looked", "Below is how it stands now. Nothing was done; repeat the command if you still want it."
	case errors.Is(err, control.ErrRefused), errors.Is(err, store.ErrLive), errors.Is(err, store.ErrExists):
		f.Status, f.Title, f.Do = http.StatusConflict, "Not possible now", "Nothing was done. Below is how it stands now."
	case errors.As(err, &large):
		f.Status, f.Title, f.What, f.Do = http.StatusRequestEntityTooLarge, "Too much text", "The form was larger than 64 KiB.", "Nothing was done. Shorten the text, and send it again."
	case errors.Is(err, control.ErrInvalid), errors.As(err, &bad):
		f.Status, f.Title, f.Do = http.StatusUnprocessableEntity, "Something is missing or wrong", "Nothing was done. Mend it, and send it again."
	}
	return f
}
