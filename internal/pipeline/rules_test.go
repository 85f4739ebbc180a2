package pipeline_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicehq/sluice/internal/pipeline"
)

var update = flag.Bool("update", false, "write the transcripts")

// same compares a text with the transcript in a file.
func same(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, file)), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// parse reads with hooks that refuse what is plainly unfinished.
func parse(src []byte) (pipeline.Definition, pipeline.Problems) {
	unfinished := func(s string) error {
		if strings.HasSuffix(s, "<") || strings.HasSuffix(s, "(") {
			return errors.New("it ends too early")
		}
		return nil
	}
	noBrowser := func(c pipeline.Check) error {
		if c.Browser != nil && c.Browser.Text == "needs a browser" {
			return errors.New("there is no Chromium in PATH")
		}
		return nil
	}
	return pipeline.Parse("sluice.yaml", src, pipeline.WithGateCheck(unfinished), pipeline.WithQueryCheck(unfinished), pipeline.WithCheckReady(noBrowser), pipeline.WithPlatform(pipeline.Platform{Owner: "team-platform", Standards: []pipeline.Standard{
		{Name: "careful", Version: 1, Rollout: pipeline.Rollout{Strategy: pipeline.Canary, Steps: []pipeline.CanaryStep{{Weight: 5, Bake: time.Hour}}}},
	}}))
}

// What is proposed for a bake that is too short is long enough, whichever bake it is
// and whatever moves with it.
func TestProposedBakesMend(t *testing.T) {
	proposed := regexp.MustCompile(`= bake for (\S+) or longer`)
	for _, c := range []struct{ rollout, analysis string }{
		{"{canary: {steps: [{weight: 5, bake: BAKE}, {weight: 50, bake: 15m}]}}", "{}"},
		{"{canary: {steps: [{weight: 5, bake: 15m}, {weight: 50, bake: BAKE}]}}", "{}"},
		{"{canary: {steps: [{weight: 5, bake: 15m}, {weight: 50, bake: BAKE}]}}", "{warmUp: 7m}"},
		{"{canary: {steps: [{weight: 5, bake: 15m}, {weight: 50, bake: BAKE}]}}", "{bin: 1m}"},
		{"{linear: {step: 10, every: BAKE}}", "{warmUp: 1m}"},
		{"{all-at-once: {bake: BAKE}}", "{bin: 30s}"},
	} {
		file := func(bake string) string {
			return strings.ReplaceAll(`version: 1
service: shop
owner: team-shop
build:
  steps: [{name: package, kind: package, run: make}]
  artifact: {type: files, path: out}
environments:
  - name: production
    target: {type: host, listen: 127.0.0.1:9004, run: ./shop, health: {http: /healthz}}
    rollout: `+c.rollout+`
    analysis: `+strings.Replace(c.analysis, "{", "{metrics: [http-errors], ", 1)+"\n", "BAKE", bake)
		}
		said := func(bake string) string {
			src := []byte(file(bake))
			_, problems := parse(src)
			return problems.Render(src, false)
		}
		found := proposed.FindStringSubmatch(said("4s"))
		if found == nil {
			t.Errorf("%s, %s: nothing is proposed:\n%s", c.rollout, c.analysis, said("4s"))
			continue
		}
		if text := said(found[1]); strings.Contains(text, "bake-too-short") {
			t.Errorf("%s was proposed:\n%s", found[1], text)
		}
	}
}

// Each rule has a file that breaks it, and what a user reads then.
func TestRules(t *testing.T) {
	proved := map[string]pipeline.Severity{}
	files, err := filepath.Glob("testdata/rules/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		rule := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(rule, func(t *testing.T) {
			src := read(t, file)
			_, problems := parse(src)
			same(t, strings.TrimSuffix(file, ".yaml")+".txt", problems.Render(src, false))
			checkPositions(t, src, problems)
			for _, p := range problems {
				if p.Rule == rule && proved[rule] != pipeline.Error {
					proved[rule] = p.Severity
				}
				if pipeline.RuleSeverity(p.Rule) == "" {
					t.Errorf("rule %s is not in the table of rules", p.Rule)
				}
			}
			if proved[rule] == "" {
				t.Errorf("the file does not break its own rule")
			}
		})
	}
	for _, bound := range []string{"too-large", "too-deep", "too-many"} {
		proved[bound] = pipeline.Error // TestBounds
	}
	for _, id := range pipeline.RuleIDs() {
		if want := pipeline.RuleSeverity(id); proved[id] != want {
			t.Errorf("rule %s: severity %q is proved by testdata/rules, the table says %q", id, proved[id], want)
		}
	}
}

