package webui

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/sluicehq/sluice/internal/check"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/machinetest"
)

// site is a server with the pages and a feed as the API's.
type site struct {
	*httptest.Server
	fake *fake
	mu   sync.Mutex
	cut  bool // the feed answers nothing
	gone chan struct{}
}

func newSite(t *testing.T) *site {
	s := &site{fake: newFake(), gone: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle("/", New(Config{Control: s.fake, Access: badge{}, Version: "1.2.3", Now: func() time.Time { return noon }}))
	mux.HandleFunc("GET /api/v1/projects/default/events", s.events)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		close(s.gone)
		s.Close()
	})
	return s
}

func (s *site) events(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	cut := s.cut
	s.mu.Unlock()
	if cut {
		http.Error(w, "gone", http.StatusBadGateway)
		return
	}
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		s.fake.mu.Lock()
		lines := slices.Clone(s.fake.feed[min(after, len(s.fake.feed)):])
		s.fake.mu.Unlock()
		for _, l := range lines {
			fmt.Fprintf(w, "id: %d\nevent: %s\ndata: {}\n\n", l.Seq, l.Kind)
			after = int(l.Seq)
		}
		fmt.Fprint(w, ":\n\n")
		w.(http.Flusher).Flush()
		s.mu.Lock()
		cut := s.cut
		s.mu.Unlock()
		if cut {
			return
		}
		select {
		case <-s.fake.topic:
		case <-time.After(50 * time.Millisecond):
		case <-r.Context().Done():
			return
		case <-s.gone:
			return
		}
	}
}

// browser is one that is logged in, and what its console said.
type browser struct {
	t    *testing.T
	ctx  context.Context
	site *site
	mu   sync.Mutex
	said []string
}

func newBrowser(t *testing.T, s *site) *browser {
	path, err := check.Chromium()
	if err != nil {
		machinetest.Lacks(t, machinetest.Chromium, "the pages were not looked at in a browser: %v", err)
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("disable-dev-shm-usage", true),
	}
	if os.Getenv("SLUICE_SHOTS_DARK") != "" {
		options = append(options, chromedp.Flag("blink-settings", "preferredColorScheme=0"))
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	b := &browser{t: t, ctx: ctx, site: s}
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return // the browser has ended
			}
			b.mu.Lock()
			b.said = append(b.said, fmt.Sprintf("%s: %s", m.Type, m.Text))
			b.mu.Unlock()
		}
	}()
	b.do(chromedp.Navigate(s.URL + "/login?code=once"))
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, machinetest.Patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("the browser: %v", err)
	}
}

// js waits until an expression is true.
func (b *browser) js(what, expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, machinetest.Patience)
	defer cancel()
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err == nil && ok {
			return
		}
		if ctx.Err() != nil {
			text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText.slice(0, 1500)"))
			b.t.Fatalf("it never happened that %s (%s; %v); the page says:\n%s", what, expression, err, text)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (b *browser) open(path string, width int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, 900), chromedp.Navigate(b.site.URL+path))
}

func (b *browser) console() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.said)
}

func (b *browser) shot(name string) {
	dir := os.Getenv("SLUICE_SHOTS")
	if dir == "" {
		return
	}
	take := chromedp.FullScreenshot(100)
	if strings.HasSuffix(name, "390") { // as much as can be looked at
		b.do(chromedp.EmulateViewport(390, 1700))
		take = chromedp.CaptureScreenshot()
	}
	png, err := chromedp.Run(b.ctx, take)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

var everyPage = map[string]string{
	"services": "/", "runs": "/runs", "building": "/runs/19", "approval": "/runs/18", "queued": "/runs/17", "canary": "/runs/12", "stuck": "/runs/11", "rolled-back": "/runs/10",
	"succeeded": "/runs/09", "failed": "/runs/08", "cancelled": "/runs/07", "log-live": "/runs/19/steps/test", "log": "/runs/08/steps/test",
	"evidence": "/evidence", "evidence-release": "/evidence?release=" + rel3.Hex()[:8], "place": "/services/checkout/environments/production",
	"place-live": "/services/ledger/environments/production", "missing": "/nowhere",
}

func TestBrowserLooks(t *testing.T) {
	site := newSite(t)
	site.fake.withQueue() // before a page asks for it
	b := newBrowser(t, site)
	for _, width := range []int64{1280, 390} {
		for name, path := range everyPage {
			b.open(path, width)
			if name != "missing" {
				b.js("the page follows the feed", `document.getElementById("connection").textContent === "Live"`)
			}
			b.js("the page has its style", `getComputedStyle(document.querySelector(".top")).display === "flex"`)
			if name == "canary" {
				b.js("both charts are drawn", `document.querySelectorAll("[data-plot] canvas").length === 2`)
			}
			b.js(fmt.Sprintf("%s fits into %d px", path, width), `document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth`)
			b.js("what can be pressed at phone width is large enough",
				`innerWidth > 400 || [...document.querySelectorAll("main button, main .button")].every((e) => !e.checkVisibility() || e.getBoundingClientRect().height >= 40)`)
			b.shot(fmt.Sprintf("%s-%d", name, width))
		}
	}
	for _, line := range b.console() {
		if strings.Contains(line, "404") && strings.Contains(line, "Failed to load") {
			continue // the page that is missing
		}
		t.Errorf("the console says %q", line)
	}
}

// A canary that failed at once has one bin: a line of one point would not be seen.
func TestBrowserDrawsALoneBin(t *testing.T) {
	site := newSite(t)
	i := slices.IndexFunc(site.fake.runs, func(x control.Status) bool { return x.Run == "10" })
	bins := points(3, 0)
	bins[0].NC, bins[2].NC = 0, 0
	site.fake.runs[i].Environments[1].Points = bins
	b := newBrowser(t, site)
	b.open("/runs/10", 1280)
	b.js("both charts are drawn", `document.querySelectorAll("[data-plot] canvas").length === 2`)
	b.js("the candidate's only bin shows in each", `[...document.querySelectorAll("[data-plot] canvas")].every((c) => {
		const {data} = c.getContext("2d").getImageData(0, 0, c.width, c.height)
		const probe = document.body.appendChild(document.createElement("i"))
		probe.style.color = "var(--candidate)"
		const [r, g, b] = getComputedStyle(probe).color.match(/\d+/g).map(Number)
		probe.remove()
		for (let k = 0; k < data.length; k += 4) if (data[k] === r && data[k + 1] === g && data[k + 2] === b && data[k + 3] === 255) return true
		return false
	})`)
}

func TestBrowserLoggedOut(t *testing.T) {
	s := newSite(t)
	b := newBrowser(t, s)
	b.open("/runs/18", 390)
	b.do(chromedp.Click(chromedp.CSS(`form[action="/logout"] button`)))
	b.js("the log-in shows", `location.pathname === "/login"`)
	b.open("/runs/18", 390)
	b.js("the log-in shows again", `location.pathname === "/login" && document.querySelector("#token")`)
	b.shot("login-390")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), goodToken+"\n"))
	b.js("the log-in leads to where one was going", `location.pathname === "/runs/18"`)
}

