package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"

	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox"
)

// Where Chromium is, by the names that systems give it.
var browserNames = []string{"chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "headless_shell"}

// browserConfig is what a distribution's start script and the browser read below
// /etc, which a sandbox does not show.
var browserConfig = []string{"/etc/chromium", "/etc/chromium.d", "/etc/fonts"}

// ErrNoBrowser reports that this machine has no Chromium.
var ErrNoBrowser = errors.New("there is no Chromium on this machine")

// Chromium is the path of the browser that checks are made in.
func Chromium() (string, error) {
	for _, name := range browserNames {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%w: checks in a browser need one in the server's PATH (looked for %s); install it, for instance by apt-get install chromium, or check by http or a command", ErrNoBrowser, strings.Join(browserNames, ", "))
}

// startBrowser bounds how long Chromium may take to answer; it is no part of the
// check's timeout, as it says nothing about the page.
const startBrowser = 30 * time.Second

// maxMessage bounds one message of the browser: a page must not fill our memory.
// A picture of maxShot is the largest that is wanted, in base64.
const maxMessage = 2 * maxShot

// The pipes over which the DevTools protocol goes, in the browser's folder. Nobody
// but the browser and its server can go there: a port of the loopback would be
// open to all that runs on the machine.
const (
	commandPipe = "devtools-in"
	answerPipe  = "devtools-out"
)

// running is a Chromium of ours, which chromedp attaches to.
type running struct {
	conn  *chromedp.PipeConn
	said  *beginning
	hide  func(string) string
	stop  context.CancelFunc
	gone  chan struct{} // closed: its processes have ended, because of why
	why   error
	clean func()
	wait  sync.WaitGroup
}

var (
	_ chromedp.Allocator = (*running)(nil)
	_ chromedp.Attacher  = (*running)(nil)
)

// launch starts a Chromium.
func (r *Runner) launch(ctx context.Context, hide func(string) string) (*running, error) {
	program, err := Chromium()
	if err != nil {
		return nil, err
	}
	dir, clean, err := r.folder()
	if err != nil {
		return nil, err
	}
	cfg, err := r.sandboxOf(program, dir)
	if err != nil {
		clean()
		return nil, err
	}
	pipes, err := makePipes(dir, r.cfg.Isolation)
	if err != nil {
		clean()
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	b := &running{
		conn: chromedp.NewPipeConn(&bounded{ReadCloser: pipes[1], max: maxMessage}, pipes[0]),
		said: &beginning{}, hide: hide, stop: stop, gone: make(chan struct{}), clean: clean,
	}
	go func() {
		run := sandbox.Run
		if r.cfg.Isolation == runner.None {
			run = sandbox.RunPlain
		}
		exit, err := run(ctx, cfg, b.said)
		if err == nil {
			err = fmt.Errorf("the browser ended by itself (%s): %s", exit, b.lastWords())
		}
		b.why = err
		close(b.gone)
		_ = b.conn.Close() // our ends keep the pipes open: no end of them would be seen
	}()
	return b, nil
}

// sandboxOf is where a browser lives whose folder is dir.
func (r *Runner) sandboxOf(program, dir string) (sandbox.Config, error) {
	cfg := sandbox.Config{Network: true, Hidden: r.cfg.Hidden, Dir: "/tmp"}
	home := "/tmp"
	if r.cfg.Isolation == runner.None {
		cfg.Dir, home = dir, dir
	} else {
		uid, gid := sandbox.Owner()
		if err := os.Lchown(dir, uid, gid); err != nil {
			return cfg, fmt.Errorf("couldn't hand the browser its folder: %w", err)
		}
		cfg.Binds = []sandbox.Bind{{Source: dir, Target: "/tmp", Writable: true}}
		for _, dir := range browserConfig {
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				cfg.Binds = append(cfg.Binds, sandbox.Bind{Source: dir, Target: dir})
			}
		}
		if real, err := filepath.EvalSymlinks(program); err == nil && !sandbox.Shown(real) {
			program = real
			cfg.Binds = append(cfg.Binds, sandbox.Bind{Source: filepath.Dir(real), Target: filepath.Dir(real)})
		}
	}
	cfg.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "TMPDIR=" + home, "LANG=C.UTF-8"}
	// Its own sandbox needs namespaces, which ours does not give; ours is around all of
	// it. Commands come on descriptor 3, answers go to 4.
	cfg.Script = "exec " + strconv.Quote(program) + " --headless=new --no-sandbox --disable-gpu --no-first-run --no-default-browser-check" +
		" --disable-background-networking --disable-component-update --disable-sync --disable-quic --disable-extensions --disable-breakpad --mute-audio" +
		" --disable-dev-shm-usage --hide-scrollbars --window-size=1280,900 --remote-debugging-pipe --user-data-dir=" + strconv.Quote(home+"/profile") + " about:blank" +
		" 3<" + strconv.Quote(home+"/"+commandPipe) + " 4>" + strconv.Quote(home+"/"+answerPipe)
	return cfg, nil
}

// makePipes makes the two pipes and opens them, for commands and for answers. Both
// are opened both ways, so that neither side waits for the other to open them.
func makePipes(dir string, iso runner.Isolation) (pipes [2]*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range pipes {
				if f != nil {
					_ = f.Close()
				}
			}
			err = fmt.Errorf("couldn't make the browser's pipes: %w", err)
		}
	}()
	for i, name := range []string{commandPipe, answerPipe} {
		path := filepath.Join(dir, name)
		if err = syscall.Mkfifo(path, 0o600); err != nil {
			return pipes, err
		}
		if pipes[i], err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return pipes, err
		}
		if iso != runner.None {
			uid, gid := sandbox.Owner()
			if err = os.Lchown(path, uid, gid); err != nil {
				return pipes, err
			}
		}
	}
	return pipes, nil
}

