package runner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox/sandboxtest"
)

func states(res runner.Result) map[string]runner.State {
	m := map[string]runner.State{}
	for _, s := range res.Steps {
		m[s.Name] = s.State
	}
	return m
}

func TestStepsRunByTheirNeedsAndInParallel(t *testing.T) {
	// left and right each wait for the other: only parallel steps can end.
	meet := func(me, other string) string {
		return fmt.Sprintf("test -e first; touch %s; while [ ! -e %s ]; do sleep 0.01; done", me, other)
	}
	b := newBench(t,
		step("last", "test -e left && test -e right", "left", "right"),
		step("left", meet("left", "right"), "first"),
		step("right", meet("right", "left"), "first"),
		step("first", "touch first"),
	)
	res := b.run()
	if res.State != runner.Succeeded || res.Steps[0].Name != "last" || res.Steps[0].Started.Before(res.Steps[1].Ended) {
		t.Errorf("got %+v", res)
	}
}

func TestParallelismIsBounded(t *testing.T) {
	var steps []pipeline.Step
	for i := range 4 {
		steps = append(steps, step(fmt.Sprintf("s%d", i), "mkdir only-one && sleep 0.05 && rmdir only-one"))
	}
	b := newBench(t, steps...)
	b.spec.Parallel = 1
	if res := b.run(); res.State != runner.Succeeded {
		t.Errorf("two steps ran at once: %s", res.Reason)
	}
}

func TestAFailureCancelsAndSkipsAndSaysSo(t *testing.T) {
	b := newBench(t,
		step("slow", "touch slow-runs; sleep 1000"),
		step("bad", "while [ ! -e slow-runs ]; do sleep 0.01; done; echo boom >&2; exit 3", "fine"),
		step("after", "true", "bad"),
		step("later", "true", "after"),
		step("fine", "true"),
	)
	res := b.run()
	want := map[string]runner.State{"slow": runner.Cancelled, "bad": runner.Failed, "after": runner.Skipped, "later": runner.Skipped, "fine": runner.Succeeded}
	if res.State != runner.Failed || !maps.Equal(states(res), want) {
		t.Fatalf("got %v", states(res))
	}
	if res.Steps[1].ExitCode != 3 || b.text("bad") != "boom\n[sluice] failed: exit code 3; its log says why" {
		t.Errorf("got %+v, log %q", res.Steps[1], b.text("bad"))
	}
	for _, i := range []int{0, 2, 3} {
		if !strings.Contains(res.Steps[i].Reason, "because step bad failed") {
			t.Errorf("%s: %s", res.Steps[i].Name, res.Steps[i].Reason)
		}
	}
	if !strings.Contains(res.Reason, "step bad: exit code 3") {
		t.Errorf("the build says %q", res.Reason)
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"network", "curl -sS http://example.invalid || exit 6", "`network: true`"},
		{"go module", "printf 'module x\\n\\nrequire golang.org/x/sync v0.1.0\\n' > go.mod; go mod download", "`network: true`"},
		{"outside", "touch /usr/local/x", "in its checkout"},
		{"missing command", "no-such-command", "command was not found"},
		{"not executable", "./README", "executable"},
		{"signal", "kill -ABRT $$", "killed by SIGABRT"},
		{"memory", "kill -KILL $$", "want of memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, step("bad", c.script))
			res := b.run()
			if res.State != runner.Failed || !strings.Contains(res.Steps[0].Reason, c.want) {
				t.Errorf("got %q\n%s", res.Steps[0].Reason, b.text("bad"))
			}
		})
	}
}

func TestAHangIsKilledWithEverythingItStarted(t *testing.T) {
	t.Parallel()
	hang := step("hang", "trap '' TERM; (setsid sh -c 'while :; do date +%N > beat; sleep 0.02; done' &); sleep 1000")
	hang.Timeout = 4 * time.Second // its daemon has to come to life before
	b := newBench(t, hang)
	res := b.run()
	if s := res.Steps[0]; s.State != runner.TimedOut || !strings.Contains(s.Reason, "after 4s") || res.State != runner.Failed {
		t.Fatalf("got %+v", s)
	}
	sandboxtest.StopsBeating(t, filepath.Join(b.spec.Checkout, "beat"))
}

