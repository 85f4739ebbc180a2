package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/runner/sandbox"
	"github.com/sluicehq/sluice/internal/runner/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	if len(os.Args) == 2 && os.Args[1] == "die-with-me" {
		dieWithMe()
	}
	os.Exit(m.Run())
}

var ctx = context.Background()

// folder makes a folder that the step owns.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	uid, gid := sandbox.Owner()
	if err := os.Lchown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return dir
}

func run(t *testing.T, cfg sandbox.Config) (string, sandbox.Exit) {
	t.Helper()
	sandboxtest.Require(t)
	if cfg.Dir == "" {
		cfg.Dir = "/"
	}
	cfg.Env = append(cfg.Env, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
	var out bytes.Buffer
	exit, err := sandbox.Run(ctx, cfg, &out)
	if err != nil {
		t.Fatalf("Run: %v\n%s", err, out.String())
	}
	return strings.TrimSpace(out.String()), exit
}

func TestRightsAreGone(t *testing.T) {
	out, exit := run(t, sandbox.Config{Script: `id -u; id -G; grep -E 'Cap|NoNewPrivs' /proc/self/status; grep -E 'Cap|NoNewPrivs' /proc/1/status; hostname`})
	if !exit.OK() || !strings.HasPrefix(out, "1000\n1000\n") && os.Geteuid() == 0 || !strings.HasSuffix(out, "\nbuild") {
		t.Fatalf("%s\n%s", exit, out)
	}
	for line := range strings.Lines(out) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":\t")
		switch {
		case !ok:
		case name == "NoNewPrivs":
			if value != "1" {
				t.Error(line)
			}
		case strings.Trim(value, "0") != "":
			t.Errorf("a capability is left: %s", line)
		}
	}
}

func TestSetuidProgramsGainNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can make a setuid program of another user: run the tests as root")
	}
	dir := folder(t)
	b, err := os.ReadFile("/usr/bin/id")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"as-root", "as-step"} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := run(t, sandbox.Config{Binds: []sandbox.Bind{{Source: dir, Target: "/box", Writable: true}}, Script: "/box/as-root -u; /usr/bin/su -c id 2>&1 || echo refused"})
	if !strings.HasPrefix(out, "1000\n") || !strings.HasSuffix(out, "refused") {
		t.Errorf("got %s", out)
	}
}

