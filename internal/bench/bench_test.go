package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/server"
)

func TestReadWrk(t *testing.T) {
	out := "Running 5s test @ http://127.0.0.1:1/\n  Latency Distribution\n     50%    2.10ms\n     99%   10.50ms\n  100 requests in 5.00s, 1.00MB read\nRequests/sec:  22071.33\nTransfer/sec:     25.1MB\n"
	rate, tail, err := readWrk(out)
	if err != nil || rate != 22071.33 || tail != 10500*time.Microsecond {
		t.Errorf("read %v, %v, %v", rate, tail, err)
	}
	for _, bad := range []string{"", "Requests/sec: 1", out + "  Non-2xx or 3xx responses: 3\n", strings.Replace(out, "10.50ms", "soon", 1)} {
		if _, _, err := readWrk(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var x sample
	for i := range 200 {
		x = append(x, time.Duration(200-i)*time.Millisecond)
	}
	if x.at(0.5) != 100*time.Millisecond || x.at(0.99) != 198*time.Millisecond || x.at(1) != 200*time.Millisecond {
		t.Errorf("quantiles: %s", x)
	}
	if one := (sample{time.Second}); one.at(0.5) != time.Second || one.at(0.99) != time.Second || (sample{}).at(0.5) != 0 {
		t.Error("quantiles of one and of none")
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median: %v", m)
	}
}

// What is linted is correct, and as long as the budget says.
func TestLarge(t *testing.T) {
	src := large()
	if n := strings.Count(string(src), "\n"); n < 1000 {
		t.Errorf("only %d lines", n)
	}
	if _, problems := pipeline.Parse("sluice.yaml", src, server.ParseOptions()...); problems.Failed() {
		t.Error(problems.Render(src, false))
	}
}

// The report says which budget was missed, what was not measured, and nothing of
// whose machine it was.
func TestReport(t *testing.T) {
	var r report
	r.load = 1000
	r.budget("a", "< 1 s", "2 s", false)
	r.budget("b", "< 1 s", "0.5 s", true)
	r.failed("c", errTest("no | such\nthing"))
	r.other("d", "3")
	text := r.markdown(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Minute, options{short: true})
	for _, want := range []string{
		"| a | < 1 s | 2 s | **missed** |", "| b | < 1 s | 0.5 s | held |", "| c |  | no / such thing | **not measured** |", "| d | 3 |",
		"2 January 2026", "busy with something else", "short run", "make bench",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

type errTest string

func (e errTest) Error() string { return string(e) }
