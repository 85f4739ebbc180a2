package cli

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/preview"
)

// What a server measured is taken where nobody says what the traffic is, and said
// to be taken; without a server, or where it knows nothing, these commands go on
// alone.
func TestMeasuredTraffic(t *testing.T) {
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
