package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

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

// chromium finds the browser.
func (r *Runner) chromium() (string, error) {
	names := browserNames
	if r.cfg.Chromium != "" {
		names = []string{r.cfg.Chromium}
	}
	for _, name := range names {
		dirs := filepath.SplitList(os.Getenv("PATH"))
		if filepath.IsAbs(name) {
			dirs = []string{""}
		}
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%w: checks in a browser need one in the server's PATH (looked for %s); install it, for instance by apt-get install chromium, or check by http or a command", ErrNoBrowser, strings.Join(names, ", "))
}

// startBrowser bounds how long Chromium may take to listen; it is no part of the
// check's timeout, as it says nothing about the page.
const startBrowser = 30 * time.Second

// settle is how long a page that shows what it must is watched for late errors.
const settle = 500 * time.Millisecond

var devTools = regexp.MustCompile(`DevTools listening on (ws://\S+)`)

// browser opens one page.
func (r *Runner) browser(ctx context.Context, q Request) (Outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	endpoint, end, err := r.launch(ctx)
	defer end() // after cancel: the browser ends, then its folder goes
	defer cancel()
	if err != nil {
		return Outcome{}, err
	}
	alloc, release := remote.NewAllocator(ctx, endpoint, remote.NoModifyURL)
	defer release()
	tab, closeTab := chromedp.NewContext(alloc)
	defer closeTab()

	return (&page{q: q}).visit(tab)
}

// launch starts a Chromium and returns where its DevTools listen. end returns
// when nothing of it is left.
func (r *Runner) launch(ctx context.Context) (endpoint string, end func(), err error) {
	end = func() {}
	program, err := r.chromium()
	if err != nil {
		return "", end, err
	}
	dir, clean, err := r.folder()
	if err != nil {
		return "", end, err
	}
	cfg := sandbox.Config{Network: true, Hidden: r.cfg.Hidden, Dir: "/tmp"}
	home := "/tmp"
	if r.cfg.Isolation == runner.None {
		cfg.Dir, home = dir, dir
	} else {
		uid, gid := sandbox.Owner()
		if err := os.Lchown(dir, uid, gid); err != nil {
			clean()
			return "", end, fmt.Errorf("couldn't hand the browser its folder: %w", err)
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
	// Its own sandbox needs namespaces, which ours does not give; ours is around all of it.
	cfg.Script = "exec " + strconv.Quote(program) + " --headless=new --no-sandbox --disable-gpu --no-first-run --no-default-browser-check" +
		" --disable-background-networking --disable-component-update --disable-sync --disable-quic --disable-extensions --disable-breakpad --mute-audio" +
		" --disable-dev-shm-usage --hide-scrollbars --window-size=1280,900 --remote-debugging-port=0 --user-data-dir=" + strconv.Quote(home+"/profile") + " about:blank"

	ctx, cancel := context.WithCancel(ctx)
	said := &listening{found: make(chan string, 1)}
	done := make(chan error, 1)
	go func() {
		run := sandbox.Run
		if r.cfg.Isolation == runner.None {
			run = sandbox.RunPlain
		}
		exit, err := run(ctx, cfg, said)
		if err == nil {
			err = fmt.Errorf("the browser ended by itself (%s): %s", exit, lastLine(said.text()))
		}
		done <- err
	}()
	ended := make(chan struct{})
	end = func() {
		cancel()
		<-ended
		clean()
	}
	timer := time.NewTimer(startBrowser)
	defer timer.Stop()
	select {
	case endpoint = <-said.found:
		go func() { <-done; close(ended) }()
		return endpoint, end, nil
	case err = <-done:
		close(ended)
	case <-timer.C:
		err = fmt.Errorf("the browser did not start within %s: %s", startBrowser, lastLine(said.text()))
		go func() { <-done; close(ended) }()
	}
	end()
	return "", func() {}, err
}

// listening waits for the line that says where DevTools listen, and keeps the
// beginning of what the browser says for errors.
type listening struct {
	mu    sync.Mutex
	buf   []byte
	told  bool
	found chan string
}

// Write implements io.Writer.
func (l *listening) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if room := 64<<10 - len(l.buf); room > 0 {
		l.buf = append(l.buf, p[:min(len(p), room)]...)
	}
	if l.told {
		return len(p), nil
	}
	for line := range bytes.Lines(l.buf) {
		if m := devTools.FindSubmatch(line); m != nil && bytes.HasSuffix(line, []byte("\n")) {
			l.told = true
			l.found <- string(m[1])
			break
		}
	}
	return len(p), nil
}

func (l *listening) text() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf)
}

// page is one visit.
type page struct {
	q Request

	mu     sync.Mutex
	log    bytes.Buffer
	errors []string // of the console
	failed []string // requests
	urls   map[network.RequestID]string
}

// note keeps a line, bounded.
func (p *page) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log.Len() < maxOutput {
		fmt.Fprintf(&p.log, format+"\n", args...)
	}
}

