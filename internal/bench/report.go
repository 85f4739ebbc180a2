package main

import (
	_ "embed"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// notes are what people found out about the numbers.
//
//go:embed notes.md
var notes string

// row is one measurement, with a budget or without.
type row struct{ what, budget, measured, verdict string }

type report struct {
	budgets []row
	others  []row
	details []string // Markdown, each under a heading of its own
	missing []string // parts that were not measured
	load    float64  // of the machine before we began, in busy cores
}

func verdictOf(ok bool) string {
	if ok {
		return "held"
	}
	return "**missed**"
}

func (r *report) budget(what, budget, measured string, ok bool) {
	r.budgets = append(r.budgets, row{what, budget, measured, verdictOf(ok)})
}

func (r *report) other(what, measured string) {
	r.others = append(r.others, row{what: what, measured: measured})
}

func (r *report) detail(heading, text string) {
	r.details = append(r.details, "### "+heading+"\n\n"+text+"\n")
}

func (r *report) failed(part string, err error) {
	r.missing = append(r.missing, part)
	r.budgets = append(r.budgets, row{part, "", strings.ReplaceAll(oneLine(err.Error()), "|", "/"), "**not measured**"})
}

func (r *report) incomplete() error {
	if len(r.missing) == 0 {
		return nil
	}
	return fmt.Errorf("couldn't measure %s: the report says why", strings.Join(r.missing, ", "))
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

func (r *report) markdown(now time.Time, took time.Duration, o options) string {
	var b strings.Builder
	b.WriteString("# Performance\n\nThe budgets of the design, as measured by `make bench`. Written by `internal/bench`; the notes at the end are in `internal/bench/notes.md`.\n\n")
	if o.short {
		b.WriteString("> This was a short run, to see that the measurements work. Its numbers mean nothing.\n\n")
	}
	fmt.Fprintf(&b, "Measured on %s, in %s, on %s.\n\n", now.UTC().Format("2 January 2006"), took.Round(time.Second), machine())
	if r.load > float64(runtime.NumCPU())/4 {
		fmt.Fprintf(&b, "> The machine was busy with something else when this began (load %.1f on %d cores): the latencies are also that work's. Ratios, taken in turns, suffer less.\n\n", r.load, runtime.NumCPU())
	}
	b.WriteString("| what | budget | measured | verdict |\n|---|---|---|---|\n")
	for _, x := range r.budgets {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", x.what, x.budget, x.measured, x.verdict)
	}
	b.WriteString("\nWithout a budget, for comparison from version to version:\n\n| what | measured |\n|---|---|\n")
	for _, x := range r.others {
		fmt.Fprintf(&b, "| %s | %s |\n", x.what, x.measured)
	}
	b.WriteString("\n## How to repeat\n\n```\nmake bench\n```\n\n" +
		"on a machine that does nothing else. It needs Go, Git and, for the comparison, nginx and wrk (on Debian `make bench` as root installs them). " +
		"`go run ./internal/bench -only rollback,proxy` measures some parts, `-short` shows in a minute that they work, `-full` simulates 2 000 rollouts per cell of the judge's table.\n\n")
	if len(r.details) > 0 {
		b.WriteString("## Details\n\n" + strings.Join(r.details, "\n"))
	}
	b.WriteString("\n" + strings.TrimSpace(notes) + "\n")
	return b.String()
}

// machine describes this one, without its name.
func machine() string {
	cpu := "an unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	memory := ""
	if kb, ok := field("/proc/meminfo", "MemTotal:"); ok {
		memory = fmt.Sprintf(", %.1f GiB", float64(kb)/(1<<20))
	}
	kernel := runtime.GOOS
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		version, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-") // what follows names a build, not a kernel
		kernel = "Linux " + version
	}
	return fmt.Sprintf("%s, %d cores%s, %s, %s", cpu, runtime.NumCPU(), memory, kernel, runtime.Version())
}

// loadNow is how many processes wanted a core lately; 0 where that isn't known.
func loadNow() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}

// field reads a number from a file of lines "name number …".
func field(path, name string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// sample are durations of one kind.
type sample []time.Duration

// at is the quantile q by nearest rank: the 99th percentile of fewer than 100
// is the largest.
func (x sample) at(q float64) time.Duration {
	if len(x) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(x))
	return s[max(0, min(len(s)-1, int(math.Ceil(q*float64(len(s))))-1))]
}

func (x sample) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, max %s (%d)", ms(x.at(0.5)), ms(x.at(0.99)), ms(x.at(1)), len(x))
}

func ms(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%d µs", d.Microseconds())
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(x))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
