package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/agent/supervise"
	"github.com/sluicehq/sluice/internal/agent/wire"
)

const (
	coalesce     = 20 * time.Millisecond
	whileBusy    = 250 * time.Millisecond
	whileQuiet   = time.Second
	reportIn     = 5 * time.Second
	maxScrapes   = 16 << 20 // bytes of scrapes in one report
	maxReasonLen = 2 << 10
)

// report sends what the host observes: soon after a change, at once when a weight
// fell, and regularly.
func (a *agent) report() {
	// Until what runs here was taken up nothing has a weight, which would read as if
	// somebody had changed it.
	if !a.pauseOr(a.known, takeUpIn) {
		return
	}
	failed := time.Duration(0)
	for {
		var o wire.Observed
		var busy bool
		// In this order: who hears that an instance is ready, or has ended, may count on
		// the routers having heard of it too.
		if !a.do(a.ctx, func() { o, busy = a.observe(); a.settleAll() }) {
			return
		}
		if err := a.post(o); err != nil {
			if a.ctx.Err() != nil {
				return
			}
			a.cfg.Logger.Debug("couldn't report", "error", err)
			failed = min(max(2*failed, firstReconnect), lastReconnect)
			if !a.pauseOr(a.urgent, jittered(failed)) {
				return
			}
			continue
		}
		failed = 0
		a.contact.now()
		a.do(a.ctx, func() { a.sent(o.Scrapes) })
		if !a.pauseOr(a.urgent, coalesce) {
			return
		}
		every := whileQuiet
		if busy {
			every = whileBusy
		}
		t := time.NewTimer(every - coalesce)
		select {
		case <-a.kick:
		case <-a.urgent:
		case <-t.C:
		case <-a.ctx.Done():
		}
		t.Stop()
	}
}

func (a *agent) post(o wire.Observed) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("couldn't encode a report: %w", err)
	}
	ctx, cancel := context.WithTimeout(a.ctx, reportIn)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.cfg.Server+"/agent/v1/observed", bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	a.authorize(req)
	res, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return refusal(res)
	}
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	return nil
}

// observe describes all that the agent does. busy says that somebody waits for
// the next report.
func (a *agent) observe() (o wire.Observed, busy bool) {
	a.sequence++
	o = wire.Observed{
		Protocol: wire.Protocol, Agent: a.cfg.Version, Host: a.cfg.Host,
		Boot: a.boot, Sequence: a.sequence, At: time.Now().UTC(),
		Services: []wire.Service{}, Kept: a.store.kept(), Isolation: a.isolated,
	}
	for _, s := range a.services {
		w, b := s.observe()
		o.Services = append(o.Services, w)
		busy = busy || b
	}
	slices.SortFunc(o.Services, func(x, y wire.Service) int { return strings.Compare(x.Key.String(), y.Key.String()) })
	size := 0
	for _, sc := range a.scrapes {
		if size += len(sc.Body); size <= maxScrapes {
			o.Scrapes = append(o.Scrapes, sc)
		}
	}
	return o, busy
}

func (s *service) observe() (w wire.Service, busy bool) {
	w = wire.Service{Key: s.key, Generation: s.desired.Generation, Reason: s.reason, Total: s.proxy.Total()}
	w.Address, w.Preview = s.front.address(), s.side.address()
	// One at an earlier address stays open meanwhile.
	w.Listening = !s.desired.Removed && (s.front.listener != nil || worker(&s.desired))
	for _, d := range s.openings() {
		w.Listening = w.Listening && d.why == ""
		if w.Reason == "" {
			w.Reason = d.why
		}
	}
	w.Revisions = []wire.RevisionObserved{}
	for id, r := range s.revs {
		v := r.observe()
		v.Release = id
		v.Wanted = slices.ContainsFunc(s.desired.Revisions, func(spec wire.Revision) bool { return spec.Release == id })
		v.Counters, v.Synthetic = s.proxy.Counters(id), s.proxy.Synthetic(id)
		v.Shadow, v.ShadowDropped = s.proxy.Shadow(id)
		if v.Counters == nil {
			v.Counters = []wire.Counters{}
		}
		for _, p := range s.route.Revisions {
			if p.Release == id {
				v.Weight = p.Weight
			}
		}
		busy = busy || v.Phase != wire.Ready || v.Weight > 0 && v.Weight < wire.FullWeight
		w.Revisions = append(w.Revisions, v)
	}
	slices.SortFunc(w.Revisions, func(x, y wire.RevisionObserved) int {
		return strings.Compare(string(x.Release), string(y.Release))
	})
	for _, v := range w.Revisions {
		// As long as it answers it fails nothing; it is told before it ends.
		if lacks := s.revs[v.Release].lacks(); lacks != "" && w.Listening && w.Reason == "" {
			w.Reason = clip(fmt.Sprintf("release %s runs on, but can't start again when an instance ends: %s", v.Release.Short(), lacks))
		}
	}
	return w, busy || !s.desired.Removed && !w.Listening
}

func (r *revision) lacks() string {
	if r.group == nil || r.stopping {
		return ""
	}
	return r.group.Lacks()
}

func clip(reason string) string {
	if len(reason) > maxReasonLen {
		return strings.ToValidUTF8(reason[:maxReasonLen], "") + "…"
	}
	return reason
}

func (r *revision) observe() wire.RevisionObserved {
	v := wire.RevisionObserved{Phase: wire.Pulling, Reason: r.reason, Instances: []wire.Instance{}}
	var st supervise.Status
	if r.group != nil {
		st = r.group.Status()
		v.Reason = st.Failed
		if v.Reason == "" {
			v.Reason = st.Note
		}
		if r.reason != "" {
			v.Reason = r.reason
		}
	}
	v.Ready = st.Ready
	switch {
	case r.stopping:
		v.Phase = wire.Stopping
	case r.reason != "" && !r.passing, st.Failed != "":
		v.Phase = wire.Failed
	case r.group != nil && st.Ready >= r.spec.Instances:
		v.Phase = wire.Ready
		v.Reason = ""
	case r.group != nil:
		v.Phase = wire.Starting
	}
	v.Reason = clip(v.Reason)
	for _, i := range st.Instances {
		v.Instances = append(v.Instances, wire.Instance{
			ID: i.ID, PID: i.PID, Port: i.Port, Ready: i.Ready, Restarts: i.Restarts, LastExit: i.LastExit, LogTail: i.LogTail,
		})
	}
	return v
}
