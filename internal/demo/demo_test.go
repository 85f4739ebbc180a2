//go:build !race

package demo_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/demo"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

// The tests here are of the program itself: what it prints, how it ends and what
// it leaves behind. It is built without the race detector, which would learn
// nothing here.

var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// sluice builds the program, once for all tests.
func sluice(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED with -short: a whole demo takes a minute")
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sluice-demotest-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "sluice")
		if out, err := exec.Command("go", "build", "-o", built.path, "../../cmd/sluice").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// process is a demo under way.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout bytes.Buffer
	tmp    string // its TMPDIR: everything that it writes is below

	mu    sync.Mutex
	story strings.Builder
	lines chan struct{} // one for each line of the story
	read  chan struct{} // closed when the story has ended
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	// Not t.TempDir: its removal would hide what the demo leaves.
	tmp, err := os.MkdirTemp("", "demo-")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, tmp: tmp, lines: make(chan struct{}, 10000), read: make(chan struct{})}
	p.cmd = exec.Command(sluice(t), append([]string{"demo", "--json"}, args...)...)
	p.cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	p.cmd.Stdout = &p.stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.inherit()
	_ = w.Close()
	go func() {
		defer close(p.read)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			p.mu.Lock()
			p.story.WriteString(s.Text() + "\n")
			p.mu.Unlock()
			p.lines <- struct{}{}
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the story:\n%s", p.told())
		}
	})
	return p
}

// caches are what builds of an earlier demo left for later ones, as they do for
// those of the same server: the Go standard library is compiled once.
var caches struct {
	mu  sync.Mutex
	dir string
}

// bequeath keeps the caches of a demo whose first build has ended. Its files get
// another name; they are not copied.
func (p *process) bequeath() {
	p.t.Helper()
	caches.mu.Lock()
	defer caches.mu.Unlock()
	from, _ := filepath.Glob(filepath.Join(p.tmp, "sluice-demo-*", "caches"))
	to := filepath.Join(built.dir, "caches")
	if out, err := exec.Command("cp", append(append([]string{"-al"}, from...), to)...).CombinedOutput(); err != nil {
		p.t.Logf("couldn't keep the caches: %v\n%s", err, out) // they are in use
		return
	}
	caches.dir = to
}

// inherit gives the demo what another bequeathed, as soon as it has a folder. One
// whose build was faster compiles everything itself; only time depends on it.
func (p *process) inherit() {
	p.t.Helper()
	caches.mu.Lock()
	defer caches.mu.Unlock()
	if caches.dir == "" {
		return
	}
	mine := filepath.Join(built.dir, filepath.Base(p.tmp))
	if out, err := exec.Command("cp", "-al", caches.dir, mine).CombinedOutput(); err != nil {
		p.t.Logf("couldn't take the caches: %v\n%s", err, out)
		return
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		folder, _ := filepath.Glob(filepath.Join(p.tmp, "sluice-demo-*"))
		if len(folder) == 1 {
			err := os.Rename(mine, filepath.Join(folder[0], "caches"))
			if err == nil {
				return
			}
			if _, there := os.Stat(filepath.Join(folder[0], "caches")); there == nil {
				p.t.Logf("the demo has caches already: %v", err)
				return
			}
		}
		if time.Now().After(deadline) {
			p.t.Fatal("the demo made no folder")
		}
	}
}

func (p *process) told() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.story.String()
}

// patience bounds what comes after whole builds.
const patience = 2 * machinetest.Patience

// until waits for a text in the story.
func (p *process) until(text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for !strings.Contains(p.told(), text) {
		select {
		case <-p.lines:
		case <-p.read:
			p.t.Fatalf("the demo ended before it told %q", text)
		case <-ctx.Done():
			_ = p.cmd.Process.Kill()
			p.t.Fatalf("the demo has not told %q", text)
		}
	}
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) document() demo.Document {
	p.t.Helper()
	var d demo.Document
	dec := json.NewDecoder(&p.stdout)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		p.t.Fatalf("standard output is not one document: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		p.t.Error("standard output holds more than one document")
	}
	return d
}

var (
	serverAddress = regexp.MustCompile(`http://(127\.0\.0\.1:\d+)`)
	freePorts     = regexp.MustCompile(`free ports (\d+) and (\d+)`)
)

// nothingIsLeft checks that no process, listener or file of the demo is there;
// after a kill it takes a moment.
func (p *process) nothingIsLeft() {
	p.t.Helper()
	story := strings.Join(strings.Fields(p.told()), " ")
	var addresses []string
	if m := serverAddress.FindStringSubmatch(story); m != nil {
		addresses = append(addresses, m[1])
	}
	if m := freePorts.FindStringSubmatch(story); m != nil {
		addresses = append(addresses, "127.0.0.1:"+m[1], "127.0.0.1:"+m[2])
	}
	if len(addresses) != 3 {
		p.t.Errorf("the story names the addresses %v, want three", addresses)
	}
	left := func() (out []string) {
		for _, a := range addresses {
			if c, err := net.Dial("tcp", a); err == nil {
				_ = c.Close()
				out = append(out, "somebody listens on "+a)
			}
		}
		files, err := os.ReadDir(p.tmp)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, f := range files {
			out = append(out, "the file "+filepath.Join(p.tmp, f.Name()))
		}
		return append(out, processesWith(p.t, p.tmp)...)
	}
	for deadline := time.Now().Add(patience); len(left()) > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if l := left(); len(l) > 0 {
		p.t.Errorf("the demo left behind:\n%s", strings.Join(l, "\n"))
		return
	}
	if err := os.Remove(p.tmp); err != nil {
		p.t.Error(err)
	}
}

