package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
)

const (
	keepAlive   = 15 * time.Second // an empty line, so that dead peers are noticed
	feedBatch   = 500
	maxReport   = 64 << 20 // bytes of an agent's report with its scrapes
	writeWithin = 10 * time.Second
)

// events streams the live feed as server-sent events. The id of an event is its
// place in the feed: a client that lost the connection sends it back as
// Last-Event-ID and misses nothing.
func (s *Server) events(stop context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		last := r.Header.Get("Last-Event-ID")
		if last == "" {
			last = r.URL.Query().Get("after")
		}
		after, err := strconv.ParseInt(last, 10, 64)
		if last != "" && (err != nil || after < 0) {
			problem(w, http.StatusBadRequest, fmt.Sprintf("Last-Event-ID %.40q is not the id of an event", last))
			return
		}
		project, run := r.PathValue("project"), r.URL.Query().Get("run")
		if last == "" && run == "" {
			if after, err = s.cfg.Control.FeedEnd(r.Context()); err != nil {
				writeFailure(w, err)
				return
			}
		}
		topics, unsubscribe := s.cfg.Control.Subscribe()
		defer unsubscribe()
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		out := http.NewResponseController(w)
		alive := time.NewTicker(keepAlive)
		defer alive.Stop()
		fmt.Fprint(w, ": sluice\n\n")
		for {
			lines, err := s.cfg.Control.Feed(r.Context(), project, run, after, feedBatch)
			if err != nil {
				return // the client comes back with the last id that it got
			}
			_ = out.SetWriteDeadline(time.Now().Add(writeWithin))
			for _, f := range lines {
				data, err := json.Marshal(map[string]any{"seq": f.Seq, "run": f.Run, "service": f.Service, "environment": f.Environment, "at": f.At, "data": f.Data})
				if err != nil {
					return
				}
				if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", f.Seq, f.Kind, data); err != nil {
					return
				}
				after = f.Seq
			}
			if out.Flush() != nil {
				return
			}
			if len(lines) == feedBatch {
				continue
			}
			select {
			case <-r.Context().Done():
				return
			case <-stop.Done():
				return
			case <-topics:
			case <-alive.C:
				if _, err := fmt.Fprint(w, ":\n\n"); err != nil {
					return
				}
			}
		}
	}
}

// desired streams what a host shall run: everything at first, then what changes.
func (s *Server) desired(stop context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host := r.URL.Query().Get("host")
		if host == "" || len(host) > 255 {
			problem(w, http.StatusBadRequest, "say which host asks: ?host=NAME")
			return
		}
		if mayNot(w, r, host) {
			return
		}
		if err := checkProtocol(r.URL.Query().Get("protocol")); err != nil {
			problem(w, http.StatusUpgradeRequired, err.Error())
			return
		}
		topics, unsubscribe := s.cfg.Control.Subscribe()
		defer unsubscribe()
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Cache-Control", "no-store")
		out := http.NewResponseController(w)
		sent := map[string]int64{}
		alive := time.NewTicker(keepAlive)
		defer alive.Stop()
		since := time.Time{}
		for {
			docs, at, err := s.cfg.Control.DesiredFor(r.Context(), host, since)
			if err != nil {
				return // the agent goes on with what it has, and asks again
			}
			since = at
			_ = out.SetWriteDeadline(time.Now().Add(writeWithin))
			for _, d := range docs {
				if sent[d.Key.String()] == d.Generation {
					continue
				}
				b, err := json.Marshal(d)
				if err != nil {
					return
				}
				if _, err := w.Write(append(b, '\n')); err != nil {
					return
				}
				sent[d.Key.String()] = d.Generation
			}
			if out.Flush() != nil {
				return
			}
			for waiting := true; waiting; {
				select {
				case <-r.Context().Done():
					return
				case <-stop.Done():
					return
				case t := <-topics:
					waiting = t != "desired"
				case <-alive.C:
					_ = out.SetWriteDeadline(time.Now().Add(writeWithin))
					if _, err := w.Write([]byte("\n")); err != nil || out.Flush() != nil {
						return
					}
				}
			}
		}
	}
}

// checkProtocol lets in agents of this protocol and the one before.
func checkProtocol(text string) error {
	p, err := strconv.Atoi(text)
	if err != nil || p < 1 {
		return errors.New("say which protocol the agent speaks: ?protocol=N")
	}
	if p > wire.Protocol || p < wire.Protocol-1 {
		return fmt.Errorf("the agent speaks protocol %d, this server %d and the one before: upgrade the older of the two", p, wire.Protocol)
	}
	return nil
}

func (s *Server) observed(w http.ResponseWriter, r *http.Request) {
	var o wire.Observed
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReport))
	if err := dec.Decode(&o); err != nil {
		problem(w, http.StatusBadRequest, "couldn't read the report: "+err.Error())
		return
	}
	if err := checkProtocol(strconv.Itoa(o.Protocol)); err != nil {
		problem(w, http.StatusUpgradeRequired, err.Error())
		return
	}
	if o.Host == "" || o.Boot == "" {
		problem(w, http.StatusBadRequest, "a report names its host and boot")
		return
	}
	for _, x := range o.Services {
		if x.Generation < 0 || x.Generation > wire.MaxGeneration {
			problem(w, http.StatusBadRequest, fmt.Sprintf("the report says that generation %d of %s was applied, which nobody can have given", x.Generation, x.Key))
			return
		}
	}
	if mayNot(w, r, o.Host) {
		return
	}
	if len(o.Scrapes) > 0 && s.cfg.Scrapes != nil {
		heard, err := s.cfg.Control.Heard(r.Context(), o.Host, o.Scrapes)
		if err != nil {
			writeFailure(w, err)
			return
		}
		if len(heard) < len(o.Scrapes) {
			s.cfg.Log.Warn("left out metrics of services that the host shall not run", "host", o.Host, "scrapes", len(o.Scrapes)-len(heard))
		}
		if err := s.cfg.Scrapes.Append(r.Context(), heard); err != nil {
			s.cfg.Log.Warn("couldn't take scraped metrics", "host", o.Host, "error", err)
		}
	}
	if s.cfg.Access.unbound(r) {
		if _, told := s.unbound.LoadOrStore(o.Host, true); !told {
			s.cfg.Log.Warn("the host's token is of an earlier build and bound to no addresses: give its agent a new one, of sluice agent-token HOST --address IP", "host", o.Host)
		}
	}
	if err := s.cfg.Control.Placed(r.Context(), &o, s.cfg.Access.cameFrom(r), s.cfg.Access.answers(r)); err != nil {
		writeFailure(w, err)
		return
	}
	if err := s.cfg.Control.Report(r.Context(), o); err != nil {
		writeFailure(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
