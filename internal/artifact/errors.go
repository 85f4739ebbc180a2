package artifact

import (
	"errors"
	"fmt"

	"github.com/sluicehq/sluice/internal/release"
)

var (
	// ErrAltered reports content that is not what its digest names, or an
	// archive that Pack would not have written. Trying again won't help.
	ErrAltered = errors.New("content was altered")
	// ErrUnavailable reports that the registry could not be asked or broke off.
	// It says nothing about the content; try again later.
	ErrUnavailable = errors.New("registry is not available")
	// ErrNotFound reports content that the registry does not have.
	ErrNotFound = errors.New("not in the registry")
	// ErrDenied reports that the registry refuses this token.
	ErrDenied = errors.New("registry denied access")
	// ErrTagTaken reports a tag that already names other content. Tags never move.
	ErrTagTaken = errors.New("tag already names other content")
	// ErrLimit reports more files or bytes than allowed.
	ErrLimit = errors.New("over the limit")
	// ErrExists reports that the destination of an unpacking is already there.
	ErrExists = errors.New("destination exists")
	// ErrUnpackable reports a tree that can't be packed as it is.
	ErrUnpackable = errors.New("tree can't be packed")
)

// AlteredError names the digest and size that were expected and those that
// came. It is an [ErrAltered].
type AlteredError struct {
	What     string // for example "layer" or "manifest"
	Expected release.Digest
	Got      release.Digest
	// Sizes in bytes. Got counts at most one byte more than expected, because
	// reading stops there; the digest Got is then of those bytes only.
	ExpectedSize, GotSize int64
}

// Error says what was expected and got.
func (e *AlteredError) Error() string {
	msg := fmt.Sprintf("%s was altered: expected %s", e.What, e.Expected)
	if e.ExpectedSize != e.GotSize {
		msg += fmt.Sprintf(" (%d bytes)", e.ExpectedSize)
	}
	if e.GotSize > e.ExpectedSize && e.ExpectedSize >= 0 {
		return msg + ", got more bytes than that"
	}
	msg += ", got " + string(e.Got)
	if e.ExpectedSize != e.GotSize {
		msg += fmt.Sprintf(" (%d bytes)", e.GotSize)
	}
	return msg
}

// Is makes an AlteredError an [ErrAltered].
func (e *AlteredError) Is(target error) bool { return target == ErrAltered }
