package webui

import (
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// routes are all that the mux knows, as the source names them: a new one that
// this list lacks fails the test.
var routes = map[string]string{
	"GET /static/": "open", "GET /login": "open", "POST /login": "open", "POST /logout": "open",
	"GET /{$}": "/", "GET /runs": "/runs", "GET /runs/{run}": "/runs/12", "POST /runs/{run}/commands": "/runs/12/commands", "POST /runs/{run}/decisions": "/runs/18/decisions",
	"GET /runs/{run}/steps/{step}": "/runs/19/steps/test", "GET /runs/{run}/steps/{step}/log": "/runs/19/steps/test/log", "GET /evidence": "/evidence",
	"GET /services/{service}/environments/{environment}":             "/services/checkout/environments/production",
	"POST /services/{service}/environments/{environment}/rehearsals": "/services/checkout/environments/production/rehearsals",
	"POST /services/{service}/environments/{environment}/rollback":   "/services/checkout/environments/production/rollback",
	"POST /services/{service}/environments/{environment}/lift":       "/services/checkout/environments/production/lift",
	"/": "/nowhere",
}

func TestEveryRouteWantsALogIn(t *testing.T) {
	source, err := os.ReadFile("webui.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`mux\.Handle\("([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		if routes[m[1]] == "" {
			t.Errorf("nobody tries who may use %q", m[1])
		}
	}
	f := newFake()
	h := handlerOf(f)
	for pattern, path := range routes {
		if path == "open" {
			continue
		}
		method, _, ok := strings.Cut(pattern, " ")
		if !ok {
			method = http.MethodGet
		}
		form := commandForm("pause")
		for k, v := range decision("approved", "") {
			form[k] = v
		}
		form.Set("reason", "x")
		if method == http.MethodGet {
			form = nil
		}
		d := fetch(t, h, method, path, visit{out: true, form: form})
		want := "/login"
		if method == http.MethodGet && path != "/" {
			want += "?next=" + url.QueryEscape(path)
		}
		d.leadsTo(want)
		if strings.Contains(d.body, "checkout") && !strings.Contains(path, "checkout") {
			t.Errorf("%s tells a stranger %q", pattern, d.body)
		}
		d = fetch(t, h, method, path, visit{out: true, form: form, header: map[string]string{"HX-Request": "true"}})
		d.status(http.StatusUnauthorized)
		if d.head.Get("HX-Redirect") != want {
			t.Errorf("%s: a page that renews itself is led to %q", pattern, d.head.Get("HX-Redirect"))
		}
	}
	if len(f.told) > 0 {
		t.Errorf("a stranger did %q", f.told)
	}
}

func TestLogIn(t *testing.T) {
	f := newFake()
	out := visit{out: true}
	d := get(t, f, "/login?next=/runs/12", out)
	d.status(http.StatusOK)
	d.has("label[for=token]", "Access token")
	d.hasNot("nav")
	if got := attr(d.all("input[name=next]")[0], "value"); got != "/runs/12" {
		t.Errorf("it will lead to %q", got)
	}
	d = get(t, f, "/login?code=once", out)
	d.leadsTo("/")
	if c := d.head.Get("Set-Cookie"); !strings.Contains(c, "sluice-session=good") {
		t.Errorf("the cookie is %q", c)
	}
	d = get(t, f, "/login?code=twice", out)
	d.status(http.StatusForbidden)
	d.has("[role=alert]", "The code was used already")
	get(t, f, "/login?code=twice").leadsTo("/") // who is logged in needs no code

	h := handlerOf(f)
	fetch(t, h, http.MethodPost, "/login", visit{out: true, form: url.Values{"token": {goodToken}, "next": {"/evidence?run=10"}}}).leadsTo("/evidence?run=10")
	d = fetch(t, h, http.MethodPost, "/login", visit{out: true, form: url.Values{"token": {"guess"}}})
	d.status(http.StatusForbidden)
	d.has("[role=alert]", "This is not the access token")
	if strings.Contains(d.body, "guess") {
		t.Error("the page repeats what was typed as a token")
	}
	d = fetch(t, h, http.MethodPost, "/logout", visit{form: url.Values{}})
	d.leadsTo("/login")
	if c := d.head.Get("Set-Cookie"); !strings.Contains(c, "Max-Age=0") {
		t.Errorf("logging out sets %q", c)
	}
}

func TestLogInLeadsNowhereElse(t *testing.T) {
	h := handlerOf(newFake())
	for _, next := range []string{"https://evil.test/", "//evil.test/", `/\evil.test`, "/\t/evil.test", "javascript:alert(1)", "evil", "", "/%zz", strings.Repeat("/a", 3000), "/\r\nSet-Cookie: a=b"} {
		d := fetch(t, h, http.MethodPost, "/login", visit{out: true, form: url.Values{"token": {goodToken}, "next": {next}}})
		d.leadsTo("/")
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/", "/runs/1?a=b#c", "//x", `/\x`, "/a//b", "http://x", "/%2f/x", "/@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !localPath(s) {
			return
		}
		base, err := url.Parse("http://sluice.test/login")
		if err != nil {
			t.Fatal(err)
		}
		to, err := base.Parse(s)
		if err != nil || to.Host != "sluice.test" || to.Scheme != "http" {
			t.Errorf("%q leads to %v", s, to)
		}
	})
}

func TestFormsOfOtherSites(t *testing.T) {
	f := newFake()
	for _, h := range []map[string]string{{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.test"}} {
		d := fetch(t, handlerOf(f), http.MethodPost, "/runs/12/commands", visit{form: commandForm("abort"), header: h})
		d.status(http.StatusForbidden)
		d.has(".error", "from another website")
	}
	if len(f.told) > 0 {
		t.Errorf("another site did %q", f.told)
	}
	fetch(t, handlerOf(f), http.MethodPost, "/runs/12/commands", visit{form: commandForm("abort"), header: map[string]string{"Sec-Fetch-Site": "same-origin"}}).leadsTo("/runs/12?done=abort")
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	f := newFake()
	for name, path := range everyPage {
		d := get(t, f, path)
		csp := d.head.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy %q lacks %s", name, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("%s: the policy %q allows what is inline", name, csp)
		}
		for k, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin"} {
			if got := d.head.Get(k); got != want {
				t.Errorf("%s: %s is %q", name, k, got)
			}
		}
		// What helps those who hear the page, or use its keys.
		if n := len(d.all("h1")); n != 1 {
			t.Errorf("%s has %d first headings", name, n)
		}
		d.has("html[lang=en] main#main", "")
		d.has("a.skip[href='#main']", "Skip")
		ids := map[string]bool{}
		for _, n := range d.all("[id]") {
			if ids[attr(n, "id")] {
				t.Errorf("%s has two elements %q", name, attr(n, "id"))
			}
			ids[attr(n, "id")] = true
		}
		for _, n := range d.all("label[for], [aria-labelledby]") {
			for _, a := range []string{"for", "aria-labelledby"} {
				if v := attr(n, a); v != "" && !ids[v] {
					t.Errorf("%s names %q, which is not there", name, v)
				}
			}
		}
		for _, n := range d.all("input:not([type=hidden]), textarea, select, progress") {
			labelled := n.Parent.Data == "label" || attr(n, "aria-label") != ""
			for _, l := range d.all("label") {
				labelled = labelled || attr(l, "for") == attr(n, "id") && attr(n, "id") != ""
			}
			if !labelled {
				t.Errorf("%s: %s %q has no label", name, n.Data, attr(n, "name"))
			}
		}
		for _, n := range d.all(".pill, .at") {
			if text(n) == "" {
				t.Errorf("%s says something by colour alone", name)
			}
		}
	}
}

