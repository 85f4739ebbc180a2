package control

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/check"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

// answers makes checks as a test wants.
type asking struct {
	mu    sync.Mutex
	asked []string // name and release
	fail  map[string]string
	err   error
	ready error
}

func (a *asking) Ready(context.Context, pipeline.Check) error { return a.ready }

func (a *asking) Run(_ context.Context, q check.Request) (check.Outcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return check.Outcome{}, a.err
	}
	a.asked = append(a.asked, q.Check.Name)
	out := check.Outcome{OK: true, Tries: 1, Output: []byte("asked " + q.Check.Name + "\n"), Shot: []byte("png")}
	if why := a.fail[q.Check.Name]; why != "" {
		out.OK, out.Reason = false, why
	}
	return out, nil
}

const hooked = `
  - name: production
    ` + target + `
    rollout: {canary: {steps: [{weight: 10, bake: 1m}]}}
    analysis: {warmUp: 0s, bin: 5s, maxExcess: 5, metrics: [http-errors]}
    hooks:
      beforeTraffic: [{name: shell, browser: {path: /}}, {name: home, http: {path: /}}]
      afterStep: [{name: step, http: {path: /}}]
      afterTraffic: [{name: last, http: {path: /}}]
    verify: [{name: smoke, http: {path: /}}]
`

// Hooks are asked in their order, of the candidate alone before it has any
// traffic; what they were answered is evidence that can be read.
func TestHooks(t *testing.T) {
	stories(t, func(w *world) {
		a := &asking{}
		w.config.Checks = a
		w.front, w.c = w.controller(), w.controller()
		w.first(hooked)
		if got := strings.Join(a.asked, " "); got != "shell home step smoke last" {
			w.Errorf("a first release was asked %s", got)
		}
		a.asked = nil
		r, v2 := w.ship(w.definition(hooked), "v2")
		w.untilState(r, run.Succeeded)
		if got := strings.Join(a.asked, " "); got != "shell home step step smoke last" {
			w.Errorf("asked %s", got)
		}
		// Until somebody is exposed, hosts show the candidate alone beside it.
		shop := w.hosts[0].shop("production")
		previews := ""
		for _, x := range shop.journal[2:] { // of v2
			previews += fmt.Sprintf("%t ", x.doc.Preview != "")
		}
		if !strings.HasPrefix(previews, "true false ") || strings.Contains(previews[5:], "true") {
			w.Errorf("previews: %s", previews)
		}
		var found []evidence.TestResult
		for _, l := range w.leaves(store.LeafFilter{Subject: v2}) {
			if l.PredicateType != evidence.TypeTestResult {
				continue
			}
			st, err := w.front.trusted.Verify(l.Envelope)
			w.must(err)
			x, err := evidence.Decode[evidence.TestResult](st)
			w.must(err)
			found = append(found, x)
		}
		if len(found) != 6 || found[0].Step != "shell" || found[0].Environment != "production" || len(found[0].Byproducts) != 2 || found[0].Byproducts[1].MediaType != "image/png" {
			w.Errorf("%d statements; the first is %+v", len(found), found)
		}
		log, err := w.front.Log(w.Context(), "default", r, "production.smoke", 0)
		if err != nil || !log.Done || !strings.Contains(log.Text, "http smoke passed") || !strings.Contains(log.Text, "asked smoke\n") {
			w.Errorf("%+v, %v", log, err)
		}
		if _, err := w.front.Log(w.Context(), "default", r, "production.nothing", 0); err == nil || !strings.Contains(err.Error(), `made no check "nothing"`) {
			w.Errorf("%v", err)
		}
	})
}

// A hook that fails takes the release back, before users see it or after.
func TestHooksThatFail(t *testing.T) {
	stories(t, func(w *world) {
		a := &asking{fail: map[string]string{}}
		w.config.Checks = a
		w.front, w.c = w.controller(), w.controller()
		v1 := w.first(hooked)
		for i, name := range []string{"home", "step", "last"} {
			a.fail = map[string]string{name: "it said no"}
			r, _ := w.ship(w.definition(hooked), fmt.Sprintf("v%d", i+2))
			want := run.RolledBack
			if name == "home" {
				want = run.Failed // nobody was exposed
			}
			s := w.untilState(r, want)
			if !strings.Contains(s.Reason, "check "+name+" at ") || !strings.Contains(s.Reason, "it said no") || w.runs("production") != v1 {
				w.Errorf("%s: %s", name, s.Reason)
			}
			log, err := w.front.Log(w.Context(), "default", r, "production."+name, 0)
			if err != nil || !strings.Contains(log.Text, "failed: it said no") {
				w.Errorf("%s: %+v, %v", name, log, err)
			}
			exposed := slices.ContainsFunc(w.hosts[0].shop("production").weights(), func(s string) bool { return strings.Contains(s, "=1000") && !strings.Contains(s, "=10000") })
			if name == "home" && exposed {
				w.Error("a user was exposed to a release that was stopped before traffic")
			}
		}
	})
}