func TestBrowserLive(t *testing.T) {
	s := newSite(t)
	b := newBrowser(t, s)
	b.open("/runs/12", 1280)
	b.js("the page follows the feed", `document.getElementById("connection").textContent === "Live"`)

	// A person begins to type while events come in.
	b.do(chromedp.Click(chromedp.CSS(`#act-abort summary`)), chromedp.SendKeys(chromedp.CSS("#act-abort-reason"), "prices"))
	b.do(chromedp.Evaluate[chromedp.Void](`window.same = document.querySelector("#bar-production"); window.canvas = document.querySelector("[data-plot] canvas"); void 0`))
	s.fake.mu.Lock()
	i := slices.IndexFunc(s.fake.runs, func(x control.Status) bool { return x.Run == "12" })
	s.fake.runs[i].Environments[1].Weight = 50
	s.fake.runs[i].Environments[1].Points = points(140, 0.004)
	s.fake.mu.Unlock()
	s.fake.happen("12", "rollout")
	b.js("the new weight shows", `document.querySelector("#env-production figcaption .candidate b").textContent === "50 %"`)
	b.js("the title follows", `document.title.startsWith("50 % production")`)
	b.js("what was typed, opened and focused stays", `document.querySelector("#act-abort").open && document.querySelector("#act-abort-reason").value === "prices" && document.activeElement.id === "act-abort-reason"`)
	b.js("the bar and the chart are the same elements", `window.same.isConnected && window.same.getAttribute("width") === "50" && window.canvas.isConnected`)

	// Ten events at once are few requests.
	before := b.requests()
	s.fake.mu.Lock() // so that the page hears of them at once, however busy this machine is
	for range 10 {
		s.fake.add("12", "rollout")
	}
	s.fake.mu.Unlock()
	b.js("the burst led to a renewal", fmt.Sprintf(`performance.getEntriesByType("resource").filter((e) => e.name.endsWith("/runs/12")).length > %d`, before))
	if n := b.requests() - before; n > 3 {
		t.Errorf("10 events at once made %d requests", n)
	}

	// The connection goes and comes back.
	s.mu.Lock()
	s.cut = true
	s.mu.Unlock()
	b.js("the lost connection is shown", `document.getElementById("connection").textContent.startsWith("Connection lost")`)
	s.mu.Lock()
	s.cut = false
	s.mu.Unlock()
	b.js("it comes back by itself", `document.getElementById("connection").textContent === "Live"`)

	b.do(chromedp.Click(chromedp.CSS(`#act-pause button`)))
	b.js("the page says that it is paused", `document.querySelector("#notice.good") && document.querySelector("#env-production .pill").textContent.trim() === "paused"`)
	b.js("what was done stands on top, also after a renewal", `document.querySelector("#main").firstElementChild.id === "notice"`)
	b.js("it can be resumed now", `document.querySelector("#act-resume") && !document.querySelector("#act-pause")`)
	s.fake.mu.Lock()
	told := strings.Join(s.fake.told, "\n")
	s.fake.mu.Unlock()
	if !strings.HasPrefix(told, "pause 12 production full=false override=false revision=0") {
		t.Errorf("control was told %q", told)
	}
}

func (b *browser) requests() int {
	n, err := chromedp.Run(b.ctx, chromedp.Evaluate[int](`performance.getEntriesByType("resource").filter((e) => e.name.endsWith("/runs/12")).length`))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func TestBrowserApproves(t *testing.T) {
	s := newSite(t)
	b := newBrowser(t, s)
	b.open("/runs/18", 390)
	b.do(chromedp.SendKeys(chromedp.CSS("#comment-production"), "read it all"), chromedp.Click(chromedp.CSS(`button[value="approved"]`)))
	b.js("the page says so", `document.querySelector("#notice.good")?.textContent.includes("Approved")`)
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	_, digest := packetBody("18")
	want := fmt.Sprintf("decide 18 production %s approve=true comment=%q by=local:unknown", digest.Short(), "read it all")
	if !slices.Equal(s.fake.told, []string{want}) {
		t.Errorf("control was told %q, want %q", s.fake.told, want)
	}
}
