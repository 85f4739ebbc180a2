package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/run"
)

// What a server measured is taken where nobody says what the traffic is, and said
// to be taken; without a server, or where it knows nothing, these commands go on
// alone.
func TestMeasuredTraffic(t *testing.T) {
	patiently(t, &measuredWithin)
	f := newFake(t)
	traffic := preview.Traffic{RPS: 40, BaselineRate: 0.02}
	f.HandleFunc("GET "+api+"services/shop/environments/production/traffic", func(w http.ResponseWriter, _ *http.Request) { answer(w, traffic) })
	file := filepath.Join("..", "..", "examples", "shop", "sluice.yaml")
	const words = "At 40 requests per second, 2 % of which fail: measured in production over the last hour."
	for _, command := range []string{"plan", "advise"} {
		r := f.run(command, "--file", file)
		if r.code != 0 || !strings.Contains(r.out+r.err, words) {
			t.Errorf("%s ended with %d:\n%s%s", command, r.code, r.out, r.err)
		}
		if r := f.run(command, "--file", file, "--rps", "5"); r.code != 0 || strings.Contains(r.out+r.err, "measured") {
			t.Errorf("%s --rps ended with %d:\n%s%s", command, r.code, r.out, r.err)
		}
	}
	r := f.run("plan", "--file", file, "--json")
	if !strings.Contains(strings.Join(strings.Fields(r.out), ""), `"traffic":{"rps":40,"baselineRate":0.02}`) {
		t.Errorf("plan --json says %.300s", r.out)
	}
	traffic = preview.Traffic{}
	if r := f.run("plan", "--file", file); r.code != 0 || !strings.Contains(r.err, "Give --rps") {
		t.Errorf("where nothing is known plan ended with %d:\n%s%s", r.code, r.out, r.err)
	}
}

// A rehearsal is of the service that is named, or of the one that is defined here.
func TestRehearseWhatIsDefinedHere(t *testing.T) {
	f := newFake(t)
	f.status = control.Status{Run: "7", Kind: run.KindRehearse, Service: "shop", State: run.Succeeded}
	f.tell("run", "", map[string]string{"state": string(run.Succeeded)}, nil)
	f.HandleFunc("GET "+api+"services/{service}/environments/staging/way-back", func(w http.ResponseWriter, _ *http.Request) { answer(w, control.Way{Kind: "warm"}) })
	var asked []string
	f.HandleFunc("POST "+api+"services/{service}/environments/staging/rehearsals", func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.PathValue("service"))
		answer(w, httpapi.Started{Run: "7"})
	})
	definition, err := os.ReadFile(filepath.Join("..", "..", "examples", "shop", "sluice.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	f.run("rehearse", "--env", "staging", "--yes").want(t, 2, "say which service", "no such file")
	for text, code := range map[string]int{"version: 1\nservice: [": 2, string(definition): 0} {
		if err := os.WriteFile("sluice.yaml", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		f.run("rehearse", "--env", "staging", "--yes").want(t, code)
	}
	f.run("rehearse", "ledger", "--env", "staging", "--yes").want(t, 0)
	if len(asked) != 2 || asked[0] != "shop" || asked[1] != "ledger" {
		t.Errorf("rehearsed: %v", asked)
	}
}