func TestFragment(t *testing.T) {
	d := get(t, newFake(), "/runs/12", visit{header: map[string]string{"HX-Request": "true"}})
	d.has("title", "25 % production")
	d.has("#live #headline", "Baking")
	d.hasNot("header, footer, script")
	if got := d.head.Get("Vary"); got != "HX-Request" {
		t.Errorf("Vary is %q", got)
	}
}

func TestFiles(t *testing.T) {
	f := newFake()
	d := get(t, f, "/runs/12")
	var named []string
	for _, n := range d.all("script[src], link[href]") {
		named = append(named, attr(n, "src")+attr(n, "href"))
	}
	if len(named) != 7 {
		t.Errorf("a page loads %q", named)
	}
	for _, path := range named {
		got := get(t, f, path, visit{out: true})
		got.status(http.StatusOK)
		if got.head.Get("Cache-Control") != "public, max-age=31536000, immutable" || len(got.body) < 100 {
			t.Errorf("%s: %v", path, got.head)
		}
		if typ := got.head.Get("Content-Type"); strings.HasSuffix(path, ".js") != strings.Contains(typ, "javascript") || strings.HasSuffix(path, ".css") != strings.Contains(typ, "text/css") {
			t.Errorf("%s is %s", path, typ)
		}
	}
	for _, path := range []string{"/static/app.js", "/static/", "/static/../webui.go", "/static/vendor/", "/static/app-000000000000.js"} {
		if got := get(t, f, path, visit{out: true}); got.code == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
	// Each vendored file comes with its licence.
	all, err := loadFiles(embedded)
	if err != nil {
		t.Fatal(err)
	}
	for name := range all.hashed {
		base, found := strings.CutPrefix(name, "static/vendor/")
		if !found || strings.HasSuffix(base, ".LICENSE") {
			continue
		}
		if base, _, _ = strings.Cut(base, ".min."); all.hashed["static/vendor/"+base+".LICENSE"] == "" {
			t.Errorf("%s has no licence beside it", name)
		}
	}
	if !slices.Contains(named, all.url("app.css")) {
		t.Errorf("the page's own style is not among %q", named)
	}
}
