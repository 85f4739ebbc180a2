package simtest

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/rollout"
)

// seeds is how many are played: 10 000, and 200 under the race detector or -short.
func seeds(t *testing.T) uint64 {
	if raceDetector || testing.Short() {
		return 200
	}
	if v := os.Getenv("SLUICE_SIM_SEEDS"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			t.Fatalf("SLUICE_SIM_SEEDS is %q: it is a number of seeds", v)
		}
		return n
	}
	return 10_000
}

const (
	some = 200    // from here on each fault strikes, and so does something in each phase
	all  = 10_000 // from here on no cell may be empty
)

// TestRecordedSeeds replays the seeds that failed once.
func TestRecordedSeeds(t *testing.T) {
	files, err := filepath.Glob("testdata/seeds/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			seed, err := recorded(b)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			if r := Run(seed, true); r.Violation != nil {
				t.Errorf("seed %d: %v\n%s", seed, r.Violation, tail(r.Transcript))
			}
		})
	}
}

// TestSeeds plays all seeds, prints what was covered, and fails on the first
// violation of each invariant and on each empty cell.
func TestSeeds(t *testing.T) {
	n, start := seeds(t), time.Now()
	sum := play(n, func(Result) bool { return true })
	for _, r := range sum.bad {
		again := Run(r.Seed, true)
		if again.Violation == nil {
			t.Errorf("seed %d failed (%v), and did not when it was played again", r.Seed, r.Violation)
			continue
		}
		name, err := keep("testdata/seeds", again)
		if err != nil {
			t.Errorf("couldn't keep seed %d: %v", r.Seed, err)
		}
		t.Errorf("seed %d: %v (kept as %s)\n%s", r.Seed, r.Violation, name, tail(again.Transcript))
	}
	if len(sum.bad) > 0 {
		t.Errorf("%d of %d seeds failed", len(sum.bad), n)
	}
	if sum.leastEvents < MinEvents || sum.leastFaults < MinFaults {
		t.Errorf("a seed had %d events, and one %d faults: each has at least %d and %d", sum.leastEvents, sum.leastFaults, MinEvents, MinFaults)
	}
	table := sum.coverage.Table()
	t.Logf("%d seeds, %d events, %d faults, %d rollouts in %.1f s\n%s\n%s", n, sum.events, sum.faults, sum.rollouts, time.Since(start).Seconds(), sum.kinds(), table)
	if f := os.Getenv("SLUICE_SIM_TABLE"); f != "" { // for who sees no output of tests that pass
		if err := os.WriteFile(f, []byte(table), 0o600); err != nil {
			t.Error(err)
		}
	}
	if n >= some {
		for _, e := range sum.coverage.Never() {
			t.Errorf("coverage: %s", e)
		}
	}
	if n >= all {
		for _, e := range sum.coverage.Empty() {
			t.Errorf("coverage: %s", e)
		}
		for _, p := range []rollout.Phase{rollout.Succeeded, rollout.RolledBack, rollout.RollbackFailed, rollout.Cancelled, rollout.Superseded} {
			if sum.ends[p] == 0 {
				t.Errorf("no rollout ended %s", p)
			}
		}
	}
	if os.Getenv("SLUICE_SIM_WRITE") != "" {
		write(t, "coverage", fmt.Sprintf("%d seeds, %d events, %d faults, %d rollouts.\n%s\n\n%s", n, sum.events, sum.faults, sum.rollouts, sum.kinds(), table))
	}
}

// TestSameSeedSameStory: a failing seed fails again.
func TestSameSeedSameStory(t *testing.T) {
	for seed := range uint64(20) {
		a, b := Run(seed, true), Run(seed, true)
		if strings.Join(a.Transcript, "\n") != strings.Join(b.Transcript, "\n") {
			t.Fatalf("seed %d came out in two ways", seed)
		}
		if c := Run(seed, false); c.Events != a.Events || c.Faults != a.Faults {
			t.Fatalf("seed %d is another with a transcript: %d and %d events", seed, a.Events, c.Events)
		}
	}
}

// total is many seeds' results.
type total struct {
	bad                      []Result
	events, faults, rollouts int
	leastEvents, leastFaults int // of a seed that came to its end
	coverage                 Coverage
	ends                     map[rollout.Phase]int
	strategies, targets      map[string]int
}

