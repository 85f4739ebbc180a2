package report_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/internal/runner/report"
)

const good = `{"Time":"2026-01-01T00:00:00Z","Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.5}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"pass","Package":"p","Elapsed":0.7}
{"Action":"skip","Package":"empty","Elapsed":0}
`

func TestGoTestStreams(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     string // of String, or of the error
		passes   bool
		failing  string // name of the first failed test
		output   string
	}{
		{name: "passes", in: good, want: "1 passed, 0 failed, 1 skipped", passes: true},
		{name: "a test fails", in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: want 1\n"}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"fail","Package":"p","Elapsed":0.1}`, want: "0 passed, 1 failed, 0 skipped", failing: "TestA", output: "want 1"},
		{name: "a package that doesn't build counts as failed", in: good + `{"ImportPath":"q","Action":"build-output","Output":"q/x.go:3:2: undefined: y\n"}
{"ImportPath":"q","Action":"build-fail"}
{"Action":"start","Package":"q"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","Elapsed":0,"FailedBuild":"q"}`, want: "1 passed, 1 failed, 1 skipped", failing: "(build)", output: "undefined: y"},
		{name: "a package that fails without a failed test", in: good + `{"Action":"start","Package":"q"}
{"Action":"output","Package":"q","Output":"panic: in init\n"}
{"Action":"fail","Package":"q","Elapsed":0.1}`, want: "1 passed, 1 failed, 1 skipped", failing: "(package)", output: "panic: in init"},
		{name: "a test that was killed", in: good + `{"Action":"run","Package":"q","Test":"TestHang"}
{"Action":"output","Package":"q","Test":"TestHang","Output":"waiting\n"}
{"Action":"fail","Package":"q","Elapsed":10}`, want: "1 passed, 1 failed, 1 skipped", failing: "TestHang", output: "never ended"},
		{name: "a stream whose package never ended", in: good + `{"Action":"start","Package":"q"}`, want: "1 passed, 1 failed, 1 skipped", failing: "(package)", output: "cut off"},
		{name: "run twice and killed the second time", in: good + `{"Action":"run","Package":"q","Test":"TestC"}
{"Action":"pass","Package":"q","Test":"TestC"}
{"Action":"run","Package":"q","Test":"TestC"}`, want: "2 passed, 1 failed, 1 skipped", failing: "TestC"},
		{name: "no test at all", in: `{"Action":"start","Package":"p"}
{"Action":"skip","Package":"p","Elapsed":0}`, want: "no test ran"},
		{name: "only skipped", in: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`, want: "all 1 tests were skipped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := report.Parse(report.GoTest, strings.NewReader(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if s.String() != c.want || s.Passes() != c.passes {
				t.Errorf("got %q, passes %v; want %q, %v", s, s.Passes(), c.want, c.passes)
			}
			if c.failing != "" && (len(s.Tests) == 0 || s.Tests[0].Name != c.failing || !strings.Contains(s.Tests[0].Output, c.output)) {
				t.Errorf("first test is %+v, want %s with %q", s.Tests, c.failing, c.output)
			}
		})
	}
}

func TestGoTestTimesAreKept(t *testing.T) {
	s, err := report.Parse(report.GoTest, strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if s.Duration != 700*time.Millisecond || s.Tests[0].Elapsed != 500*time.Millisecond || !s.Listed {
		t.Errorf("got %+v", s)
	}
}

func TestJUnit(t *testing.T) {
	const in = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1" errors="0">
 <testsuite name="s"><properties><property name="x" value="y"/></properties>
  <testcase classname="c" name="a" time="1.5"/>
  <testcase classname="c" name="b" time="0.25"><failure message="boom">at &lt;b&gt;</failure></testcase>
  <testcase classname="c" name="d"><skipped/></testcase>
  <system-out><![CDATA[noise]]></system-out>
 </testsuite>
</testsuites>`
	s, err := report.Parse(report.JUnit, strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	if s.String() != "1 passed, 1 failed, 1 skipped" || s.Passes() || s.Duration != 1750*time.Millisecond {
		t.Errorf("got %+v", s)
	}
	if f := s.Tests[0]; f.Name != "b" || f.Package != "c" || f.Output != "boom\nat <b>" {
		t.Errorf("the failed test is %+v", f)
	}
}

func TestJUnitClaimMakesItWorseNeverBetter(t *testing.T) {
	worse, err := report.Parse(report.JUnit, strings.NewReader(`<testsuite tests="1" failures="0" errors="2"><testcase name="a"/></testsuite>`))
	if err != nil || worse.Passes() || worse.Failed != 2 {
		t.Errorf("errors of the suite itself: got %+v, %v", worse, err)
	}
	better, err := report.Parse(report.JUnit, strings.NewReader(`<testsuite tests="9" failures="0"><testcase name="a"><error/></testcase></testsuite>`))
	if err != nil || better.Passes() {
		t.Errorf("a failed test under a claim of none: got %+v, %v", better, err)
	}
}

func TestUnreadableReportsSayWhy(t *testing.T) {
	bomb := `<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol1 "&lol;&lol;&lol;">]><testsuite><testcase name="&lol1;"/></testsuite>`
	for _, c := range []struct {
		name, format, in string
		is               error
		says             string
	}{
		{"empty go-test", report.GoTest, "", report.ErrEmpty, "empty"},
		{"blank go-test", report.GoTest, " \n\n", report.ErrEmpty, "empty"},
		{"empty junit", report.JUnit, "", report.ErrEmpty, "empty"},
		{"plain text", report.GoTest, "ok  \tp\t0.1s\n", report.ErrBroken, "go test -json"},
		{"cut inside an event", report.GoTest, good + `{"Action":"pa`, report.ErrBroken, "cut off"},
		{"endless line", report.GoTest, strings.Repeat("a", 2<<20), report.ErrBroken, "longer than"},
		{"entity bomb", report.JUnit, bomb, report.ErrBroken, "document type"},
		{"unknown entity", report.JUnit, `<testsuite><testcase name="&x;"/></testsuite>`, report.ErrBroken, "entity"},
		{"cut junit", report.JUnit, `<testsuite><testcase name="a"/>`, report.ErrBroken, "EOF"},
		{"cut test", report.JUnit, `<testsuite><testcase name="a">`, report.ErrBroken, "EOF"},
		{"wrong nesting", report.JUnit, `<testsuite><a></b></testsuite>`, report.ErrBroken, "element"},
		{"html", report.JUnit, `<html><body/></html>`, report.ErrBroken, "isn't JUnit"},
		{"deep", report.JUnit, strings.Repeat("<testsuite>", 100), report.ErrBroken, "deeper"},
		{"deep in a test", report.JUnit, "<testsuite><testcase>" + strings.Repeat("<a>", 100), report.ErrBroken, "deeper"},
		{"unknown format", "tap", "1..2", nil, "known: go-test, junit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := report.Parse(c.format, strings.NewReader(c.in))
			if err == nil {
				t.Fatalf("accepted: %+v", s)
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q", err)
			}
		})
	}
}

// endless is a stream that would never stop.
type endless struct {
	line string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.line[e.at:])
	e.at = (e.at + n) % len(e.line)
	return n, nil
}

func TestEndlessReportIsRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED with -short: it reads 256 MiB")
	}
	in := &endless{line: strings.Repeat(" ", 500_000) + "\n"}
	_, err := report.Parse(report.GoTest, in)
	if !errors.Is(err, report.ErrBroken) || !strings.Contains(err.Error(), "larger than 256 MiB") {
		t.Errorf("got %v", err)
	}
}

