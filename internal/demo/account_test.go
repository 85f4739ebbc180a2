package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

func ptr[T any](v T) *T { return &v }

// whole is a story in which all of it happened.
func whole() Document {
	return Document{
		Releases: []Release{
			{Version: "v1", State: run.Succeeded, GoodResponses: 5000},
			{Version: "v2", State: run.Succeeded, Verdict: verdict.Pass, GoodResponses: 4000},
			{
				Version: "v3", State: run.RolledBack, Verdict: verdict.Fail, GoodResponses: 40, BadResponses: 10,
				RequestsToDetect: ptr(int64(50)), DetectSeconds: ptr(1.5), RollbackMillis: ptr(int64(42)),
			},
		},
		ClientRequests: 9050, ProxyRequests: 9050,
		Evidence: Evidence{Statements: 100, Verified: true},
	}
}

func TestOnlyTheWholeStoryIsComplete(t *testing.T) {
	if m := whole().Missing(); len(m) != 0 {
		t.Fatalf("the whole story lacks %q", m)
	}
	for name, spoil := range map[string]func(*Document){
		"v1 failed":              func(d *Document) { d.Releases[0].State = run.Failed },
		"v2 rolled back":         func(d *Document) { d.Releases[1].State = run.RolledBack },
		"v2 without a verdict":   func(d *Document) { d.Releases[1].Verdict = "" },
		"v2 overridden":          func(d *Document) { d.Releases[1].Verdict = verdict.Inconclusive },
		"v3 succeeded":           func(d *Document) { d.Releases[2].State, d.Releases[2].Verdict = run.Succeeded, verdict.Pass },
		"v3 taken back by hand":  func(d *Document) { d.Releases[2].Verdict = verdict.Inconclusive },
		"v3 stuck":               func(d *Document) { d.Releases[2].State = run.RollbackFailed },
		"v3 not shipped":         func(d *Document) { d.Releases = d.Releases[:2] },
		"a request dropped":      func(d *Document) { d.DroppedRequests = 1 },
		"a request not counted":  func(d *Document) { d.ProxyRequests-- },
		"a request counted more": func(d *Document) { d.ProxyRequests++ },
		"evidence altered":       func(d *Document) { d.Evidence.Verified = false },
	} {
		d := whole()
		spoil(&d)
		if m := d.Missing(); len(m) != 1 || m[0] == "" {
			t.Errorf("%s: the story lacks %q, want one thing", name, m)
		}
	}
}

func TestTheAccountFitsATerminal(t *testing.T) {
	var out bytes.Buffer
	a := account{w: &out, began: time.Now()}
	a.act(strings.Repeat("a title ", 12))
	a.say("%s", strings.Repeat("a long sentence about what happens ", 20))
	a.verdict(red, "fail", strings.Repeat("canary 9 of 51 requests failed ", 10))
	e := control.EnvironmentStatus{Weight: 50, Signals: &control.Signals{CanaryRequests: 1234567, CanaryBad: 12, StableRequests: 7654321, StableBad: 3}}
	a.move("a", traffic("v2", "v1", e))
	a.table(whole())
	for i, l := range strings.Split(out.String(), "\n") {
		if n := utf8.RuneCountInString(l); n > width && i != 1 { // a title is cut by nobody
			t.Errorf("%d columns: %s", n, l)
		}
		if strings.Contains(l, "\x1b") {
			t.Errorf("an account without colours has an escape: %q", l)
		}
		if strings.TrimRight(l, " ") != l {
			t.Errorf("blanks at the end: %q", l)
		}
	}
}

func TestTheMovingLineGivesWay(t *testing.T) {
	var out bytes.Buffer
	a := account{w: &out, moving: true, colours: true}
	a.move("a", "one")
	a.move("a", "two")
	a.say("said")
	const clear = "\r\x1b[K"
	if got, want := out.String(), clear+indent+"one"+clear+indent+"two"+clear+indent+"said\n"; got != want {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}

func TestWithoutATerminalOnlyChangesAreTold(t *testing.T) {
	var out bytes.Buffer
	a := account{w: &out}
	for _, x := range [][2]string{{"10", "10 % 5"}, {"10", "10 % 6"}, {"50", "50 % 9"}, {"50", "50 % 10"}} {
		a.move(x[0], x[1])
	}
	if got, want := out.String(), indent+"10 % 5\n"+indent+"50 % 9\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWrapLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, n := rapid.StringMatching(`[a-zé ]{0,200}`).Draw(t, "text"), rapid.IntRange(1, 90).Draw(t, "n")
		lines := wrap(text, n)
		if got, want := strings.Fields(strings.Join(lines, " ")), strings.Fields(text); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Fatalf("%q became %q", want, got)
		}
		for _, l := range lines {
			if utf8.RuneCountInString(l) > n && strings.Contains(l, " ") {
				t.Fatalf("%q is longer than %d", l, n)
			}
		}
	})
}

func TestNumbersAreGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1 000", -1234567: "-1 234 567", 100000: "100 000", -100: "-100"} {
		if got := number(n); got != want {
			t.Errorf("%d is written %q, want %q", n, got, want)
		}
	}
}

func TestABuildIsSummedUp(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := control.Status{Steps: []run.Step{
		{Name: "deps", State: "succeeded", Started: ptr(at), Ended: ptr(at.Add(time.Second))},
		{Name: "unit", State: "running", Started: ptr(at.Add(time.Second))},
		{Name: "package", State: "pending"},
	}}
	if got, want := building(s, at.Add(4*time.Second)), "building: 1 of 3 steps, now unit 3 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.Steps[1].Ended, s.Steps[1].Tests = ptr(at.Add(5*time.Second)), &run.Tests{Passed: 7}
	if got, want := built(s), "Built once, in 5.0 s: deps, unit (7 tests pass), package."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