// play runs seeds on all processors until n are done or more says no.
func play(n uint64, more func(Result) bool) *total {
	sum := &total{leastEvents: math.MaxInt, leastFaults: math.MaxInt, ends: map[rollout.Phase]int{}, strategies: map[string]int{}, targets: map[string]int{}}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		next atomic.Uint64
		stop atomic.Bool
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				seed := next.Add(1) - 1
				if seed >= n {
					return
				}
				r := Run(seed, false)
				mu.Lock()
				sum.events, sum.faults, sum.rollouts = sum.events+r.Events, sum.faults+r.Faults, sum.rollouts+r.Rollouts
				sum.coverage.Merge(r.Coverage)
				for p, k := range r.Ends {
					sum.ends[p] += k
				}
				for k, c := range r.Strategies {
					sum.strategies[k] += c
				}
				sum.targets[r.Target]++
				if r.Violation != nil {
					sum.bad = append(sum.bad, r)
				} else {
					sum.leastEvents, sum.leastFaults = min(sum.leastEvents, r.Events), min(sum.leastFaults, r.Faults)
				}
				if !more(r) {
					stop.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return sum
}

func (s *total) kinds() string {
	return fmt.Sprintf("Targets: %v. Strategies: %v. Ends: %v.", s.targets, s.strategies, s.ends)
}

// keep makes a failing seed's story, all of it, a test file.
func keep(dir string, r Result) (name string, err error) {
	name = filepath.Join(dir, fmt.Sprintf("%d.txt", r.Seed))
	text := fmt.Sprintf("seed %d\n%v\n\n%s\n", r.Seed, r.Violation, strings.Join(r.Transcript, "\n"))
	return name, os.WriteFile(name, []byte(text), 0o644)
}

// recorded reads what keep wrote.
func recorded(b []byte) (seed uint64, err error) {
	if _, err := fmt.Sscanf(string(b), "seed %d\n", &seed); err != nil {
		return 0, fmt.Errorf("it doesn't begin with a line seed N: %w", err)
	}
	return seed, nil
}

const screen = 150 // lines of a story that are printed; its file has all

func tail(lines []string) string {
	out := strings.Join(lines[max(0, len(lines)-screen):], "\n")
	if cut := len(lines) - screen; cut > 0 {
		out = fmt.Sprintf("(%d lines before these are cut here; play the seed with a transcript, or see its file)\n%s", cut, out)
	}
	return out
}

// TestKeep: a failing seed becomes a file with the whole story, which is played
// again from then on.
func TestKeep(t *testing.T) {
	seed := uint64(1)
	r := Run(seed, true)
	for len(r.Transcript) <= screen { // cutting a shorter one would not show
		seed++
		r = Run(seed, true)
	}
	r.Violation = &Violation{Invariant: 3, Text: "somebody let it go"}
	dir := t.TempDir()
	name, err := keep(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := filepath.Glob(filepath.Join(dir, "*.txt")); err != nil || len(found) != 1 || found[0] != name {
		t.Fatalf("TestRecordedSeeds finds %v, not %s (%v)", found, name, err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("seed %d\ninvariant 3: somebody let it go\n\n", seed) + strings.Join(r.Transcript, "\n") + "\n"
	if string(b) != want {
		t.Errorf("the file has %d bytes, the story %d; it begins\n%.200s", len(b), len(want), b)
	}
	again, err := recorded(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := Run(again, true).Transcript; strings.Join(got, "\n") != strings.Join(r.Transcript, "\n") {
		t.Errorf("what was kept plays seed %d, another story", again)
	}
	if _, err := keep(filepath.Join(dir, "missing"), r); err == nil {
		t.Error("a file that couldn't be written was not told of")
	}
	if out := tail(r.Transcript); !strings.HasPrefix(out, fmt.Sprintf("(%d lines before", len(r.Transcript)-screen)) || !strings.HasSuffix(out, r.Transcript[len(r.Transcript)-1]) {
		t.Errorf("what is printed doesn't say where it is cut:\n%.200s", out)
	}
}

// TestCoverageTells: a fault or a phase that nothing struck, and an empty cell, are
// named.
func TestCoverageTells(t *testing.T) {
	var c Coverage
	for f := range Fault(nFaults) {
		for _, p := range columns {
			if f != leaseLost && p != rollout.Finishing && !impossible(f, p) {
				c.add(f, p)
			}
		}
	}
	if got := strings.Join(c.Never(), "; "); got != "lease lost in a turn struck nowhere; nothing struck in finishing" {
		t.Errorf("never: %s", got)
	}
	c.add(leaseLost, rollout.Finishing)
	if got := c.Never(); len(got) > 0 {
		t.Errorf("never: %s", got)
	}
	empty := strings.Join(c.Empty(), "\n")
	if !strings.Contains(empty, "lease lost in a turn in baking: 0") || strings.Contains(empty, "lease lost in a turn in finishing") || strings.Contains(empty, "second rollout in ended") {
		t.Errorf("empty cells:\n%s", empty)
	}
	c.add(forgedRelease, rollout.Baking)
	if !strings.Contains(strings.Join(c.Empty(), "\n"), "forged release in baking: 1") {
		t.Error("a cell that can't be struck was, and that was not told")
	}
}
