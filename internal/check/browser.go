package check

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// settle is how long a page that shows what it must is watched for late errors, by its
// own clock, and settleIn by ours: on a busy machine the page may be far behind.
const (
	settle   = 500 * time.Millisecond
	settleIn = 30 * time.Second
)

const mostKept = 100 // errors, and requests that failed

// browser opens one page.
func (r *Runner) browser(ctx context.Context, q Request) (Outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	b, err := r.launch(ctx, q.hide)
	if err != nil {
		cancel()
		return Outcome{}, err
	}
	defer b.end() // after cancel: the browser ends, then its folder goes
	defer cancel()
	alloc, release := chromedp.NewAllocatorContext(ctx, b)
	defer release()
	tab, closeTab := chromedp.NewContext(alloc)
	defer closeTab()

	return (&page{q: q}).visit(tab)
}

// page is one visit.
type page struct {
	q Request

	mu     sync.Mutex
	log    bytes.Buffer
	errors []string // of the console
	failed []string // requests
	urls   map[network.RequestID]string
	enough context.CancelFunc // called when no more is kept
	mark   string             // that it has settled, on the console
	told   chan struct{}      // closed when that was read
	once   sync.Once          // as a page may say it again
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
	if len(*list) < mostKept {
		*list = append(*list, p.text(line))
	}
	if len(*list) >= mostKept && p.enough != nil {
		p.enough()
	}
}

// text is what a page said, as it may be kept: the secrets are taken out before it
// is cut, as a part of one would not be known any more.
func (p *page) text(s string) string { return oneLine(p.q.hide(s)) }

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
			url := e.Request.URL
			if !favicon(url) {
				url = p.text(url)
			}
			p.urls[e.RequestID] = url
		}
		p.mu.Unlock()
	case *network.EventResponseReceived:
		p.note("%d %s", e.Response.Status, p.text(e.Response.URL))
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
	p.urls, p.mark, p.told = map[network.RequestID]string{}, rand.Text(), make(chan struct{})
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
			if m.Text == p.mark {
				p.once.Do(func() { close(p.told) })
				continue
			}
			p.note("console %s: %s", m.Type, p.text(m.Text))
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
		p.settle(limited)
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

// settle returns when all was read that the page said while it settled, or when there
// is enough of it.
func (p *page) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleIn)
	defer cancel()
	p.mu.Lock()
	p.enough = cancel
	full := len(p.errors) >= mostKept || len(p.failed) >= mostKept
	p.mu.Unlock()
	if full {
		return
	}
	// The mark comes behind all that was said before it.
	script := fmt.Sprintf("new Promise((done) => setTimeout(() => { console.debug(%q); done(true) }, %d))", p.mark, settle.Milliseconds())
	told := p.told
	var late <-chan time.Time
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](script, chromedp.EvalAwaitPromise)); err != nil {
		told, late = nil, time.After(settle) // it went on to another page meanwhile
	}
	select {
	case <-told:
	case <-late:
	case <-ctx.Done():
	}
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