// checkPositions holds for every problem of every file.
func checkPositions(t testing.TB, src []byte, problems pipeline.Problems) {
	t.Helper()
	s := strings.TrimPrefix(string(src), "\ufeff")
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(s, "\n")
	for i, p := range problems {
		if p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > utf8.RuneCountInString(lines[p.Line-1])+1 && p.Rule != "too-large" {
			t.Errorf("%s stands outside the file of %d lines", p, len(lines))
		}
		if p.Message == "" || p.Rule == "" || p.Severity == "" || p.Mend == "" {
			t.Errorf("%+v says too little", p)
		}
		if i > 0 && (problems[i-1].Line > p.Line || problems[i-1].Line == p.Line && problems[i-1].Column > p.Column) {
			t.Errorf("%s stands after %s", p, problems[i-1])
		}
	}
}

// Bounds: whatever is thrown at it, Parse answers soon and says which bound.
func TestBounds(t *testing.T) {
	small := string(read(t, "testdata/good/small.yaml"))
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for _, c := range []string{"b", "c", "d", "e", "f", "g", "h", "i"} {
		prev := string(c[0] - 1)
		bomb += c + ": &" + c + " [" + strings.TrimSuffix(strings.Repeat("*"+prev+",", 9), ",") + "]\n"
	}
	wide := "steps: &s [" + strings.TrimSuffix(strings.Repeat("{name: a, kind: unit, run: x, reports: *r},", 499), ",") + "]"
	for name, c := range map[string]struct{ src, rule string }{
		"bytes":            {small + strings.Repeat("#", 1<<20), "too-large"},
		"flow depth":       {"version: " + deep, "too-deep"},
		"block depth":      {strings.Repeat("- ", 200) + "x", "too-deep"},
		"alias bomb":       {bomb, "unknown-key"},
		"alias in itself":  {strings.Replace(small, "needs: [unit]", "needs: &n [*n]", 1), "wrong-type"},
		"alias many times": {"version: 1\nsource: &r [" + strings.TrimSuffix(strings.Repeat("{format: junit, path: x},", 400), ",") + "]\nbuild: {" + wide + "}\n", "too-large"},
		"items":            {strings.Replace(small, "needs: [unit]", "needs: ["+strings.Repeat("unit,", 501)+"]", 1), "too-large"},
		"text":             {strings.Replace(small, "run: ./shop", "run: ./shop"+strings.Repeat("x", 70_000), 1), "too-large"},
		"dots":             {strings.Repeat(".", 900_000) + ": 1\n" + small, "unknown-key"},
		"one long line":    {"x: &a " + strings.Repeat("é", 400_000) + "\nbuild: {steps: [{needs: [" + strings.TrimSuffix(strings.Repeat("*a,", 500), ",") + "]}]}\n", "bad-name"},
		"problems":         {small + strings.Repeat("k: 1\n", 9_000), "too-many"},
		"distinct": {small + func() string {
			var b strings.Builder
			for i := range 9_000 {
				b.WriteString("key" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + strings.Repeat("y", i/26%40) + ": 1\n")
			}
			return b.String()
		}(), "too-many"},
	} {
		t.Run(name, func(t *testing.T) {
			src := []byte(c.src)
			_, problems := parse(src)
			if !problems.Failed() {
				t.Fatal("it was accepted")
			}
			if len(problems) > 501 {
				t.Errorf("%d problems", len(problems))
			}
			found := false
			for _, p := range problems {
				found = found || p.Rule == c.rule
			}
			if !found {
				t.Errorf("no problem of rule %s, but %v", c.rule, problems[:min(len(problems), 5)])
			}
			if out := problems.Render(src, false); len(out) > 1<<20 {
				t.Errorf("%d bytes of report", len(out))
			}
			if name != "bytes" {
				checkPositions(t, src, problems)
			}
		})
	}
}

// A good file at the bounds is read in moments too: long paths, long commands.
func TestBusyFiles(t *testing.T) {
	var path, build strings.Builder
	path.WriteString("version: 1\nservice: shop\nowner: team\nbuild:\n  steps: [{name: a, kind: custom, run: x}]\n  artifact: {type: files, path: out}\nenvironments:\n")
	for i := range 250 {
		after := "  "
		for j := range i {
			after += "prod-" + strconv.Itoa(j) + ", "
		}
		path.WriteString("  - {name: prod-" + strconv.Itoa(i) + ", after: [" + after[:len(after)-2] + "], target: {type: host, run: x, listen: ':" + strconv.Itoa(1000+i) + "'}}\n")
	}
	build.WriteString("version: 1\nservice: shop\nowner: team\nenvironments: [{name: dev, target: {type: host, run: x, listen: ':1'}}]\nbuild:\n  artifact: {type: files, path: out}\n  steps:\n")
	build.WriteString("    - {name: s, kind: custom, run: &run '" + strings.Repeat("aws go install curl docker ", 2400) + "'}\n")
	for i := range 499 {
		build.WriteString("    - {name: s" + strconv.Itoa(i) + ", kind: custom, run: *run}\n")
	}
	for name, src := range map[string]string{"path": path.String(), "commands": build.String()} {
		if _, problems := parse([]byte(src)); problems.Failed() && problems[len(problems)-1].Rule != "too-many" {
			t.Errorf("%s:\n%s", name, problems[:1].Render([]byte(src), false))
		}
	}
}

