package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/runner"
	"github.com/sluicehq/sluice/internal/runner/sandbox/sandboxtest"
)

func needBrowser(t *testing.T) {
	t.Helper()
	if _, err := Chromium(); err != nil {
		machinetest.Lacks(t, machinetest.Chromium, "no page was looked at in a browser: %v", err)
	}
}

var shop = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/":
		fmt.Fprint(w, `<title>Shop</title><h1 id="late" style="display:none">Welcome</h1><p>token hunter2-hunter2</p><script>console.log("hunter2-hunter2");setTimeout(()=>{document.getElementById("late").style.display="block"},200)</script>`)
	case "/throws":
		fmt.Fprint(w, `<h1>Welcome</h1><script>addEventListener("load",()=>setTimeout(()=>{nothing.here()},0))</script>`)
	case "/busy":
		fmt.Fprint(w, `<h1>Welcome</h1><script>addEventListener("load",()=>setTimeout(()=>{const t=Date.now();while(Date.now()-t<2000);nothing.here()},0))</script>`)
	case "/half":
		fmt.Fprint(w, `<h1>Welcome</h1><img src="/missing.png">`)
	case "/endless":
		fmt.Fprint(w, `<h1>Welcome</h1><script>const flood=()=>{for(let i=0;i<2000;i++)console.error("x".repeat(500))};flood();setInterval(flood,1)</script>`)
	case "/slow":
		<-r.Context().Done()
	default:
		http.NotFound(w, r)
	}
})

// A page is waited for, looked at, and photographed; what its console says and
// which requests fail count where the check says so.
func TestBrowser(t *testing.T) {
	needBrowser(t)
	sandboxtest.Require(t)
	dir := t.TempDir()
	t.Cleanup(func() { // after all visits, which are made beside each other
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("it left %v behind", left)
		}
	})
	r := New(Config{Dir: dir})
	for name, c := range map[string]struct {
		k      pipeline.BrowserCheck
		reason string
	}{
		"shows late":          {pipeline.BrowserCheck{Path: "/", Selector: "#late", Text: "Welcome", ConsoleErrors: true, FailedRequests: true}, ""},
		"never shows":         {pipeline.BrowserCheck{Path: "/", Selector: "#never", Timeout: 10 * time.Second}, "/ did not show #never within 10s"},
		"says something else": {pipeline.BrowserCheck{Path: "/", Text: `Fare"well`, Timeout: 10 * time.Second}, `/ did not show "Fare\"well" within 10s`},
		"throws":              {pipeline.BrowserCheck{Path: "/throws", ConsoleErrors: true}, "/throws wrote 1 error on the console: "},
		"throws when it can":  {pipeline.BrowserCheck{Path: "/busy", ConsoleErrors: true}, "/busy wrote 1 error on the console: "},
		"throws, not asked":   {pipeline.BrowserCheck{Path: "/throws"}, ""},
		"lacks a picture":     {pipeline.BrowserCheck{Path: "/half", FailedRequests: true}, "1 request of /half failed: "},
		"missing":             {pipeline.BrowserCheck{Path: "/nowhere"}, "/nowhere answered 404"},
		"slow":                {pipeline.BrowserCheck{Path: "/slow", Timeout: time.Second}, "/slow did not load within 1s"},
		"endless console":     {pipeline.BrowserCheck{Path: "/endless", ConsoleErrors: true}, "/endless wrote 100 errors"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.k.Timeout == 0 {
				c.k.Timeout = machinetest.Patience
			}
			out, err := ask(t, r, pipeline.Check{Browser: &c.k}, shop, "hunter2-hunter2")
			if err != nil || out.OK != (c.reason == "") || !strings.HasPrefix(out.Reason, c.reason) {
				t.Fatalf("%t %q\n%.600s\n%v", out.OK, out.Reason, out.Output, err)
			}
			if len(out.Output) > 2*maxOutput || strings.Contains(string(out.Output), "hunter2") {
				t.Errorf("kept %.300q", out.Output)
			}
			if c.k.Path == "/slow" || c.k.Path == "/endless" {
				return // a picture is taken where there is one to take
			}
			if img, err := png.Decode(bytes.NewReader(out.Shot)); err != nil || img.Bounds().Dx() < 800 {
				t.Errorf("the screenshot: %d bytes, %v", len(out.Shot), err)
			}
		})
	}
}

// fakeBrowser has a script stand in the browser's place until restore is called.
func fakeBrowser(t *testing.T, script string) (restore func()) {
	t.Helper()
	dir, path := t.TempDir(), os.Getenv("PATH")
	if err := os.WriteFile(filepath.Join(dir, browserNames[0]), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+path)
	return func() { t.Setenv("PATH", path) }
}

// Trusted code may be looked at without a sandbox. A browser that is no browser
// is no finding about the page.
func TestBrowserPlain(t *testing.T) {
	needBrowser(t)
	r := New(Config{Dir: t.TempDir(), Isolation: runner.None})
	out, err := ask(t, r, pipeline.Check{Browser: &pipeline.BrowserCheck{Path: "/", Selector: "#late", Timeout: machinetest.Patience}}, shop)
	if err != nil || !out.OK {
		t.Errorf("%+v, %v", out.Reason, err)
	}
	restore := fakeBrowser(t, "echo it is broken; exit 3")
	if out, err = ask(t, r, pipeline.Check{Browser: &pipeline.BrowserCheck{Path: "/", Timeout: machinetest.Patience}}, shop); err == nil || !strings.Contains(err.Error(), "it is broken") || out.OK {
		t.Errorf("%+v, %v", out, err)
	}
	restore()
	// A shutdown in the middle of a visit.
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the server ends")
	asked := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		cancel(stop)
		<-req.Context().Done()
	}))
	defer asked.Close()
	_, err = r.Run(ctx, Request{Check: pipeline.Check{Name: "x", Browser: &pipeline.BrowserCheck{Path: "/", Timeout: machinetest.Patience}}, Address: asked.Listener.Addr().String(), Key: key})
	if !errors.Is(err, stop) {
		t.Errorf("a shutdown: %v", err)
	}
}
