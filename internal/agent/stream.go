package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

const (
	firstReconnect = 50 * time.Millisecond
	lastReconnect  = 2 * time.Second
	maxLine        = 32 << 20
	// silence is how long a stream may say nothing, not even a keep-alive. It only
	// bounds how long a half-dead connection is believed.
	silence = 45 * time.Second
	// contactFor is how long an answer of the control plane counts as contact.
	contactFor = 5 * time.Second
	// takeUpIn bounds how long new orders wait for releases that must be fetched anew.
	takeUpIn = 5 * time.Second
)

// contact is when the control plane last answered.
type contact struct{ at atomic.Int64 }

func (c *contact) now()                      { c.at.Store(time.Now().UnixNano()) }
func (c *contact) recent(now time.Time) bool { return now.UnixNano()-c.at.Load() < int64(contactFor) }

// jittered spreads reconnects, so that a control plane that comes back is not met
// by all agents at once.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

func (a *agent) pause(d time.Duration) bool { return a.pauseOr(nil, d) }

// pauseOr also ends when something comes from c.
func (a *agent) pauseOr(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c:
		return true
	case <-a.ctx.Done():
		return false
	}
}

// stream keeps a stream of desired states open.
func (a *agent) stream() {
	// What is new waits for what is there to be taken up: until it is, nothing is
	// known that could serve, and traffic would go where nothing is ready.
	if !a.pauseOr(a.known, takeUpIn) {
		return
	}
	wait := firstReconnect
	for a.ctx.Err() == nil {
		heard, err := a.listen()
		if heard {
			wait = firstReconnect
		}
		if a.ctx.Err() != nil {
			return
		}
		a.cfg.Logger.Debug("the stream of desired states ended", "error", err, "retryIn", wait)
		if !a.pause(jittered(wait)) {
			return
		}
		wait = min(2*wait, lastReconnect)
	}
}

// listen reads one stream to its end. heard says that it delivered a line.
func (a *agent) listen() (heard bool, err error) {
	var after int64
	if !a.do(a.ctx, func() {
		for _, s := range a.services {
			after = max(after, s.desired.Generation)
		}
	}) {
		return false, a.ctx.Err()
	}
	q := url.Values{"host": {a.cfg.Host}, "after": {strconv.FormatInt(after, 10)}, "protocol": {strconv.Itoa(wire.Protocol)}}
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.cfg.Server+"/agent/v1/desired?"+q.Encode(), nil)
	if err != nil {
		return false, err
	}
	a.authorize(req)
	res, err := a.http.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return false, refusal(res)
	}
	a.contact.now()
	return a.readStream(res.Body, func() { watchdog.Reset(silence) })
}

// readStream takes in one desired state per line. An error from accept ends the
// stream: the generation was not taken, and the next stream sends it again.
func (a *agent) readStream(r io.Reader, alive func()) (heard bool, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := line(br)
		if err != nil {
			return heard, err
		}
		alive()
		a.contact.now()
		heard = true
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var d wire.Desired
		if err := json.Unmarshal(line, &d); err != nil {
			return heard, fmt.Errorf("couldn't read a desired state: %w", err)
		}
		if !a.do(a.ctx, func() { err = a.accept(d) }) {
			return heard, a.ctx.Err()
		}
		if err != nil {
			return false, err // with back-off
		}
	}
}

func line(br *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(out)+len(part) > maxLine {
			return nil, fmt.Errorf("a desired state is longer than %d bytes", maxLine)
		}
		out = append(out, part...)
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return out, err
		}
	}
}

func (a *agent) authorize(r *http.Request) {
	if a.cfg.Token != "" {
		r.Header.Set("Authorization", "Bearer "+a.cfg.Token)
	}
}

func refusal(res *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	return fmt.Errorf("the control plane answered %s: %s", res.Status, bytes.TrimSpace(b))
}
