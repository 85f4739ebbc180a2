package agent

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Whatever comes over the socket is a note or an error, and leaves no descriptor.
func FuzzNote(f *testing.F) {
	f.Add([]byte(`{"type":"hello","protocol":1}`), false)
	f.Add([]byte(`{"type":"conn","key":{"project":"p"},"read":"AAAA"}`), true)
	f.Add([]byte(`{"type":"refused","reason":"no"}`), true)
	f.Add([]byte(`{`), true)
	path := filepath.Join(f.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = l.Close() })
	f.Fuzz(func(t *testing.T, b []byte, with bool) {
		if len(b) == 0 || len(b) > maxNote {
			return // no message
		}
		near, err := net.DialUnix("unixpacket", nil, l.Addr().(*net.UnixAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		far, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		var rights []byte
		if with {
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			rights = syscall.UnixRights(int(null.Fd()))
		}
		if _, _, err := near.WriteMsgUnix(b, rights, nil); err != nil {
			t.Fatal(err)
		}
		n, file, err := (&link{conn: far}).receive(5 * time.Second)
		if file != nil {
			defer file.Close()
		}
		if err != nil && file != nil || err == nil && with != (file != nil) {
			t.Errorf("%+v, %v, %v", n, file, err)
		}
	})
}
