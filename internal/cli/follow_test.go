package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
)

// TestEveryOutcomeHasItsCode holds the table of interface.md.
func TestEveryOutcomeHasItsCode(t *testing.T) {
	for _, c := range []struct {
		state run.Outcome
		stuck bool
		code  int
		said  string
	}{
		{state: run.Succeeded, code: 0, said: "Run 7 of shop succeeded"},
		{state: run.Failed, code: 1, said: "Run 7 of shop failed: step unit failed"},
		{state: run.RolledBack, code: 3, said: "rolled-back"},
		{state: run.RollbackFailed, code: 5, said: "rollback-failed"},
		{state: run.RollingBack, stuck: true, code: 5, said: "The rollback in production is stuck and goes on being tried: host web-1"},
		{state: run.Cancelled, code: 6, said: "cancelled"},
		{state: run.Superseded, code: 6, said: "superseded"},
	} {
		t.Run(string(c.state), func(t *testing.T) {
			f := newFake(t)
			f.status = waiting()
			f.status.State = c.state
			if c.state == run.Failed {
				f.status.Reason = "step unit failed"
			}
			p := &f.status.Environments[1]
			p.State, p.Packet, p.Rollout, p.Stuck, p.WaitingFor = c.state, "", "2", c.stuck, "host web-1 does not report"
			f.tell("run", "", map[string]string{"state": string(c.state)}, nil)
			f.run("watch", "7").want(t, c.code, c.said)
			r := f.run("watch", "7", "--json")
			r.want(t, c.code)
			lines := strings.Split(strings.TrimSpace(r.out), "\n")
			var last control.Status
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.State != c.state || last.Run != "7" {
				t.Errorf("the last line is no final status (%v): %s", err, lines[len(lines)-1])
			}
		})
	}
}

// What a rollback was asked for is no way for it to end, and the times of a
// rehearsal are no cause.
func TestWhatWentWellIsNotExcused(t *testing.T) {
	f := newFake(t)
	f.status = waiting()
	f.status.Kind, f.status.State, f.status.Reason = run.KindRollback, run.Succeeded, "orders are lost"
	p := &f.status.Environments[1]
	p.State, p.Packet, p.WaitingFor, p.Reason = run.Succeeded, "", "", "back in 435 ms, forward again in 137 ms"
	f.tell("run", "", map[string]string{"state": string(run.Succeeded)}, nil)
	r := f.run("watch", "7")
	r.want(t, 0, "Run 7 of shop succeeded\n")
	if strings.Contains(r.err, "succeeded: orders are lost") {
		t.Errorf("a rollback ended like this: %s", r.err)
	}
	if out := f.run("status", "7").out; !strings.Contains(out, "because orders are lost") || !strings.Contains(out, " back in 435 ms, forward again in 137 ms") || strings.Contains(out, "because back in") {
		t.Errorf("a rehearsal that went well is told as: %s", out)
	}
	// Commands for it say that it has ended, whether or not they name an environment.
	f.run("pause", "7").want(t, 1, "run 7 has ended (succeeded), so there is nothing to pause; `sluice explain 7`")
	f.run("give-up", "7", "--reason", "x").want(t, 1, "so there is nothing to give up; ")
	f.run("resume", "7").want(t, 1, "so there is nothing to resume; ")
	f.HandleFunc("POST "+api+"runs/7/environments/production/commands", func(w httpWriter, _ *httpRequest) { answer(w, httpapi.Done{Done: true}) })
	// But hosts that somebody changed since then are resumed, in the environment that has them.
	p.WaitingFor = "host local gives 60 % to release 53996910968f where 0 % was set"
	f.run("resume", "7").want(t, 0, "Hosts in production are told again what was set. sluice explain 7")
	f.run("pause", "7").want(t, 1, "so there is nothing to pause; ")
}

// Who does not wait for a person is told first that one is waited for, also by a
// feed that comes late.
func TestARunThatWaitsForAPersonEndsNoWaitOnly(t *testing.T) {
	patiently(t, &lastEvents)
	f := newFake(t)
	f.status = waiting()
	looks := 0
	var each func() // status is asked for again
	f.HandleFunc("GET "+api+"runs/7", func(w httpWriter, _ *httpRequest) {
		f.mu.Lock()
		defer f.mu.Unlock()
		looks++
		each()
		answer(w, f.status)
	})
	asks := sync.OnceFunc(func() { go f.asks() })
	each = func() {
		if looks > 5 {
			asks()
		}
	}
	f.run("watch", "7", "--no-wait").want(t, 4, "production  waits for approval: sluice approve 7 --env production\n", "production waits: approval: 0 of 1 given", "sluice explain 7")
	// A run that waits for another rollout to end needs nobody: it is followed.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks = 0
	each = func() {
		if looks > 3 {
			cancel()
		}
	}
	f.status.Environments[1].Packet, f.status.Environments[1].WaitingFor = "", "the rollout of run 6 to end"
	f.status.Environments[1].Queue = &control.QueueStatus{Position: 1, Behind: "6"}
	var errOut strings.Builder
	execute(ctx, []string{"watch", "7", "--no-wait", "--server", f.url, "--token", testToken}, strings.NewReader(""), io.Discard, &errOut)
	if text := errOut.String(); !strings.Contains(text, "Stopped following") || strings.Count(text, "production  queued: waits for the rollout of run 6 to end") != 1 {
		t.Errorf("it ended by itself, or did not say once what it waits for: %s", text)
	}
	// Unless that one waits for a person.
	f.mu.Lock() // the answer that nobody waited for may be under way still
	f.status.Environments[1].Queue.Waits = "it is paused"
	f.mu.Unlock()
	f.run("watch", "7", "--no-wait").want(t, 4, "queued: waits for the rollout of run 6 to end (it is paused: sluice explain 6)")
}

