package confine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/machinetest"
)

// able skips where the host forbids namespaces.
func able(t *testing.T) {
	t.Helper()
	if err := Probe(t.TempDir()); err != nil {
		machinetest.Lacks(t, machinetest.Namespaces, "this host does not allow services to be confined, so that they are was not tried: %v", err)
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, v View, script string, env ...string) (string, error) {
	t.Helper()
	cmd, done, err := Command(v, script, append(env, "PATH=/usr/bin:/bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// world is a data folder as that of `sluice up`: a token, keys, releases.
func world(t *testing.T) (v View, data string) {
	t.Helper()
	able(t)
	data = t.TempDir()
	write(t, filepath.Join(data, "token"), "the token")
	write(t, filepath.Join(data, "keys", "promotion.key"), "the key")
	write(t, filepath.Join(data, "agent", "releases", "other", "files", "config"), "another service's")
	dir := filepath.Join(data, "agent", "releases", "mine", "files")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "version.txt"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(data, "agent", "tmp", "mine")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	users, err := OpenUsers(filepath.Join(data, "users.json"))
	if err != nil {
		t.Fatal(err)
	}
	uid, gid, err := users.Of("shop")
	if err != nil {
		t.Fatal(err)
	}
	if uid != os.Geteuid() {
		if err := os.Chown(tmp, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	return View{Hide: []string{data}, Dir: dir, Writable: []string{tmp}, Key: "shop", Users: users}, data
}

func TestHiddenIsNotThere(t *testing.T) {
	v, data := world(t)
	out, err := run(t, v, `cat version.txt; cd "$DATA" && cat token keys/promotion.key agent/releases/other/files/config; ls -A "$DATA" "$DATA/agent/releases"`, "DATA="+data)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.HasPrefix(out, "mine") || strings.Count(out, "No such file") != 3 {
		t.Errorf("%s", out)
	}
	for _, secret := range []string{"the token", "the key", "another service's"} {
		if strings.Contains(out, secret) {
			t.Errorf("it read %s:\n%s", secret, out)
		}
	}
}

// Neither by another process's root, nor by taking the cover off.
func TestNoWayAround(t *testing.T) {
	v, data := world(t)
	other := exec.Command("sleep", "1000")
	other.Dir = data
	other.Env = []string{"SECRET=in the environment"}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	out, _ := run(t, v, `cat /proc/$PID/root$DATA/token; cat /proc/$PID/cwd/token; cat /proc/$PID/environ
umount "$DATA"; umount "$DATA/agent/releases/mine/files"; mount -o remount,rw "$DATA"
unshare -Urm sh -c 'umount "$DATA"; cat "$DATA/token"; cat /proc/$PID/cwd/token'; grep -E 'Cap(Eff|Prm|Bnd|Amb)|NoNewPrivs' /proc/self/status`,
		"DATA="+data, "PID="+strconv.Itoa(other.Process.Pid))
	if strings.Contains(out, "the token") || strings.Contains(out, "in the environment") {
		t.Errorf("a way around:\n%s", out)
	}
	if strings.Count(out, "0000000000000000") != 4 || !strings.Contains(out, "NoNewPrivs:\t1") {
		t.Errorf("it has rights:\n%s", out)
	}
}

// What comes into a hidden folder later is not there either, a mount too where
// this test may make one.
func TestHiddenStaysHidden(t *testing.T) {
	v, _ := world(t)
	users, err := os.MkdirTemp("", "users-") // not below the test's folder, which is hidden whole
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(users) })
	v.Hide = append(v.Hide, users)
	cmd, done, err := Command(v, `echo started > "$TMP/started"; while ! test -e "$TMP/go"; do sleep 0.02; done; cat "$USERS/1000/bus" "$USERS/1001/bus"; ls -A "$USERS"`, []string{"PATH=/usr/bin:/bin", "USERS=" + users, "TMP=" + v.Writable[0]})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Start()
	done()
	if err != nil {
		t.Fatal(err)
	}
	if !machinetest.Eventually(func() bool { _, err := os.Stat(filepath.Join(v.Writable[0], "started")); return err == nil }) {
		_ = cmd.Process.Kill()
		t.Fatalf("it did not start: %s", out.String())
	}
	write(t, filepath.Join(users, "1000", "bus"), "a session's bus")
	if err := os.Mkdir(filepath.Join(users, "1001"), 0o755); err != nil {
		t.Fatal(err)
	}
	if unix.Mount("session", filepath.Join(users, "1001"), "tmpfs", 0, "mode=0755") == nil {
		t.Cleanup(func() { _ = unix.Unmount(filepath.Join(users, "1001"), unix.MNT_DETACH) })
	}
	if err := os.WriteFile(filepath.Join(users, "1001", "bus"), []byte("a session's bus"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Writable[0], "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if strings.Count(out.String(), "No such file") != 2 || strings.Contains(out.String(), "a session's bus") {
		t.Errorf("%s", out.String())
	}
}

// What it may write is its own folder, and nothing of what was verified.
func TestWritable(t *testing.T) {
	v, data := world(t)
	out, err := run(t, v, `echo x > "$TMP/file" && cat "$TMP/file"; echo y > version.txt; echo z > new; echo q > "$DATA/new"; cat version.txt; id -u`, "DATA="+data, "TMP="+v.Writable[0])
	if err != nil || !strings.HasPrefix(out, "x\n") || strings.Count(out, "Read-only file system") != 3 || !strings.Contains(out, "\nmine") {
		t.Errorf("%v: %s", err, out)
	}
	if uid, _, err := v.Users.Of(v.Key); err != nil || !strings.HasSuffix(out, strconv.Itoa(uid)+"\n") {
		t.Errorf("it is not user %d:\n%s", uid, out)
	}
	if b, err := os.ReadFile(filepath.Join(v.Writable[0], "file")); err != nil || string(b) != "x\n" {
		t.Errorf("outside: %q, %v", b, err)
	}
}

// A file that is hidden reads as empty, and the exit code and standard streams
// are the service's own.
func TestHiddenFileAndExit(t *testing.T) {
	v, _ := world(t)
	token := write(t, filepath.Join(t.TempDir(), "agent-token"), "agent's")
	v.Hide = append(v.Hide, token, filepath.Join(t.TempDir(), "is", "not", "there"))
	out, err := run(t, v, `cat `+token+`; echo said; exit 7`)
	if strings.Contains(out, "agent's") || !strings.Contains(out, "said") {
		t.Errorf("%s", out)
	}
	if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 7 {
		t.Errorf("%v", err)
	}
}

// What a service needs in a private folder can be named.
func TestShow(t *testing.T) {
	v, _ := world(t)
	lib := write(t, filepath.Join(t.TempDir(), "lib"), "a library")
	if err := os.Chmod(lib, 0o644); err != nil {
		t.Fatal(err)
	}
	v.Hide = append(v.Hide, filepath.Dir(lib))
	if out, _ := run(t, v, "cat "+lib); strings.Contains(out, "a library") {
		t.Errorf("it is not hidden: %s", out)
	}
	v.Show = []string{lib}
	if out, err := run(t, v, "cat "+lib+"; ls "+filepath.Dir(lib)); err != nil || !strings.HasPrefix(out, "a library") {
		t.Errorf("%v: %s", err, out)
	}
	v.Show = []string{filepath.Join(t.TempDir(), "absent")}
	if _, _, err := Command(v, "true", nil); err == nil {
		t.Error("something absent was shown")
	}
	if _, _, err := Command(View{Hide: []string{"/"}, Key: v.Key, Users: v.Users}, "true", nil); err == nil || !strings.Contains(err.Error(), "couldn't hide /") {
		t.Errorf("/ was hidden: %v", err)
	}
}
