package server

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/runner"
)

// The local agent hides from its services all that the server must keep to itself.
func TestTheLocalAgentHidesTheServersKeys(t *testing.T) {
	o := Options{Program: "sluice", TLSCert: "/etc/tls/cert.pem", TLSKey: "/etc/tls/key.pem", TLSCA: "/etc/tls/ca.pem", Show: []string{"/srv"}, Isolation: runner.None}
	got := o.agentCommand("/data", "https://x:1")
	for _, pair := range [][2]string{{"--hide", "/data"}, {"--own", "/etc/tls/key.pem"}, {"--tls-ca", "/etc/tls/ca.pem"}, {"--show", "/srv"}, {"--isolation", "none"}} {
		if i := slices.Index(got, pair[0]); i < 0 || got[i+1] != pair[1] {
			t.Errorf("%s %s is missing: %q", pair[0], pair[1], got)
		}
	}
	if plain := (Options{Program: "sluice"}).agentCommand("/data", "http://x:1"); strings.Contains(strings.Join(plain, " "), "--own") || slices.Contains(plain, "") {
		t.Errorf("%q", plain)
	}
}
