package server_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// Where requests come by way of something that does TLS, that is where they come
// from: no host is taken to be there. Without it a host of this machine is.
func TestInsecureListenIsBehindAProxy(t *testing.T) {
	const here = "127.0.0.1:9001"
	for insecure, want := range map[bool]string{false: here, true: ""} {
		p := &plane{t: t, dir: t.TempDir(), insecure: insecure}
		p.Client = &servertest.Client{T: t}
		t.Cleanup(p.start())
		access, err := httpapi.NewAccess(p.Token)
		if err != nil {
			t.Fatal(err)
		}
		report, err := json.Marshal(wire.Observed{Protocol: wire.Protocol, Host: "web-1", Boot: "b", Sequence: 1, Services: []wire.Service{{
			Key: release.Key{Project: "default", Service: "shop", Environment: "production"}, Generation: 1, Listening: true, Address: here,
		}}})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+"/agent/v1/observed", bytes.NewReader(report))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+access.AgentToken("web-1"))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		var hosts []control.Host
		p.Call("GET", "hosts", nil, &hosts)
		if res.StatusCode != http.StatusNoContent || len(hosts) != 1 || len(hosts[0].Services) != 1 || hosts[0].Services[0].Address != want {
			t.Errorf("with --insecure-listen %t: %s, and the service answers at %+v, want %q", insecure, res.Status, hosts, want)
		}
	}
}
