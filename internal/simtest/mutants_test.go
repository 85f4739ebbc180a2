//go:build !race

package simtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mutant is one rule, changed. Each invariant has one at least.
type mutant struct {
	invariant int
	what      string
	file      string // below internal
	old, new  string // old is there exactly once
}

var mutants = []mutant{
	{1, "the next step is taken without having read every router", "rollout/walk.go",
		"if !done || !m.agreed() || ", "if !done || "},
	{1, "an agent takes a lower generation than it has seen", "simtest/target.go",
		"if d.Generation <= r.doc.Generation {\n\t\treturn\n\t}\n\ts.take", "if d.Generation == r.doc.Generation {\n\t\treturn\n\t}\n\ts.take"},
	{2, "the candidate is exposed before it is there and verified", "rollout/walk.go",
		"done = s.Seen.CandidateReady\n", "done = true\n"},
	{3, "the previous release is let go when the candidate starts", "rollout/walk.go",
		"Preparing, true, !m.plan.First", "Preparing, true, false"},
	{4, "a rollback ends in success", "rollout/walk.go",
		"s.Phase = RolledBack\n", "s.Phase = Succeeded\n"},
	{5, "a rolled-back rollout goes on when it is told to", "rollout/step.go",
		"if s.Phase.Terminal() {", "if s.Phase.Terminal() && s.Phase != RolledBack {"},
	{6, "no verdict, or an inconclusive one, passes", "rollout/walk.go",
		"case !p.Analysis || s.Verdict == verdict.Pass:", "case !p.Analysis || s.Verdict != verdict.Fail:"},
	{6, "a metric that answers nothing passes", "analysis/limit.go",
		"case l.V != stateVersion, l.StepN < l.Need, l.Gap >= l.K:", "case l.V != stateVersion:"},
	{7, "the log merges events that changed something", "rollout/replay.go",
		"return len(effects) == 0 && len(Facts(before, after, e)) == 0", "return len(effects) == 0"},
	{8, "a second rollout of a service and environment is written", "simtest/store.go",
		"if x.live {\n\t\t\treturn errExists", "if x.live && x.rel == r.rel {\n\t\t\treturn errExists"},
	{9, "a change of weight leaves no evidence", "rollout/facts.go",
		"change(FactWeight, strconv.Itoa(before.Weight),", "change(FactWeight, strconv.Itoa(after.Weight),"},
	{10, "somebody else's weights are not seen", "rollout/walk.go",
		"if s.Phase != Shifting {\n\t\tif m.differs()", "if s.Phase != Shifting {\n\t\tif false && m.differs()"},
	{10, "a release that nobody set on a host is not seen", "target/host/drift.go",
		"case !v.Wanted && (v.Weight > 0 || v.Ready == 0):", "case true:"},
	{1, "requests are copied on while users are let in", "rollout/walk.go",
		"\ts.Shadow = p.Shadow\n", "\ts.Shadow = max(s.Shadow, p.Shadow)\n"},
	{0, "checks that can't ask a host run out of time", "rollout/walk.go",
		"return m.s.Phase == Checking && !m.s.CheckOK && m.s.Seen.Misplaced != \"\"", "return false"},
	{1, "a driven target is asked again without being observed first", "simtest/drive.go",
		"if e.ask.Followed(o) {", "if false {"},
	{4, "a driven target that has stopped is taken for one that is back", "rollout/drive.go",
		"case s.Asked == \"\":\n\t\tm.isBack()", "case s.Asked == \"\" || s.Asked == Stop && m.everywhere():\n\t\tm.isBack()"},
	{10, "a driven target that goes further than it may is not seen", "rollout/drive.go",
		"case o.MaxWeight > s.Weight:", "case false:"},
}

const mutantSeeds = 1000

// TestMutants changes one rule at a time in a copy of the source, plays seeds over
// it, and demands that the check of that rule's invariant finds it. All are built
// by overlays: no product code knows of them, see docs/decisions/0012.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED with -short, so NO MUTANT RUNS: nothing shows that the simulation bites")
	}
	internal, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	lines := make([]string, len(mutants))
	failed := make([]error, len(mutants))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2)
	for i, m := range mutants {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var text string
			text, failed[i] = m.run(t, internal)
			lines[i] = fmt.Sprintf("| %d | %s | `%s` | %s |", m.invariant, m.what, m.file, text)
		})
	}
	wg.Wait()
	killed := map[int]bool{}
	for i, m := range mutants {
		if failed[i] != nil {
			t.Errorf("invariant %d, %s: %v", m.invariant, m.what, failed[i])
			continue
		}
		killed[m.invariant] = true
		t.Log(lines[i])
	}
	for n := 1; n <= 10; n++ {
		if !killed[n] {
			t.Errorf("no mutant of invariant %d was killed", n)
		}
	}
	t.Logf("%d mutants in %.0f s", len(mutants), time.Since(start).Seconds())
	if os.Getenv("SLUICE_SIM_WRITE") != "" && !t.Failed() {
		write(t, "mutants", "| invariant | what is changed | where | killed |\n|--:|---|---|---|\n"+strings.Join(lines, "\n"))
	}
}

const mutantEnv = "SLUICE_SIM_MUTANT"

// run builds the tests over the changed source and plays.
func (m mutant) run(t *testing.T, internal string) (string, error) {
	path := filepath.Join(internal, filepath.FromSlash(m.file))
	src, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := bytes.Count(src, []byte(m.old)); n != 1 {
		return "", fmt.Errorf("%q is in %s %d times, not once: the mutant has to follow the source", m.old, m.file, n)
	}
	dir := t.TempDir()
	changed, overlay, bin := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mutant.test")
	if err := os.WriteFile(changed, bytes.Replace(src, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return "", err
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", bin, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("couldn't build it: %w\n%s", err, out)
	}
	play := exec.CommandContext(ctx, bin, "-test.run", "^TestMutant$", "-test.v")
	play.Env = append(os.Environ(), fmt.Sprintf("%s=%d", mutantEnv, m.invariant))
	out, err := play.CombinedOutput()
	_, text, ok := strings.Cut(string(out), "KILLED ")
	if err != nil || !ok {
		return "", fmt.Errorf("it was not killed in %d seeds (%v)\n%s", mutantSeeds, err, out)
	}
	text, _, _ = strings.Cut(text, "\n")
	if len(text) > 160 {
		text = strings.ToValidUTF8(text[:160], "") + "…"
	}
	return text, nil
}

// TestMutant is what a mutant runs: seeds, until the check of its invariant says no.
func TestMutant(t *testing.T) {
	var want int
	if _, err := fmt.Sscan(os.Getenv(mutantEnv), &want); err != nil {
		return // TestMutants runs it, over a changed source
	}
	n, others := 0, 0
	var found *Result
	play(mutantSeeds, func(r Result) bool {
		n++
		switch {
		case r.Violation == nil:
		case r.Violation.Invariant == want:
			found = &r
			return false
		default:
			others++
		}
		return true
	})
	if found == nil {
		t.Fatalf("%d seeds, %d found something else", n, others)
	}
	fmt.Printf("KILLED by seed %d, after %d: %s\n", found.Seed, n, strings.ReplaceAll(found.Violation.Text, "|", "/"))
}
