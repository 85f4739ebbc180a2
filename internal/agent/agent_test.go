package agent_test

import (
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

func TestMain(m *testing.M) {
	agenttest.Main()
	os.Exit(m.Run())
}

var shop = release.Key{Project: "default", Service: "shop", Environment: "production"}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func with(r wire.Revision, weight int, candidate bool) wire.Revision {
	r.Weight, r.Candidate = weight, candidate
	return r
}

func TestFirstRelease(t *testing.T) {
	p := agenttest.NewPlane(t)
	p.StartAgent(t, "local", t.TempDir())
	v1 := p.Revision(t, shop, agenttest.Release{Files: map[string]string{"a": "1"}, Env: map[string]string{"VERSION": "v1"}})
	g := p.Desire(wire.Desired{Key: shop, Listen: "127.0.0.1:0", Revisions: []wire.Revision{with(v1, 10000, false)}})
	s := p.WaitWeights(t, "local", shop, g, map[release.ID]int{v1.Release: 10000})
	p.Wait(t, "local", "ready", func(o wire.Observed) bool {
		return agenttest.RevisionOf(agenttest.ServiceOf(o, shop), v1.Release).Phase == wire.Ready
	})
	code, body := get(t, "http://"+s.Address)
	if code != 200 || body != "v1" {
		t.Fatalf("got %d %q", code, body)
	}
}
