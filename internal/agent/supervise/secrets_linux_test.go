package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/confine"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
)

// A log is read from somewhere on: what is the rest of a secret there is not shown,
// nor is a longer secret that begins as a shorter one.
func TestTailHoldsNoPartOfASecret(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	path := filepath.Join(t.TempDir(), "log")
	for cut := range len(secret) + 2 {
		// One line without end, longer than what is read of it, and short when blanked.
		const more = 290
		text := strings.Repeat(".", 100) + secret + strings.Repeat(secret, more) + strings.Repeat("x", tailBytes-more*len(secret)-cut)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := tail(path, []string{"corr", secret, "other"})
		for i := 0; i+4 <= len(secret); i++ {
			if strings.Contains(got, secret[i:i+4]) {
				t.Fatalf("with %d bytes of it: %.100q", cut, got)
			}
		}
	}
	if got := redact("a correct-horse-battery-staple b", []string{"corr", secret}); got != "a *** b" {
		t.Errorf("%q", got)
	}
}

func FuzzEndOfSecret(f *testing.F) {
	f.Add("staple and more", "correct-horse-battery-staple")
	f.Add("aaaa", "aaaaaaaa")
	f.Fuzz(func(t *testing.T, text, secret string) {
		n := endOfSecret([]byte(text), []string{secret})
		if n < 0 || n > len(text) {
			t.Fatalf("%d of %d bytes", n, len(text))
		}
		for _, part := range parts([]string{secret}) {
			for i := 1; i < len(part); i++ {
				if len(part)-i > n && strings.HasPrefix(text, part[i:]) {
					t.Fatalf("%q begins with %q", text, part[i:])
				}
			}
		}
	})
}

// A process that an earlier agent started, with a secret that this one may not read,
// goes on; its log is not shown, as nobody knows what to strike out of it.
func TestAnAdoptedLogIsNotShownWithoutItsSecrets(t *testing.T) {
	dir, secrets := t.TempDir(), t.TempDir()
	file := filepath.Join(secrets, "token")
	if err := os.WriteFile(file, []byte("hunter2-hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sp := spec(t, `echo token $TOKEN; exec sleep 1000`)
	sp.Secrets = map[string]release.SecretRef{"TOKEN": {Ref: "file:" + file}}
	with := func(dirs ...string) *Supervisor { return openWith(t, Options{Dir: dir, Secrets: dirs}) }
	first := with(secrets)
	g := first.Group(sp, 1)
	machinetest.Until(t, "its log", func() bool {
		return strings.Contains(g.Status().Instances[0].LogTail, "token ***")
	})
	pid := g.Status().Instances[0].PID
	first.Close()

	second := with()
	g = second.Group(sp, 1)
	if i := g.Status().Instances[0]; i.PID != pid || strings.Contains(i.LogTail, "hunter2") || !strings.Contains(i.LogTail, "its log is not shown") {
		t.Errorf("process %d became %+v", pid, i)
	}
	// It is told before it ends, and as long as it is so.
	if lacks := g.Lacks(); !strings.Contains(lacks, "name its folder with --secrets") {
		t.Errorf("it lacks %q", lacks)
	}
	// Nor when it has ended, and can't be started anew.
	killSession(pid)
	machinetest.Until(t, "the refusal", func() bool {
		i := g.Status().Instances[0]
		if strings.Contains(i.LogTail, "hunter2") {
			t.Fatalf("its log: %q", i.LogTail)
		}
		return strings.Contains(i.LastExit, "name its folder with --secrets")
	})
	second.Close()

	// Nor by one that never saw it run.
	third := with()
	g = third.Group(sp, 1)
	machinetest.Until(t, "the refusal", func() bool {
		i := g.Status().Instances[0]
		if i.LastExit != "" && !strings.Contains(i.LogTail, "its log is not shown") {
			t.Fatalf("its log: %q", i.LogTail)
		}
		return i.LastExit != ""
	})
}

// Services that ran before their users were recorded keep them: a new one whose key
// has the same hash gets another.
func TestRunningServicesKeepTheirUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root gives services users: run the tests as root")
	}
	if err := confine.Probe(t.TempDir()); err != nil {
		machinetest.Lacks(t, machinetest.Namespaces, "this host does not allow services to be confined, so whose they are was not tried: %v", err)
	}
	dir := t.TempDir()
	confined := Options{Dir: dir, Confine: true}
	sp := spec(t, "exec sleep 1000")
	first := openWith(t, confined)
	g := first.Group(sp, 1)
	machinetest.Until(t, "a process", func() bool { return g.Status().Instances[0].PID > 0 })
	before, _, err := first.users.Of(sp.Key.String())
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	users := filepath.Join(dir, "users.json")
	if err := os.Remove(users); err != nil { // as it was before there was such a file
		t.Fatal(err)
	}
	second := openWith(t, confined)
	if b, err := os.ReadFile(users); err != nil || !strings.Contains(string(b), sp.Key.String()) {
		t.Errorf("its user is not recorded before others ask: %q, %v", b, err)
	}
	if now, _, err := second.users.Of(sp.Key.String()); err != nil || now != before {
		t.Errorf("user %d became %d, %v", before, now, err)
	}
}
