package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/run"
)

// How often the status is read: often where progress is drawn, else only to
// notice what no event told.
const (
	drawEvery = 500 * time.Millisecond
	lookEvery = 2 * time.Second
	lookSoon  = 100 * time.Millisecond // after an event
)

// status reads a run.
func (c *client) status(ctx context.Context, id string) (control.Status, json.RawMessage, error) {
	var s control.Status
	if !isRun(id) {
		return s, nil, usage("%q is not the number of a run; sluice runs lists them", id)
	}
	b, err := c.raw(ctx, "GET", c.path("runs/%s", id), nil)
	if err != nil {
		return s, nil, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, nil, fmt.Errorf("couldn't read the server's answer: %w", err)
	}
	return s, b, nil
}

func ended(s control.Status) bool {
	switch s.State {
	case run.Running, run.Waiting, run.RollingBack, "":
		return false
	}
	return true
}

// waitsFor names the environment that waits for a person; nil if none does. A
// run that waits for another rollout to end needs nobody, unless that one does.
func waitsFor(s control.Status) *control.EnvironmentStatus {
	for i, e := range s.Environments {
		if awaitsApproval(e) || e.State == run.Waiting && (e.Held != "" || e.Paused || e.Queue != nil && e.Queue.Waits != "") {
			return &s.Environments[i]
		}
	}
	return nil
}

// awaitsApproval reports whether nobody has decided yet on a release that may enter.
func awaitsApproval(e control.EnvironmentStatus) bool {
	return e.State == run.Waiting && e.Packet != "" && e.Rollout == "" && e.Decision == ""
}

func stuck(s control.Status) *control.EnvironmentStatus {
	for i, e := range s.Environments {
		if e.Stuck && !ended(s) {
			return &s.Environments[i]
		}
	}
	return nil
}

// follower shows a run until it ends.
type follower struct {
	a      *app
	c      *client
	id     string
	noWait bool
	live   bool // an updating block instead of lines

	status control.Status
	raw    json.RawMessage
	drawn  int       // lines of the block on the screen
	told   bool      // the event of the end came
	asked  string    // packet of the last event that asked for an approval
	since  time.Time // nothing more is waited for
	queued string    // what was told last of the run's place in a queue
}

// followTo follows a run and ends with the code of its outcome.
func (a *app) followTo(ctx context.Context, c *client, id string, noWait bool) error {
	f := &follower{a: a, c: c, id: id, noWait: noWait, live: a.errTTY && !a.json && os.Getenv("TERM") != "dumb"}
	err := f.loop(ctx)
	if err != nil && ctx.Err() != nil {
		a.say("Stopped following. Run %s goes on: sluice watch %s shows it, sluice abort %s ends it.", id, id, id)
	} else if err != nil {
		return err
	}
	return f.end()
}

// loop shows what happens until nothing more is waited for.
func (f *follower) loop(ctx context.Context) error {
	var err error
	if f.status, f.raw, err = f.c.status(ctx, f.id); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	events, lost := make(chan event), make(chan error, 1)
	go func() {
		lost <- f.c.events(ctx, f.id, func(e event) bool {
			select {
			case events <- e:
				return false
			case <-ctx.Done():
				return true
			}
		})
	}()
	gone := false
	defer func() {
		cancel()
		if !gone {
			<-lost
		}
	}()
	every := lookEvery
	if f.live {
		every = drawEvery
	}
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case e := <-events:
			f.tell(ctx, e)
			look.Reset(lookSoon)
		case err := <-lost:
			gone = true
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			look.Reset(every)
			s, raw, err := f.c.status(ctx, f.id)
			if err != nil {
				var e *exit
				if errors.As(err, &e) && e.code == Unreachable {
					continue // the events say so when it stays away
				}
				return err
			}
			f.status, f.raw = s, raw
			f.draw()
			f.tellQueue()
			if f.done() {
				return nil
			}
			if !f.since.IsZero() {
				look.Reset(lookSoon)
			}
		}
	}
}

// lastEvents bounds how long the events of a run's end, or of its wait for an
// approval, are waited for: all is told before the last word, which is the status.
var lastEvents = 5 * time.Second

