package httpapi

import (
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// A host that somebody took over says that its service answers at another place:
// the server sends nobody there, and says why.
func TestAReportedAddressIsTheHostsOwn(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		key := release.Key{Project: "default", Service: "shop", Environment: "production"}
		want := func(generation int64, listen string) {
			t.Helper()
			err := e.store.Update(t.Context(), func(tx *store.Tx) error {
				b, err := json.Marshal(wire.Desired{Protocol: wire.Protocol, Generation: generation, Key: key, Hosts: []string{"web-1"}, Listen: listen, Preview: ":0"})
				if err != nil {
					return err
				}
				_, err = tx.PutDesired(key, generation, b)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		want(7, ":9001")
		sequence := uint64(0)
		report := func(generation int64, address, preview, bearer string) control.HostService {
			t.Helper()
			sequence++
			o := wire.Observed{Protocol: wire.Protocol, Host: "web-1", Boot: "b", Sequence: sequence, Services: []wire.Service{
				{Key: key, Generation: generation, Listening: true, Address: address, Preview: preview, Revisions: []wire.RevisionObserved{}}}}
			if a := e.call("POST", "/agent/v1/observed", o, "Authorization", "Bearer "+bearer); a.status != http.StatusNoContent {
				t.Fatalf("%d %s", a.status, a.body)
			}
			hosts, err := e.control.Hosts(t.Context(), "default")
			if err != nil || len(hosts) != 1 || len(hosts[0].Services) != 1 {
				t.Fatalf("%+v, %v", hosts, err)
			}
			return hosts[0].Services[0]
		}
		own := e.access.AgentToken("web-1")
		for _, c := range []struct{ address, preview, bearer, want, says string }{
			{"127.0.0.1:9001", "", own, "127.0.0.1:9001", ""},
			{"10.9.9.9:9001", "", own, "", "neither where it reports from"},
			{"127.0.0.1:22", "", own, "", "where :9001 is wanted"},
			{"127.0.0.1:22", "", own, "", "where :9001 is wanted"}, // the same again is no better
			{"127.0.0.1:9001", "10.9.9.9:80", own, "127.0.0.1:9001", "10.9.9.9:80"},
			{"127.0.0.1:9001", "127.0.0.1:33", own, "127.0.0.1:9001", ""},
			{"0.0.0.0:9001", "", own, "127.0.0.1:9001", ""},
			{"10.9.9.9:9001", "", e.access.AgentToken("web-1", "10.9.9.9"), "10.9.9.9:9001", ""},
			{"10.9.9.9:9001", "", token, "10.9.9.9:9001", ""},
			{"10.9.9.9:9001", "", earlier(e.access, "web-1"), "10.9.9.9:9001", ""},
			{"10.9.9.9:22", "", earlier(e.access, "web-1"), "", "where :9001 is wanted"},
			{"10.9.9.9:22", "", token, "", "where :9001 is wanted"},
			{"nowhere", "", token, "", "not host:port"},
		} {
			if got := report(7, c.address, c.preview, c.bearer); got.Address != c.want || !strings.Contains(got.Reason, c.says) || (got.Reason == "") != (c.says == "") {
				t.Errorf("%s: %q, %q", c.address, got.Address, got.Reason)
			}
		}
		if n := e.logged.count("bound to no addresses"); n != 1 {
			t.Errorf("the token of an earlier build is told of %d times", n)
		}
		// Before it has applied what it shall run it answers where it did before.
		if got := report(6, "127.0.0.1:8001", "", own); got.Address != "127.0.0.1:8001" || got.Reason != "" {
			t.Errorf("%+v", got)
		}
		// What could not be held to its generation yet is looked at again.
		if got := report(8, "127.0.0.1:9001", "", own); got.Address != "127.0.0.1:9001" {
			t.Errorf("%+v", got)
		}
		want(8, ":9002")
		if got := report(8, "127.0.0.1:9001", "", own); got.Address != "" || !strings.Contains(got.Reason, "where :9002 is wanted") {
			t.Errorf("%+v", got)
		}
	})
}

// A number that nobody can have given is not one to give the next one above.
func TestAReportOfAnImpossibleGeneration(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		key := release.Key{Project: "default", Service: "shop", Environment: "production"}
		for i, generation := range []int64{-1, wire.MaxGeneration + 1, math.MaxInt64} {
			o := wire.Observed{Protocol: wire.Protocol, Host: "web-1", Boot: "b", Sequence: uint64(i + 1), Services: []wire.Service{
				{Key: key, Generation: generation, Revisions: []wire.RevisionObserved{}}}}
			if a := e.call("POST", "/agent/v1/observed", o, "Authorization", "Bearer "+e.access.AgentToken("web-1")); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "nobody can have given") {
				t.Errorf("generation %d: %d %s", generation, a.status, a.body)
			}
		}
	})
}

// A host that somebody took over names the highest number that there is: those that
// come after it are still ones that other hosts may say they applied.
func TestAReportThatLiesOfItsGenerationSilencesNobody(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		key := release.Key{Project: "default", Service: "shop", Environment: "production"}
		report := func(name string, sequence uint64, generation int64) {
			t.Helper()
			o := wire.Observed{Protocol: wire.Protocol, Host: name, Boot: "b", Sequence: sequence, Services: []wire.Service{
				{Key: key, Generation: generation, Revisions: []wire.RevisionObserved{}}}}
			if a := e.call("POST", "/agent/v1/observed", o, "Authorization", "Bearer "+e.access.AgentToken(name)); a.status != http.StatusNoContent {
				t.Fatalf("generation %d: %d %s", generation, a.status, a.body)
			}
		}
		for i, lie := range []int64{wire.MaxReached, wire.MaxGeneration} {
			report("web-1", uint64(i+1), lie)
			err := e.store.Update(t.Context(), func(tx *store.Tx) error {
				next, err := tx.NextGeneration()
				if err == nil && next != wire.MaxReached+1+int64(i) {
					t.Errorf("after %d the next one is %d", lie, next)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		report("web-2", 1, wire.MaxReached+2)
	})
}