// TestALostConnectionMissesAndRepeatsNothing cuts the feed after every event.
func TestALostConnectionMissesAndRepeatsNothing(t *testing.T) {
	patiently(t, &lastEvents)
	f := newFake(t)
	f.status = waiting()
	f.tell("run", "", map[string]string{"state": "running", "kind": "run", "by": "local:ada"}, nil)
	f.tell("rollout", "production", map[string]string{"kind": "weight", "from": "0", "to": "500"}, nil)
	f.tell("rollout", "production", map[string]string{"kind": "counts", "from": "0/4", "to": "1/3"}, nil)
	f.tell("rollout", "production", map[string]string{"kind": "verdict", "to": "pass", "reason": "better"}, nil)
	f.tell("run", "", map[string]string{"state": "succeeded"}, func(s *control.Status) {
		s.State, s.Environments[1].State, s.Environments[1].Packet, s.Environments[1].WaitingFor = run.Succeeded, run.Succeeded, "", ""
	})
	f.cuts = 3
	// The end is looked for at once, yet the events that led to it come first.
	r := f.run("watch", "7")
	r.want(t, 0, "run 7 of shop, by local:ada", "Run 7 of shop succeeded")
	for _, once := range []string{"5 % of users", "instances: 1 new, 3 old", "verdict pass: better"} {
		if n := strings.Count(r.err, once); n != 1 {
			t.Errorf("%q was told %d times:\n%s", once, n, r.err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Join(f.resume, ","); got != ",1,2,3" {
		t.Errorf("resumed after %q", got)
	}
}

func TestCtrlCStopsFollowingAndSaysThatTheRunGoesOn(t *testing.T) {
	f := newFake(t)
	f.status = waiting()
	f.tell("rollout", "production", map[string]string{"kind": "weight", "from": "0", "to": "500"}, nil)
	t.Setenv("SLUICE_SERVER", f.url)
	t.Setenv("SLUICE_TOKEN", testToken)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- execute(ctx, []string{"watch", "7"}, strings.NewReader(""), io.Discard, w)
		w.Close()
	}()
	var told []string
	for s := bufio.NewScanner(r); s.Scan(); {
		told = append(told, s.Text())
		if strings.Contains(s.Text(), "5 % of users") {
			cancel()
		}
	}
	if got := <-code; got != 4 {
		t.Errorf("code %d, want 4: it still goes on", got)
	}
	if last := strings.Join(told, "\n"); !strings.Contains(last, "Stopped following. Run 7 goes on: sluice watch 7 shows it, sluice abort 7 ends it.") {
		t.Errorf("told:\n%s", last)
	}
}

func TestAnAbortThatDidWhatWasAskedIsDone(t *testing.T) {
	for state, code := range map[run.Outcome]int{run.Cancelled: 0, run.RolledBack: 0, run.RollbackFailed: 5} {
		f := newFake(t)
		f.status = waiting()
		var asked map[string]string
		f.HandleFunc("POST "+api+"runs/7/abort", func(w httpWriter, r *httpRequest) {
			_ = json.NewDecoder(r.Body).Decode(&asked)
			f.tell("run", "", map[string]string{"state": string(state)}, func(s *control.Status) { s.State = state })
			answer(w, map[string]bool{"done": true})
		})
		f.run("abort", "7", "--reason", "wrong").want(t, code)
		if asked["reason"] != "wrong" {
			t.Errorf("asked for %v", asked)
		}
	}
}

// An abort is taken at any revision; who looked at an earlier one is told.
func TestAnAbortIsTakenAtAnyRevision(t *testing.T) {
	for revision, moved := range map[string]bool{"3": true, "4": false} {
		f := newFake(t)
		f.status = waiting()
		e := &f.status.Environments[1]
		e.State, e.Rollout, e.Phase, e.Revision = run.Running, "2", rollout.Baking, 4
		f.HandleFunc("POST "+api+"runs/7/abort", func(w httpWriter, _ *httpRequest) {
			f.tell("run", "", map[string]string{"state": string(run.RolledBack)}, func(s *control.Status) { s.State = run.RolledBack })
			answer(w, map[string]bool{"done": true})
		})
		got := f.run("abort", "7", "--reason", "wrong", "--revision", revision)
		got.want(t, 0)
		if strings.Contains(got.err, "is at revision 4, you looked at 3: it is aborted all the same.") != moved {
			t.Errorf("--revision %s: %s", revision, got.err)
		}
	}
}

// Whatever the feed tells has words of its own.
func TestEveryEventHasItsSentence(t *testing.T) {
	a := &app{out: io.Discard, err: io.Discard}
	for _, kind := range control.FeedKinds() {
		e := event{Kind: kind, Data: eventData{Run: "7", Environment: "production", Data: json.RawMessage(`{"passedSeconds":3600,"countedSeconds":2,"kind":"weight","to":"500"}`)}}
		if got := a.sentence(e, waiting()); got == "" || got == "production  "+kind && kind != "alarm" {
			t.Errorf("%s is told as %q", kind, got)
		}
	}
}
