package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/internal/agent/agenttest"
	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

func TestMain(m *testing.M) {
	agenttest.Main()
	goleak.VerifyTestMain(m)
}

// open opens a database whose time is the test's.
func open(t testing.TB) *DB {
	t.Helper()
	d := openReal(t)
	ownTime(d)
	return d
}

// ownTime has the clock go on by a millisecond each time it is asked: no sample is late
// because this machine is busy.
func ownTime(d *DB) {
	var asked atomic.Int64
	d.since = func(time.Time) time.Duration { return time.Duration(asked.Add(1)) * time.Millisecond }
}

func openReal(t testing.TB) *DB {
	t.Helper()
	d, err := Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

const (
	text        = "text/plain; version=0.0.4"
	openMetrics = "application/openmetrics-text; version=1.0.0"
)

func scrape(instance, kind, body string) wire.Scrape {
	return wire.Scrape{
		Key:     release.Key{Project: "default", Service: "shop", Environment: "production"},
		Release: release.DigestOf([]byte("v1")), Instance: instance, Type: kind, Body: []byte(body),
	}
}

func ask(t testing.TB, d *DB, q string) map[string]float64 {
	t.Helper()
	s, err := d.Query(context.Background(), release.Key{}, q)
	if err != nil && !errors.Is(err, ErrNothing) {
		t.Fatalf("%s: %v", q, err)
	}
	out := map[string]float64{}
	for _, x := range s {
		out[x.Series] = x.Value
	}
	return out
}

// one is the value of a query that yields one series.
func one(t testing.TB, d *DB, q string) float64 {
	t.Helper()
	got := ask(t, d, q)
	if len(got) != 1 {
		t.Fatalf("%s: %v", q, got)
	}
	for _, v := range got {
		return v
	}
	return 0
}

// What was appended is visible at once, in each format that instances speak.
func TestFormats(t *testing.T) {
	d := open(t)
	for i, c := range []struct{ kind, body string }{
		{text, "# TYPE orders counter\norders{kind=\"a\"} 3\norders{kind=\"b\"} 4\n"},
		{"", "orders{kind=\"a\"} 3\norders{kind=\"b\"} 4\n"},
		{"text/html", "orders{kind=\"a\"} 3 1234\norders{kind=\"b\"} 4\n"},
		{openMetrics, "# TYPE orders gauge\norders{kind=\"a\"} 3\norders{kind=\"b\"} 4\n# EOF\n"},
	} {
		instance := fmt.Sprint(i)
		if err := d.Append(t.Context(), []wire.Scrape{scrape(instance, c.kind, c.body)}); err != nil {
			t.Errorf("%q: %v", c.kind, err)
			continue
		}
		q := fmt.Sprintf(`sum(orders{instance="%s",revision="%s",service="shop",environment="production",project="default"})`, instance, release.DigestOf([]byte("v1")).Short())
		if got := one(t, d, q); got != 7 {
			t.Errorf("%q: %g", c.kind, got)
		}
	}
	if got := one(t, d, "vector(2) * 3"); got != 6 {
		t.Errorf("%g", got)
	}
	if got := ask(t, d, "3 + 4"); got[""] != 7 {
		t.Errorf("a scalar: %v", got)
	}
	if got := ask(t, d, "nothing"); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// A broken scrape is left out whole, and named; the others are taken.
func TestBroken(t *testing.T) {
	d := open(t)
	for _, c := range []struct{ kind, body, says string }{
		{text, "good 1\nbad{ 2\n", "line after series"},
		{openMetrics, "good 1\n", "line after series"}, // it does not end
		{"application/x-unheard; charset=\x00", "good{", "line after series"},
		{text, "good{x=\"" + strings.Repeat("y", 2000) + "\"} 1\n", "more than 1024 bytes"},
		{text, many(10_001), "more than 10000 series"},
	} {
		err := d.Append(t.Context(), []wire.Scrape{scrape("bad", c.kind, c.body), scrape("fine", text, "good 5\n")})
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "instance bad") {
			t.Errorf("%.30q: %v", c.body, err)
		}
		if got := ask(t, d, `{instance="bad"}`); len(got) != 0 {
			t.Errorf("%.30q: half of it was taken: %d series", c.body, len(got))
		}
		if got := one(t, d, `good{instance="fine"}`); got != 5 {
			t.Errorf("the other instance: %g", got)
		}
	}
	if err := d.Append(t.Context(), []wire.Scrape{scrape("large", text, many(10_000))}); err != nil {
		t.Errorf("10 000 series: %v", err)
	}
	if got := one(t, d, `count({instance="large"})`); got != 10_000 {
		t.Errorf("%g series", got)
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "m{n=\"%d\"} 1\n", i)
	}
	return b.String()
}

// An instance cannot pass for another: labels of our names are kept beside ours.
func TestLabels(t *testing.T) {
	d := open(t)
	body := "m{service=\"other\",revision=\"other\",exported_instance=\"x\",instance=\"me\"} 1\n"
	if err := d.Append(t.Context(), []wire.Scrape{scrape("0", text, body)}); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, d, `m{service="other"}`); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := one(t, d, `m{service="shop",exported_service="other",exported_revision="other",exported_instance="me",instance="0"}`); got != 1 {
		t.Errorf("%g", got)
	}
}

