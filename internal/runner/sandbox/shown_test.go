package sandbox

import "testing"

func TestShown(t *testing.T) {
	for path, want := range map[string]bool{
		"/usr": true, "/usr/local/go/bin": true, "/bin/sh": true, "/lib64": true, "/nix/store/x": true, "/etc/ssl/certs/ca.pem": true,
		"/": false, "/usrx": false, "/home/usr": false, "/etc/ssl/private": false, "/etc": false, "/nix": false, "/root/lib": false,
	} {
		if Shown(path) != want {
			t.Errorf("%s is not %t", path, want)
		}
	}
}
