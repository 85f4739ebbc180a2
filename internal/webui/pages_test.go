package webui

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/cascadia"
	"golang.org/x/net/html"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/store"
)

func handlerOf(f *fake) http.Handler {
	return New(Config{Control: f, Access: badge{}, Version: "1.2.3", Now: func() time.Time { return noon }})
}

// doc is an answer, to be asked by selector.
type doc struct {
	t    *testing.T
	code int
	head http.Header
	body string
	root *html.Node
}

type visit struct {
	out    bool // not logged in
	header map[string]string
	form   url.Values
}

func get(t *testing.T, f *fake, path string, v ...visit) doc {
	t.Helper()
	return fetch(t, handlerOf(f), http.MethodGet, path, append(v, visit{})[0])
}

func post(t *testing.T, f *fake, path string, form url.Values) doc {
	t.Helper()
	return fetch(t, handlerOf(f), http.MethodPost, path, visit{form: form})
}

func fetch(t *testing.T, h http.Handler, method, path string, v visit) doc {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(v.form.Encode()))
	if v.form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if !v.out {
		r.AddCookie(&http.Cookie{Name: "sluice-session", Value: "good"})
	}
	for k, x := range v.header {
		r.Header.Set(k, x)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	res := w.Result()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return doc{t, res.StatusCode, res.Header, string(b), root}
}

func (d doc) all(selector string) []*html.Node {
	d.t.Helper()
	s, err := cascadia.Compile(selector)
	if err != nil {
		d.t.Fatal(err)
	}
	return cascadia.QueryAll(d.root, s)
}

