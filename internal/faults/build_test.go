package faults

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/runner"
)

// Steps that misbehave: the run fails before exposure with a reason that names the
// step and the way out, and nothing of them is left.
func TestStepsThatMisbehave(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	outside := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reached := make(chan struct{}, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reached <- struct{}{}
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	mark := "faults-daemon-" + filepath.Base(outside)
	cases := []struct {
		name, step string
		isolated   bool
		code       int
		says       []string
	}{
		{"fails", "run: 'echo the compiler says no >&2; exit 3'", false, 1, []string{"step bad", "exit code 3"}},
		{"hangs", "timeout: 2s, run: 'sleep 600 & sleep 600'", false, 1, []string{"step bad", "still running after 2 s", "raise its timeout"}},
		{"tries the network", "run: 'exec 3<>/dev/tcp/127.0.0.1/" + port + "'", true, 1, []string{"step bad"}},
		{"writes outside", "run: 'echo x > " + outside + "/x'", true, 1, []string{"step bad"}},
		{"looks into the data folder", "run: 'cat " + p.dir + "/token'", true, 1, []string{"step bad"}},
		{"floods its log", "run: 'head -c 20000000 /dev/zero | tr \"\\0\" x; mkdir -p out; cp bin/service behaviour.json out/'", false, 0, nil},
		{"leaves a daemon", "run: '(setsid sh -c \"exec -a " + mark + " sleep 600\" &) ; mkdir -p out; cp bin/service behaviour.json out/'", false, 0, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.isolated && isolation != runner.Namespaces {
				t.Skip("SKIPPED: NO ISOLATION ON THIS HOST: what steps may not reach was not tried; standard error says how to allow namespaces")
			}
			s := newShop(t)
			step := strings.ReplaceAll(c.step, "exec 3<>", "bash -c \"exec 3<>")
			if step != c.step {
				step = strings.TrimSuffix(step, "'") + "\"'"
			}
			s.yaml = strings.Replace(s.yaml, "    - {name: package, kind: package, run: 'mkdir -p out && cp bin/service behaviour.json out/'}\n", "    - {name: bad, kind: package, "+step+"}\n", 1)
			s.ship(behaviour{Version: "v1"})
			out, code := p.sluice("run", "--repo", s.Dir)
			if code != c.code {
				t.Errorf("run ended with %d, not %d: %s", code, c.code, out)
			}
			says(t, out, c.says...)
			if c.name == "fails" {
				text, code := p.sluice("logs", lastRun(t, p), "bad")
				if code != 0 {
					t.Errorf("logs ended with %d: %s", code, text)
				}
				says(t, text, "the compiler says no")
			}
			if c.name == "floods its log" {
				text, _ := p.sluice("logs", lastRun(t, p), "bad")
				says(t, text, "the log is longer than", "dropped")
				if len(text) > 12<<20 {
					t.Errorf("%d bytes of it were kept", len(text))
				}
			}
		})
	}
	select {
	case <-reached:
		t.Error("a step without network reached a listener of the host")
	default:
	}
	if _, err := os.Stat(filepath.Join(outside, "x")); err == nil && isolation == runner.Namespaces {
		t.Error("a step wrote outside of its folder")
	}
	if left := left(mark); len(left) > 0 {
		t.Errorf("a step's daemon is left: %v", left)
	}
	machinetest.Until(t, "builds leave nothing", func() bool {
		left, _ := filepath.Glob(filepath.Join(p.dir, "work", "*", "*"))
		return len(left) == 0
	})
}

func lastRun(t *testing.T, p *plane) string {
	t.Helper()
	var runs []struct{ Run string }
	p.Call("GET", "runs?limit=1", nil, &runs)
	if len(runs) == 0 {
		t.Fatal("there is no run")
	}
	return runs[0].Run
}

// What is built is a commit: one that is there, and not what lies around it.
func TestWhatIsBuiltIsACommit(t *testing.T) {
	t.Parallel()
	p, s := newPlane(t), newShop(t)
	s.ship(behaviour{Version: "committed"})
	for _, ref := range []string{"nowhere", "0123456789012345678901234567890123456789"} {
		out, code := p.sluice("run", "--repo", s.Dir, "--ref", ref)
		if code != 2 {
			t.Errorf("a commit that does not exist ended with %d: %s", code, out)
		}
		says(t, out, ref, s.Dir)
		err := p.Try("POST", "runs", map[string]string{"repository": s.Dir, "ref": ref}, nil)
		if err == nil || !strings.Contains(err.Error(), "422") || !strings.Contains(err.Error(), ref) {
			t.Errorf("the API says %v", err)
		}
	}
	s.Write("behaviour.json", `{"Version": "dirty"}`)
	s.Write("sluice.yaml", "version: 1\nservice: [nonsense")
	out, code := p.sluice("run", "--repo", s.Dir)
	if code != 0 {
		t.Errorf("run ended with %d: %s", code, out)
	}
	says(t, out, "uncommitted changes are not built", "behaviour.json", "sluice.yaml")
	if _, body, err := get("http://" + s.addr + "/"); err != nil || strings.TrimSpace(body) != "hello committed" {
		t.Errorf("what was built answers %q, %v", body, err)
	}
	if b, err := os.ReadFile(filepath.Join(s.Dir, "behaviour.json")); err != nil || !strings.Contains(string(b), "dirty") {
		t.Errorf("the working tree was touched: %s, %v", b, err)
	}
}