// The example of the specification names what this build cannot do, and only
// that.
func TestTheSpecification(t *testing.T) {
	src := string(read(t, "testdata/good/interface.yaml"))
	src = strings.Replace(src, "file:/run/secrets/checkout-token", "vault:kv/checkout#token", 1)
	src = strings.Replace(src, "approval: {quorum", "approval: {groups: [payments-leads], quorum", 1)
	_, problems := parse([]byte(src))
	if len(problems) != 2 || problems[0].Rule != "not-yet" || problems[1].Rule != "not-yet" {
		t.Errorf("%s", problems.Render([]byte(src), false))
	}
}

// Broken YAML of every kind is told at its place.
func TestSyntax(t *testing.T) {
	for src, want := range map[string]string{
		"":                              "1:1 empty",
		"# nothing\n":                   "1:1 empty",
		"~\n":                           "1:1 empty",
		"- a\n":                         "1:1 wrong-type",
		"version: 1\n\towner: x\n":      "2:1 syntax",
		"a: b: c\n":                     "1:5 syntax",
		"a: [1, 2\nb: 3\n":              "2:2 syntax",
		"a: *x\n":                       "1:4 syntax",
		"a: \"x\n":                      "2:1 syntax",
		"%YAML 9.0\n---\na: 1\n":        "1:1 syntax",
		"a: 1\n\x00":                    "2:1 hidden-character",
		"é: \x1b[31m":                   "1:4 hidden-character",
		"\xff\xfea: 1":                  "1:1 encoding",
		"a: 1\r\nb: \xff":               "2:4 encoding",
		"version: 1\n...\nversion: 1\n": "3:1 second-document",
		"version: 1\n---\n\ta: [\n":     "3:1 syntax",
	} {
		_, problems := parse([]byte(src))
		found := false
		for _, p := range problems {
			found = found || strings.HasPrefix(p.String(), "sluice.yaml:"+strings.Replace(strings.Fields(want)[0], " ", "", 1)+":") && p.Rule == strings.Fields(want)[1]
		}
		if !found {
			t.Errorf("%q: want %s, got %v", src, want, problems)
		}
		checkPositions(t, []byte(src), problems)
	}
}

// A report never carries what a terminal would act on.
func TestRenderIsSafe(t *testing.T) {
	src := []byte("version: 1\nowner: \"\x1b[2J\u202e\"\n")
	_, problems := pipeline.Parse("a\x1bb.yaml", src)
	out := problems.Render(src, false)
	if strings.ContainsAny(out, "\x1b\u202e") {
		t.Errorf("control sequences in %q", out)
	}
	if !bytes.Contains([]byte(problems.Render(src, true)), []byte("\x1b[1;31m")) {
		t.Error("no colour where it was asked for")
	}
}

// The caret stands under its column whatever stands before it.
func TestCaret(t *testing.T) {
	for line, want := range map[string]string{
		"owner: [x]":                   "     |        ^",
		"owner:\t[x]":                  "     |       \t^",
		"{日本: 1, owner: [x]}":          "     |  ^",
		"{\"e\u0301\": 1, owner: [x]}": "     |  ^",
	} {
		src := []byte(line + "\n")
		_, problems := parse(src)
		if out := problems.Render(src, false); !strings.Contains(out, want+"\n") {
			t.Errorf("%q:\n%s\nwant %q", line, out, want)
		}
	}
	wide := []byte("{service: 日本日本, owner: [x]}\n")
	_, problems := parse(wide)
	// 日本日本 takes eight cells, and the list begins after 23 of them.
	if out := problems.Render(wide, false); !strings.Contains(out, "\n     | "+strings.Repeat(" ", 27)+"^\n") {
		t.Errorf("wide characters:\n%s", out)
	}
	long := []byte("{service: shop, version: 1, layer: application, purpose: " + strings.Repeat("é", 3000) + ", owner: [x], zzz: " + strings.Repeat("a", 3000) + "}\n")
	_, problems = parse(long)
	for line := range strings.SplitSeq(problems.Render(long, false), "\n") {
		if utf8.RuneCountInString(line) > 400 {
			t.Errorf("a line of %d characters", utf8.RuneCountInString(line))
		}
	}
}
