package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/registry/remote"
	"github.com/sluicehq/sluice/internal/server"
	"github.com/sluicehq/sluice/internal/store"
)

// lint reads a definition of a thousand lines.
func lint(s *suite) error {
	src := large()
	lines := strings.Count(string(src), "\n")
	var took sample
	for range s.times(100, 5) {
		began := time.Now()
		if _, problems := pipeline.Parse("sluice.yaml", src, server.ParseOptions()...); problems.Failed() {
			return fmt.Errorf("the large definition is wrong: %s", problems.Render(src, false))
		}
		took = append(took, time.Since(began))
	}
	s.report.budget(fmt.Sprintf("`lint` of a %d-line file", lines), "< 50 ms", took.String(), took.at(0.99) < 50*time.Millisecond)
	dir, err := os.MkdirTemp(s.dir, "lint-")
	if err != nil {
		return fmt.Errorf("couldn't make a folder: %w", err)
	}
	file := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(file, src, 0o644); err != nil {
		return fmt.Errorf("couldn't write the definition: %w", err)
	}
	var whole sample
	for range s.times(20, 2) {
		began := time.Now()
		if out, err := exec.CommandContext(s.ctx, s.sluice, "lint", "--file", file).CombinedOutput(); err != nil {
			return fmt.Errorf("`sluice lint` failed: %w: %s", err, out)
		}
		whole = append(whole, time.Since(began))
	}
	s.report.other(fmt.Sprintf("`sluice lint` of the %d-line file, the whole command", lines), whole.String())
	return nil
}

// large is a correct definition of a little over a thousand lines.
func large() []byte {
	var b strings.Builder
	b.WriteString("version: 1\nservice: shop\nowner: team\nbuild:\n  steps:\n")
	need := ""
	for i := range 90 {
		fmt.Fprintf(&b, "    - name: unit-%[1]d\n      kind: unit\n      needs: [%[2]s]\n      run: |\n        set -e\n        go test -json ./part%[1]d/... > unit-%[1]d.json\n      reports: [{format: go-test, path: unit-%[1]d.json}]\n      env: {A: b}\n", i, need)
		need = fmt.Sprintf("unit-%d", i)
	}
	b.WriteString("  artifact: {type: files, path: out}\nenvironments:\n")
	after := ""
	for i := range 22 {
		fmt.Fprintf(&b, `  - name: e%[1]d
    after: [%[2]s]
    target:
      type: host
      listen: 127.0.0.1:%[3]d
      run: ./shop
      health: {http: /healthz}
      metrics: {path: /metrics}
    gates: [tests-passed]
    approval: {}
    rollout:
      canary: {steps: [{weight: 5}, {weight: 50}]}
    verify:
      - {name: smoke, http: {path: /}}
`, i, after, 9000+i)
		after = fmt.Sprintf("e%d", i)
	}
	return []byte(b.String())
}

// storeTimes measures durable commits and leases on SQLite.
func storeTimes(s *suite) error {
	st, err := store.Open(s.ctx, "sqlite:"+filepath.Join(s.dir, "bench.db"), store.Options{})
	if err != nil {
		return err
	}
	defer st.Close()
	const rows = 10_000
	err = st.Update(s.ctx, func(tx *store.Tx) error {
		for i := range rows {
			at := tx.Now().Add(time.Hour)
			if i%10 == 0 {
				at = tx.Now().Add(-time.Duration(i) * time.Millisecond)
			}
			if err := tx.InsertRollout(&store.Rollout{Project: "default", Service: fmt.Sprint("s", i), Live: true, Work: store.Work{WakeAt: &at}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	run := store.Run{Project: "default"}
	if err := st.Update(s.ctx, func(tx *store.Tx) error { return tx.InsertRun(&run) }); err != nil {
		return err
	}
	var update, acquire sample
	for range s.times(1000, 50) {
		began := time.Now()
		if err := st.Update(s.ctx, func(tx *store.Tx) error { return tx.SaveRun(&run) }); err != nil {
			return err
		}
		update = append(update, time.Since(began))
		began = time.Now()
		leases, err := st.Acquire(s.ctx, "rollouts", "bench", time.Minute, 1)
		if err != nil || len(leases) != 1 {
			return fmt.Errorf("couldn't lease one row: %d were, %w", len(leases), err)
		}
		acquire = append(acquire, time.Since(began))
		if err := st.Release(s.ctx, leases[0]); err != nil {
			return err
		}
	}
	s.report.other("store: one durable transaction (SQLite, `synchronous=FULL`)", update.String())
	s.report.other(fmt.Sprintf("store: lease of one of %d rows, a tenth of them due", rows), acquire.String())
	return nil
}

// registryTimes pushes trees to the server's registry and pulls them back.
func registryTimes(s *suite) error {
	p, err := s.plane()
	if err != nil {
		return err
	}
	defer p.down()
	if _, err := p.up(); err != nil {
		return err
	}
	repo, err := remote.Open(p.url, "default/bench", remote.Options{Token: p.token})
	if err != nil {
		return err
	}
	const size = 32 << 20
	var push, pull sample
	for i := range s.times(5, 1) {
		dir, err := os.MkdirTemp(s.dir, "tree-")
		if err != nil {
			return fmt.Errorf("couldn't make a folder: %w", err)
		}
		b := make([]byte, size)
		_, _ = rand.Read(b)
		if err := os.MkdirAll(filepath.Join(dir, "out"), 0o755); err != nil {
			return fmt.Errorf("couldn't make a tree: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "out", "app"), b, 0o755); err != nil {
			return fmt.Errorf("couldn't make a tree: %w", err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return fmt.Errorf("couldn't open a tree: %w", err)
		}
		began := time.Now()
		art, err := artifact.PushTree(s.ctx, repo, "main", s.dir, root, "out", artifact.Limits{}, fmt.Sprint("run", i))
		push = append(push, time.Since(began))
		_ = root.Close()
		if err != nil {
			return err
		}
		began = time.Now()
		if err := artifact.Pull(s.ctx, repo, art.Digest, filepath.Join(dir, "back"), artifact.Limits{}); err != nil {
			return err
		}
		pull = append(pull, time.Since(began))
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("couldn't remove a tree: %w", err)
		}
	}
	rate := func(x sample) string {
		return fmt.Sprintf("%.0f MB/s, p50 %s (%d)", size/1e6/x.at(0.5).Seconds(), ms(x.at(0.5)), len(x))
	}
	s.report.other("registry: pack and push 32 MiB that don't compress", rate(push))
	s.report.other("registry: pull, verify and unpack them", rate(pull))
	return nil
}

// judge simulates rollouts, with and without a difference to find.
func judge(s *suite) error {
	runs := s.times(200, 5)
	if s.full {
		runs = 2000
	}
	var table strings.Builder
	began := time.Now()
	if err := analysis.Table(&table, runs, 1); err != nil {
		return err
	}
	so := "So few say little of a cell near its bound: `-full` simulates 2 000. "
	if s.full {
		so = ""
	}
	s.report.detail("What the judge reaches", fmt.Sprintf("%d simulated rollouts per cell took %s. %sA cell that misses its bound is bold.\n\n%s", runs, ms(time.Since(began)), so, table.String()))
	return nil
}
