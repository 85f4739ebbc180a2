package supervise

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testKey = release.Key{Project: "default", Service: "shop", Environment: "production"}

// open returns a supervisor on dir whose processes end with the test.
func open(t *testing.T, dir string) *Supervisor {
	t.Helper()
	return openWith(t, Options{Dir: dir})
}

func openWith(t *testing.T, o Options) *Supervisor {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := StopAll(context.Background(), o.Dir, time.Second); err != nil {
			t.Error(err)
		}
	})
	return s
}

// spec runs a shell script whose health is a TCP connection.
func spec(t *testing.T, run string) Spec {
	t.Helper()
	return Spec{
		Key: testKey, Release: release.DigestOf([]byte(run)), Dir: t.TempDir(), Run: run,
		Health: wire.Health{HTTP: "/", Timeout: 10 * time.Second, Interval: 20 * time.Millisecond, StartIn: 2 * time.Minute},
	}
}

// serve is a script that answers HTTP, in a child of its shell.
func serve(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED: python3 is not installed (apt-get install python3): it is the service that these tests start")
	}
	return `echo serving; python3 -m http.server --bind 127.0.0.1 $PORT; exit 7`
}

func alive(pid int) bool {
	s, err := readStat(pid)
	return err == nil && !s.dead()
}

// session lists the living processes of a session.
func session(pid int) (out []int) {
	eachProcess(func(p int) {
		if s, err := readStat(p); err == nil && s.session == pid && !s.dead() {
			out = append(out, p)
		}
	})
	return out
}

func TestProcessOutlivesItsSupervisor(t *testing.T) {
	dir := t.TempDir()
	sp := spec(t, serve(t))
	first := open(t, dir)
	g := first.Group(sp, 2)
	machinetest.Until(t, "two ready", func() bool { return g.Status().Ready == 2 })
	before := g.Status().Instances
	first.Close()
	for _, i := range before {
		if !alive(i.PID) {
			t.Fatalf("process %d went with its supervisor", i.PID)
		}
	}
	second := open(t, dir)
	g = second.Group(sp, 2)
	second.Sweep()
	if st := g.Status(); st.Ready != 2 || st.Instances[0].PID != before[0].PID || st.Instances[1].PID != before[1].PID || st.Instances[0].Serial != before[0].Serial {
		t.Errorf("%+v became %+v", before, st.Instances)
	}
	// Its end is seen, and so are the children that it leaves.
	pid := before[0].PID
	children := session(pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	machinetest.Until(t, "a new process", func() bool {
		i := g.Status().Instances[0]
		return i.Ready && i.PID != pid && i.Restarts == 1 && i.LastExit != ""
	})
	machinetest.Until(t, "the end of the old session's children", func() bool {
		for _, c := range children {
			if alive(c) {
				return false
			}
		}
		return true
	})
	g.Stop()
	machinetest.Until(t, "the end of the whole session", func() bool { return len(session(before[1].PID)) == 0 })
}

func TestSweepEndsWhatNobodyAskedFor(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	g := first.Group(spec(t, serve(t)), 1)
	machinetest.Until(t, "ready", func() bool { return g.Status().Ready == 1 })
	recorded := g.Status().Instances[0].PID
	first.Close()
	// As after a crash between the start and the record.
	f, err := readFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	unrecorded := exec.Command("sleep", "1000")
	unrecorded.Env = []string{f.markLine()}
	unrecorded.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	other := exec.Command("sleep", "1000")
	for _, c := range []*exec.Cmd{unrecorded, other} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	}
	second := open(t, dir)
	second.Sweep()
	machinetest.Until(t, "both gone", func() bool { return !alive(recorded) && !alive(unrecorded.Process.Pid) })
	if !alive(other.Process.Pid) {
		t.Error("a stranger was killed")
	}
}

