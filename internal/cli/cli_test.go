package cli

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

type (
	httpWriter  = http.ResponseWriter
	httpRequest = http.Request
)

// TestEveryCommandExplainsItself: a summary, an example, checked arguments.
func TestEveryCommandExplainsItself(t *testing.T) {
	root := (&app{}).root()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, s := range c.Commands() {
			if s.Hidden || s.Name() == "help" || s.Name() == "completion" {
				continue
			}
			path := s.CommandPath()
			if s.Short == "" || strings.HasSuffix(s.Short, ".") {
				t.Errorf("%s: summary %q", path, s.Short)
			}
			if !strings.Contains(s.Example, path) {
				t.Errorf("%s has no example of itself: %q", path, s.Example)
			}
			if s.Args == nil {
				t.Errorf("%s takes any arguments unseen", path)
			}
			if s.RunE == nil {
				t.Errorf("%s does nothing", path)
			}
			for line := range strings.SplitSeq(s.Long, "\n") {
				if len(line) > 100 {
					t.Errorf("%s: a line of its help is %d wide", path, len(line))
				}
			}
			walk(s)
		}
	}
	walk(root)
}

// TestProblemsOfTheServerAreShownLikeThoseOfLint: a server may know rules that
// this build does not.
func TestProblemsOfTheServerAreShownLikeThoseOfLint(t *testing.T) {
	dir := repository(t, map[string]string{"svc/sluice.yaml": definition})
	f := newFake(t)
	var asked httpapi.RunRequest
	f.HandleFunc("POST "+api+"runs", func(w httpWriter, r *httpRequest) {
		_ = json.NewDecoder(r.Body).Decode(&asked)
		problem(w, http.StatusUnprocessableEntity, httpapi.Problem{Detail: "bad", Problems: pipeline.Problems{{
			File: "svc/sluice.yaml", Line: 3, Column: 8, Severity: pipeline.Error, Rule: "unknown-owner", Message: "nobody is called team-shop", Mend: "register it",
		}}})
	})
	r := f.run("run", "--repo", filepath.Join(dir, "svc"))
	r.want(t, 2, "svc/sluice.yaml:3:8: error: nobody is called team-shop (unknown-owner)", "   3 | owner: team-shop\n     |        ^\n     = register it", "the server refused svc/sluice.yaml: 1 error")
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if asked.Repository != top || asked.Path != "svc/sluice.yaml" || asked.Ref != "HEAD" {
		t.Errorf("asked for %+v", asked)
	}
}

func TestARunIsRefusedBeforeTheServerIsAsked(t *testing.T) {
	dir := repository(t, map[string]string{"sluice.yaml": definition, "bad.yaml": "version: 1\nservice: Shop\n"})
	f := newFake(t)
	f.HandleFunc("POST "+api+"runs", func(httpWriter, *httpRequest) { t.Error("the server was asked") })
	f.run("run", "--repo", dir, "--file", "bad.yaml").want(t, 2, "bad.yaml:2:10", "^", "mend them, commit, then run again")
	f.run("run", "--repo", dir, "--file", "none.yaml").want(t, 2, "has no file none.yaml; commit it")
	f.run("run", "--repo", dir, "--file", "../sluice.yaml").want(t, 2, "outside of the repository")
	f.run("run", "--repo", dir, "--ref", "nope").want(t, 2, "couldn't find the commit")
	// What is not committed is not looked at.
	if err := os.WriteFile(filepath.Join(dir, "new.yaml"), []byte(definition), 0o600); err != nil {
		t.Fatal(err)
	}
	f.run("run", "--repo", dir, "--file", filepath.Join(dir, "new.yaml")).want(t, 2, "uncommitted changes are not built: new.yaml", "has no file new.yaml")
}

func TestAPacketThatMovedIsRefusedWithTheDifference(t *testing.T) {
	f := newFake(t)
	f.status = waiting()
	saw, now := release.DigestOf([]byte("saw")), release.DigestOf([]byte("now"))
	f.HandleFunc("POST "+api+"runs/7/environments/production/decisions", func(w httpWriter, r *httpRequest) {
		var q httpapi.DecisionRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Packet != saw || q.Decision != "approve" || q.Comment != "read" {
			t.Errorf("%v %+v", err, q)
		}
		problem(w, http.StatusConflict, httpapi.Problem{Detail: "moved", Packet: now, Changes: []control.Change{{Path: "commit", Was: "aaa", Now: "bbb\x1b[2J"}, {Path: "gates", Was: "", Now: "[1]"}}})
	})
	r := f.run("approve", "7", "--packet", string(saw), "--comment", "read")
	r.want(t, 1, "it is now "+string(now), "  commit: aaa → bbb\uFFFD[2J", "  gates: (nothing) → [1]", "sluice approve 7 --env production --show")
	f.run("approve", "7", "--env", "production").want(t, 2, "--show shows it with its digest")
}

