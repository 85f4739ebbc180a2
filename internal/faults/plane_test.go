package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/porttest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/server/servertest"
)

// plane is `sluice up` on a data folder, as processes.
type plane struct {
	*servertest.Client
	t    *testing.T
	dir  string
	args []string // of up, beside the usual ones

	program string   // what runs the server
	env     []string // of it, beside this process's own
	log     string   // what up wrote to standard error

	tampered bool // somebody changed what its host runs

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// newPlane starts a server on an empty folder; everything that it starts is
// ended with the test, and that nothing is left is checked.
func newPlane(t *testing.T, args ...string) *plane {
	t.Helper()
	p := planeAt(t, filepath.Join(t.TempDir(), "data"), args...)
	p.up()
	return p
}

func planeAt(t *testing.T, dir string, args ...string) *plane {
	t.Helper()
	p := &plane{t: t, dir: dir, args: args, program: program, log: filepath.Join(t.TempDir(), "up.log")}
	p.Client = &servertest.Client{T: t, URL: "http://" + porttest.Free(t)}
	t.Cleanup(p.tidy)
	return p
}

// tidy ends everything by `sluice down`, and says what is left.
func (p *plane) tidy() {
	if said, _ := os.ReadFile(p.log); strings.Contains(string(said), "hosts run something else than they were told") && !p.tampered {
		p.t.Errorf("it says that somebody changed what its host runs, and nobody did:\n%s", said)
	}
	if p.t.Failed() {
		p.t.Logf("log of up:\n%s", tail(p.log))
		p.t.Logf("log of the agent:\n%s", tail(filepath.Join(p.dir, "agent.log")))
	}
	if out, code := p.sluice("down"); code != 0 {
		p.t.Errorf("down ended with %d: %s", code, out)
	}
	p.reap()
	if left := left(p.dir); len(left) > 0 {
		p.t.Errorf("down left processes: %v", left)
		for pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (p *plane) reap() {
	if p.cmd == nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(machinetest.Patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.cmd = nil
}

// up starts the server and waits until it is ready. It returns how long that took.
func (p *plane) up() time.Duration {
	p.t.Helper()
	start := time.Now()
	p.launch()
	machinetest.Until(p.t, "the server is ready", func() bool {
		select {
		case <-p.done:
			p.t.Fatalf("the server ended instead of starting:\n%s", tail(p.log))
		default:
		}
		return p.ready()
	})
	b, err := os.ReadFile(filepath.Join(p.dir, "token"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.Token = strings.TrimSpace(string(b))
	return time.Since(start)
}

// ready reports whether the server says that it is.
func (p *plane) ready() bool {
	client := http.Client{Timeout: time.Second}
	res, err := client.Get(p.URL + "/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (p *plane) launch() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(p.program, append(p.upArgs(), p.args...)...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done, cmd := make(chan struct{}), p.cmd
	p.done = done
	go func() { _ = cmd.Wait(); close(done) }()
}

func (p *plane) upArgs() []string {
	return []string{"up", "--data", p.dir, "--addr", strings.TrimPrefix(p.URL, "http://"), "--isolation", string(isolation)}
}

// kill ends the server as a power cut does, and waits until it is gone.
func (p *plane) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.done
}

// killWhen kills the server at the moment when a run is seen to be as wanted. It
// returns what was seen, and when; false if the run ended without that.
func (p *plane) killWhen(run string, ok func(control.Status) bool) (control.Status, time.Time, bool) {
	p.t.Helper()
	for deadline := time.Now().Add(machinetest.Patience); ; {
		var s control.Status
		err := p.Try("GET", "runs/"+run, nil, &s)
		switch {
		case err != nil:
			p.t.Fatal(err)
		case ok(s):
			p.kill()
			return s, time.Now(), true
		case servertest.Ended(s):
			return s, time.Now(), false
		case time.Now().After(deadline):
			p.t.Fatalf("run %s was never as wanted: %s", run, servertest.Show(s))
		}
		time.Sleep(time.Millisecond)
	}
}

// tries bounds how often caught ships anew.
const tries = 25

// caught ships a version and kills the server at the moment when its run is seen
// to be as wanted. Some moments last milliseconds, and can be over before they are
// seen: the version is shipped again then, under another name.
func (p *plane) caught(t *testing.T, s *shop, b behaviour, when func(control.Status) bool) (control.Status, time.Time) {
	t.Helper()
	for try := range tries {
		v := b
		if try > 0 {
			v.Version += fmt.Sprintf(" (%d)", try)
		}
		s.ship(v)
		seen, killed, hit := p.killWhen(p.Run(s.Dir), when)
		if hit {
			return seen, killed
		}
		t.Logf("run %s ended before it was seen so", seen.Run)
	}
	t.Fatalf("never seen in %d runs", tries)
	panic("not reached")
}

// recovered waits until a run moves that was seen before the kill, and returns how
// long after the kill that was. What the killed server had still written does not
// count: the run has to change after it was read from the new one.
func (p *plane) recovered(before control.Status, killed time.Time) time.Duration {
	p.t.Helper()
	was := ""
	p.Wait(before.Run, "moving again", func(s control.Status) bool {
		now := servertest.Show(s)
		if was == "" {
			was = now
		}
		return now != was || servertest.Ended(s)
	})
	return time.Since(killed)
}

// heard waits until every host has reported lately: it may have been silent for as
// long as there was no server, and what it keeps counts only while it says so.
func (p *plane) heard() {
	p.t.Helper()
	machinetest.Until(p.t, "the hosts report", func() bool {
		var hosts []control.Host
		if err := p.Try("GET", "hosts", nil, &hosts); err != nil {
			p.t.Fatal(err)
		}
		return len(hosts) > 0 && !slices.ContainsFunc(hosts, func(h control.Host) bool { return h.Missing })
	})
}

// heldBy tells a production that is held for a reason with these words. On a
// machine that does much else a hold may have another one first, as a host that
// was silent for some seconds, and goes on by itself.
func heldBy(words string) func(control.Status) bool {
	return func(s control.Status) bool { return strings.Contains(production(s).Held, words) }
}

// sluice runs a command line on the data folder.
func (p *plane) sluice(args ...string) (string, int) {
	cmd := exec.Command(program, append(args, "--data", p.dir)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		return err.Error(), -1
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// agentPID is the process of the local agent.
func (p *plane) agentPID() int {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "agent.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	var info struct{ PID int }
	if err := json.Unmarshal(b, &info); err != nil {
		p.t.Fatal(err)
	}
	return info.PID
}

func killPID(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	machinetest.Until(t, fmt.Sprintf("process %d is gone", pid), func() bool { return !running(pid) })
}

// running reports whether a process runs; one that nobody has waited for does not.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && !strings.HasPrefix(rest, "Z")
}

// instances are the processes of production's instances by their release, as the
// agent recorded them.
func (p *plane) instances() map[release.ID][]int {
	p.t.Helper()
	out := map[release.ID][]int{}
	for _, i := range onRecord(p.t, filepath.Join(p.dir, "agent")) {
		out[i.Release] = append(out[i.Release], i.PID)
	}
	return out
}

// appliedOnce holds the agent's journal against the promise that no generation
// is applied twice, nor a lower one after a higher one.
func appliedOnce(t *testing.T, agentDir string) {
	t.Helper()
	entries, err := journal.Read(agent.JournalPath(agentDir))
	if err != nil {
		t.Fatal(err)
	}
	highest := map[release.Key]int64{}
	n := 0
	for _, e := range entries {
		if e.Outcome != journal.Applied {
			continue
		}
		n++
		if e.Generation <= highest[e.Key] {
			t.Errorf("generation %d of %s was applied after %d", e.Generation, e.Key, highest[e.Key])
		}
		highest[e.Key] = e.Generation
	}
	if n == 0 {
		t.Error("the agent's journal says that nothing was applied")
	}
}

// processesOf lists processes that have to do with a folder, by their command
// line, environment or working folder.
func processesOf(dir string) map[int]string {
	out := map[int]string{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		pid, _ := strconv.Atoi(filepath.Base(proc))
		if pid == os.Getpid() || !running(pid) {
			continue
		}
		cmdline, _ := os.ReadFile(proc + "/cmdline")
		environ, _ := os.ReadFile(proc + "/environ")
		cwd, _ := os.Readlink(proc + "/cwd")
		if strings.Contains(string(cmdline)+string(environ)+cwd, dir) {
			out[pid] = strings.ReplaceAll(string(cmdline), "\x00", " ")
		}
	}
	return out
}

// left is what processesOf finds still when it had time to end: what keeps an
// instance's log ends when it has read the last of it.
func left(dir string) (out map[int]string) {
	machinetest.Eventually(func() bool {
		out = processesOf(dir)
		return len(out) == 0
	})
	return out
}

// moreOf waits until n more requests have come back, whichever way.
func moreOf(t *testing.T, load *servertest.Load, n int) {
	t.Helper()
	was := load.Counts().All
	machinetest.Until(t, "load goes on", func() bool { return load.Counts().All > was+n })
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-6000):])
}

// get asks a service once.
func get(url string) (int, string, error) {
	res, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// says fails unless a text has all the words.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
}
