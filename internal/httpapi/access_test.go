package httpapi

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

var params = regexp.MustCompile(`\{[a-z]+\}`)

// Every route but health and readiness wants the token.
func TestEveryRouteIsGuarded(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		type route struct{ method, path string }
		routes := []route{
			{"GET", project + "evidence/bundle"}, {"GET", project + "events"}, {"GET", "/agent/v1/desired?host=a&protocol=1"},
			{"POST", "/agent/v1/observed"}, {"GET", "/metrics"}, {"GET", Prefix + "/openapi.json"}, {"GET", Prefix + "/nothing"},
		}
		api := e.server.Config.Handler.(*Server).OpenAPI()
		for path, item := range api.Paths {
			path = strings.ReplaceAll(path, "{project}", "default")
			path = params.ReplaceAllString(path, "1")
			if item.Get != nil {
				routes = append(routes, route{"GET", path})
			}
			if item.Post != nil {
				routes = append(routes, route{"POST", path})
			}
		}
		if len(routes) < 25 {
			t.Errorf("only %d routes", len(routes))
		}
		expired := e.access.session(time.Now().Add(-time.Second))
		good := e.access.session(time.Now().Add(time.Hour))
		for _, r := range routes {
			for name, h := range map[string][2]string{
				"nothing": {"Authorization", ""}, "another token": {"Authorization", "Bearer " + token + "0"}, "no bearer": {"Authorization", token},
				"another password": {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("sluice:wrong"))},
			} {
				a := e.call(r.method, r.path, nil, h[0], h[1])
				if a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s %s with %s: %d", r.method, r.path, name, a.status)
					continue
				}
				a.problem(t)
			}
			for _, cookie := range []string{expired, good[:len(good)-1], good + "0", "", "x.y", strings.Repeat("0", 500), "00." + strings.Repeat("0", 64)} {
				if a := e.call(r.method, r.path, nil, "Authorization", "", "Cookie", sessionCookie+"="+cookie); a.status != http.StatusUnauthorized {
					t.Errorf("%s %s with the cookie %.20q: %d", r.method, r.path, cookie, a.status)
				}
			}
		}
		if a := e.call("GET", project+"overview", nil, "Authorization", "", "Cookie", sessionCookie+"="+good); a.status != http.StatusOK {
			t.Errorf("a good session: %d", a.status)
		}
		if a := e.call("GET", project+"overview", nil, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("x:"+token))); a.status != http.StatusOK {
			t.Errorf("the token as a password: %d", a.status)
		}
		if a := e.call("GET", "/healthz", nil, "Authorization", ""); a.status != http.StatusOK {
			t.Errorf("health: %d", a.status)
		}
		if a := e.call("GET", "/readyz", nil, "Authorization", ""); a.status != http.StatusOK {
			t.Errorf("readiness: %d", a.status)
		}
		e.ready = errors.New("the database is away")
		for range 3 {
			if a := e.call("GET", "/readyz", nil); a.status != http.StatusServiceUnavailable {
				t.Errorf("readiness: %d", a.status)
			}
		}
		e.ready = nil
		if a := e.call("GET", "/readyz", nil); a.status != http.StatusOK {
			t.Errorf("readiness: %d", a.status)
		}
		if n, again := e.logged.count("the database is away"), e.logged.count("ready again"); n != 1 || again != 1 {
			t.Errorf("told %d times, and %d times that it is over", n, again)
		}
	})
}

// A browser of another site cannot send commands with our user's cookie.
func TestCrossOrigin(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		good := sessionCookie + "=" + e.access.session(time.Now().Add(time.Hour))
		path := project + "quarantines/abcd/lift"
		for _, h := range [][]string{{"Origin", "http://evil.test"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"}} {
			if a := e.call("POST", path, `{"reason":"x"}`, append(h, "Authorization", "", "Cookie", good)...); a.status != http.StatusForbidden {
				t.Errorf("%v: %d", h, a.status)
			}
		}
		for _, h := range [][]string{{"Origin", e.server.URL}, {"Sec-Fetch-Site", "same-origin"}, {}} {
			if a := e.call("POST", path, `{"reason":"x"}`, append(h, "Authorization", "", "Cookie", good)...); a.status != http.StatusNotFound {
				t.Errorf("%v: %d %s", h, a.status, a.body)
			}
		}
	})
}

// The name of a scheme is read in any case, and another scheme is none.
func TestSchemeInAnyCase(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		for scheme, want := range map[string]int{"Bearer ": 200, "bearer ": 200, "BEARER  ": 200, "Token ": 401, "": 401, "Bearer": 401} {
			if a := e.call("GET", project+"runs", "", "Authorization", scheme+token); a.status != want {
				t.Errorf("%q: %d", scheme, a.status)
			}
		}
	})
}