// keep adds to a list that a page must not fill without end.
func (p *page) keep(list *[]string, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(*list) < 100 {
		*list = append(*list, oneLine(line))
	}
}

// favicon is asked for by the browser, not by the page.
func favicon(url string) bool {
	return strings.HasSuffix(strings.SplitN(url, "?", 2)[0], "/favicon.ico")
}

// event takes what the browser tells of the page's requests.
func (p *page) event(ev any) {
	switch e := ev.(type) {
	case *network.EventRequestWillBeSent:
		p.mu.Lock()
		if len(p.urls) < 10_000 {
			p.urls[e.RequestID] = e.Request.URL
		}
		p.mu.Unlock()
	case *network.EventResponseReceived:
		p.note("%d %s", e.Response.Status, e.Response.URL)
		if e.Response.Status >= 400 && !favicon(e.Response.URL) {
			p.keep(&p.failed, fmt.Sprintf("%s answered %d", e.Response.URL, e.Response.Status))
		}
	case *network.EventLoadingFailed:
		p.mu.Lock()
		url := p.urls[e.RequestID]
		p.mu.Unlock()
		if !e.Canceled && !favicon(url) {
			p.note("failed %s: %s", url, e.ErrorText)
			p.keep(&p.failed, fmt.Sprintf("%s was not answered: %s", url, e.ErrorText))
		}
	}
}

// visit opens the page, waits for what it must show, and takes the picture.
func (p *page) visit(ctx context.Context) (Outcome, error) {
	k := p.q.Check.Browser
	p.urls = map[network.RequestID]string{}
	// Opening the tab is the browser's matter; a failure says nothing of the page.
	if err := chromedp.Listen(ctx, p.event); err != nil {
		return Outcome{}, fmt.Errorf("couldn't open a page in the browser: %w", err)
	}
	messages := chromedp.Console(ctx)
	var reading sync.WaitGroup
	watch, unwatch := context.WithCancel(ctx)
	reading.Go(func() {
		for m, err := range messages {
			if err != nil || watch.Err() != nil {
				return
			}
			p.note("console %s: %s", m.Type, oneLine(m.Text))
			if (m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleException) && !favicon(m.URL) {
				p.keep(&p.errors, m.Text)
			}
		}
	})
	defer reading.Wait()
	defer unwatch()
	defer func() { _ = chromedp.Cancel(ctx) }() // ends the messages too

	limited, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	reason := p.wait(limited)
	if reason == "" && (k.ConsoleErrors || k.FailedRequests) {
		select {
		case <-limited.Done():
		case <-time.After(settle):
		}
	}
	p.mu.Lock()
	switch {
	case reason != "":
	case k.ConsoleErrors && len(p.errors) > 0:
		reason = fmt.Sprintf("%s wrote %s on the console: %s", k.Path, count(len(p.errors), "error"), p.errors[0])
	case k.FailedRequests && len(p.failed) > 0:
		reason = fmt.Sprintf("%s of %s failed: %s", count(len(p.failed), "request"), k.Path, p.failed[0])
	}
	p.mu.Unlock()
	shot, shotErr := p.shoot(ctx)
	if shotErr != nil && ctx.Err() == nil {
		p.note("[sluice] no screenshot: %v", shotErr)
	}
	if reason != "" {
		p.note("%s", reason)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return Outcome{OK: reason == "", Reason: reason, Output: bytes.Clone(p.log.Bytes()), Shot: shot}, nil
}

// wait opens the page and returns why it is not as it must be.
func (p *page) wait(ctx context.Context) string {
	k := p.q.Check.Browser
	late := func(what string, err error) string {
		if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return fmt.Sprintf("%s %s within %s", k.Path, what, k.Timeout)
		}
		return fmt.Sprintf("%s %s: %v", k.Path, what, err)
	}
	res, err := chromedp.RunResponse(ctx, chromedp.Navigate(p.q.url()+k.Path))
	switch {
	case err != nil:
		return late("did not load", err)
	case res != nil && res.Status >= 400:
		return fmt.Sprintf("%s answered %d", k.Path, res.Status)
	}
	if k.Selector != "" {
		if err := chromedp.Do(ctx, chromedp.WaitVisible(chromedp.CSS(k.Selector))); err != nil {
			return late("did not show "+k.Selector, err)
		}
	}
	if k.Text == "" {
		return ""
	}
	text, err := json.Marshal(k.Text) // a string has no error, and is one in JavaScript too
	if err != nil {
		return err.Error()
	}
	script := "!!document.body && document.body.innerText.includes(" + string(text) + ")"
	for {
		shown, err := chromedp.Run(ctx, chromedp.Evaluate[bool](script))
		if err == nil && shown {
			return ""
		}
		select {
		case <-ctx.Done():
			return late(fmt.Sprintf("did not show %q", k.Text), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// shoot takes a picture of what is shown, also of a page that failed.
func (p *page) shoot(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil && len(png) > maxShot {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(png), maxShot)
	}
	return png, err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
