package embedded

import (
	"errors"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

var shop = release.Key{Project: "default", Service: "shop", Environment: "production"}

// Every selector of a query is bound, also inside functions and subqueries.
func TestBind(t *testing.T) {
	const own = `environment="production",project="default",service="shop"`
	for q, want := range map[string]string{
		`up`:                              `up{` + own + `}`,
		`sum(rate(a{b="c"}[5m])) / b`:     `sum(rate(a{b="c",` + own + `}[5m])) / b{` + own + `}`,
		`sum(increase((a)[1h:10s]))`:      `sum(increase((a{` + own + `})[1h:10s]))`,
		`a{service="shop"} unless on() b`: `a{` + own + `} unless on () b{` + own + `}`,
		`a{service=~"sh.*"}`:              `a{` + own + `,service=~"sh.*"}`,
		`vector(1)`:                       `vector(1)`,
	} {
		got, err := Bind(q, shop)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", q, got, err)
		}
	}
	for _, q := range []string{`a{service="other"}`, `a{environment!="production"}`, `sum(a) + sum(b{project=~"x.*"})`} {
		if _, err := Bind(q, shop); err == nil || !strings.Contains(err.Error(), "only series of shop in production") {
			t.Errorf("%s: %v", q, err)
		}
	}
	for _, q := range []string{"sum(", "{}", strings.Repeat("x", maxQuery+1)} {
		if _, err := Bind(q, shop); err == nil {
			t.Errorf("%.20s was taken", q)
		}
	}
}

// A release is never judged by the series of another service or environment.
func TestOnlyOwnSeries(t *testing.T) {
	d := open(t)
	other, staging := scrape("a", text, "orders_total 1000\n"), scrape("b", text, "orders_total 2000\n")
	other.Service, staging.Environment = "cart", "staging"
	if err := d.Append(t.Context(), []wire.Scrape{other, staging, scrape("c", text, "orders_total 3\n")}); err != nil {
		t.Fatal(err)
	}
	got, err := d.Query(t.Context(), shop, "sum(orders_total)")
	if err != nil || len(got) != 1 || got[0].Value != 3 {
		t.Errorf("%v, %v", got, err)
	}
}

// Whatever goes wrong with a metric, the answer says exactly that.
func TestWhyNothing(t *testing.T) {
	d := open(t)
	why := func(want string) {
		t.Helper()
		if s, err := d.Query(t.Context(), shop, "orders_total"); !errors.Is(err, ErrNothing) || s != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v; want %q", s, err, want)
		}
	}
	put := func(s wire.Scrape) { _ = d.Append(t.Context(), []wire.Scrape{s}) }
	why("no instance of shop in production has been scraped since the start")
	put(scrape("i1", text, "<html>hello</html>\n"))
	why("instance i1: line after series 0")
	failed := scrape("i1", "", "")
	failed.Error = "its metrics could not be asked: http://127.0.0.1:1/metrics answered 404 Not Found"
	put(failed)
	why("answered 404 Not Found")
	put(scrape("i1", text, "other 1\n"))
	why("no series of shop in production matches it")
	// Somebody else's samples go on, ours stopped.
	d.mu.Lock()
	for _, i := range d.instances[shop.String()] {
		i.good -= 9000
		i.seen -= 9000
	}
	d.mu.Unlock()
	why("the newest sample of shop in production is 9")
}

// Bind answers to whatever is asked of it, and what it binds can be read again.
func FuzzBind(f *testing.F) {
	for _, q := range []string{"up", `sum by (a) (rate(b{c="d"}[5m]))`, "sum(", "1", `a{service="x"}`, "a @ end()", "{__name__=~\"a.*\"}"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, q string) {
		b, err := Bind(q, shop)
		if err != nil {
			return
		}
		again, err := Bind(b, shop)
		if err != nil && len(b) <= maxQuery || err == nil && again != b {
			t.Errorf("%q became %q and then %q, %v", q, b, again, err)
		}
	})
}