func TestManyTestsAreCountedAndTheFailedOnesKept(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "{\"Action\":\"pass\",\"Package\":\"p\",\"Test\":\"T%d\"}\n", i)
	}
	b.WriteString(`{"Action":"output","Package":"p","Test":"TestBad","Output":"lost: it never ran"}
{"Action":"fail","Package":"p","Test":"TestBad"}
{"Action":"fail","Package":"p"}`)
	s, err := report.Parse(report.GoTest, strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if s.Passed != 5000 || s.Failed != 1 || s.Listed || len(s.Tests) != 2000 || s.Tests[0].Name != "TestBad" {
		t.Errorf("got %d passed, %d failed, %d listed, first %q", s.Passed, s.Failed, len(s.Tests), s.Tests[0].Name)
	}
}

func FuzzGoTest(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"Action":"fail","Package":"q","FailedBuild":"q"}`))
	f.Add([]byte(`{"Action":"run","Package":"p","Test":"` + "\xff" + `"}`))
	f.Fuzz(func(t *testing.T, in []byte) { check(t, report.GoTest, in) })
}

func FuzzJUnit(f *testing.F) {
	f.Add([]byte(`<testsuites failures="2"><testsuite><testcase name="a" time="1e9"><failure message="m">x</failure></testcase></testsuite></testsuites>`))
	f.Add([]byte(`<testsuite><testcase status="notrun"><skipped/></testcase><!-- c --><?pi?></testsuite>`))
	f.Fuzz(func(t *testing.T, in []byte) { check(t, report.JUnit, in) })
}

// check holds what must be true of every input.
func check(t *testing.T, format string, in []byte) {
	s, err := report.Parse(format, strings.NewReader(string(in)))
	if err != nil {
		return
	}
	if s.Passed < 0 || s.Failed < 0 || s.Skipped < 0 || s.Duration < 0 {
		t.Errorf("negative counts: %+v", s)
	}
	if s.Passes() && (s.Failed > 0 || s.Passed == 0) {
		t.Errorf("passes without evidence: %+v", s)
	}
	if s.Listed && len(s.Tests) != s.Total() {
		t.Errorf("claims to list all: %+v", s)
	}
	for _, test := range s.Tests {
		if !utf8.ValidString(test.Name + test.Package + test.Output) {
			t.Errorf("invalid text in %+v", test)
		}
	}
	again, err := report.Parse(format, io.MultiReader(strings.NewReader(string(in))))
	if err != nil || again.String() != s.String() {
		t.Errorf("read twice, two answers: %v and %v (%v)", s, again, err)
	}
}
