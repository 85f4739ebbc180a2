package server

import (
	"slices"
	"testing"
)

// The local agent gives services what lies in the data folder's secrets and in the
// folders that the operator named, and nothing else.
func TestTheLocalAgentKnowsTheFoldersOfSecrets(t *testing.T) {
	o := Options{Program: "sluice", Secrets: []string{"/run/shop", "/run/pay"}}
	var got []string
	for args := o.agentCommand("/data", "http://x:1"); len(args) > 1; args = args[1:] {
		if args[0] == "--secrets" {
			got = append(got, args[1])
		}
	}
	if want := []string{"/data/secrets", "/run/shop", "/run/pay"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