func TestAFloodIsCutAndTheStepGoesOn(t *testing.T) {
	b := newBench(t, step("flood", "head -c 50000000 /dev/zero | tr '\\0' 'x'; echo; echo done"))
	b.spec.MaxLog = 1 << 20
	res := b.run()
	s := res.Steps[0]
	if s.State != runner.Succeeded || !s.Truncated || s.LogBytes > 2<<20 || !strings.HasSuffix(b.text("flood"), "done") {
		t.Errorf("got %+v", s)
	}
}

func TestInterruptionIsNoVerdict(t *testing.T) {
	b := newBench(t, step("hang", "echo ready; sleep 1000"), step("next", "true", "hang"))
	ctx, cancel := context.WithCancel(ctx)
	b.spec.Log = func(string, runner.Line) { cancel() }
	res, err := runner.Run(ctx, b.spec)
	if !errors.Is(err, runner.ErrInterrupted) || res.State != "" {
		t.Errorf("got %q, %v", res.State, err)
	}
	if s := states(res); s["hang"] != runner.Cancelled || s["next"] != runner.Skipped {
		t.Errorf("got %v", s)
	}
	if _, err := runner.Run(ctx, b.spec); !errors.Is(err, runner.ErrInterrupted) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestSecretsDoNotReachAnyLog(t *testing.T) {
	leak := step("leak", `printf '%s' "$TOKEN" | cut -c1-5 | tr -d '\n'; sleep 0.05; printf '%s\n' "$TOKEN" | cut -c6-; echo "basic $(printf 'me:%s' "$TOKEN" | base64)"; echo "$OTHER"; exit 1`)
	leak.Env = map[string]pipeline.Value{"TOKEN": {Secret: "file:token"}, "PLAIN": {Plain: "shown"}}
	b := newBench(t, leak)
	b.spec.Redact = []string{"other-secret"}
	leak.Env["OTHER"] = pipeline.Value{Plain: "other-secret"}
	b.spec.Secret = func(_ context.Context, ref string) (string, error) {
		if ref != "file:token" {
			return "", errors.New("unknown")
		}
		return "hunter2-correct-horse", nil
	}
	var file strings.Builder
	b.spec.OpenLog = func(string) (io.WriteCloser, error) { return nopCloser{&file}, nil }
	b.run()
	for _, text := range []string{b.text("leak"), file.String()} {
		if !strings.Contains(text, "***\nbasic ") || strings.Contains(text, "hunter2") || strings.Contains(text, "horse") || strings.Contains(text, "other") || strings.Contains(text, "aHVudGVy") {
			t.Errorf("got %q", text)
		}
	}

	b.spec.Secret = nil
	if _, err := runner.Run(ctx, b.spec); !errors.Is(err, runner.ErrBadSpec) || !strings.Contains(err.Error(), "file:token") {
		t.Errorf("a secret that nobody gives: %v", err)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func TestALogThatCannotBeKeptFailsTheStep(t *testing.T) {
	full := func(string) (io.WriteCloser, error) { return os.OpenFile("/dev/full", os.O_WRONLY, 0) }
	b := newBench(t, step("talk", "while :; do echo flood; done"))
	b.spec.OpenLog = full
	res := b.run()
	if s := res.Steps[0]; s.State != runner.Failed || !strings.Contains(s.Reason, "no space left on device") || !strings.Contains(s.Reason, "free space") {
		t.Errorf("disk full: got %+v", s)
	}

	// The step succeeds, and only the last write of its log fails.
	b = newBench(t, step("talk", "true"))
	b.spec.OpenLog = func(string) (io.WriteCloser, error) { return failingClose{}, nil }
	if res := b.run(); res.State != runner.Failed || !strings.Contains(res.Reason, "quota") {
		t.Errorf("error on close: got %+v", res)
	}
	b = newBench(t, step("talk", "true"))
	b.spec.OpenLog = func(string) (io.WriteCloser, error) { return nil, errors.New("no folder") }
	if res := b.run(); res.State != runner.Failed || !strings.Contains(res.Reason, "no folder") {
		t.Errorf("error on open: got %+v", res)
	}
}

type failingClose struct{}

func (failingClose) Write(p []byte) (int, error) { return len(p), nil }
func (failingClose) Close() error                { return errors.New("quota exceeded") }

func TestReportsAreEvidenceOrFailures(t *testing.T) {
	const pass = "{\"Action\":\"pass\",\"Package\":\"p\",\"Test\":\"TestA\"}\n{\"Action\":\"pass\",\"Package\":\"p\"}"
	for _, c := range []struct {
		name, script string
		want         string // empty: succeeds
	}{
		{"good", "echo '" + pass + "' > r.json", ""},
		{"missing", "true", "report r.json: it is missing"},
		{"empty", ": > r.json", "report r.json: the report is empty"},
		{"garbage", "echo hello > r.json", "go test -json"},
		{"no test", `echo '{"Action":"skip","Package":"p"}' > r.json`, "proves nothing: no test ran"},
		{"failures hidden by exit 0", `echo '{"Action":"fail","Package":"p","Test":"TestB"}' > r.json`, "shows failures although the step ended well"},
		{"link to the host", "ln -s /etc/passwd r.json", "r.json"},
		{"link upwards", "ln -s ../../token r.json", "r.json"},
		{"pipe", "mkfifo r.json", "not a regular file"},
		{"folder", "mkdir r.json", "not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := step("unit", c.script)
			s.Reports = []pipeline.Report{{Format: "go-test", Path: "r.json"}}
			b := newBench(t, s)
			res := b.run()
			switch {
			case c.want == "" && (res.State != runner.Succeeded || len(res.Steps[0].Reports) != 1):
				t.Errorf("got %+v", res.Steps[0])
			case c.want != "" && (res.State != runner.Failed || !strings.Contains(res.Steps[0].Reason, c.want)):
				t.Errorf("got %s: %q", res.State, res.Steps[0].Reason)
			}
		})
	}
	t.Run("committed beforehand", func(t *testing.T) {
		s := step("unit", "true")
		s.Reports = []pipeline.Report{{Format: "go-test", Path: "r.json"}}
		b := newBench(t, s)
		b.write("r.json", pass)
		if res := b.run(); res.State != runner.Failed || !strings.Contains(res.Reason, "did not write it") {
			t.Errorf("an old report counts: %+v", res.Steps[0])
		}
	})
	t.Run("of a failed step, without secrets", func(t *testing.T) {
		s := step("unit", `printf '{"Action":"run","Package":"p","Test":"TestB"}\n{"Action":"output","Package":"p","Test":"TestB","Output":"got hunter2-hunter2"}\n{"Action":"fail","Package":"p","Test":"TestB"}' > r.json; exit 1`)
		s.Reports = []pipeline.Report{{Format: "go-test", Path: "r.json"}}
		b := newBench(t, s)
		b.spec.Redact = []string{"hunter2-hunter2"}
		res := b.run()
		if r := res.Steps[0].Reports; len(r) != 1 || r[0].Failed != 1 || r[0].Tests[0].Output != "got ***" {
			t.Errorf("got %+v", r)
		}
	})
}

func TestCachesSurviveAndBelongToTheirService(t *testing.T) {
	fill := step("fill", `echo kept > "$SLUICE_CACHE_MY_TOOL/f"; echo "$SLUICE_CACHE_MY_TOOL"; echo mod > "$GOMODCACHE/f"`)
	fill.Cache = []string{"my-tool", "gomod"}
	other := step("other", `test -z "$SLUICE_CACHE_MY_TOOL"; test ! -e "$HOME/.cache/my-tool/f"; cat "$GOMODCACHE/f"; ! touch "$GOMODCACHE/x" 2>/dev/null`, "fill")
	b := newBench(t, fill, other)
	if res := b.run(); res.State != runner.Succeeded || b.text("fill") != "/home/build/.cache/my-tool" {
		t.Fatalf("%s\n%v", res.Reason, b.log)
	}

	again := step("again", `cat "$SLUICE_CACHE_MY_TOOL/f"`)
	again.Cache = []string{"my-tool"}
	b.spec.Steps = []pipeline.Step{again}
	if res := b.run(); res.State != runner.Succeeded || b.text("again") != "kept" {
		t.Errorf("the cache is lost: %s", res.Reason)
	}
	b.spec.Service = "other"
	if res := b.run(); res.State != runner.Failed {
		t.Error("another service sees the cache")
	}
}

func TestHomeIsSharedByTheBuildAndTmpIsNot(t *testing.T) {
	b := newBench(t,
		step("first", "echo x > $HOME/tool; echo x > $TMPDIR/own"),
		step("second", "test -e $HOME/tool; test ! -e $TMPDIR/own", "first"))
	if res := b.run(); res.State != runner.Succeeded {
		t.Error(res.Reason)
	}
	if res := b.run(); res.State != runner.Succeeded { // nothing of the first build is left
		t.Error(res.Reason)
	}
	b.spec.Steps = []pipeline.Step{step("fresh", "test ! -e $HOME/tool")}
	if res := b.run(); res.State != runner.Succeeded {
		t.Error("HOME outlives its build")
	}
}

func TestNetworkOnlyWhereAsked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dial := "bash -c 'exec 3<>/dev/tcp/127.0.0.1/" + port + "'"
	on := step("on", dial+`; test "$GOPROXY" = http://user:***@proxy.example; echo "$GOPROXY"`)
	on.Network = true
	on.Run = dial + `; echo "$GOPROXY"`
	t.Setenv("GOPROXY", "http://user:pa55word@proxy.example")
	b := newBench(t, on, step("off", "! "+dial+`; test "$GOPROXY" = off`))
	res := b.run()
	if res.State != runner.Succeeded || !res.Steps[0].Network || res.Steps[1].Network {
		t.Errorf("%s\n%v", res.Reason, b.log)
	}
	if got := b.text("on"); got != "http://user:***@proxy.example" {
		t.Errorf("the proxy's password is shown: %s", got)
	}
}

func TestWithoutIsolationItSaysSo(t *testing.T) {
	b := newBench(t, step("plain", `echo "$HOME"; test "$CI" = true; pwd; test -z "$SECRET_OF_HOST"`))
	t.Setenv("SECRET_OF_HOST", "x")
	b.spec.Isolation = runner.None
	res := b.run()
	if res.State != runner.Succeeded || res.Isolation != runner.None || b.text("plain") != b.spec.Scratch+"/home\n"+b.spec.Checkout {
		t.Errorf("%+v\n%v", res, b.log)
	}
}

func TestStepsRunWhereTheDefinitionIs(t *testing.T) {
	s := step("unit", `pwd; printf '{"Action":"pass","Package":"p","Test":"TestA"}\n{"Action":"pass","Package":"p"}\n' > r.json`)
	s.Reports = []pipeline.Report{{Format: "go-test", Path: "r.json"}}
	b := newBench(t, s)
	b.write("services/shop/main.go", "package main")
	b.spec.Subdir = "services/shop"
	if res := b.run(); res.State != runner.Succeeded || b.text("unit") != "/workspace/services/shop" {
		t.Errorf("%s %v", res.Reason, b.log)
	}
}

func TestBadSpecsAreRefused(t *testing.T) {
	good := func() runner.Spec {
		return runner.Spec{Project: "default", Service: "shop", Checkout: "/x", Scratch: "/x", Caches: "/x", Steps: []pipeline.Step{step("a", "true")}}
	}
	for name, change := range map[string]func(*runner.Spec){
		"no step":          func(s *runner.Spec) { s.Steps = nil },
		"twice":            func(s *runner.Spec) { s.Steps = append(s.Steps, s.Steps[0]) },
		"unknown need":     func(s *runner.Spec) { s.Steps[0].Needs = []string{"b"} },
		"needs itself":     func(s *runner.Spec) { s.Steps[0].Needs = []string{"a"} },
		"cycle":            func(s *runner.Spec) { s.Steps = []pipeline.Step{step("a", "", "b"), step("b", "", "a")} },
		"step name":        func(s *runner.Spec) { s.Steps[0].Name = "../x" },
		"cache name":       func(s *runner.Spec) { s.Steps[0].Cache = []string{"../../x"} },
		"service name":     func(s *runner.Spec) { s.Service = "../x" },
		"report path":      func(s *runner.Spec) { s.Steps[0].Reports = []pipeline.Report{{Path: "../x"}} },
		"subfolder":        func(s *runner.Spec) { s.Subdir = "../x" },
		"relative folder":  func(s *runner.Spec) { s.Checkout = "x" },
		"unknown isolated": func(s *runner.Spec) { s.Isolation = "maybe" },
	} {
		spec := good()
		change(&spec)
		if _, err := runner.Run(ctx, spec); !errors.Is(err, runner.ErrBadSpec) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestTheClockIsTheCallers(t *testing.T) {
	b := newBench(t, step("a", "true"))
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	b.spec.Now = func() time.Time { return at }
	res := b.run()
	if !res.Started.Equal(at) || !res.Steps[0].Started.Equal(at) || !res.Steps[0].Ended.Equal(at) {
		t.Errorf("got %+v", res)
	}
}