func TestTheHostIsOutOfSight(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("the-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := run(t, sandbox.Config{Script: `
for f in ` + secret + ` /root /root/.ssh /home/* /etc/shadow /etc/ssh /var/lib /var/run/docker.sock /run/* /sys/kernel /dev/vda /dev/kmsg /dev/mem /dev/tty /work /proc/1/environ /proc/1/root/ /proc/1/fd/3 /proc/1/cwd/; do
  if cat $f >/dev/null 2>&1 || ls $f/ >/dev/null 2>&1; then echo "SEES $f"; fi
done
ls -A /tmp /home /run
echo processes: $(ls /proc | grep -c '^[0-9]')`})
	if strings.Contains(out, "SEES") || strings.Contains(out, "the-token") {
		t.Errorf("the step sees the host:\n%s", out)
	}
	n, err := strconv.Atoi(strings.TrimSpace(out[strings.LastIndex(out, ":")+1:]))
	if err != nil || n > 6 {
		t.Errorf("the step sees %d processes (%v):\n%s", n, err, out)
	}
}

func TestHiddenFoldersAreCovered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can put a folder below /usr/local: run the tests as root")
	}
	dir, err := os.MkdirTemp("/usr/local/share", "sluice-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("the-token"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := run(t, sandbox.Config{Script: "cat " + dir + "/token"}); out != "the-token" {
		t.Fatalf("the test is wrong: %s", out)
	}
	if out, _ := run(t, sandbox.Config{Script: "cat " + dir + "/token; ls -A " + dir, Hidden: []string{dir, "/nowhere"}}); strings.Contains(out, "the-token") {
		t.Errorf("got %s", out)
	}
}

func TestWritesStayInside(t *testing.T) {
	dir, read := folder(t), folder(t)
	out, exit := run(t, sandbox.Config{
		Binds: []sandbox.Bind{{Source: dir, Target: "/box", Writable: true}, {Source: read, Target: "/given"}},
		Script: `
echo mine > /box/file
for f in / /usr /usr/bin /etc /etc/passwd /proc/sys/kernel/hostname /given /home /sys; do
  if touch $f/x 2>/dev/null || echo x 2>/dev/null > $f; then echo "WROTE $f"; fi
done
mount -o remount,rw / 2>/dev/null && echo REMOUNTED
mount -t tmpfs x /tmp 2>/dev/null && echo MOUNTED
unshare -Ur true 2>/dev/null && echo NESTED
touch /usr/x
`})
	if exit.OK() || strings.Contains(out, "WROTE") || strings.Contains(out, "MOUNTED") || strings.Contains(out, "NESTED") || !strings.Contains(out, "Read-only file system") {
		t.Errorf("%s\n%s", exit, out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "mine\n" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestALinkInAWritableFolderLeadsNoMountOutside(t *testing.T) {
	home, cache, host := folder(t), folder(t), t.TempDir()
	if err := os.Symlink(host, filepath.Join(home, "go")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sandboxtest.Require(t)
	_, err := sandbox.Run(ctx, sandbox.Config{Script: "true", Dir: "/", Binds: []sandbox.Bind{
		{Source: home, Target: "/home/build", Writable: true},
		{Source: cache, Target: "/home/build/go/pkg", Writable: true},
	}}, &out)
	t.Logf("ended with %v", err)
	if entries, err := os.ReadDir(host); err != nil || len(entries) != 0 {
		t.Errorf("setup followed the link: %v, %v", entries, err)
	}
}

func TestNetworkIsLoopbackOnly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	// /dev/tcp is bash's.
	dial := func(host string) string {
		return fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/%s/%s' 2>&1 && echo CONNECTED || true; ", host, port)
	}
	out, _ := run(t, sandbox.Config{Script: dial("127.0.0.1") + dial("1.1.1.1") + "grep -c : /proc/net/dev"})
	if strings.Contains(out, "CONNECTED") || !strings.Contains(out, "refused") || !strings.Contains(out, "unreachable") || !strings.HasSuffix(out, "\n1") {
		t.Errorf("without network: %q", out)
	}
	out, _ = run(t, sandbox.Config{Network: true, Script: dial("127.0.0.1") + "test -s /etc/hosts"})
	if !strings.Contains(out, "CONNECTED") {
		t.Errorf("with network: %s", out)
	}
}

func TestExitsAreReportedAsTheyAre(t *testing.T) {
	for _, c := range []struct {
		script string
		want   string
	}{
		{"exit 0", "exit code 0"},
		{"exit 7", "exit code 7"},
		{"false; echo went on", "exit code 1"},
		{"no-such-command", "exit code 127"},
		{"kill -SEGV $$", "killed by SIGSEGV"},
		{"kill -KILL $$", "killed by SIGKILL"},
		{"kill -TERM 1; kill -INT 1; kill -KILL 1; exit 3", "exit code 3"},   // pid 1 stands
		{fmt.Sprintf("kill -KILL %d || exit 4", os.Getpid()), "exit code 4"}, // the host's processes have no number here
	} {
		out, exit := run(t, sandbox.Config{Script: c.script})
		if strings.Contains(out, "went on") || exit.String() != c.want {
			t.Errorf("%s: got %s\n%s", c.script, exit, out)
		}
	}
}

func TestInputIsEmptyAndNoDescriptorLeaks(t *testing.T) {
	out, exit := run(t, sandbox.Config{Script: `cat; ls /proc/self/fd; readlink /proc/self/fd/0`})
	if !exit.OK() || !strings.HasPrefix(out, "0\n1\n2\n3\n/dev/null") { // 3 is the folder that ls reads
		t.Errorf("%s\n%s", exit, out)
	}
}

func TestLimits(t *testing.T) {
	dir := folder(t)
	out, _ := run(t, sandbox.Config{
		Limits: sandbox.Limits{Files: 64, FileBytes: 1 << 20},
		Binds:  []sandbox.Bind{{Source: dir, Target: "/box", Writable: true}},
		Script: "ulimit -n; ulimit -c; head -c 2000000 /dev/zero > /box/big || echo stopped",
	})
	if !strings.HasPrefix(out, "64\n0\n") || !strings.HasSuffix(out, "stopped") {
		t.Errorf("got %s", out)
	}
	if info, err := os.Stat(filepath.Join(dir, "big")); err != nil || info.Size() > 1<<20 {
		t.Errorf("the file has %v, %v", info, err)
	}
}

// beat is a script whose daemon, escaped from session and parent, touches a
// file as long as it lives.
const beat = `setsid sh -c 'while :; do date +%N > /box/beat; sleep 0.02; done' >/dev/null 2>&1 &
while [ ! -s /box/beat ]; do sleep 0.01; done
`

func TestDaemonsEndWithTheScript(t *testing.T) {
	dir := folder(t)
	_, exit := run(t, sandbox.Config{Script: beat, Binds: []sandbox.Bind{{Source: dir, Target: "/box", Writable: true}}})
	if !exit.OK() {
		t.Error(exit)
	}
	sandboxtest.StopsBeating(t, filepath.Join(dir, "beat"))
}

func TestAHangEndsWithTheContext(t *testing.T) {
	sandboxtest.Require(t)
	dir := folder(t)
	reason := errors.New("over its time")
	ctx, cancel := context.WithCancelCause(ctx)
	started := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("ready")) {
			cancel(reason)
		}
		return len(p), nil
	})
	_, err := sandbox.Run(ctx, sandbox.Config{
		Script: "trap '' TERM INT HUP; " + beat + "echo ready; sleep 1000", Dir: "/", Env: []string{"PATH=/usr/bin:/bin"},
		Binds: []sandbox.Bind{{Source: dir, Target: "/box", Writable: true}},
	}, started)
	if !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	sandboxtest.StopsBeating(t, filepath.Join(dir, "beat"))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// dieWithMe is the caller that is killed in the test below.
func dieWithMe() {
	dir, err := os.Getwd()
	if err == nil {
		_, err = sandbox.Run(ctx, sandbox.Config{
			Script: beat + "sleep 1000", Dir: "/", Env: []string{"PATH=/usr/bin:/bin"},
			Binds: []sandbox.Bind{{Source: dir, Target: "/box", Writable: true}},
		}, os.Stderr)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestASandboxDiesWithItsCaller(t *testing.T) {
	sandboxtest.Require(t)
	dir := folder(t)
	caller := exec.Command("/proc/self/exe", "die-with-me")
	caller.Dir = dir
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Beats(t, filepath.Join(dir, "beat"))
	if err := caller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = caller.Wait() // killed, as meant
	sandboxtest.StopsBeating(t, filepath.Join(dir, "beat"))
}

func TestAnOutputThatFailsEndsTheScript(t *testing.T) {
	sandboxtest.Require(t)
	full := errors.New("no space left")
	_, err := sandbox.Run(ctx, sandbox.Config{Script: "while :; do echo flood; done", Dir: "/"}, writerFunc(func([]byte) (int, error) { return 0, full }))
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestSetupFailuresRunNothing(t *testing.T) {
	sandboxtest.Require(t)
	for name, cfg := range map[string]sandbox.Config{
		"missing source":    {Binds: []sandbox.Bind{{Source: "/nowhere/at/all", Target: "/box"}}},
		"relative":          {Binds: []sandbox.Bind{{Source: "x", Target: "/box"}}},
		"over the root":     {Binds: []sandbox.Bind{{Source: "/usr", Target: "/x/.."}}},
		"missing directory": {Dir: "/nowhere"},
		"below a read-only": {Binds: []sandbox.Bind{{Source: t.TempDir(), Target: "/usr/nowhere/x"}}},
	} {
		if cfg.Dir == "" {
			cfg.Dir = "/"
		}
		cfg.Script = "echo ran"
		var out bytes.Buffer
		_, err := sandbox.Run(ctx, cfg, &out)
		if !errors.Is(err, sandbox.ErrSetup) || strings.Contains(out.String(), "ran") {
			t.Errorf("%s: got %v, output %q", name, err, out.String())
		}
	}
}

func TestPlainRunsWithoutIsolation(t *testing.T) {
	var out bytes.Buffer
	exit, err := sandbox.RunPlain(ctx, sandbox.Config{Script: "pwd; echo $A; sleep 1000 & exit 4", Dir: "/usr", Env: []string{"A=b", "PATH=/usr/bin:/bin"}}, &out)
	if err != nil || exit.Code != 4 || out.String() != "/usr\nb\n" {
		t.Errorf("got %v %v %q", exit, err, out.String())
	}
	reason := errors.New("over its time")
	ctx, cancel := context.WithCancelCause(ctx)
	_, err = sandbox.RunPlain(ctx, sandbox.Config{Script: "echo ready; sleep 1000", Dir: "/usr", Env: []string{"PATH=/usr/bin:/bin"}}, writerFunc(func(p []byte) (int, error) { cancel(reason); return len(p), nil }))
	if !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}

// TestAsAnOrdinaryUser runs this package's tests once more without root.
func TestAsAnOrdinaryUser(t *testing.T) {
	sandboxtest.AsNobody(t, ".", 12)
}