// TestAPacketIsWhatItsDigestSays: a person must not decide on something else.
func TestAPacketIsWhatItsDigestSays(t *testing.T) {
	f := newFake(t)
	f.status = waiting()
	body := json.RawMessage(`{"service":"shop"}`)
	of := release.DigestOf(body)
	f.HandleFunc("GET "+api+"runs/7/environments/production/packet", func(w httpWriter, _ *httpRequest) {
		answer(w, httpapi.Packet{Digest: of, Packet: body})
	})
	f.run("approve", "7", "--show").want(t, 0)
	body = json.RawMessage(`{"service":"other"}`)
	f.run("approve", "7", "--show").want(t, 1, "don't decide on it")
}

var update = flag.Bool("update", false, "write golden files anew")

func TestThePacketIsShownWholeForReading(t *testing.T) {
	f := newFake(t)
	f.withPacket()
	r := f.run("approve", "7", "--show")
	r.want(t, 0)
	golden := filepath.Join("testdata", "packet.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(r.out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if r.out != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", r.out, want)
	}
	for line := range strings.SplitSeq(r.out, "\n") {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("%d wide: %s", n, line)
		}
	}
}

// TestACommandIsSentAgainUnderTheSameKey when the connection broke and nobody
// knows whether it arrived.
func TestACommandIsSentAgainUnderTheSameKey(t *testing.T) {
	f := newFake(t)
	f.status = waiting()
	var keys []string
	f.HandleFunc("POST "+api+"runs/7/environments/production/commands", func(w httpWriter, r *httpRequest) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys) == 1 {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
			return
		}
		answer(w, httpapi.Done{Done: true})
	})
	f.run("pause", "7", "--env", "production").want(t, 0, "The rollout in production is paused")
	if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("keys %q", keys)
	}
	f.run("resume", "7", "--env", "production").want(t, 0)
	if keys[2] == keys[0] {
		t.Error("two commands have one key")
	}
}

func TestATokenThatIsWrongIsAUsageError(t *testing.T) {
	f := newFake(t)
	f.run("status", "7", "--token", "x").want(t, 2, "the access token is missing or wrong")
}

// TestNothingThatOthersWroteControlsTheTerminal sends control sequences in every
// text of a status.
func TestNothingThatOthersWroteControlsTheTerminal(t *testing.T) {
	evil := "x\x1b]0;owned\x07\u202e\ny"
	f := newFake(t)
	s := waiting()
	s.Service, s.Commit, s.Reason, s.Actor, s.State = evil, evil, evil, release.Actor(evil), "failed"
	for i := range s.Environments {
		e := &s.Environments[i]
		e.Name, e.Strategy, e.WaitingFor, e.Reason = evil, evil, evil, evil
	}
	f.status = s
	for _, kind := range []string{"run", "step", "release", "promoted", "approval", "approve", "alarm", "stopped", "rollout", evil[:1]} {
		f.tell(kind, evil, map[string]string{"kind": evil, "by": evil, "state": evil, "step": evil, "release": evil, "reason": evil, "to": evil, "strategy": evil}, nil)
	}
	f.tell("run", "", map[string]string{"state": "failed"}, nil)
	f.HandleFunc("GET "+api+"runs/7/explanation", func(w httpWriter, _ *httpRequest) {
		answer(w, control.Explanation{Run: evil, Environment: evil, Now: evil, Why: evil, Next: evil, When: evil, Can: []string{evil + "   " + evil}})
	})
	f.HandleFunc("GET "+api+"runs", func(w httpWriter, _ *httpRequest) { answer(w, []control.Status{s}) })
	f.HandleFunc("GET "+api+"quarantines", func(w httpWriter, _ *httpRequest) {
		problem(w, http.StatusConflict, httpapi.Problem{Detail: evil, Errors: []string{evil}})
	})
	for _, args := range [][]string{{"status", "7"}, {"watch", "7"}, {"explain", "7"}, {"runs"}, {"quarantine", "ls"}} {
		r := f.run(args...)
		if bad := strings.IndexFunc(r.out+r.err, func(r rune) bool { return r != '\n' && visible(r) != r }); bad >= 0 {
			t.Errorf("%v lets %q through", args, (r.out + r.err)[bad:min(len(r.out+r.err), bad+12)])
		}
	}
}