func text(n *html.Node) string {
	var b strings.Builder
	for x := range n.Descendants() {
		if x.Type == html.TextNode {
			b.WriteString(x.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// has wants elements with a text; "" is any.
func (d doc) has(selector, want string) {
	d.t.Helper()
	found := d.all(selector)
	for _, n := range found {
		if strings.Contains(text(n), want) {
			return
		}
	}
	var got []string
	for _, n := range found {
		got = append(got, text(n))
	}
	d.t.Errorf("no %s with %q; there are %q", selector, want, got)
}

func (d doc) hasNot(selector string) {
	d.t.Helper()
	if n := d.all(selector); len(n) > 0 {
		d.t.Errorf("there is a %s: %q", selector, text(n[0]))
	}
}

func (d doc) status(want int) {
	d.t.Helper()
	if d.code != want {
		d.t.Fatalf("the answer is %d, want %d: %.300s", d.code, want, text(d.root))
	}
}

func (d doc) leadsTo(want string) {
	d.t.Helper()
	d.status(http.StatusSeeOther)
	if got := d.head.Get("Location"); got != want {
		d.t.Fatalf("it leads to %q, want %q", got, want)
	}
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func TestServices(t *testing.T) {
	d := get(t, newFake(), "/")
	d.status(http.StatusOK)
	d.has("#headline", "2 runs wait for a person, 2 runs are under way: 3 services in 6 places.")
	d.has(".attention li", "checkout · run 18")
	d.has(".attention li .pill.bad", "rollback stuck")
	d.has("#cell-ledger-production .pill", "running")
	d.has("#cell-ledger-production figcaption .candidate", "25 % candidate "+rel2.Short())
	d.has("#cell-ledger-production a[href='/runs/12']", "Watch run 12")
	d.has("#cell-checkout-production .at.bad", "rolled back")
	d.has("#cell-checkout-production a[href='/services/checkout/environments/production']", "production")
	for _, n := range d.all("svg[role=img]") {
		if !strings.Contains(attr(n, "aria-label"), "candidate") {
			t.Errorf("a bar says %q to those who don't see it", attr(n, "aria-label"))
		}
	}
	d.has("#run-10 .pill.bad", "rolled back")
	d.has("#run-07 .tag", "promote")
	if got := attr(d.all("title")[0], "x"); got != "" || !strings.HasPrefix(text(d.all("title")[0]), "(2) Services") {
		t.Errorf("the tab says %q", text(d.all("title")[0]))
	}
	// Of one service, environments come in the order that a run goes through.
	var order []string
	for _, n := range d.all("article h3") {
		order = append(order, text(n))
	}
	if !slices.Equal(order, []string{"dev", "production", "dev", "production", "dev", "production"}) {
		t.Errorf("the environments come as %q", order)
	}
}

func TestServicesBeforeAnything(t *testing.T) {
	f := newFake()
	f.runs, f.cells = nil, nil
	d := get(t, f, "/")
	d.has("#empty-title", "Nothing has been released yet")
	d.has(".commands code", "sluice run")
	d.hasNot("table")
}

func TestServicesQuiet(t *testing.T) {
	f := newFake()
	f.runs, f.cells = f.runs[4:], f.cells[:2]
	d := get(t, f, "/")
	d.has("#headline", "All quiet: 1 service in 2 places.")
	d.hasNot(".attention")
	if got := attr(d.all("#live")[0], "data-poll"); got != "30000" {
		t.Errorf("a quiet page renews itself every %s ms", got)
	}
	f.cells[1].WaitingFor = "host local runs release 1, which was not set to run there: somebody else changed it; it stays so until somebody resumes, or the next rollout"
	get(t, f, "/").has("#headline", "No run is under way; 1 place is to be looked at: 1 service in 2 places.")
}

// A run that waits for its turn waits for nobody.
func TestServicesInTurn(t *testing.T) {
	f := newFake()
	f.runs = f.runs[1:2]
	e := &f.runs[0].Environments[1]
	for text, want := range map[string]string{
		e.WaitingFor: "1 run waits for a person",
		"the rollout of release e4266b7910d5 (run 2) to end; one rollout at a time is live in an environment": "1 run is under way",
		"the registry, to verify the artifacts: connection refused":                                           "1 run is under way",
	} {
		e.WaitingFor = text
		get(t, f, "/").has("#headline", want)
	}
	e.WaitingFor, e.Rollout, e.Held = "", "o1", "drift"
	get(t, f, "/").has("#headline", "1 run waits for a person")
}

func TestRuns(t *testing.T) {
	f := newFake()
	d := get(t, f, "/runs?service=checkout")
	d.has("h1", "Runs of checkout")
	if n := len(d.all("tbody tr")); n != 4 {
		t.Errorf("%d runs of checkout", n)
	}
	get(t, f, "/runs?before=x'").status(http.StatusUnprocessableEntity)
	for i := range 60 {
		f.runs = append(f.runs, status(fmt.Sprintf("00%02d", 60-i), "old", commit1, rel1, "failed", time.Hour))
	}
	d = get(t, f, "/runs")
	if n := d.all("a.button"); len(n) != 1 || attr(n[0], "href") != "/runs?before=0019" {
		t.Errorf("the next page is %q", attr(n[0], "href"))
	}
}

func TestRunInEveryState(t *testing.T) {
	f := newFake()
	t.Run("building", func(t *testing.T) {
		d := get(t, f, "/runs/19")
		d.has("#headline", "The build runs.")
		d.has(".story", "Step test is running.")
		d.has("#build .busy", "running")
		d.has("#build li", "removes: a part that does not do what its author meant")
		d.has("#build a[href='/runs/19/steps/test']", "test")
		d.has(".stages li.busy", "Build running · 2 of 4 steps, now test")
		d.has(".wide #build", "")
		d.has("#act-abort button", "Abort")
		d.hasNot("#act-pause, #act-advance, #act-resume")
		d.has("#env-dev", "Its turn has not come")
		d.hasNot("details.env[open]")
	})
	t.Run("baking", func(t *testing.T) {
		d := get(t, f, "/runs/12")
		d.has("title", "25 % production · running · ledger · run 12")
		d.has("#headline .where", "production")
		d.has("#headline", "Baking at 25 % for 6 min 42 s of 15 min, extended once.")
		d.has(".forecast li", "11 requests per second reach the new release in this bake; by its end about 9 820 are judged")
		d.has(".forecast li", "so far it could see 0.90 % bad or more, by its end it will see 0.70 % or more (stable 0.04 %)")
		d.has(".metrics .counts", "can see 0.9 % or more by now") // the same, as the verdict says it
		d.has(".forecast li", "nds at about "+noon.Add(498*time.Second).UTC().Format("15:04 UTC")+", with a pass if the new release is as good as the stable one (12 % chance that it is undecided then and extended)")
		d.has(".forecast li", "is 0.70 % or more, not 0.54 %: it takes about 14 500 canary requests, so bake 22 min")
		d.has(".story dd", "On a pass the candidate gets 100 % of users")
		d.has(".story dd", "In 8 min 18 s.")
		d.has("#env-production .traffic figcaption .stable", "75 % stable")
		if got := attr(d.all("#bar-production")[0], "width"); got != "25" {
			t.Errorf("the bar is %s wide of 100", got)
		}
		d.has("#env-production .track li[aria-current=step]", "25 % bake 15 min now")
		d.has("#env-production .track li.done", "5 % bake 15 min done")
		d.has("#env-production .track li.todo", "100 % bake 5 min to come")
		d.has("#env-production .plan li", "bake for 5 min at 100 %, judged against the stable before")
		if p := d.all("progress")[0]; attr(p, "value") != "402" || attr(p, "max") != "900" {
			t.Errorf("the bake is %s of %s", attr(p, "value"), attr(p, "max"))
		}
		d.has(".metrics li", "http-errors inconclusive 2 of 4310 requests failed (0.05 %)")
		d.has(".metrics .counts", "candidate 2 of 4 310 (0.05 %)")
		d.has(".metrics .counts", "can see 0.9 % or more by now")
		d.has(".signals", "18 211 requests, 7 failed (0.04 %)")
		d.has("#env-production .gates li", "after:dev this very release succeeded in dev removes: a release that never ran where a failure is cheap")
		if c := attr(d.all("[data-chart]")[0], "data-chart"); !strings.Contains(c, `"c":[0,0,0,0,0,null,`) {
			t.Errorf("a bin without requests must be a gap: %.120s", c)
		}
		d.has("#numbers-production tbody tr", "of")
		d.has("#act-pause button", "Pause")
		d.has("#act-advance-override label", "Why (is kept as evidence)")
		if len(d.all("#act-advance-override input[name=reason][required]")) != 1 {
			t.Error("an override asks for no reason")
		}
		d.has("#act-abort", "Abort and roll back")
		d.hasNot("#act-resume, #act-give-up, form.decide")
		d.has("#terminal code", "sluice pause 12 --env production")
		if got := attr(d.all("#live")[0], "data-poll"); got != "2000" {
			t.Errorf("a live page renews itself every %s ms", got)
		}
		d.has("details.env:not([open]) summary", "dev")
	})
	t.Run("waiting for approval", func(t *testing.T) {
		d := get(t, f, "/runs/18")
		_, digest := packetBody("18")
		d.has(".packet.asks .hash", string(digest))
		d.has(".forecast li", "1 800 canary requests; sees 1.20 % bad or more (stable 0.10 %)")
		d.has(".packet dd", "148 passed, 0 failed, 2 skipped in 1 report")
		d.has(".packet dd", rel3.Short()+" takes over from "+rel2.Short())
		d.has(".packet .plan li", "move 5 % of users")
		d.has(".packet .changes tr", "env.LOG_LEVEL info debug")
		d.has(".packet .changes tr", "env.NEW_PRICES nothing on")
		d.has(".packet", "keeps running at weight 0 for 1h0m0s")
		d.has(".packet", "http-errors, http-latency · owner payments")
		d.has(".packet", "expires in 23 h 49 min")
		if got := attr(d.all("form.decide input[name=packet]")[0], "value"); got != string(digest) {
			t.Errorf("the form decides on %s", got)
		}
		d.has("form.decide button", "Approve")
		d.has("form.decide button", "Reject")
		d.hasNot("noscript") // a reload would take what is typed
	})
	t.Run("stuck", func(t *testing.T) {
		d := get(t, f, "/runs/11")
		d.has(".runhead .pill.bad", "rollback stuck")
		d.has("#act-give-up", "Leaves the target as it is.")
		d.has(".advice li", "Mend what is missing: the rollback then goes on by itself.")
		d.has(".track li.stopped", "ended here")
		d.has(".track li.never", "not reached")
		d.hasNot("#act-abort, #act-pause, #act-advance")
	})
	t.Run("rolled back", func(t *testing.T) {
		d := get(t, f, "/runs/10")
		d.has("#env-production .reason", "http-errors: 61 of 312 requests failed")
		d.has(".signals", "Detected after 312 candidate requests in 6.2 s")
		d.has(".signals", "Taken back in 41 ms")
		d.has("#headline", "The run has ended: rolled back.")
		d.has(".advice li", "sluice run ships a fix")
		d.has(".advice code", "sluice quarantine lift "+rel3.Short())
		d.hasNot(".actions form, .actions details")
		d.hasNot("noscript")
	})
	t.Run("succeeded", func(t *testing.T) {
		d := get(t, f, "/runs/09")
		d.has(".runhead .pill.good", "succeeded")
		d.has("details.env[open] summary", "production")
		d.hasNot(".track .now, .track .todo, .bake, #build p.bad")
	})
	t.Run("failed", func(t *testing.T) {
		d := get(t, f, "/runs/08")
		d.has(".story code", "sluice logs 08 test")
		d.has("#build li", "148 tests passed, 3 failed, 2 skipped")
		d.has("#build p.bad", "Exit code 1.")
		d.has(".stages li.bad", "Build failed")
	})
	t.Run("cancelled promotion", func(t *testing.T) {
		d := get(t, f, "/runs/07")
		d.has(".runhead .pill.idle", "cancelled")
		d.hasNot("#build")
	})
	t.Run("held", func(t *testing.T) {
		f := newFake()
		f.runs[2].Environments[1].Held = "nobody sent a request"
		d := get(t, f, "/runs/12")
		d.has("#env-production .pill.warn", "held")
		f.runs[2].Environments[1].Frozen = true
		d = get(t, f, "/runs/12")
		d.has("#env-production .pill.bad", "frozen")
		d.has(".runhead .pill.bad", "frozen")
	})
	t.Run("preview", func(t *testing.T) {
		f := newFake()
		f.runs[2].Environments[1].Preview = []string{"127.0.0.1:9101"}
		get(t, f, "/runs/12").has("#env-production .preview code", "127.0.0.1:9101")
	})
}

// TestButtons holds what the lines of an explanation become: those that
// control's commandLine makes of what rollout.Explain says a person can do.
func TestButtons(t *testing.T) {
	for line, want := range map[string]string{
		"sluice advance 12 --env production   ends this bake now":                                                 "advance full=false override=false confirm=true reason=1 Ends this bake now.",
		"sluice advance 12 --env production --full   goes to 100 % now":                                           "advance full=true override=false confirm=true reason=1 Goes to 100 % now.",
		"sluice advance 12 --env production --override --reason TEXT   goes on without a pass, which is recorded": "advance full=false override=true confirm=true reason=2 Goes on without a pass, which is recorded.",
		"sluice pause 12 --env production   stops progress, not the reaction to failures":                         "pause full=false override=false confirm=false reason=0 Stops progress, not the reaction to failures.",
		"sluice resume 12 --env production   goes on":                                                             "resume full=false override=false confirm=false reason=0 Goes on.",
		"sluice abort 12 --env production   removes the candidate; no user was on it":                             "abort full=false override=false confirm=true reason=1 Removes the candidate; no user was on it.",
		"sluice give-up 12 --reason TEXT   leaves the target as it is":                                            "give-up full=false override=false confirm=true reason=2 Leaves the target as it is.",
		"sluice abort 12": "abort full=false override=false confirm=true reason=1 Ends this run. Nothing that users see has changed.",
		"sluice logs 12":  "",
		"ship a fix":      "",
		"":                "",
	} {
		f := newFake()
		x := control.Explanation{Run: "12", Environment: "production", Choices: choicesOf(line)}
		got := ""
		for _, a := range choose(x, f.runs[2]).Actions {
			got = fmt.Sprintf("%s full=%t override=%t confirm=%t reason=%d %s", a.Kind, a.Full, a.Override, a.Confirm, a.Reason, a.What)
		}
		if got != want {
			t.Errorf("%q became %q, want %q", line, got, want)
		}
	}
}

func TestLogs(t *testing.T) {
	f := newFake()
	d := get(t, f, "/runs/19/steps/test")
	d.has("pre#log[data-follow]", "--- PASS: TestTotals (0.02s) ok example.com/invoices")
	if strings.Contains(d.body, "\x1b") {
		t.Error("an escape sequence went into the page")
	}
	if got := attr(d.all("#live")[0], "data-poll"); got != "1000" {
		t.Errorf("a running log renews itself every %s ms", got)
	}
	d = get(t, f, "/runs/08/steps/test")
	d.has("pre#log:not([data-follow])", "got 10.01, want 10.00")
	d.has("#log-end", "The log is complete.")
	d.has(".reason", "Exit code 1.")
	get(t, f, "/runs/08/steps/nope").status(http.StatusNotFound)
	d = get(t, f, "/runs/08/steps/deps")
	d.has("#log-empty", "It wrote nothing.")

	f.logs["08/test"] = strings.Repeat("<script>alert(1)</script> line\n", 20000)
	d = get(t, f, "/runs/08/steps/test")
	d.hasNot("pre script")
	d.has("p", "are not shown here")
	if n := len(text(d.all("pre#log")[0])); n > shownLog {
		t.Errorf("the page shows %d bytes of log", n)
	}
	raw := get(t, f, "/runs/08/steps/test/log")
	if raw.body != f.logs["08/test"] || raw.head.Get("Content-Type") != "text/plain; charset=utf-8" || raw.head.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the whole log has %d bytes, want %d; %v", len(raw.body), len(f.logs["08/test"]), raw.head)
	}
	get(t, f, "/runs/99/steps/test/log").status(http.StatusNotFound)
}

func TestEvidence(t *testing.T) {
	f := newFake()
	d := get(t, f, "/evidence")
	d.has("h2", "4 statements")
	d.has(".statements li:first-child", "verdict production being integrated")
	d.has(".statements li", "gate decision production entry 1")
	d.has(".statements li", "tests-passed · pass: 148 tests passed, 2 were skipped")
	d.has(".statements li:last-child", "provenance entry 0")
	d.has(".statements li", "test result production entry 2")
	d.has(".statements li", "smoke · FAILED")
	if got := attr(d.all(".statements li a[href*='/output?']")[1], "href"); got != "/api/v1/projects/default/evidence/entries/2/output?name=screenshot%2Fsmoke" {
		t.Errorf("a picture is at %s", got)
	}
	d.has(".commands code", "sluice evidence verify evidence.json")
	d = get(t, f, "/evidence?release="+rel3.Hex()[:8])
	if got := attr(d.all("a[download]")[0], "href"); got != "/api/v1/projects/default/evidence/bundle?release="+url.QueryEscape(string(rel3)) {
		t.Errorf("the bundle is at %s", got)
	}
	get(t, f, "/evidence?release=ffff").status(http.StatusNotFound)
	get(t, f, "/evidence?run=<x>").status(http.StatusUnprocessableEntity)
	get(t, f, "/evidence?before=0").status(http.StatusUnprocessableEntity)
	get(t, f, "/evidence?environment=nowhere").has("p", "There is none.")

	leaf := f.leaves[0]
	leaf.Envelope = []byte("{")
	f.leaves = slices.Repeat([]store.Leaf{leaf}, 250)
	d = get(t, f, "/evidence")
	if n := len(d.all(".statements > li")); n != shownLeaves {
		t.Errorf("%d statements on one page", n)
	}
	d.has(".statements li", "couldn't be read")
	d = get(t, f, attr(d.all("a.button[href^='/evidence']")[0], "href"))
	d = get(t, f, attr(d.all("a.button[href^='/evidence']")[0], "href"))
	if n := len(d.all(".statements > li")); n != 50 {
		t.Errorf("%d statements on the last page", n)
	}
	d.hasNot("a.button[href^='/evidence']")
}

// The way back says what it is expected to take and why, what it quarantines, and
// what the last rehearsal came to; another one is a click away.
func TestRehearsal(t *testing.T) {
	f := newFake()
	at := "/services/checkout/environments/production"
	f.way.Drill = nil
	get(t, f, at).has("#drill", "No rollback was ever rehearsed here.")
	f.way.Measured = &control.Measured{Way: "warm", Millis: 1210, Run: "09", Drill: true, At: noon}
	f.way.Quarantines, f.way.Artifact = rel2, "it still runs on its hosts"
	f.way.Drill = &control.Drill{Run: "09", Environment: "production", At: noon, Succeeded: true, Way: "warm", BackMillis: 1210, OnMillis: 1140}
	d := get(t, f, at)
	d.has("#way-back dl", "as rehearsed in run 09")
	d.has("#way-back dl", "It still runs on its hosts.")
	d.has("#act-rollback form", "is then quarantined")
	d.has("#drill", "went well (warm): back in 1.2 s, forward again in 1.1 s")
	d.hasNot("#drill .dim")
	f.way.NextDrill = ptr(noon.Add(30 * time.Hour))
	get(t, f, at).has("#drill", "The next one begins by itself, in 30 h 1 min.")
	post(t, f, at+"/rehearsals", url.Values{"reason": {"march"}}).leadsTo("/runs/12?done=rehearse")
	if want := []string{`rehearse checkout production reason="march" by=local:unknown`}; !slices.Equal(f.told, want) {
		t.Errorf("control was told %q", f.told)
	}
	post(t, f, at+"/rehearsals", url.Values{"reason": {strings.Repeat("x", 5000)}}).status(http.StatusUnprocessableEntity)
	f.refuse["rehearse"] = fmt.Errorf("%w: run 12 is live", control.ErrRefused)
	post(t, f, at+"/rehearsals", url.Values{}).status(http.StatusConflict)
	f.way.Drill.Succeeded, f.way.Drill.Reason = false, "it never got ready"
	get(t, f, at).has("#drill .bad", "failed: it never got ready")
}

// Who waits for its turn says behind whom.
func TestQueued(t *testing.T) {
	f := newFake()
	f.runs[1].Environments[1].Queue = &control.QueueStatus{Position: 2, Behind: "12", Before: []string{"11"}}
	d := get(t, f, "/runs/18")
	d.has(".queue", "Place 2 in the queue behind run 12 (live there) · run 11 goes first")
	d.has(".queue a[href='/runs/12']", "run 12")
}

func TestPlace(t *testing.T) {
	f := newFake()
	at := "/services/checkout/environments/production"
	d := get(t, f, at)
	d.has("#way-back .pill.good", "warm")
	d.has("#way-back dl", "Expected about 1 s")
	d.has("#act-rollback form", "All users of checkout in production go back to "+rel1.Short())
	d.has(".history li", "rolled back run 10")
	d.has(".banned", rel3.Short())
	d.has("section", "lifted by local:ben: it was the load test")

	form := url.Values{"from": {string(rel2)}, "target": {string(rel1)}, "to": {""}, "reason": {"prices"}}
	post(t, f, at+"/rollback", form).leadsTo("/runs/12?done=rollback")
	form.Set("from", string(rel3))
	d = post(t, f, at+"/rollback", form)
	d.status(http.StatusConflict)
	d.has("#notice.bad", "Something else runs than what you saw")
	post(t, f, at+"/lift", url.Values{"release": {rel3.Hex()}}).status(http.StatusUnprocessableEntity)
	post(t, f, at+"/lift", url.Values{"release": {rel3.Hex()}, "reason": {"checked"}}).leadsTo(at + "?done=lifted")
	want := []string{`rollback checkout production to= reason="prices" by=local:unknown`, fmt.Sprintf(`lift checkout %s reason="checked" by=local:unknown`, rel3.Short())}
	if !slices.Equal(f.told, want) {
		t.Errorf("control was told %q", f.told)
	}

	f.way = control.Way{Kind: "cold", From: rel2, To: rel1, Seconds: 60, Sentence: "release x must be started first"}
	get(t, f, at).has("#way-back dl", "Expected at most 1 min")
	f.way = control.Way{Kind: "impossible", From: rel2, Sentence: "no earlier release is known"}
	d = get(t, f, at)
	d.has("#way-back .pill.bad", "impossible")
	d.hasNot("#act-rollback")
	f.wayErr = fmt.Errorf("%w: nothing runs", control.ErrRefused)
	get(t, f, at).has("#way-back", "nothing runs.")
	f.refuse["rollback"] = fmt.Errorf("%w: quarantined", control.ErrRefused)
	post(t, f, at+"/rollback", url.Values{}).status(http.StatusConflict)
	delete(f.refuse, "rollback")
	f.told = nil
	live := "/services/ledger/environments/production"
	d = get(t, f, live)
	d.has("#act-rollback", "Abort and roll back")
	d.has("#act-rollback form", "go back to "+rel1.Short())
	// A rollback that was meant for the time before the rollout began is none.
	post(t, f, live+"/rollback", url.Values{"from": {string(rel1)}}).status(http.StatusConflict)
	post(t, f, at+"/rollback", url.Values{"live": {"12"}}).status(http.StatusConflict)
	post(t, f, live+"/rollback", url.Values{"live": {"12"}}).leadsTo("/runs/12?done=rollback")
	if len(f.told) != 1 {
		t.Errorf("control was told %q", f.told)
	}
	get(t, f, "/services/checkout/environments/mars").status(http.StatusNotFound)
}

func TestErrorsArePages(t *testing.T) {
	f := newFake()
	d := get(t, f, "/nowhere/at/all")
	d.status(http.StatusNotFound)
	d.has("h1", "No such page")
	d.has("a[href='/']", "Services")
	d = get(t, f, "/runs/99")
	d.status(http.StatusNotFound)
	d.has(".error", `there is no run "99"`)
	post(t, f, "/", url.Values{}).status(http.StatusNotFound)
	f.err = errors.New("couldn't read the run: disk I/O error")
	for _, path := range []string{"/", "/runs", "/runs/12", "/evidence", "/runs/12/steps/test", "/services/checkout/environments/production"} {
		d = get(t, f, path)
		d.status(http.StatusInternalServerError)
		d.has(".error", "disk I/O error")
		d.has(".error", "server's log says more")
	}
}

// Whatever a name, a log or a comment holds is text.
func TestHostileText(t *testing.T) {
	const evil = `<img src=x onerror=alert(1)>"'` + "`</title><script>alert(2)</script>`" + `&#x202e;javascript:alert(3)`
	f := newFake()
	for i := range f.runs {
		s := &f.runs[i]
		s.Service, s.Commit, s.Reason, s.Repository, s.Actor = evil, evil, evil, evil, evil
		for j := range s.Steps {
			s.Steps[j].Reason, s.Steps[j].Kind = evil, evil
		}
		for j := range s.Environments {
			e := &s.Environments[j]
			e.Reason, e.WaitingFor, e.Strategy, e.Release, e.PreviousRelease = evil, evil, evil, evil, evil
			for k := range e.Metrics {
				e.Metrics[k].Name, e.Metrics[k].Sentence, e.Metrics[k].Basis = evil, evil, evil
			}
			for k := range e.Gates {
				e.Gates[k].Gate, e.Gates[k].Reason = evil, evil
			}
		}
		x := f.explain[s.Run]
		x.Now, x.Why, x.Next, x.When = evil, evil, evil, evil
		x.Choices = append(x.Choices, control.Choice{Text: evil}, control.Choice{Command: evil, Argv: []string{"sluice", evil, s.Run, evil}, Text: evil})
		f.explain[s.Run] = x
	}
	for i := range f.cells {
		f.cells[i].Service, f.cells[i].Commit, f.cells[i].WaitingFor, f.cells[i].Run = evil, evil, evil, evil
	}
	for i := range f.banned {
		f.banned[i].Reason, f.banned[i].LiftedReason = evil, evil
	}
	for i := range f.leaves {
		f.leaves[i].PredicateType, f.leaves[i].Environment, f.leaves[i].Run, f.leaves[i].ID = evil, evil, evil, evil
	}
	body, _ := release.Canonical(control.Packet{Service: evil, Owner: evil, Environment: evil, Commit: evil, Changes: []control.Change{{Path: evil, Was: evil, Now: evil}},
		RollbackPlan: control.RollbackPlan{Kind: evil, Sentence: evil}, Monitoring: control.Monitoring{Metrics: []string{evil}, Owner: evil}, Plan: rollout.Plan{Steps: []rollout.PlanStep{{Kind: rollout.StepCheck, Checks: []string{evil}}}}})
	p := f.packets["18/production"]
	p.Body = body
	f.packets["18/production"] = p
	f.logs["08/test"], f.way.Sentence = evil, evil
	f.refuse["pause"] = fmt.Errorf("%w: %s", control.ErrRefused, evil)

	docs := map[string]doc{"refused": post(t, f, "/runs/12/commands", commandForm("pause"))}
	for name, path := range everyPage {
		docs[name] = get(t, f, path)
	}
	docs["place"] = get(t, f, "/services/"+url.PathEscape(evil)+"/environments/production")
	for name, d := range docs {
		for _, n := range d.all("script") {
			if !strings.HasPrefix(attr(n, "src"), "/static/") || n.FirstChild != nil {
				t.Errorf("%s: there is a script %q", name, text(n))
			}
		}
		d.hasNot("img, [onerror], [onclick], [style], style")
		for _, n := range d.all("[href], [src], [action], [hx-get]") {
			for _, a := range []string{"href", "src", "action", "hx-get"} {
				if v := attr(n, a); v != "" && !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "#") {
					t.Errorf("%s: %s leads to %q", name, a, v)
				}
			}
		}
	}
}

// A page renews itself at whatever the feed tells.
func TestPagesListenToAllThatTheFeedTells(t *testing.T) {
	node := get(t, newFake(), "/").all("#feed [hx-trigger]")
	if len(node) != 1 {
		t.Fatalf("%d listeners", len(node))
	}
	var heard []string
	for _, a := range node[0].Attr {
		if a.Key == "hx-trigger" {
			heard = strings.Split(a.Val, ", ")
		}
	}
	for _, kind := range control.FeedKinds() {
		if !slices.Contains(heard, "sse:"+kind) {
			t.Errorf("nothing is renewed at %q: %q", kind, heard)
		}
	}
}
