package demo

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/server"
)

const example = "../../examples/shop"

func TestTheArchiveIsTheExample(t *testing.T) {
	a, err := Pack(os.DirFS(example))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(txtar.Format(a), shopArchive) {
		t.Fatal("shop.txtar is not examples/shop: run go generate ./internal/demo")
	}
	// An archive is text: a file without a last newline would come out changed.
	for i, f := range txtar.Parse(shopArchive).Files {
		if f.Name != a.Files[i].Name || !bytes.Equal(f.Data, a.Files[i].Data) {
			t.Errorf("%s does not come out as it went in", a.Files[i].Name)
		}
	}
}

func TestTheExamplesPipelineIsAccepted(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(example, "sluice.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	def, problems := pipeline.Parse("sluice.yaml", b, server.ParseOptions()...)
	problems = append(problems, pipeline.Lint(def, pipeline.Positions{})...)
	for _, p := range problems {
		if p.Rule != "no-verify" && p.Rule != "no-approval" && p.Rule != "alarm-set" { // the file says why; a minute's demo judges errors alone
			t.Error(p)
		}
	}
}

var shopTests = flag.Bool("shop", true, "run the example's own tests")

func TestEveryVersionIsACommitWhoseTestsPass(t *testing.T) {
	if testing.Short() || !*shopTests {
		t.Skip("SKIPPED with -short: the tests of the example's versions")
	}
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "shop")
	all, err := makeRepository(t.Context(), dir, ports{20001, 20002}, 12.5)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 4 {
		t.Fatalf("%d versions, want 4", len(all))
	}
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got, want := git("rev-list", "--reverse", "main"), strings.Join([]string{all[good].Commit, all[better].Commit, all[bad].Commit}, "\n"); got != want {
		t.Errorf("main is\n%s\nwant\n%s", got, want)
	}
	if got := git("rev-parse", SlowBranch, SlowBranch+"~1"); got != all[slow].Commit+"\n"+all[better].Commit {
		t.Errorf("the slow branch is %s", got)
	}
	if s := git("status", "--porcelain"); s != "" {
		t.Errorf("the working tree is not clean:\n%s", s)
	}
	if yaml := git("show", "main:sluice.yaml"); !strings.Contains(yaml, "127.0.0.1:20001") || !strings.Contains(yaml, "127.0.0.1:20002") || strings.Contains(yaml, ":9001") {
		t.Errorf("the ports are not in sluice.yaml:\n%s", yaml)
	}
	if !strings.Contains(git("show", "main:price.go"), "oldSeries = 1250\n") {
		t.Error("the bad rate is not in v3")
	}
	for _, v := range all {
		git("checkout", "--quiet", v.Commit)
		for _, args := range [][]string{{"gofmt", "-l", "."}, {"go", "vet", "./..."}, {"go", "test", "./..."}} {
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
			if out, err := cmd.CombinedOutput(); err != nil || args[0] == "gofmt" && len(out) > 0 {
				t.Errorf("%s: %v: %v\n%s", v.Name, args, err, out)
			}
		}
	}
}

func TestABrokenExampleIsAnError(t *testing.T) {
	r := &repository{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(r.dir, "a"), []byte("x x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"x", "y"} {
		if err := r.replace("a", old, "z"); err == nil {
			t.Errorf("replacing %q, which does not stand there once, is no error", old)
		}
	}
}
