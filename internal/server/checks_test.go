package server_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/check"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

const hooked = `version: 1
service: pages
owner: team-pages
build:
  steps: [{name: copy, kind: package, run: 'mkdir out && cp -r www smoke.sh out && chmod +x out/smoke.sh'}]
  artifact: {type: files, path: out}
environments:
  - name: production
    target:
      type: host
      listen: '%s'
      run: exec python3 -m http.server $PORT --bind 127.0.0.1 --directory www
      health: {http: /}
    rollout: quick
    synthetic: {rate: 20, paths: [/]}
    hooks:
      beforeTraffic:
        - {name: shell, command: {run: ./smoke.sh, timeout: 2m}}
%s
      afterStep: [{name: home, http: {path: /, contains: Welcome}}]
      afterTraffic: [{name: last, command: ./smoke.sh}]
`

const smoke = `#!/bin/sh
page=$(curl -sf "$SLUICE_URL/")
echo "$SLUICE_SERVICE $SLUICE_ENVIRONMENT $page"
case "$page" in *broken*) exit 1 ;; esac
`

const quick = `version: 1
owner: team-platform
standards:
  - {name: quick, version: 3, rollout: {canary: {steps: [{weight: 50, bake: 5s}]}}, analysis: {warmUp: 0s, bin: 1s, maxExcess: 5, minEvents: 20}}
`

// A service goes out by its platform's standard: commands and a browser look at
// the new release before its traffic, requests of our own keep it busy beside
// users', and a release that its own smoke test calls broken reaches nobody.
func TestHooksForReal(t *testing.T) {
	for _, tool := range []string{"python3", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: there is no %s to serve and ask pages with: install it, as by apt-get install %[1]s", tool)
		}
	}
	pl, problems := pipeline.ParsePlatform("platform.yaml", []byte(quick))
	if problems.Failed() {
		t.Fatal(problems.Render([]byte(quick), false))
	}
	p := newPlane(t, pl)
	page := ""
	seen := pipeline.Check{Name: "seen", Browser: &pipeline.BrowserCheck{Path: "/"}}
	if check.Here(seen) == nil {
		page = "        - {name: seen, browser: {path: /, selector: h1, text: Welcome, failOnConsoleErrors: true}}"
	}
	repo, addr := servertest.NewRepo(t), porttest.Free(t)
	ship := func(text string) string {
		t.Helper()
		repo.Write("www/index.html", "<title>Pages</title><h1>Welcome</h1><p>"+text+"</p>\n")
		repo.Write("smoke.sh", smoke)
		repo.Write("sluice.yaml", fmt.Sprintf(hooked, addr, page))
		repo.Commit(text)
		return p.Run(repo.Dir)
	}
	first := p.WaitState(ship("one"), "succeeded")
	load := servertest.StartLoad(addr, 1)
	defer load.Stop()
	r := ship("two")
	s := p.WaitState(r, "succeeded")
	if e := s.Environments[0]; e.Verdict != "pass" || e.PreviousRelease != first.Release || e.Strategy != "canary" {
		t.Errorf("%s", servertest.Show(s))
	}
	var log control.StepLog
	p.Call(http.MethodGet, "runs/"+r+"/steps/production.shell/log", nil, &log)
	if !strings.Contains(log.Text, "command shell passed") || !strings.Contains(log.Text, "pages production") || !strings.Contains(log.Text, "two") {
		t.Errorf("the log of a command: %q", log.Text)
	}
	if page != "" {
		p.Call(http.MethodGet, "runs/"+r+"/steps/production.seen/log", nil, &log)
		if !strings.Contains(log.Text, "browser seen passed") || !strings.Contains(log.Text, "screenshot is blob sha256:") {
			t.Errorf("the log of a browser: %q", log.Text)
		}
	}
	r = ship("broken")
	s = p.WaitState(r, "failed")
	if !strings.Contains(s.Reason, "check shell at") || !strings.Contains(s.Reason, "exit code 1") {
		t.Errorf("a release that its smoke test calls broken: %s", s.Reason)
	}
	if got := load.Stop(); got.Dropped+got.Bad > 0 {
		t.Errorf("of %d requests %d were dropped and %d answered badly: %v", got.All, got.Dropped, got.Bad, got.Errors)
	}
	// An auditor reads what the command printed without us; a changed byte of it is
	// told with its entry.
	bundle := p.Bundle()
	var printed evidence.Place
	var text []byte
	rep, err := evidence.Verify(bytes.NewReader(bundle), evidence.VerifyOptions{Output: func(at evidence.Place, b []byte) error {
		if at.Name == "output/shell" && bytes.Contains(b, []byte("broken")) {
			printed, text = at, bytes.Clone(b)
		}
		return nil
	}})
	if err != nil || !rep.OK || !bytes.Contains(text, []byte("pages production <title>Pages</title>")) {
		t.Errorf("evidence: %+v, %v; the command printed %q", rep, err, text)
	}
	said := []byte(base64.StdEncoding.EncodeToString(text))
	lie := []byte(base64.StdEncoding.EncodeToString(bytes.Replace(text, []byte("broken"), []byte("brown!"), 1)))
	rep, err = evidence.Verify(bytes.NewReader(bytes.Replace(bundle, said, lie, 1)), evidence.VerifyOptions{})
	if err != nil || rep.OK || len(rep.Findings) != 1 || rep.Findings[0].Kind != evidence.KindAltered || rep.Findings[0].Index != int64(printed.Index) {
		t.Errorf("a changed byte of what entry %d says was printed: %+v, %v", printed.Index, rep, err)
	}
	// A standard that the platform does not have is told with those that it has.
	repo.Write("sluice.yaml", strings.Replace(fmt.Sprintf(hooked, addr, page), "rollout: quick", "rollout: quick@9", 1))
	repo.Commit("unknown")
	if err := p.Try(http.MethodPost, "runs", map[string]string{"repository": repo.Dir, "path": "sluice.yaml", "ref": "HEAD"}, nil); err == nil || !strings.Contains(err.Error(), "the platform has quick@3") {
		t.Errorf("%v", err)
	}
}
