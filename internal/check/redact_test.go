package check

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox/sandboxtest"
)

const longSecret = "correct-horse-battery-staple"

// noPart fails when a piece of the secret is in what was kept.
func noPart(t *testing.T, what, kept string) {
	t.Helper()
	for i := 0; i+5 <= len(longSecret); i++ {
		if part := longSecret[i : i+5]; strings.Contains(kept, part) {
			t.Errorf("%s: %q of the secret is in what was kept: %.80q … %.80q", what, part, kept, kept[max(0, len(kept)-80):])
			return
		}
	}
}

// A secret that lies where an answer is cut leaves no part of itself.
func TestNoPartOfASecretIsKept(t *testing.T) {
	r := New(Config{Dir: t.TempDir()})
	get := func(secret string, answer http.HandlerFunc) Outcome {
		t.Helper()
		out, err := ask(t, r, pipeline.Check{HTTP: &pipeline.HTTPCheck{Path: "/", Status: 200, Timeout: machinetest.Patience}}, answer, secret)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for at := keptBody - len(longSecret) - 1; at <= keptBody; at++ {
		out := get(longSecret, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Repeat(".", at)+longSecret+strings.Repeat(".", 100))
		})
		if !out.OK {
			t.Fatalf("%+v", out)
		}
		noPart(t, fmt.Sprint("at byte ", at), string(out.Output))
	}
	// Blanking makes an answer shorter: its end, which was cut in the middle of a
	// secret, comes into what is kept.
	secret := strings.Repeat(longSecret+"/", 2000)
	out := get(secret, func(w http.ResponseWriter, _ *http.Request) {
		for range maxBody/len(secret) + 1 {
			_, _ = io.WriteString(w, secret)
		}
	})
	if !out.OK || len(out.Output) > keptBody {
		t.Fatalf("%t, %d bytes", out.OK, len(out.Output))
	}
	noPart(t, "at the end of a long answer", string(out.Output))
	// Nor does one that ended too early.
	out = get(longSecret, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "token "+longSecret[:20])
	})
	if out.OK {
		t.Fatalf("%+v", out)
	}
	noPart(t, "an answer in part", string(out.Output))
}

// The same of what a page says: its lines are cut, and the secrets are gone before.
func TestNoPartOfASecretIsKeptOfAPage(t *testing.T) {
	page := &page{q: Request{hide: runner.Redactor([]string{longSecret})}}
	for at := maxReason - len(longSecret) - 1; at <= maxReason; at++ {
		noPart(t, fmt.Sprint("at byte ", at), page.text(strings.Repeat(".", at)+longSecret+strings.Repeat(".", 100)))
	}
	needBrowser(t)
	sandboxtest.Require(t)
	at := maxReason - len(longSecret)/2
	out, err := ask(t, New(Config{Dir: t.TempDir()}), pipeline.Check{Browser: &pipeline.BrowserCheck{Path: "/", ConsoleErrors: true, FailedRequests: true, Timeout: machinetest.Patience}},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				http.NotFound(w, r)
				return
			}
			fmt.Fprintf(w, `<h1>Welcome</h1><img src="/%s%s"><script>console.error(".".repeat(%d)+"%s")</script>`, strings.Repeat("a", at), longSecret, at, longSecret)
		}), longSecret)
	if err != nil || out.OK || !strings.Contains(string(out.Output), "console error") {
		t.Fatalf("%+v, %v", out, err)
	}
	noPart(t, "a page's output", string(out.Output))
	noPart(t, "a page's reason", out.Reason)
}

// The browser is spoken to over pipes that only it and the server have: a port would
// let all that runs on the machine see and change what a check sees.
func TestNoPortLeadsToTheBrowser(t *testing.T) {
	restore := fakeBrowser(t, `for a; do case $a in *debugging-port*|*debugging-address*) echo "a port: $a"; exit 3;; esac; done
[ -p /dev/fd/3 ] && [ -p /dev/fd/4 ] && echo "two pipes"
exit 3`)
	c := pipeline.Check{Browser: &pipeline.BrowserCheck{Path: "/", Timeout: machinetest.Patience}}
	if out, err := ask(t, New(Config{Dir: t.TempDir(), Isolation: runner.None}), c, shop); err == nil || !strings.Contains(err.Error(), "two pipes") {
		t.Errorf("%+v, %v", out, err)
	}
	restore()
	needBrowser(t)
	sandboxtest.Require(t)
	dir := t.TempDir()
	var open, pipes []string
	out, err := ask(t, New(Config{Dir: dir}), c, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/" {
			// A browser with a port notes it here, in its profile.
			open, _ = filepath.Glob(filepath.Join(dir, "check-*", "profile", "DevToolsActivePort"))
			pipes, _ = filepath.Glob(filepath.Join(dir, "check-*", answerPipe))
		}
		fmt.Fprint(w, "Welcome")
	}))
	if err != nil || !out.OK || len(open) > 0 || len(pipes) != 1 {
		t.Fatalf("%+v, %v: ports %q, pipes %q", out.Reason, err, open, pipes)
	}
}

// A page can't have the browser fill our memory with one message.
func TestMessagesAreBounded(t *testing.T) {
	read := func(text string) error {
		b := &bounded{ReadCloser: io.NopCloser(strings.NewReader(text)), max: 100}
		buf := make([]byte, 30)
		for {
			if _, err := b.Read(buf); err != nil {
				return err
			}
		}
	}
	short := strings.Repeat(".", 90) + "\x00"
	if err := read(strings.Repeat(short, 20)); !errors.Is(err, io.EOF) {
		t.Errorf("many messages: %v", err)
	}
	if err := read(short + strings.Repeat(".", 200)); !errors.Is(err, errMessage) {
		t.Errorf("a long message: %v", err)
	}
}
