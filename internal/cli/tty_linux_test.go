package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

// terminal is a pseudo-terminal of 80 × 24 with what was shown on it.
type terminal struct {
	keys, screen *os.File
	mu           sync.Mutex
	shown        strings.Builder
	read         chan struct{}
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("SKIPPED: what a terminal is shown was not tried: there are no pseudo-terminals here (mount devpts): %v", err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	x := &terminal{keys: keys, screen: screen, read: make(chan struct{})}
	go func() {
		defer close(x.read)
		var b [4096]byte
		for {
			n, err := keys.Read(b[:])
			x.mu.Lock()
			x.shown.Write(b[:n])
			x.mu.Unlock()
			if err != nil {
				return // the other side was closed
			}
		}
	}()
	t.Cleanup(func() { screen.Close(); keys.Close(); <-x.read })
	return x
}

// run runs a command line on the terminal, with what is typed on it.
func (x *terminal) run(t *testing.T, f *fake, typed string, args ...string) (code int, shown string) {
	t.Helper()
	t.Setenv("TERM", "xterm-256color")
	t.Setenv("SLUICE_SERVER", f.url)
	t.Setenv("SLUICE_TOKEN", testToken)
	if _, err := io.WriteString(x.keys, typed); err != nil {
		t.Fatal(err)
	}
	code = execute(t.Context(), args, x.screen, x.screen, x.screen)
	x.screen.Close()
	<-x.read
	return code, strings.ReplaceAll(x.shown.String(), "\r\n", "\n")
}

func TestOnATerminalThePacketIsShownAndAPersonIsAsked(t *testing.T) {
	f := newFake(t)
	decided, digest := f.withPacket()
	code, shown := newTerminal(t).run(t, f, "y\nread the diff\n", "approve", "7")
	if code != 0 || len(*decided) != 1 || (*decided)[0] != (httpapi.DecisionRequest{Packet: digest, Decision: "approve", Comment: "read the diff"}) {
		t.Fatalf("code %d, decided %+v:\n%s", code, *decided, shown)
	}
	for _, want := range []string{string(digest), "env.LOG_LEVEL: info → debug", "14 passed", "5 % of users, bake 15 min", "Approve release", "[y/N]"} {
		if !strings.Contains(plainText(shown), want) {
			t.Errorf("lacks %q:\n%s", want, shown)
		}
	}
	for _, no := range []string{"n\n", "\n", "yess\n"} {
		code, shown := newTerminal(t).run(t, f, no, "reject", "7")
		if code != 6 || len(*decided) != 1 {
			t.Errorf("after %q: code %d, decided %+v:\n%s", no, code, *decided, shown)
		}
	}
}

func TestOnATerminalProgressIsOneBlockThatIsRedrawn(t *testing.T) {
	for _, noColor := range []string{"", "1"} {
		t.Run("NO_COLOR="+noColor, func(t *testing.T) {
			t.Setenv("NO_COLOR", noColor)
			f := newFake(t)
			f.status = waiting()
			p := &f.status.Environments[1]
			p.State, p.Packet, p.WaitingFor, p.Rollout, p.Phase, p.Weight, p.Step, p.Steps = run.Running, "", "the judge has not passed it", "2", rollout.Baking, 5, 2, 9
			p.Bake = &control.BakeStatus{ElapsedSeconds: 12, TotalSeconds: 900}
			p.Verdict = verdict.Inconclusive
			seen := 0
			f.HandleFunc("GET "+api+"runs/7", func(w httpWriter, _ *httpRequest) {
				f.mu.Lock()
				defer f.mu.Unlock()
				if seen++; seen > 3 {
					f.status.State, f.status.Environments[1].State, f.status.Environments[1].Phase = run.Succeeded, run.Succeeded, rollout.Succeeded
				}
				answer(w, f.status)
			})
			code, shown := newTerminal(t).run(t, f, "", "watch", "7")
			if code != 0 || !strings.Contains(shown, "█░░░░░░░░░░░░░░░░░░░ 5 %  bake 12 s of 15 min") {
				t.Fatalf("code %d:\n%s", code, shown)
			}
			if n := strings.Count(plainText(shown), "run 7 "); n < 2 || strings.Count(shown, "A\r\x1b[2K") != n-1 {
				t.Errorf("the block was drawn %d times, and not in its own place:\n%q", n, shown)
			}
			if coloured := sgr.MatchString(shown); coloured != (noColor == "") {
				t.Errorf("coloured: %v", coloured)
			}
			for line := range strings.SplitSeq(shown, "\n") {
				if _, text, ok := strings.Cut(line, "\x1b[2K"); ok && len([]rune(plainText(text))) > 80 {
					t.Errorf("wider than the terminal: %q", line)
				}
			}
		})
	}
}

func TestARollbackTellsTheWayBeforeItAsks(t *testing.T) {
	f := newFake(t)
	f.status = waiting()
	taken := 0
	f.HandleFunc("GET "+api+"services/shop/environments/production/way-back", func(w httpWriter, _ *httpRequest) {
		answer(w, control.Way{Kind: "cold", Seconds: 60, Sentence: "release 1 must be started first (at most 60 s)"})
	})
	f.HandleFunc("POST "+api+"services/shop/environments/production/rollbacks", func(w httpWriter, _ *httpRequest) {
		taken++
		answer(w, httpapi.Started{Run: "7"})
	})
	code, shown := newTerminal(t).run(t, f, "n\n", "rollback", "shop", "--env", "production")
	if code != 6 || taken != 0 || !strings.Contains(plainText(shown), "way back: cold. release 1 must be started first (at most 60 s).\nTake shop in production back? [y/N]") {
		t.Errorf("code %d, taken %d:\n%s", code, taken, shown)
	}
	code, shown = newTerminal(t).run(t, f, "y\n", "rollback", "shop", "--env", "production", "--no-wait")
	if code != 0 || taken != 1 {
		t.Errorf("code %d, taken %d:\n%s", code, taken, shown)
	}
}