// done reports whether nothing more is waited for, events included.
func (f *follower) done() bool {
	if !f.over() {
		f.since = time.Time{}
		return false
	}
	if f.since.IsZero() {
		f.since = time.Now()
	}
	if f.live || f.told {
		return true
	}
	e, patience := waitsFor(f.status), 2*lookSoon
	if ended(f.status) || e != nil && awaitsApproval(*e) && string(e.Packet) != f.asked {
		patience = lastEvents // an event says so
	}
	return time.Since(f.since) >= patience
}

// over reports whether nothing more is waited for.
func (f *follower) over() bool {
	return ended(f.status) || stuck(f.status) != nil || f.noWait && waitsFor(f.status) != nil
}

// end writes the last words, and the code.
func (f *follower) end() error {
	s, a := f.status, f.a
	if a.json {
		if f.raw != nil {
			if err := a.printRaw(f.raw); err != nil {
				return err
			}
		}
	} else if ended(s) {
		text := fmt.Sprintf("Run %s of %s %s", s.Run, clean(s.Service), a.state(a.err, string(s.State)))
		if s.Reason != "" && s.State != run.Succeeded && !f.live { // the block has it; of what went well it is only what it was asked for
			text += ": " + prose(s.Reason)
		}
		a.say("%s", text)
	}
	if e := stuck(s); e != nil {
		a.say("The rollback in %s is stuck and goes on being tried: %s\nsluice explain %s says what you can do.", clean(e.Name), prose(e.WaitingFor), s.Run)
	} else if e := waitsFor(s); e != nil && f.noWait {
		a.say("%s waits: %s\nsluice explain %s says what you can do.", clean(e.Name), prose(e.WaitingFor), s.Run)
	}
	if code := Code(run.ExitCode(s.State)); code != OK {
		return &exit{code: code}
	}
	return nil
}

// tell says one event: as it is with --json, as a line where nothing is drawn.
func (f *follower) tell(ctx context.Context, e event) {
	var x struct {
		State  run.Outcome
		Packet string
	}
	if err := json.Unmarshal(e.Data.Data, &x); err == nil {
		switch e.Kind {
		case "run":
			f.told = ended(control.Status{State: x.State})
		case "approval":
			f.asked = x.Packet
		}
	}
	if f.a.json {
		_ = f.a.printLine(struct {
			Event string `json:"event"`
			ID    string `json:"id"`
			eventData
		}{e.Kind, e.ID, e.Data}) // a reader that went away ends the program by its signal
		return
	}
	if f.live {
		return
	}
	if e.Kind == "step" || e.Kind == "release" {
		// The event names the step; what became of it is in the status.
		if s, raw, err := f.c.status(ctx, f.id); err == nil {
			f.status, f.raw = s, raw
		}
	}
	if text := f.a.sentence(e, f.status); text != "" {
		f.a.say("%s  %s", e.Data.At.Local().Format("15:04:05"), text)
	}
}

// tellQueue says once behind whom a run waits: no event does.
func (f *follower) tellQueue() {
	text := ""
	for _, e := range f.status.Environments {
		if e.Queue == nil {
			continue
		}
		text = fmt.Sprintf("%s  queued: waits for %s", clean(e.Name), prose(e.WaitingFor))
		if e.Queue.Waits != "" {
			text += fmt.Sprintf(" (%s: sluice explain %s)", prose(e.Queue.Waits), e.Queue.Behind)
		}
	}
	if text != f.queued && text != "" && !f.live && !f.a.json {
		f.a.say("%s  %s", time.Now().Format("15:04:05"), text)
	}
	f.queued = text
}

// draw shows the status as a block that takes the place of the one before.
func (f *follower) draw() {
	a := f.a
	if !f.live {
		return
	}
	w, h := a.width(a.err), 24
	if file, ok := a.err.(*os.File); ok {
		if _, rows, err := term.GetSize(int(file.Fd())); err == nil && rows > 4 {
			h = rows
		}
	}
	var lines []string
	for _, l := range a.statusLines(f.status, a.err) {
		lines = append(lines, hung(l, w)...)
	}
	lines = lines[max(0, len(lines)-(h-1)):]
	var b strings.Builder
	if f.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", f.drawn)
	}
	for _, l := range lines {
		b.WriteString("\r\x1b[2K" + cut(l, w) + "\n")
	}
	b.WriteString("\x1b[0J")
	f.drawn = len(lines)
	fmt.Fprint(a.err, b.String())
}
