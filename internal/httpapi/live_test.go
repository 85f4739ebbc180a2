package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// stream opens a stream and returns its lines; end closes it.
func (e *edge) stream(path string, headers ...string) (lines *bufio.Scanner, end func()) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), machinetest.Patience)
	req, err := http.NewRequestWithContext(ctx, "GET", e.server.URL+path, nil)
	if err != nil {
		e.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := e.server.Client().Do(req)
	if err != nil {
		e.Fatal(err)
	}
	if res.StatusCode != 200 {
		e.Fatalf("%s: %d", path, res.StatusCode)
	}
	return bufio.NewScanner(res.Body), func() { cancel(); _ = res.Body.Close() }
}

// A client that loses its connection again and again, while others write, gets
// each event once and in order.
func TestEventsResume(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		const writers, each = 4, 150
		e.feed("1", 3)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() { e.feed(strconv.Itoa(i%2+1), each) })
		}
		last, seen := int64(0), map[int64]bool{}
		for cut := 0; len(seen) < writers*each+3; cut++ {
			headers := []string{}
			if last > 0 || cut > 0 {
				headers = []string{"Last-Event-ID", strconv.FormatInt(last, 10)}
			}
			path := project + "events"
			if cut == 0 {
				path += "?after=0"
			}
			lines, end := e.stream(path, headers...)
			for n := 0; n < 37 && len(seen) < writers*each+3 && lines.Scan(); {
				id, ok := strings.CutPrefix(lines.Text(), "id: ")
				if !ok {
					continue
				}
				seq, err := strconv.ParseInt(id, 10, 64)
				if err != nil || seq <= last || seen[seq] {
					t.Fatalf("event %q after %d: %v", id, last, err)
				}
				last, seen[seq] = seq, true
				n++
			}
			if err := lines.Err(); err != nil {
				t.Fatalf("%v after %d events", err, len(seen))
			}
			end()
		}
		wg.Wait()
		err := e.store.View(t.Context(), func(tx *store.Tx) error {
			all, err := tx.FeedAfter("default", "", 0, 0)
			for _, f := range all {
				if !seen[f.Seq] {
					t.Errorf("event %d was missed", f.Seq)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// One run's events come from the beginning; all of a project's from now on.
func TestEventsOfOneRun(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		e.feed("1", 2)
		e.feed("2", 1)
		lines, end := e.stream(project + "events?run=1")
		defer end()
		var data []string
		for len(data) < 2 && lines.Scan() {
			if d, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				data = append(data, d)
			}
		}
		for _, d := range data {
			var x struct{ Run string }
			if err := json.Unmarshal([]byte(d), &x); err != nil || x.Run != "1" {
				t.Errorf("%s: %v", d, err)
			}
		}
		now, end := e.stream(project + "events")
		defer end()
		if !now.Scan() || now.Text() != ": sluice" {
			t.Errorf("%q", now.Text())
		}
		e.feed("2", 1)
		for now.Scan() {
			if id, ok := strings.CutPrefix(now.Text(), "id: "); ok {
				if id != "4" {
					t.Errorf("the first event is %s, wanted what comes: 4", id)
				}
				break
			}
		}
	})
}

// An agent is told all that it shall run, and then what changes; nothing else.
func TestDesired(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		want := func(service string, gen int64, hosts ...string) {
			t.Helper()
			d := wire.Desired{Protocol: wire.Protocol, Generation: gen, Key: release.Key{Project: "default", Service: service, Environment: "dev"}, Hosts: hosts}
			b, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			err = e.store.Update(t.Context(), func(tx *store.Tx) error {
				tx.Notify(store.TopicDesired)
				_, err := tx.PutDesired(d.Key, gen, b)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		want("shop", 1, "a", "b")
		want("mail", 2, "b")
		want("cart", 3, "a")
		lines, end := e.stream("/agent/v1/desired?host=a&protocol=1")
		defer end()
		next := func() string {
			t.Helper()
			for lines.Scan() {
				if lines.Text() == "" {
					continue
				}
				var d wire.Desired
				if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
					t.Fatal(err)
				}
				return fmt.Sprintf("%s %d", d.Service, d.Generation)
			}
			t.Fatalf("the stream ended: %v", lines.Err())
			return ""
		}
		for _, w := range []string{"shop 1", "cart 3"} {
			if got := next(); got != w {
				t.Errorf("%s, want %s", got, w)
			}
		}
		want("mail", 4, "b")
		want("cart", 5, "a")
		want("shop", 6, "a")
		seen := map[string]bool{}
		for !seen["shop 6"] {
			got := next()
			if seen[got] || strings.HasPrefix(got, "mail") || got == "shop 1" {
				t.Errorf("%s comes again, or is another host's", got)
			}
			seen[got] = true
		}
		if !seen["cart 5"] {
			t.Errorf("%v", seen)
		}
	})
}

// What an agent says is taken if both speak the same language.
func TestObserved(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		// Of what the host shall run, and of nothing else.
		mine, others := release.Key{Project: "default", Service: "shop", Environment: "dev"}, release.Key{Project: "default", Service: "mail", Environment: "dev"}
		for k, on := range map[release.Key]string{mine: "a", others: "b"} {
			doc, err := json.Marshal(wire.Desired{Key: k, Generation: 1, Hosts: []string{on}})
			if err != nil {
				t.Fatal(err)
			}
			err = e.store.Update(t.Context(), func(tx *store.Tx) error {
				_, err := tx.PutDesired(k, 1, doc)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		none := release.Key{Project: "default", Service: "none", Environment: "dev"}
		ok := wire.Observed{Protocol: wire.Protocol, Host: "a", Boot: "1", Sequence: 1, Scrapes: []wire.Scrape{{Key: others}, {Key: mine, Instance: "0"}, {Key: none}, {}}}
		if a := e.call("POST", "/agent/v1/observed", ok); a.status != http.StatusNoContent {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if len(e.scraped) != 1 || e.scraped[0].Key != mine {
			t.Errorf("%+v", e.scraped)
		}
		err := e.store.View(t.Context(), func(tx *store.Tx) error {
			o, found, err := tx.Observed("a")
			if !found || strings.Contains(string(o.Report), "scrapes") {
				t.Errorf("kept: %s", o.Report)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		newer, nameless := ok, ok
		newer.Protocol = wire.Protocol + 1
		nameless.Host = ""
		for _, c := range []struct {
			body   any
			status int
		}{{newer, 426}, {wire.Observed{Host: "a", Boot: "1", Protocol: -1}, 426}, {nameless, 400}, {"{", 400}, {"", 400}} {
			a := e.call("POST", "/agent/v1/observed", c.body)
			if a.status != c.status {
				t.Errorf("%+v: %d %s", c.body, a.status, a.body)
				continue
			}
			a.problem(t)
		}
		for path, status := range map[string]int{
			"/agent/v1/desired": 400, "/agent/v1/desired?host=" + strings.Repeat("a", 300): 400, "/agent/v1/desired?host=a": 426,
			"/agent/v1/desired?host=a&protocol=99": 426, "/agent/v1/desired?host=a&protocol=x": 426,
		} {
			if a := e.call("GET", path, nil); a.status != status {
				t.Errorf("%.60s: %d", path, a.status)
			}
		}
	})
}

// A command that is repeated with its key is answered the same, and done once.
func TestIdempotency(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		path := project + "login-codes"
		send := func(key, body string) answer { return e.call("POST", path, body, "Idempotency-Key", key) }
		one, two := send("k1", `{}`), send("k1", `{}`)
		if one.status != 200 || string(one.body) != string(two.body) || two.header.Get("Idempotency-Replayed") != "true" || one.header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%d %s, then %d %s", one.status, one.body, two.status, two.body)
		}
		if other := send("k2", `{}`); string(other.body) == string(one.body) {
			t.Error("another key got the same answer")
		}
		if a := send("k1", `{"seconds":5}`); a.status != 422 || !strings.Contains(a.problem(t).Detail, "another request") {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := send(strings.Repeat("k", 256), `{}`); a.status != 400 {
			t.Errorf("%d", a.status)
		}
		if a := send("k3", `{"x":"`+strings.Repeat("x", maxBody)+`"}`); a.status != 413 {
			t.Errorf("%d", a.status)
		}
		// A refusal is an answer too, with its content type.
		lift := project + "quarantines/ffff/lift"
		first, again := e.call("POST", lift, `{"reason":"x"}`, "Idempotency-Key", "k4"), e.call("POST", lift, `{"reason":"x"}`, "Idempotency-Key", "k4")
		if first.status != 404 || again.status != 404 || again.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%d, %d", first.status, again.status)
		}
		again.problem(t)
	})
}

// slowAnswers keep a command under way until they are let go.
type slowAnswers struct {
	Answers
	entered chan struct{}
	goOn    chan struct{}
	once    sync.Once
	fails   atomic.Bool
	puts    atomic.Int64
}

func (s *slowAnswers) Answer(ctx context.Context, project, key string) (store.Answer, bool, error) {
	if s.fails.Load() {
		return store.Answer{}, false, errors.New("disk on fire")
	}
	s.once.Do(func() { close(s.entered); <-s.goOn })
	return s.Answers.Answer(ctx, project, key)
}

func (s *slowAnswers) PutAnswer(ctx context.Context, a store.Answer) error {
	s.puts.Add(1)
	return s.Answers.PutAnswer(ctx, a)
}

// While a command is under way its repetition waits elsewhere.
func TestIdempotencyTogether(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		slow := &slowAnswers{Answers: e.control, entered: make(chan struct{}), goOn: make(chan struct{})}
		e.answers = slow
		first := make(chan answer, 1)
		go func() { first <- e.call("POST", project+"login-codes", `{}`, "Idempotency-Key", "k") }()
		<-slow.entered
		if a := e.call("POST", project+"login-codes", `{}`, "Idempotency-Key", "k"); a.status != 409 || !strings.Contains(a.problem(t).Detail, "under way") {
			t.Errorf("%d %s", a.status, a.body)
		}
		close(slow.goOn)
		one := <-first
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				a := e.call("POST", project+"login-codes", `{}`, "Idempotency-Key", "k")
				if a.status != 409 && string(a.body) != string(one.body) {
					t.Errorf("%d %s, want %s", a.status, a.body, one.body)
				}
			})
		}
		wg.Wait()
		if n := slow.puts.Load(); n != 1 {
			t.Errorf("%d answers were kept", n)
		}
		slow.fails.Store(true)
		if a := e.call("POST", project+"login-codes", `{}`, "Idempotency-Key", "new"); a.status != 503 {
			t.Errorf("%d", a.status)
		}
	})
}
