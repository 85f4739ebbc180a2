package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json` and `go help buildjson`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of a build's output
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

type skip struct{ pkg, test, why string }

type timed struct {
	pkg, test string
	seconds   float64
}

// summary adds up events. Tests and subtests count alike; a package that fails
// without a failed test (it does not build, panics, or hangs) counts as one failure.
type summary struct {
	out            io.Writer
	passed, failed int
	skipped        []skip
	slow           []timed

	output map[[2]string]*strings.Builder // by package and test, until that has ended
	counts map[string]*[3]int             // by package: passed, failed, skipped
	builds map[string]*strings.Builder    // by import path
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, output: map[[2]string]*strings.Builder{}, counts: map[string]*[3]int{}, builds: map[string]*strings.Builder{}}
}

func (s *summary) read(r io.Reader) error {
	return lines(r, func(line []byte) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
			fmt.Fprintf(s.out, "%s\n", line) // not an event: somebody has something to say
			return
		}
		s.add(e)
	})
}

func (s *summary) add(e event) {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "output":
		b := s.output[key]
		if b == nil {
			b = &strings.Builder{}
			s.output[key] = b
		}
		b.WriteString(e.Output)
		return
	case "build-output":
		b := s.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			s.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	said := ""
	if b := s.output[key]; b != nil {
		said = b.String()
		delete(s.output, key)
	}
	if e.Test == "" {
		s.endPackage(e, said)
		return
	}
	n := s.counts[e.Package]
	if n == nil {
		n = &[3]int{}
		s.counts[e.Package] = n
	}
	if e.Elapsed >= slowSeconds && !strings.Contains(e.Test, "/") {
		s.slow = append(s.slow, timed{e.Package, e.Test, e.Elapsed})
	}
	switch e.Action {
	case "pass":
		n[0]++
		s.passed++
	case "fail":
		n[1]++
		s.failed++
		fmt.Fprintf(s.out, "\nFAIL  %s  %s\n%s", e.Package, e.Test, indent(said))
	case "skip":
		n[2]++
		s.skipped = append(s.skipped, skip{e.Package, e.Test, reason(said)})
	}
}

func (s *summary) endPackage(e event, said string) {
	n := s.counts[e.Package]
	if n == nil {
		n = &[3]int{}
	}
	switch {
	case e.Action == "fail" && n[1] == 0:
		s.failed++
		if b := s.builds[e.FailedBuild]; b != nil {
			said = b.String() + said
		}
		fmt.Fprintf(s.out, "\nFAIL  %s\n%s%s", e.Package, indent(said), indent(s.running(e.Package)))
	case e.Action == "fail":
		fmt.Fprintf(s.out, "FAIL  %s  %.1fs: %d of %d tests failed\n", e.Package, e.Elapsed, n[1], n[0]+n[1])
	case n[0]+n[2] > 0:
		fmt.Fprintf(s.out, "ok    %s  %.1fs, %d passed", e.Package, e.Elapsed, n[0])
		if n[2] > 0 {
			fmt.Fprintf(s.out, ", %d SKIPPED", n[2])
		}
		fmt.Fprintln(s.out)
	} // else it has no tests
}

// running is the output of a package's tests that never ended.
func (s *summary) running(pkg string) string {
	var all strings.Builder
	for key, b := range s.output {
		if key[0] == pkg {
			all.WriteString(b.String())
			delete(s.output, key)
		}
	}
	return all.String()
}

const (
	slowSeconds = 10
	slowest     = 12 // of them are told
)

// printSlow tells where the time goes. A test that waits for others to end, as
// parallel ones do, has that time in it only while it runs.
func (s *summary) printSlow() {
	slices.SortStableFunc(s.slow, func(a, b timed) int { return cmp.Compare(b.seconds, a.seconds) })
	for i, x := range s.slow {
		if i == slowest {
			fmt.Fprintf(s.out, "slow    and %d more of %d s or longer\n", len(s.slow)-slowest, slowSeconds)
			break
		}
		fmt.Fprintf(s.out, "slow  %6.1fs  %s  %s\n", x.seconds, x.pkg, x.test)
	}
}

func (s *summary) printSkipped() {
	if len(s.skipped) == 0 {
		return
	}
	fmt.Fprintf(s.out, "\n***** SKIPPED: %d tests did not run, so what they hold is NOT TESTED here *****\n", len(s.skipped))
	for _, k := range s.skipped {
		fmt.Fprintf(s.out, "SKIPPED  %s  %s\n         %s\n", k.pkg, k.test, k.why)
	}
	fmt.Fprintln(s.out)
}

// saidAt finds what a test gave to Skip or Log: "    file.go:12: text".
var saidAt = regexp.MustCompile(`^\s+[\w./-]+\.go:\d+: (.*)$`)

// reason is the last thing a skipped test said.
func reason(said string) string {
	why := ""
	for line := range strings.Lines(said) {
		line = strings.TrimRight(line, "\n")
		if m := saidAt.FindStringSubmatch(line); m != nil {
			why = strings.TrimSpace(m[1])
			continue
		}
		trimmed := strings.TrimSpace(line)
		if why != "" && strings.HasPrefix(line, "        ") && trimmed != "" {
			why += " " + trimmed // a message of several lines
		}
	}
	if why == "" {
		return "(it gave no reason)"
	}
	return why
}

// indent shifts text under its heading, and leaves out what a heading says already.
func indent(said string) string {
	var b strings.Builder
	for line := range strings.Lines(said) {
		t := strings.TrimSpace(line)
		if t == "" || t == "FAIL" || strings.HasPrefix(t, "=== ") {
			continue
		}
		b.WriteString("      ")
		b.WriteString(strings.TrimRight(line, "\n"))
		b.WriteString("\n")
	}
	return b.String()
}