// What a check that failed was answered goes out with the bundle, and is read there
// without the control plane; what was altered, or is gone, is told with its entry.
func TestWhatChecksSaidIsInTheBundle(t *testing.T) {
	stories(t, func(w *world) {
		a := &asking{fail: map[string]string{}}
		w.config.Checks = a
		w.front, w.c = w.controller(), w.controller()
		w.first(hooked)
		a.fail["home"] = "it said no"
		r, v2 := w.ship(w.definition(hooked), "v2")
		w.untilState(r, run.Failed)
		export := func(outputs bool) string {
			var b bytes.Buffer
			w.must(w.front.Export(w.Context(), &b, "default", v2, outputs))
			return b.String()
		}
		read := func(bundle string) (evidence.Report, map[string]int64) {
			found := map[string]int64{}
			rep, err := evidence.Verify(strings.NewReader(bundle), evidence.VerifyOptions{Output: func(p evidence.Place, b []byte) error {
				found[p.Name+" "+string(b)] = int64(p.Index)
				return nil
			}})
			w.must(err)
			return rep, found
		}
		whole := export(true)
		rep, found := read(whole)
		at, ok := found["output/home asked home\n"]
		if !rep.OK || !ok || rep.Outputs < 3 || found["screenshot/shell png"] == 0 {
			w.Fatalf("%+v %v", rep, found)
		}
		if rep, _ := read(export(false)); !rep.OK || rep.Outputs != 0 || rep.OutputsLeft < 3 {
			w.Errorf("without outputs: %+v", rep)
		}
		said := base64.StdEncoding.EncodeToString([]byte("asked home\n"))
		rep, _ = read(strings.Replace(whole, said, base64.StdEncoding.EncodeToString([]byte("asked hume\n")), 1))
		if f := rep.Findings; rep.OK || len(f) != 1 || f[0].Kind != evidence.KindAltered || f[0].Index != at || !strings.Contains(f[0].Message, "output/home was altered") {
			w.Errorf("a changed byte: %+v", rep)
		}
		o, b, err := w.front.Output(w.Context(), "default", at, "output/home")
		if err != nil || string(b) != "asked home\n" || o.MediaType != "text/plain" {
			w.Errorf("%+v %q %v", o, b, err)
		}
		for _, bad := range []struct {
			at         int64
			name, says string
		}{{at, "output/shell", `names no output "output/shell"`}, {1 << 40, "output/home", "has no entry 1099511627776"}} {
			if _, _, err := w.front.Output(w.Context(), "default", bad.at, bad.name); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), bad.says) {
				w.Errorf("%d %s: %v", bad.at, bad.name, err)
			}
		}
		w.must(os.RemoveAll(filepath.Join(w.blobs, "sha256")))
		rep, found = read(export(true))
		if !rep.OK || len(found) != 0 || rep.OutputsLeft < 3 || !slices.ContainsFunc(rep.Findings, func(f evidence.Finding) bool {
			return f.Index == at && f.Kind == evidence.KindNote && strings.Contains(f.Message, "output/home is left out")
		}) {
			w.Errorf("after the folder of blobs was lost: %+v", rep)
		}
		if _, _, err := w.front.Output(w.Context(), "default", at, "output/home"); !errors.Is(err, ErrMissing) {
			w.Errorf("after the folder of blobs was lost: %v", err)
		}
	})
}

// A machine that can't make a check has no verdict: it is tried again, and what
// can't be made at all is refused before anything is built.
func TestChecksThatCantBeMade(t *testing.T) {
	stories(t, func(w *world) {
		a := &asking{err: errors.New("no browser today")}
		w.config.Checks = a
		w.front, w.c = w.controller(), w.controller()
		r, _ := w.ship(w.definition(hooked), "v1")
		w.until(r, "checking", func(s Status) bool { return s.Environments[0].Phase == rollout.Checking })
		w.pause(5 * time.Second)
		if e := w.env(r); e.Phase != rollout.Checking {
			w.Errorf("without a verdict it is %s", e.Phase)
		}
		a.mu.Lock()
		a.err = nil
		a.mu.Unlock()
		w.untilState(r, run.Succeeded)

		a.ready = errors.New("there is no Chromium")
		err := w.front.readyFor(w.Context(), w.definition(hooked), []string{"production"})
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "check shell of production") || !strings.Contains(err.Error(), "no Chromium") {
			w.Errorf("%v", err)
		}
	})
}

// Hosts make traffic while a release has some and is judged, and no longer; the
// judge counts it where it is told to, and says so.
func TestSynthetic(t *testing.T) {
	stories(t, func(w *world) {
		env := strings.Replace(production, "    analysis:", "    synthetic: {rate: 20, paths: [/a]}\n    analysis:", 1)
		w.hosts[0].rps = 0
		w.first(env)
		made := func() string {
			out := ""
			for _, x := range w.hosts[0].shop("production").journal {
				out += map[bool]string{true: "1", false: "0"}[x.doc.Synthetic != nil]
			}
			return out
		}
		if got := made(); got != "010" {
			w.Errorf("generations with synthetic traffic: %s", got)
		}
		r, _ := w.ship(w.definition(env), "v2")
		s := w.until(r, "held", func(s Status) bool { return s.Environments[0].Held != "" })
		if !strings.Contains(s.Environments[0].Held, "data") {
			w.Errorf("without users: %+v", s.Environments[0])
		}
		w.must(w.tell(r, rollout.Command{Kind: rollout.Abort, By: bob, Reason: "enough"}))
		w.untilState(r, run.RolledBack)

		r, _ = w.ship(w.definition(strings.Replace(env, "rate: 20", "rate: 20, count: true", 1)), "v3")
		s = w.untilState(r, run.Succeeded)
		if e := s.Environments[0]; e.Verdict != "pass" {
			w.Errorf("%+v", e)
		}
		said := false
		for _, l := range w.leaves(store.LeafFilter{}) {
			if l.PredicateType != evidence.TypeVerdict {
				continue
			}
			st, err := w.front.trusted.Verify(l.Envelope)
			w.must(err)
			v, err := evidence.Decode[evidence.Verdict](st)
			w.must(err)
			said = said || strings.Contains(v.Reason, "synthetic requests are counted too")
		}
		if !said {
			w.Error("no statement says that synthetic requests were counted")
		}
		if got := made(); !strings.HasSuffix(got, "10") {
			w.Errorf("traffic is made for ever: %s", got)
		}
	})
}
