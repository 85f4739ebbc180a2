package pipeline_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

// Whatever the bytes are: no panic, every problem in the file, the same answer
// twice, a bounded report, and a definition without errors is usable.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(read(f, file))
	}
	f.Add([]byte(everything))
	f.Add([]byte("a: &a [*a]\r\nb: \xff\r"))
	f.Add([]byte("? {a: b}\n: - &x !!str y\n  - *x\n--- |\n  z\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		began := time.Now()
		d, problems := parse(src)
		if took := time.Since(began); took > 10*time.Second {
			t.Fatalf("%d bytes took %s", len(src), took)
		}
		checkPositions(t, src, problems)
		if out := problems.Render(src, true); len(out) > 4<<20 {
			t.Fatalf("a report of %d bytes", len(out))
		}
		if _, err := json.Marshal(problems); err != nil {
			t.Fatal(err)
		}
		_, again := parse(src)
		if fmt.Sprint(problems) != fmt.Sprint(again) {
			t.Fatalf("two answers:\n%v\n%v", problems, again)
		}
		if problems.Failed() {
			return
		}
		if _, err := d.Digest(); err != nil {
			t.Fatal(err)
		}
		if _, err := pipeline.Order(d.Build.Steps); err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Environments {
			if _, err := pipeline.Path(d, e.Name); err != nil {
				t.Fatal(err)
			}
			if w := pipeline.Weights(e.Rollout); w[len(w)-1].Weight != 100 {
				t.Fatalf("%s ends at %v", e.Name, w)
			}
		}
		pipeline.Mermaid(d)
	})
}

// large is a good file of about a thousand lines.
func large() []byte {
	var b strings.Builder
	b.WriteString("version: 1\nservice: shop\nowner: team\nbuild:\n  steps:\n")
	for i := range 90 {
		fmt.Fprintf(&b, "    - name: unit-%d\n      kind: unit\n      needs: [%s]\n      run: |\n        set -e\n        go test -json ./part%d/... > unit-%d.json\n      reports: [{format: go-test, path: unit-%d.json}]\n      env: {A: b}\n",
			i, map[bool]string{true: fmt.Sprintf("unit-%d", i-1)}[i > 0], i, i, i)
	}
	b.WriteString("  artifact: {type: files, path: out}\nenvironments:\n")
	for i := range 22 {
		fmt.Fprintf(&b, `  - name: e%d
    after: [%s]
    target:
      type: host
      listen: 127.0.0.1:%d
      run: ./shop
      health: {http: /healthz}
      metrics: {path: /metrics}
    gates: [tests-passed]
    approval: {}
    rollout:
      canary: {steps: [{weight: 5}, {weight: 50}]}
    verify:
      - {name: smoke, http: {path: /}}
`, i, map[bool]string{true: fmt.Sprintf("e%d", i-1)}[i > 0], 9000+i)
	}
	return []byte(b.String())
}

func TestLargeFile(t *testing.T) {
	src := large()
	if n := strings.Count(string(src), "\n"); n < 1000 {
		t.Errorf("only %d lines", n)
	}
	if _, problems := parse(src); problems.Failed() {
		t.Errorf("%s", problems[:min(5, len(problems))].Render(src, false))
	}
}

// BenchmarkLint1000 is design.md's budget: lint of a 1 000-line file < 50 ms.
func BenchmarkLint1000(b *testing.B) {
	src := large()
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if _, problems := pipeline.Parse("sluice.yaml", src); problems.Failed() {
			b.Fatal(problems[0])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/lint")
}