// What is not a number comes as such; two hosts in one batch are both there.
func TestValues(t *testing.T) {
	d := open(t)
	other := scrape("1", text, "m 2\n")
	if err := d.Append(t.Context(), []wire.Scrape{scrape("0", text, "m NaN\ninf +Inf\n"), other}); err != nil {
		t.Fatal(err)
	}
	if got := one(t, d, `m{instance="0"}`); !math.IsNaN(got) {
		t.Errorf("%g", got)
	}
	if got := one(t, d, "inf"); !math.IsInf(got, 1) {
		t.Errorf("%g", got)
	}
	if got := ask(t, d, "m"); len(got) != 2 {
		t.Errorf("%v", got)
	}
	// The same moment again is no error.
	if err := d.append(t.Context(), other, d.newest.Load()); err != nil {
		t.Error(err)
	}
}

// A dead series is gone after 2.5 intervals, not after five minutes; and when
// nobody is scraped any more, nothing is.
func TestDead(t *testing.T) {
	d := open(t)
	now := d.now()
	at := func(ms int64, s wire.Scrape) {
		t.Helper()
		if err := d.append(t.Context(), s, now+ms); err != nil {
			t.Fatal(err)
		}
		d.newest.Store(now + ms)
	}
	at(-6000, scrape("dead", text, "m 1\n"))
	at(-6000, scrape("alive", text, "m 1\n"))
	at(-4000, scrape("alive", text, "m 2\n"))
	if got := ask(t, d, "m"); len(got) != 0 {
		t.Errorf("nothing was scraped for four seconds, and there is %v", got)
	}
	at(-2000, scrape("alive", text, "m 3\n"))
	if got := ask(t, d, "m"); len(got) != 1 {
		t.Errorf("%v", got)
	}
	at(0, scrape("alive", text, "m 4\n"))
	if got := one(t, d, "m"); got != 4 {
		t.Errorf("%g", got)
	}
	if got := one(t, d, "increase(m[10s])"); got < 2.9 {
		t.Errorf("%g", got)
	}
}

func TestQueryErrors(t *testing.T) {
	d := open(t)
	if got, err := d.Query(t.Context(), release.Key{}, "m"); !errors.Is(err, ErrNothing) || got != nil {
		t.Errorf("before any scrape: %v, %v", got, err)
	}
	if err := d.Append(t.Context(), []wire.Scrape{scrape("0", text, "m 1\nn 1\n")}); err != nil {
		t.Fatal(err)
	}
	for q, says := range map[string]string{
		"m[": "couldn't read query", "": "couldn't read query", "m[5m]": "numbers", `"text"`: "numbers", strings.Repeat("m", 9000): "8192",
		"m * on(x) group_left n * on(y) m + ignoring(instance) (m or n)": "",
	} {
		_, err := d.Query(t.Context(), release.Key{}, q)
		if says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%.20s: %v", q, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Query(ctx, release.Key{}, "m"); err == nil {
		t.Error("a query that was given up has an answer")
	}
}

func TestCheck(t *testing.T) {
	for _, good := range []string{"1", "sum(dlq_depth)", `orders_total{revision="$revision"}`, "rate(x[5m])"} {
		if err := Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "sum(", "x[5m]", `"text"`, strings.Repeat("x", 9000), strings.Repeat("(", 5000)} {
		if Check(bad) == nil {
			t.Errorf("%.20s is taken", bad)
		}
	}
}

// The database survives its process.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		d, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ownTime(d)
		d.start = d.start.Add(time.Duration(i) * time.Second) // samples of one moment are one
		if err := d.Append(t.Context(), []wire.Scrape{scrape("0", text, fmt.Sprintf("m %d\n", i))}); err != nil {
			t.Fatal(err)
		}
		if got := one(t, d, "count_over_time(m[1h])"); got != float64(i+1) {
			t.Errorf("%g samples after %d starts", got, i+1)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzAppend(f *testing.F) {
	f.Add(text, []byte("# HELP m x\n# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_sum 3\nm_count 1\n"))
	f.Add(openMetrics, []byte("# TYPE m counter\nm_total 1 # {a=\"b\"} 2\n# EOF\n"))
	f.Add("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", []byte("\x05\n\x01m"))
	f.Add("", []byte("m{service=\"\xff\"} NaN"))
	d, err := Open(f.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = d.Close() })
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		if len(body) > 1<<16 {
			return
		}
		s := scrape("fuzz", kind, string(body))
		_ = d.Append(context.Background(), []wire.Scrape{s})
		for series := range ask(t, d, `{instance="fuzz"}`) {
			if !strings.Contains(series, `service="shop"`) || !strings.Contains(series, `instance="fuzz"`) {
				t.Errorf("%s is not this instance's", series)
			}
		}
	})
}
