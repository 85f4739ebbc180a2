package control

import (
	"errors"
	"fmt"

	"github.com/sluicehq/sluice/internal/artifact"
)

// Errors that the edges map to what their users understand.
var (
	ErrRefused = errors.New("refused") // the state does not allow it; the text says why and what to do
	ErrMissing = errors.New("missing") // there is no such thing
	ErrInvalid = errors.New("invalid") // the request itself is wrong
)

// told is an error whose text is meant for the user as it is.
type told struct {
	kind error
	text string
}

func (e *told) Error() string { return e.text }
func (e *told) Unwrap() error { return e.kind }

func refuse(format string, args ...any) error {
	return &told{kind: ErrRefused, text: fmt.Sprintf(format, args...)}
}

func missing(format string, args ...any) error {
	return &told{kind: ErrMissing, text: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return &told{kind: ErrInvalid, text: fmt.Sprintf(format, args...)}
}

func isAltered(err error) bool {
	return errors.Is(err, artifact.ErrAltered) || errors.Is(err, artifact.ErrNotFound)
}
