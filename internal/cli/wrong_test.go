package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
)

// What is typed wrong is answered in the words of the person who typed it.
func TestWhatIsTypedWrongIsNamed(t *testing.T) {
	f := newFake(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"rollback"}, "sluice rollback needs SERVICE"},
		{[]string{"logs"}, "sluice logs needs RUN [STEP]"},
		{[]string{"approve", "1", "2", "--env", "production"}, "sluice approve takes RUN, and there are 2 arguments"},
		{[]string{"runs", "extra"}, `sluice runs takes no argument, and "extra" is one`},
		{[]string{"evidence", "verify"}, "sluice evidence verify needs FILE"},
		{[]string{"evidence", "verify", "nofile"}, "sluice evidence export -o FILE writes one"},
		{[]string{"plan", "--rps", "abc"}, `invalid argument "abc" for "--rps" flag: it is a number; see`},
		{[]string{"completion", "foo"}, "say which shell"},
		{[]string{"runs", "--server", "localhost:99", "--token", "x"}, "is no URL: give one like http://127.0.0.1:8711"},
		{[]string{"run", "--repo", t.TempDir()}, "go to your service's repository"},
	} {
		f.run(c.args...).want(t, int(Usage), c.says)
	}
}

// With --json an error is a document too, whatever went wrong.
func TestAnErrorIsADocument(t *testing.T) {
	f := newFake(t)
	f.HandleFunc("POST "+api+"promotions", func(w httpWriter, _ *httpRequest) {
		problem(w, http.StatusConflict, httpapi.Problem{Detail: "run 7 is live; wait for its end"})
	})
	for _, c := range []struct {
		args []string
		want told
	}{
		{[]string{"promote", "9f86", "--env", "production", "--json"}, told{Message: "run 7 is live", Hint: "wait for its end", Code: Failed}},
		{[]string{"promote", "9f86", "--json"}, told{Message: "say where to with --env ENV", Code: Usage}},
		{[]string{"--json", "runs", "--nope"}, told{Message: "unknown flag: --nope", Hint: "see sluice runs --help", Code: Usage}},
		{[]string{"rollback", "--json"}, told{Message: "sluice rollback needs SERVICE", Hint: "usage: sluice rollback SERVICE --env ENV [flags]", Code: Usage}},
		{[]string{"runs", "--json", "--server", "http://127.0.0.1:1", "--token", "x"}, told{Hint: "start one: sluice up", Code: Unreachable}},
	} {
		r := f.run(c.args...)
		r.want(t, int(c.want.Code))
		var got struct{ Error told }
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || strings.Count(r.out, "\n") != 1 {
			t.Errorf("%q: %q is no document: %v", c.args, r.out, err)
			continue
		}
		if c.want.Message == "" {
			got.Error.Message = ""
		}
		if got.Error != c.want {
			t.Errorf("%q: %+v, want %+v", c.args, got.Error, c.want)
		}
	}
	if r := f.run("runs", "--nope"); r.out != "" {
		t.Errorf("without --json: %q", r.out)
	}
}

// What can't be taken back is told and left alone.
func TestNoWayBack(t *testing.T) {
	f := newFake(t)
	f.HandleFunc("GET "+api+"services/shop/environments/production/way-back", func(w httpWriter, _ *httpRequest) {
		answer(w, control.Way{Kind: "impossible", Sentence: "no earlier release is known"})
	})
	f.run("rollback", "shop", "--env", "production", "--yes").want(t, int(Failed), "way back: impossible. no earlier release is known.", "there is no way back")
}

// A wrong option of up is the user's mistake, and nothing is begun for it.
func TestUpRefusesItsOptions(t *testing.T) {
	f := newFake(t)
	for _, c := range [][]string{
		{"--addr", "nowhere"},
		{"--addr", "0.0.0.0:0"},
		{"--addr", "127.0.0.1:0", "--tls-cert", "x"},
		{"--addr", "127.0.0.1:0", "--tls-cert", "x", "--tls-key", "y"},
	} {
		f.run(append([]string{"up", "--data", t.TempDir() + "/none"}, c...)...).want(t, int(Usage), "couldn't start")
	}
}