// A code logs one browser in, once, and not for ever.
func TestLogin(t *testing.T) {
	a, err := NewAccess(token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewAccess("short"); err == nil {
		t.Error("a short token is taken")
	}
	login := func(code, tok string) (bool, *http.Cookie) {
		w := httptest.NewRecorder()
		ok := a.Login(w, httptest.NewRequest("POST", "/login", nil), code, tok)
		for _, c := range w.Result().Cookies() {
			return ok, c
		}
		return ok, nil
	}
	code := a.Code(time.Now(), time.Minute)
	ok, cookie := login(code, "")
	if !ok || cookie == nil || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.MaxAge <= 0 {
		t.Fatalf("%t %+v", ok, cookie)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(cookie)
	if !a.Allowed(r) {
		t.Error("the session is not let in")
	}
	other, err := NewAccess(token + "x")
	if err != nil || other.Allowed(r) {
		t.Error("the session outlives the token")
	}
	for _, c := range []string{code, "", "0000", a.Code(time.Now().Add(-time.Hour), time.Minute)} {
		if ok, cookie := login(c, ""); ok || cookie != nil {
			t.Errorf("code %q logs in", c)
		}
	}
	if ok, _ := login("", " "+token+"\n"); !ok {
		t.Error("the token does not log in")
	}
	if ok, _ := login("", "wrong"); ok {
		t.Error("a wrong token logs in")
	}
	code = a.Code(time.Now(), time.Minute)
	var wg sync.WaitGroup
	var mu sync.Mutex
	in := 0
	for range 20 {
		wg.Go(func() {
			if ok, _ := login(code, ""); ok {
				mu.Lock()
				in++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if in != 1 {
		t.Errorf("one code logged %d browsers in", in)
	}
	a.Code(time.Now().Add(time.Hour), time.Minute)
	if n := len(a.codes); n != 1 {
		t.Errorf("%d codes are kept", n)
	}
	w := httptest.NewRecorder()
	a.Logout(w)
	if c := w.Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 {
		t.Errorf("%v", c)
	}
}

// Each kind of error is a problem with its own status.
func TestProblems(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		run := e.insertRun()
		id := e.insertRelease("v1")
		large := `{"repository":"` + strings.Repeat("x", maxBody) + `"}`
		for _, c := range []struct {
			method, path string
			body         any
			status       int
			says         string
		}{
			{"GET", project + "runs/999", nil, 404, "sluice runs"},
			{"GET", project + "runs/" + run + "/steps/none/log", nil, 404, "no step"},
			{"GET", project + "runs/" + run + "/environments/dev/packet", nil, 404, "no approval packet"},
			{"GET", project + "releases/ffff", nil, 404, "artifact ls"},
			{"GET", project + "services/shop/environments/dev/way-back", nil, 404, "never ran"},
			{"GET", project + "evidence/bundle", nil, 404, "no evidence yet"},
			{"GET", project + "evidence/bundle?release=ffff", nil, 404, "no release"},
			{"GET", project + "runs/x", nil, 422, ""},
			{"GET", Prefix + "/projects/BAD/runs", nil, 422, ""},
			{"GET", project + "runs?limit=9999", nil, 422, ""},
			{"GET", project + "events?after=x", nil, 400, "not the id of an event"},
			{"POST", project + "runs", map[string]string{"repository": "relative"}, 422, "absolute path"},
			{"POST", project + "runs", map[string]string{"repository": "/nowhere"}, 422, "/nowhere"},
			{"POST", project + "runs", "{", 400, ""},
			{"POST", project + "runs", map[string]any{"repository": "/x", "what": 1}, 422, ""},
			{"POST", project + "runs", large, 413, ""},
			{"POST", project + "promotions", map[string]string{"release": id.Hex(), "environment": "moon"}, 422, "no environment"},
			{"POST", project + "runs/" + run + "/environments/dev/commands", map[string]string{"command": "advance"}, 409, "nothing to advance"},
			{"POST", project + "runs/" + run + "/environments/dev/commands", map[string]string{"command": "dance"}, 422, ""},
			{"POST", project + "runs/" + run + "/environments/dev/decisions", map[string]string{"decision": "approve", "packet": string(id)}, 409, "waits for no approval"},
			{"POST", project + "quarantines/" + id.Hex() + "/lift", map[string]string{"reason": "safe"}, 409, "not quarantined"},
			{"POST", project + "services/shop/environments/dev/rollbacks", map[string]string{}, 404, "never ran"},
		} {
			a := e.call(c.method, c.path, c.body)
			if a.status != c.status {
				t.Errorf("%s %s: %d %.300s, want %d", c.method, c.path, a.status, a.body, c.status)
				continue
			}
			if p := a.problem(t); !strings.Contains(p.Detail+fmt.Sprint(p.Errors), c.says) {
				t.Errorf("%s %s: %+v, want %q", c.method, c.path, p, c.says)
			}
		}
		if a := e.call("GET", project+"server", nil); a.status != 200 || !strings.Contains(string(a.body), `"you":"local:`) {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := e.call("GET", project+"releases/"+id.Short(), nil); a.status != 200 || !strings.Contains(string(a.body), `"commit":"v1"`) {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}
