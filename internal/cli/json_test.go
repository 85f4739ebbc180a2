package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/run"
)

// A program reads any command's answer: with --json each prints one document, or as
// its help says one for each line, and nothing else.
func TestEveryCommandPrintsJSON(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sluice.yaml", definition)
	write("samples.json", `{"metrics":[{"name":"http-errors","kind":"rate","bins":[[0,100,0,900],[0,100,0,900]]}],"options":{"warmUpSeconds":0}}`)
	write("token", testToken)
	repo := repository(t, map[string]string{"sluice.yaml": definition})
	f := newFake(t)
	_, packet := f.withPacket()
	f.everything()
	shows, decides := []string{"7", "--env", "production", "--show"}, []string{"7", "--env", "production", "--packet", string(packet)}

	// What runs without an argument of its own is listed too, so that a new command is
	// not forgotten. Text: why it prints no JSON.
	type call struct {
		args   [][]string
		stream bool // one document for each line
		code   int
		text   string
	}
	calls := map[string]call{
		"completion bash":       {text: "a script for a shell"},
		"completion fish":       {text: "a script for a shell"},
		"completion powershell": {text: "a script for a shell"},
		"completion zsh":        {text: "a script for a shell"},
		"help":                  {text: "for reading"},
		"agent":                 {text: "prints nothing but its log, on standard error"},
		"up":                    {text: "control.txtar and release.txtar run it with --json, until its end"},
		"demo":                  {text: "takes half a minute; TestDemo and TestTheDocumentHasItsKeys hold its document"},
		"down":                  {args: [][]string{{"--data", "none"}}},
		"agent-token":           {args: [][]string{{"web-1", "--data", "."}}},
		"init":                  {args: [][]string{{"--file", "new.yaml"}}},
		"lint":                  {args: [][]string{{}}},
		"plan":                  {args: [][]string{{}, {"--mermaid"}}},
		"advise":                {args: [][]string{{"--rps", "10"}}},
		"judge":                 {args: [][]string{{"--file", "samples.json"}}, code: int(WaitsForPerson)},
		"run":                   {args: [][]string{{"--repo", repo, "--no-wait"}}, stream: true, code: int(WaitsForPerson)},
		"watch":                 {args: [][]string{{"7", "--no-wait"}}, stream: true, code: int(WaitsForPerson)},
		"promote":               {args: [][]string{{"9f86", "--env", "production", "--no-wait"}}, stream: true, code: int(WaitsForPerson)},
		"rehearse":              {args: [][]string{{"shop", "--env", "production", "--yes", "--no-wait"}}, stream: true, code: int(WaitsForPerson)},
		"rollback":              {args: [][]string{{"shop", "--env", "production", "--yes", "--no-wait"}}},
		"runs":                  {args: [][]string{{}}},
		"status":                {args: [][]string{{"7"}, {}}},
		"explain":               {args: [][]string{{"7"}}},
		"logs":                  {args: [][]string{{"7"}, {"7", "unit"}}},
		"replay":                {args: [][]string{{"shop", "--env", "production"}}},
		"artifact ls":           {args: [][]string{{"shop"}}},
		"artifact inspect":      {args: [][]string{{"9f86"}}},
		"artifact verify":       {text: "release.txtar verifies a real one; here there is none to fetch"},
		"artifact push":         {text: "needs a registry: release.txtar"},
		"evidence show":         {args: [][]string{{}}},
		"evidence export":       {text: "needs a real bundle: release.txtar"},
		"evidence verify":       {text: "needs a real bundle: evidence.txtar"},
		"approve":               {args: [][]string{shows, decides}},
		"reject":                {args: [][]string{shows, decides}},
		"advance":               {args: [][]string{{"7", "--env", "production"}}},
		"pause":                 {args: [][]string{{"7", "--env", "production"}}},
		"resume":                {args: [][]string{{"7", "--env", "production"}}},
		"abort":                 {args: [][]string{{"7", "--no-wait"}}},
		"give-up":               {args: [][]string{{"7", "--env", "production", "--reason", "gone"}}},
		"quarantine ls":         {args: [][]string{{}}},
		"quarantine lift":       {args: [][]string{{"9f86", "--reason", "safe"}}},
		"version":               {args: [][]string{{}}},
	}
	seen := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		name := strings.TrimPrefix(c.CommandPath(), "sluice ")
		if c.HasAvailableSubCommands() && name != "demo" || c.Hidden {
			return
		}
		seen[name] = true
		x, ok := calls[name]
		if !ok {
			t.Errorf("%s is not in the list of this test", name)
		}
		for _, args := range x.args {
			r := f.run(append(append(strings.Fields(name), args...), "--json")...)
			if n, err := documents(r.out); err != nil || n < 1 || n > 1 && !x.stream || r.code != x.code || strings.Count(r.out, "\n") != n {
				t.Errorf("%s %q ends with %d and prints %d documents (%v):\n%s%s", name, args, r.code, n, err, r.out, r.err)
			}
		}
	}
	root := (&app{out: io.Discard, err: io.Discard}).root()
	root.InitDefaultHelpCmd()
	walk(root)
	for name := range calls {
		if !seen[name] {
			t.Errorf("there is no command %s", name)
		}
	}
}

// documents counts the JSON documents of a text.
func documents(text string) (n int, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	for {
		var x any
		if err := d.Decode(&x); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		n++
	}
}

// everything lets the fake answer what the commands ask for.
func (f *fake) everything() {
	f.status.Steps = []run.Step{{Name: "unit", State: "succeeded"}, {Name: "package", State: "succeeded"}}
	p := &f.status.Environments[1]
	p.Rollout, p.Phase = "2", "baking"
	p.Held = "no data"
	manifest, err := release.Manifest{Version: 1, Project: "default", Service: "shop", Commit: f.status.Commit}.Canonical()
	if err != nil {
		f.t.Fatal(err)
	}
	rel := httpapi.Release{Release: release.DigestOf(manifest), Service: "shop", Commit: f.status.Commit, Run: "7", Manifest: manifest}
	for path, v := range map[string]any{
		"GET runs":                                      []control.Status{f.status},
		"POST runs":                                     httpapi.Started{Run: "7"},
		"POST promotions":                               httpapi.Started{Run: "7"},
		"GET runs/7/explanation":                        control.Explanation{Run: "7"},
		"GET runs/7/steps/{step}/log":                   control.StepLog{Text: "said\n", Next: 5, Done: true},
		"GET releases":                                  []httpapi.Release{rel},
		"GET releases/9f86":                             rel,
		"GET releases/" + string(rel.Release):           rel,
		"GET quarantines":                               []httpapi.Quarantine{},
		"POST quarantines/9f86/lift":                    httpapi.Done{Done: true},
		"GET evidence":                                  []httpapi.Statement{},
		"POST runs/7/abort":                             httpapi.Done{Done: true},
		"GET services/{s}/environments/{e}/way-back":    control.Way{Kind: "warm", Sentence: "at once"},
		"GET services/{s}/environments/{e}/replay":      control.Replay{},
		"POST services/{s}/environments/{e}/rollbacks":  httpapi.Started{Run: "7"},
		"POST services/{s}/environments/{e}/rehearsals": httpapi.Started{Run: "7"},
		"POST runs/7/environments/production/commands":  httpapi.Done{Done: true},
	} {
		method, rest, _ := strings.Cut(path, " ")
		f.HandleFunc(fmt.Sprintf("%s %s%s", method, api, rest), func(w http.ResponseWriter, _ *http.Request) { answer(w, v) })
	}
}
