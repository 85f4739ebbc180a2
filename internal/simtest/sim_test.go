package simtest

import (
	"fmt"
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

const all = 10_000 // from here on no cell may be empty

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
			var seed uint64
			if _, err := fmt.Sscanf(string(b), "seed %d", &seed); err != nil {
				t.Fatalf("%s doesn't begin with seed N: %v", f, err)
			}
			if r := Run(seed, false); r.Violation != nil {
				t.Errorf("seed %d: %v\n%s", seed, r.Violation, tail(Run(seed, true).Transcript))
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
		keep(t, r.Seed)
	}
	if len(sum.bad) > 0 {
		t.Errorf("%d of %d seeds failed", len(sum.bad), n)
	}
	if sum.events < int(n)*MinEvents || sum.faults < int(n)*MinFaults {
		t.Errorf("%d seeds had %d events and %d faults: each has at least %d and %d", n, sum.events, sum.faults, MinEvents, MinFaults)
	}
	table := sum.coverage.Table()
	t.Logf("%d seeds, %d events, %d faults, %d rollouts in %.1f s\n%s\n%s", n, sum.events, sum.faults, sum.rollouts, time.Since(start).Seconds(), sum.kinds(), table)
	if f := os.Getenv("SLUICE_SIM_TABLE"); f != "" { // for who sees no output of tests that pass
		if err := os.WriteFile(f, []byte(table), 0o600); err != nil {
			t.Error(err)
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
	coverage                 Coverage
	ends                     map[rollout.Phase]int
	strategies, targets      map[string]int
}

// play runs seeds on all processors until n are done or more says no.
func play(n uint64, more func(Result) bool) *total {
	sum := &total{ends: map[rollout.Phase]int{}, strategies: map[string]int{}, targets: map[string]int{}}
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

// keep prints a failing seed's story and makes it a test file.
func keep(t *testing.T, seed uint64) {
	t.Helper()
	r := Run(seed, true)
	if r.Violation == nil {
		t.Errorf("seed %d failed, and did not when it was played again", seed)
		return
	}
	name := fmt.Sprintf("testdata/seeds/%d.txt", seed)
	t.Errorf("seed %d: %v (kept as %s)\n%s", seed, r.Violation, name, tail(r.Transcript))
	text := fmt.Sprintf("seed %d\n%v\n\n%s\n", seed, r.Violation, tail(r.Transcript))
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Errorf("couldn't keep seed %d: %v", seed, err)
	}
}

func tail(lines []string) string {
	return strings.Join(lines[max(0, len(lines)-150):], "\n")
}