// A pid that another process has by now is never taken for ours.
func TestRecycledPidIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	stranger := exec.Command("sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Process.Kill(); _ = stranger.Wait() })
	st, err := readStat(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	sp := spec(t, "sleep 1000")
	r := record{identity: identity{PID: stranger.Process.Pid, Start: st.start + 1, Boot: bootID()}, Key: sp.Key, Release: sp.Release, Ready: true, Port: 1}
	s.note(r, false)
	s.Close()
	second := open(t, dir)
	g := second.Group(sp, 1)
	machinetest.Until(t, "a process of our own", func() bool { i := g.Status().Instances[0]; return i.PID != 0 && i.PID != r.PID })
	second.Sweep()
	g.Stop()
	if !alive(stranger.Process.Pid) {
		t.Error("a stranger was killed")
	}
}

// Two agents of a host give no port to two instances that do not listen yet; one whose
// instance has ended is let go.
func TestNoPortIsGivenTwice(t *testing.T) {
	both := []*Supervisor{open(t, t.TempDir()), open(t, t.TempDir())}
	given := map[int]bool{}
	for range 300 {
		for _, s := range both {
			s.mu.Lock()
			p, err := s.freePort()
			s.mu.Unlock()
			if err != nil || given[p] {
				t.Fatalf("port %d, given before: %v, %v", p, given[p], err)
			}
			given[p] = true
		}
	}
	for p := range both[0].ports {
		both[0].note(record{Port: p}, true)
		if both[0].ports[p] != nil {
			t.Errorf("port %d is kept after its instance", p)
		}
	}
}

func TestBackOff(t *testing.T) {
	s := open(t, t.TempDir())
	sp := spec(t, "exit 3")
	start := time.Now()
	g := s.Group(sp, 1)
	machinetest.Until(t, "a crash loop", func() bool { return g.Status().Failed != "" })
	// 100 + 200 + 400 + 800 ms lie between five exits.
	if d := time.Since(start); d < 1500*time.Millisecond {
		t.Errorf("five exits within %s: no back-off", d)
	}
	if st := g.Status(); !strings.Contains(st.Failed, "crash loop: 5 exits") || !strings.Contains(st.Failed, "exit status 3") {
		t.Errorf("%q", st.Failed)
	}
	g.Stop()
}

// A service whose log can't be written runs on.
func TestFullDiskCostsOnlyTheLog(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	sp := spec(t, `for i in 1 2 3; do echo line; done; `+serve(t))
	logs := filepath.Join(dir, "logs", safeName(testKey.String()))
	if err := os.MkdirAll(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", filepath.Join(logs, sp.Release.Short()+"-0.log")); err != nil {
		t.Fatal(err)
	}
	g := s.Group(sp, 1)
	machinetest.Until(t, "ready", func() bool { return g.Status().Ready == 1 })
	for range 3 {
		res, err := http.Get("http://" + g.Status().Instances[0].Addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	if st := g.Status(); st.Instances[0].Restarts != 0 || st.Failed != "" {
		t.Errorf("%+v", st)
	}
	g.Stop()
}

func TestFloodedLogIsBounded(t *testing.T) {
	s := open(t, t.TempDir())
	g := s.Group(spec(t, `yes "a line of the log that is repeated for ever"`), 1)
	path := func() string { g.mu.Lock(); defer g.mu.Unlock(); return g.slots[0].logPath() }()
	machinetest.Until(t, "a rotation", func() bool {
		a, err := os.Stat(path + ".1")
		return err == nil && a.Size() >= maxLog/2
	})
	g.Stop()
	if info, err := os.Stat(path + ".1"); err != nil || info.Size() > maxLog {
		t.Errorf("%v, %v", info, err)
	}
}

func TestDrainComesBeforeTheEnd(t *testing.T) {
	var pid atomic.Int64
	var order atomic.Value
	order.Store("")
	dir := t.TempDir()
	s := openWith(t, Options{Dir: dir, Drain: func(_ context.Context, i Instance) {
		pid.Store(int64(i.PID))
		if alive(i.PID) {
			order.Store("drained while alive")
		}
	}})
	g := s.Group(spec(t, serve(t)), 1)
	machinetest.Until(t, "ready", func() bool { return g.Status().Ready == 1 })
	g.Stop()
	if order.Load() != "drained while alive" || alive(int(pid.Load())) {
		t.Errorf("%v; alive after the stop: %v", order.Load(), alive(int(pid.Load())))
	}
	if f, err := readFile(dir); err != nil || len(f.Instances) != 0 {
		t.Errorf("still recorded: %v, %v", f.Instances, err)
	}
}

func TestEnvironmentIsScrubbed(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "agent's own")
	s := open(t, t.TempDir())
	sp := spec(t, `env > env.txt; touch $TMPDIR/writable && echo ok > done.txt; sleep 1000`)
	sp.Env = map[string]string{"LOG_LEVEL": "info", "PORT": "1"}
	g := s.Group(sp, 1)
	machinetest.Until(t, "the script", func() bool { _, err := os.Stat(filepath.Join(sp.Dir, "done.txt")); return err == nil })
	b, err := os.ReadFile(filepath.Join(sp.Dir, "env.txt"))
	if err != nil {
		t.Fatal(err)
	}
	env := string(b)
	var i Instance
	machinetest.Until(t, "its port is known", func() bool { i = g.Status().Instances[0]; return i.Port != 0 })
	for _, want := range []string{"LOG_LEVEL=info\n", fmt.Sprintf("PORT=%d\n", i.Port), "SLUICE_RELEASE=" + string(sp.Release), "SLUICE_ENVIRONMENT=production\n", "PATH="} {
		if !strings.Contains(env, want) {
			t.Errorf("no %q in\n%s", want, env)
		}
	}
	if strings.Contains(env, "AWS_SECRET") {
		t.Errorf("the agent's environment came through:\n%s", env)
	}
	g.Stop()
}

func FuzzStat(f *testing.F) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("1 (a) R 1) S 0 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 5 0"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, in []byte) { _, _ = parseStat(in) })
}

func TestStatOfOddCommand(t *testing.T) {
	s, err := parseStat([]byte("7 (x) Z 9 (y)) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0"))
	if err != nil || s.state != 'S' || s.session != 7 || s.start != 12345 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRedact(t *testing.T) {
	if got := redact("token hunter2 and\nBEGIN\nline-two-of-key", []string{"hunter2", "BEGIN\nline-two-of-key", "a"}); got != "token *** and\n***\n***" {
		t.Errorf("%q", got)
	}
}