func TestCompletionWaitsForNobody(t *testing.T) {
	f := newFake(t)
	f.HandleFunc("GET "+api+"runs", func(_ httpWriter, r *httpRequest) { <-r.Context().Done() })
	r := f.run("__complete", "status", "") // which comes back at all
	r.want(t, 0)
	if strings.Contains(r.out, "7") {
		t.Errorf("%s", r.out)
	}
}

func TestAnExportIsWholeOrNotThere(t *testing.T) {
	f := newFake(t)
	f.HandleFunc("GET "+api+"evidence/bundle", func(w httpWriter, _ *httpRequest) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"format":`) // and the connection breaks
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "e.json")
	if err := os.WriteFile(file, []byte("the one before"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.run("evidence", "export", "-o", file).want(t, 1, "couldn't read the whole bundle")
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "the one before" {
		t.Errorf("the file from before is now %q (%v)", b, err)
	}
}

// One entry is shown with what its check was answered, which can't control the
// terminal; what is not there any more is said.
func TestAnEntryIsShownWithWhatItsCheckWasAnswered(t *testing.T) {
	f := newFake(t)
	f.HandleFunc("GET "+api+"evidence/entries/3", func(w httpWriter, _ *httpRequest) {
		fmt.Fprint(w, `{"index":3,"at":"2026-05-04T12:00:00Z","subject":"sha256:`+strings.Repeat("ab", 32)+`","predicateType":"https://in-toto.io/attestation/test-result/v0.1",`+
			`"predicate":{"result":"FAILED"},"outputs":[{"name":"output/smoke","mediaType":"text/plain"},{"name":"screenshot/smoke","mediaType":"image/png"},{"name":"output/gone","mediaType":"text/plain"}]}`)
	})
	f.HandleFunc("GET "+api+"evidence/entries/3/output", func(w httpWriter, r *httpRequest) {
		switch r.URL.Query().Get("name") {
		case "output/smoke":
			fmt.Fprint(w, "could not\x1b[2J log in\nexit 1\n")
		case "screenshot/smoke":
			fmt.Fprint(w, strings.Repeat("x", 2000))
		default:
			problem(w, 404, httpapi.Problem{Detail: "this control plane doesn't have it"})
		}
	})
	r := f.run("evidence", "show", "--entry", "3")
	r.want(t, 0, "output/gone: ", "doesn't have it")
	for _, want := range []string{"entry 3, ", `  "result": "FAILED"`, "\noutput/smoke:\ncould not\uFFFD[2J log in\nexit 1\n", "screenshot/smoke: 2.0 kB of image/png"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is not in\n%q", want, r.out)
		}
	}
	f.run("evidence", "show", "--entry", "-1").want(t, 2, "from 0")
	f.run("evidence", "show", "--entry", "3", "--run", "1").want(t, 2, "--entry is one entry")
}

// What a bake saw and will see is in status and in explain, in the same words.
func TestABakeTellsWhatItCanSee(t *testing.T) {
	f := newFake(t)
	ends := time.Date(2026, 5, 4, 12, 8, 0, 0, time.UTC)
	b := &preview.Bake{
		ChanceOfExtension: 0.12, Running: &preview.Running{CanaryRPS: 10.7, Undecided: "extended", RemainingSeconds: 498, EndsAt: ends},
		Metrics: []preview.MetricBake{{Name: "http-errors", BaselineRate: 0.0004, DetectableSoFar: 0.009, PlanOutput: analysis.PlanOutput{CanaryRequests: 9820, Detectable: 0.007}}},
		Advice:  []string{"http-errors: bake 22m0s"},
	}
	f.mu.Lock()
	f.status = control.Status{Run: "7", Service: "shop", State: run.Running, Environments: []control.EnvironmentStatus{{
		Name: "production", State: run.Running, Rollout: "o1", Phase: rollout.Baking, Bake: &control.BakeStatus{ElapsedSeconds: 402, TotalSeconds: 900}, Forecast: b,
	}}}
	f.mu.Unlock()
	f.HandleFunc("GET "+api+"runs/7/explanation", func(w httpWriter, _ *httpRequest) {
		answer(w, control.Explanation{Run: "7", Now: "baking", Forecast: b})
	})
	for _, command := range []string{"status", "explain"} {
		r := f.run(command, "7")
		r.want(t, 0)
		for _, want := range []string{
			"11 requests per second reach the new release", "so far it could see 0.90 % bad or more, by its end it will see 0.70 % or more",
			"ends at about " + ends.Local().Format("15:04") + ", with a pass", "http-errors: bake 22",
		} {
			if !strings.Contains(strings.Join(strings.Fields(r.out), " "), want) {
				t.Errorf("%s: %q is not in\n%s", command, want, r.out)
			}
		}
	}
}

// TestLinesFit holds wrap, hung and cut to the widths that they are given.
func TestLinesFit(t *testing.T) {
	text := "production  \x1b[32mrunning\x1b[0m  canary at 5 % of users, which is a long line that must be broken between words"
	for _, width := range []int{40, 60, 80} {
		whole := ""
		for i, l := range hung("production  "+text[12:], width) {
			if n := len([]rune(plainText(l))); n > width {
				t.Errorf("%d wide, not %d: %q", n, width, l)
			}
			if i > 0 && !strings.HasPrefix(l, strings.Repeat(" ", labelWidth)) {
				t.Errorf("not under its facts: %q", l)
			}
			whole += " " + strings.TrimSpace(plainText(l))
		}
		if !strings.Contains(whole, "5 % of users") || slices.Contains(strings.Split(whole, "\n"), "%") {
			t.Errorf("words were lost: %q", whole)
		}
		if got := cut(text, width); len([]rune(plainText(got))) > width || !strings.HasSuffix(plainText(got), "…") {
			t.Errorf("cut to %d: %q", width, got)
		}
	}
	if got := cut("short", 5); got != "short" {
		t.Errorf("cut a line that fits: %q", got)
	}
}

// What failed and waits for a person is frozen, not held, and its verdict is told once.
func TestAFrozenRolloutIsCalledFrozen(t *testing.T) {
	f := newFake(t)
	sentence := "30 of 100 requests were bad"
	f.status = waiting()
	p := &f.status.Environments[1]
	p.Packet, p.Rollout, p.Phase, p.Verdict = "", "2", rollout.Baking, verdict.Fail
	p.Held, p.WaitingFor = "the judge failed it: http-errors: "+sentence+" in 1m30s", "the judge failed it: http-errors: "+sentence+" in 1m30s"
	p.Frozen, p.Preview = true, []string{"127.0.0.1:9101"}
	p.Metrics = []analysis.Metric{{Name: "http-errors", Verdict: verdict.Fail, Sentence: sentence}}
	r := f.run("status", "7")
	r.want(t, 0)
	if !strings.Contains(r.out, ", frozen") || strings.Contains(r.out, "held") || strings.Count(strings.Join(strings.Fields(r.out), " "), sentence) != 1 || !strings.Contains(r.out, "in 1 min 30 s") {
		t.Errorf("%s", r.out)
	}
	if !strings.Contains(r.out, "preview: the new release alone answers at 127.0.0.1:9101") {
		t.Errorf("%s", r.out)
	}
}

// A commit that is under way already is started again, and told of.
func TestTheSameCommitTwiceIsSaid(t *testing.T) {
	f := newFake(t)
	f.status = waiting()
	f.asks()
	f.HandleFunc("POST "+api+"runs", func(w httpWriter, _ *httpRequest) { answer(w, httpapi.Started{Run: "7"}) })
	earlier, done, other := f.status, f.status, f.status
	earlier.Run, done.Run, other.Run = "6", "5", "4"
	done.State, other.Commit = "succeeded", "another"
	f.HandleFunc("GET "+api+"runs", func(w httpWriter, r *httpRequest) {
		if r.URL.Query().Get("before") != "7" || r.URL.Query().Get("service") != "shop" {
			t.Errorf("asked for %s", r.URL.RawQuery)
		}
		answer(w, []control.Status{earlier, done, other})
	})
	dir := repository(t, map[string]string{"sluice.yaml": definition})
	r := f.run("run", "--repo", dir, "--no-wait")
	r.want(t, 4, "warning: run 6 has the same commit and is waiting: sluice watch 6 shows it, sluice abort 7 ends this one")
	if strings.Count(r.err, "same commit") != 1 {
		t.Errorf("%s", r.err)
	}
}
