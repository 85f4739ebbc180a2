package source

import (
	"errors"
	"strings"
	"testing"
)

func FuzzParseCommits(f *testing.F) {
	f.Add([]byte("h\x00t\x00a\x00s\x001\x00"))
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		all, err := parseCommits(in)
		if err == nil && len(all) > len(in) {
			t.Errorf("%d commits from %d bytes", len(all), len(in))
		}
	})
}

func FuzzRemoteID(f *testing.F) {
	for _, s := range []string{"https://u:p@h/x.git", "git@h:x/y.git", "ssh://h:22/x", "C:\\x", "u:p@h:x", "https://u:p%40@h/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, remote string) {
		if id := remoteID(remote); strings.Contains(id, "@") || strings.ContainsAny(id, "\x00\n") {
			t.Errorf("%q became %q", remote, id)
		}
	})
}

// What git says of a full disk comes with what to do.
func TestFullDiskIsSaid(t *testing.T) {
	for said, advised := range map[string]bool{
		"fatal: sha1 file 'index.lock' write error. Out of diskspace":             true,
		"error: unable to write file bin/service: No space left on device\nfatal": true,
		"fatal: not a git repository":                                             false,
	} {
		err := &gitError{"checkout", said, errors.New("exit status 128")}
		if got := strings.Contains(err.Error(), "free space there and try again"); got != advised {
			t.Errorf("%q: %s", said, err)
		}
	}
}