// Allocate returns the browser once it answers.
func (b *running) Allocate(ctx context.Context, opts ...chromedp.BrowserOption) (*chromedp.Browser, error) {
	// The pages are closed before the connection is.
	alive, cut := context.WithCancel(context.Background())
	b.wait.Go(func() {
		<-ctx.Done()
		_ = chromedp.Cancel(ctx)
		cut()
	})
	out, err := chromedp.NewBrowserTransport(alive, b.conn, opts...)
	if err != nil {
		return nil, err
	}
	start, cancel := context.WithTimeout(ctx, startBrowser)
	defer cancel()
	err = out.Call(start, browser.CommandGetVersion, nil, nil)
	select {
	case <-b.gone:
		return nil, b.why
	default:
	}
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() == nil && start.Err() != nil:
		return nil, fmt.Errorf("the browser did not start within %s: %s", startBrowser, b.lastWords())
	}
	return nil, err
}

// Wait implements chromedp.Allocator.
func (b *running) Wait() { b.wait.Wait() }

// Attaches implements chromedp.Attacher: the browser runs already.
func (b *running) Attaches() bool { return true }

// end returns when nothing of the browser is left.
func (b *running) end() {
	b.stop()
	<-b.gone
	b.Wait()
	b.clean()
}

func (b *running) lastWords() string { return lastLine([]byte(b.hide(b.said.text()))) }

// beginning keeps the beginning of what the browser says, for errors.
type beginning struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (g *beginning) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if room := 64<<10 - len(g.buf); room > 0 {
		g.buf = append(g.buf, p[:min(len(p), room)]...)
	}
	return len(p), nil
}

func (g *beginning) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return string(g.buf)
}

// bounded reads messages that end with a zero byte, none longer than max.
type bounded struct {
	io.ReadCloser
	max, since int
}

var errMessage = errors.New("the browser sent a message that is too large")

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if i := bytes.LastIndexByte(p[:n], 0); i >= 0 {
		b.since = n - i - 1
	} else if b.since += n; b.since > b.max {
		return 0, fmt.Errorf("%w: more than %d bytes", errMessage, b.max)
	}
	return n, err
}