// processesWith lists the processes that have to do with a folder.
func processesWith(t *testing.T, folder string) (out []string) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Skip("SKIPPED: without /proc nobody can say which processes there are")
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // it may have gone
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if strings.Contains(string(args)+exe+cwd+string(env), folder) {
			out = append(out, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(args, []byte{0}, []byte(" "))))
		}
	}
	return out
}

// The first one builds from nothing, as those of users do; the others come after
// it, beside each other.
func TestTheWholeStory(t *testing.T) {
	began := time.Now()
	p := start(t, "--once")
	p.until("v2, a good change")
	p.bequeath()
	code := p.wait()
	took := time.Since(began)
	<-p.read
	d := p.document()
	if code != 0 || len(d.Missing()) != 0 {
		t.Fatalf("exit code %d, missing %q\n%+v", code, d.Missing(), d)
	}
	t.Logf("the story took %.0f s", took.Seconds())
	var names []string
	var answers int64
	for _, r := range d.Releases {
		names = append(names, r.Version)
		answers += r.GoodResponses + r.BadResponses
		if !strings.HasPrefix(string(r.Release), "sha256:") || !strings.HasPrefix(string(r.Digest), "sha256:") || r.GoodResponses == 0 {
			t.Errorf("incomplete: %+v", r)
		}
	}
	if strings.Join(names, " ") != "v1 v2 v3" {
		t.Errorf("shipped %v", names)
	}
	if answers+d.DroppedRequests != d.ClientRequests {
		t.Errorf("%d answers of %d requests", answers, d.ClientRequests)
	}
	for _, r := range d.Releases[:2] {
		if r.RequestsToDetect != nil || r.DetectSeconds != nil || r.RollbackMillis != nil || r.BadResponses != 0 {
			t.Errorf("%s has what only a bad release has: %+v", r.Version, r)
		}
	}
	v3 := d.Releases[2]
	if v3.RequestsToDetect == nil || v3.DetectSeconds == nil || v3.RollbackMillis == nil {
		t.Fatalf("v3 lacks how it was found: %+v", v3)
	}
	// What the judge had seen when it failed v3 is part of what customers saw.
	if n := *v3.RequestsToDetect; n < 5 || n > v3.GoodResponses+v3.BadResponses {
		t.Errorf("found after %d requests, of %d that customers made", n, v3.GoodResponses+v3.BadResponses)
	}
	if v3.BadResponses < 5 {
		t.Errorf("v3 was failed on %d bad answers; the judge needs 5", v3.BadResponses)
	}
	if *v3.DetectSeconds <= 0 || *v3.RollbackMillis < 0 {
		t.Errorf("found after %v s, back after %v ms", *v3.DetectSeconds, *v3.RollbackMillis)
	}
	p.nothingIsLeft()
}

func TestWithoutItsFlawV3Succeeds(t *testing.T) {
	t.Parallel()
	p := start(t, "--once", "--bad-rate", "0")
	if code := p.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	<-p.read
	d := p.document()
	if len(d.Releases) != 3 || d.Releases[2].State != run.Succeeded || d.Releases[2].Verdict != verdict.Pass || d.Releases[2].RequestsToDetect != nil || d.Releases[2].BadResponses != 0 {
		t.Errorf("v3 without a flaw came out as %+v", d.Releases)
	}
	if m := d.Missing(); len(m) != 1 || !strings.HasPrefix(m[0], "v3 ") {
		t.Errorf("missing %q, want only the rollback of v3", m)
	}
	p.nothingIsLeft()
}

func TestAKillLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.until("4  v2") // an agent, four instances, customers, and soon a build
	p.until("building: ")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait()
	p.nothingIsLeft()
}

func TestAnEndInTheMiddleLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			p := start(t)
			p.until("building: ")
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code := p.wait(); code != 6 {
				t.Errorf("exit code %d, want 6: cancelled", code)
			}
			<-p.read
			if !strings.Contains(p.told(), "no process, port or file is left") || !strings.HasPrefix(p.stdout.String(), `{"error":{"message":"the demo was ended`) {
				t.Errorf("the story does not say how it ended, or another document came out: %q", p.stdout.String())
			}
			p.nothingIsLeft()
		})
	}
}

func TestWhatTheDemoDoesNotTake(t *testing.T) {
	for _, args := range [][]string{
		{"--bad-rate", "-1"}, {"--bad-rate", "99.5"}, {"--bad-rate", "NaN"}, {"--bad-rate", "many"},
		{"--data", "d"}, {"--server", "http://127.0.0.1:1"}, {"--token", "t"}, {"--project", "p"}, {"v1"},
	} {
		cmd := exec.Command(sluice(t), append([]string{"demo"}, args...)...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 2 {
			t.Errorf("%v: exit code %d, want 2\n%s", args, code, out)
		}
	}
}
